"""What the doctor concludes from runs: here a function stands for the app, and returns what a run would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.doctor.diagnosis import Diagnosis
from noukai_sdk.doctor.examination import Examination
from noukai_sdk.doctor.observation import MadeCall, Observation, Response
from noukai_sdk.doctor.source_reads import Plan, Reads

Message = Callable[[Plan, int], str]


def read(factor: str, name: str, line: int, file: str = "main.py", **fields: Any) -> Reads:
    return Reads(factor, name, file, line, fields.pop("owner", "user"), True, 1, **fields)


def examine(message: Message, *reads: Reads, runs: int = 2, **fields: Any) -> Diagnosis:
    """Examine an app that makes one call with this message."""
    number = 0

    def run(plans: Sequence[Plan]) -> list[Observation]:
        nonlocal number
        made = []
        for plan in plans:
            text, number = message(plan, number), number + 1
            call = MadeCall("a/p/f", "execute", {"message": text}, ("main.py", 1))
            found = Observation(calls=[call], response=Response(200), **fields)
            found.reads = [vars(each) for each in reads]
            if text.startswith("problem"):
                found.problem = text
            made.append(found)
        return made

    return Examination(run, clock=1.0, runs=runs).examine()


def found(diagnosis: Diagnosis) -> list[tuple[str, int | None]]:
    return [(each.kind, each.line) for each in diagnosis.findings]


def varied(plan: Plan, factor: str, *keys: str) -> bool:
    """Return whether a run changes one of these sources."""
    return plan.factor == factor and (plan.keys is None or bool({*keys} & {*plan.keys}))


def test_only_the_line_that_causes_a_change_is_found() -> None:
    reads = read("time", "datetime.now", 3), read("time", "datetime.now", 5)
    key = reads[1].key
    diagnosis = examine(lambda plan, _: "later" if varied(plan, "time", key) else "now", *reads)
    assert found(diagnosis) == [("time", 5)]
    # Both together: neither is enough.
    diagnosis = examine(
        lambda plan, _: "later" if varied(plan, "time") and plan.keys is None else "now", *reads
    )
    assert found(diagnosis) == [("time", 3), ("time", 5)]


def test_what_differs_by_itself_is_unexplained_and_hides_no_kind() -> None:
    reads = read("uuid", "uuid.uuid4", 3), read("time", "time.time", 4)
    diagnosis = examine(lambda _, number: f"run {number}", *reads)
    assert found(diagnosis) == [("unexplained", 1)]
    diagnosis = examine(lambda _, n: f"<Foo object at 0x{n + 0xABCDEF0:x}>", *reads)
    assert found(diagnosis) == [("random", 1)]
    assert diagnosis.findings[0].expression == "the address of an object"
    diagnosis = examine(lambda _, number: f"{number}", read("environment", "os.getpid", 7))
    assert found(diagnosis) == [("environment", 7)]
    assert "- 0" not in diagnosis.findings[0].lines()


def test_hash_seeds_find_sets_of_libraries_by_their_elements() -> None:
    def message(plan: Plan, _: int) -> str:
        return "red, blue" if plan.hash_seed else "blue, red"

    assert found(examine(message)) == [("order of a set", 1)]
    made = read("made set", "order", 8, tokens=["red", "blue"])
    other = read("made set", "order", 9, tokens=["x", "y"])
    assert found(examine(message, made, other)) == [("order of a set", 8)]
    addresses = examine(lambda plan, _: f"at 0x{0xABCDEF0 + plan.hash_seed:x}")
    assert found(addresses) == [("random", 1)]


def test_variables_that_break_the_app_are_configuration() -> None:
    mode, region = read("environment", "MODE", 3), read("environment", "REGION", 4)

    def message(plan: Plan, _: int) -> str:
        if varied(plan, "environment", mode.key):
            return "problem: KeyError"
        return "us" if varied(plan, "environment", region.key) else "eu"

    diagnosis = examine(message, mode, region)
    assert found(diagnosis) == [("environment", 4)]
    assert diagnosis.notes == []
    assert "REGION" in diagnosis.findings[0].fix
    copied = [read("environment", f"NAME_{number}", 3) for number in range(20)]
    keys = [each.key for each in copied]
    diagnosis = examine(lambda plan, _: str(varied(plan, "environment", *keys)), *copied)
    assert found(diagnosis) == [("environment", 3)]
    assert diagnosis.tried["environment"] == 2


def test_time_zone_counts_where_nothing_else_explains_it() -> None:
    zone, now = read("zone", "zone", 3), read("time", "time.time", 4)
    diagnosis = examine(lambda plan, _: plan.zone or "here", zone, now)
    assert found(diagnosis) == [("environment", 3)]
    both = examine(lambda plan, _: f"{plan.zone}{plan.factor == 'time'}", zone, now)
    assert found(both) == [("time", 4)]


def test_failures_are_problems_of_the_first_runs_and_notes_of_others() -> None:
    diagnosis = examine(lambda *_: "problem: no app")
    assert diagnosis.headline == "not examined: problem: no app"
    clock = read("time", "time.time", 3)
    diagnosis = examine(lambda plan, _: "problem: slow" if plan.factor else "x", clock)
    assert (diagnosis.findings, diagnosis.notes) == ([], ["a run with another time: problem: slow"])
    refused = examine(lambda *_: "x", refusal="no recording")
    assert refused.notes == ["the replay itself fails: no recording"]
    assert examine(lambda *_: "x", failure="KeyError: 1").notes == ["the app raises KeyError: 1"]


@pytest.mark.parametrize(
    ("factor", "name", "source", "expression", "fix"),
    [
        ("time", "time.monotonic", "t = monotonic()", "monotonic()", "leave the duration out"),
        ("time", "time.time", "t = clock()", "time.time", "noukai_sdk.now()"),
        ("random", "random", "x = random.random()", "random.random()", "noukai_sdk.random()"),
        ("random", "hash", "x = hash(a)", "hash(a)", "hashlib"),
        ("random", "id", "x = id(a)", "id(a)", "a number of your own"),
        ("environment", "os.listdir", "x = os.listdir()", "os.listdir()", "sorted(...)"),
        (
            "environment",
            "os.getpid",
            "x = os.getpid()",
            "os.getpid()",
            'value("getpid", os.getpid)',
        ),
        ("zone", "zone", "x = t.astimezone()", "t.astimezone()", "pass a time zone"),
        ("made set", "order", "x = {1, 2}", "makes a set", "sorted(...)"),
    ],
)
def test_finding_names_the_expression_and_the_fix(
    tmp_path: Path, factor: str, name: str, source: str, expression: str, fix: str
) -> None:
    from noukai_sdk.doctor.fixes import finding_at

    (tmp_path / "main.py").write_text(f"# an app\n{source}\n")
    finding = finding_at(factor, read(factor, name, 2, str(tmp_path / "main.py")), [])
    assert (finding.source, finding.expression) == (source, expression)
    assert fix in finding.fix
