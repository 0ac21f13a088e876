"""``fallback:`` of a step: models and steps that stand in for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from noukai_sdk.local.engine.state import RunState
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from tests.support.engine import FakeModel, FakeModels, run_steps

pytestmark = pytest.mark.anyio

FLOW = """
steps:
  - id: ask
    model: first
    prompt: "Ask {{message}}"
    fallback:
      - second
      - {function: "_spare.py:fails", fallback: {name: Sorry, transform: "Sorry, {{message}}"}}
  - id: call
    function: "_spare.py:fails"
    fallback: {transform: Try later.}
"""


def catalog_of(folder: Path, text: str) -> FlowCatalog:
    (folder / "a" / "p").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "p" / "_spare.py").write_text("def fails(x):\n    raise ValueError(x)\n")
    (folder / "a" / "p" / "f.yaml").write_text(text)
    return FlowCatalog(folder, bundled=False)


async def test_fallbacks_of_flow_file_stand_in_one_after_the_other(tmp_path: Path) -> None:
    flow = catalog_of(tmp_path, FLOW).get("a", "p", "f")
    models = FakeModels(FakeModel(lambda _: ConnectionError("down")))
    events = [event async for event in run_steps(flow, RunState("e", message="Ann"), models=models)]
    done = [event for event in events if event.type == "step_completed"]
    assert [(each.output, each.fallbacks) for each in done] == [  # type: ignore[attr-defined]  # its type is known here
        ("Sorry, Ann", ["Sorry"]),
        ("Try later.", ["transform"]),
    ]
    assert models.specs == ["first", "second"]


@pytest.mark.parametrize(
    ("fallback", "problem"),
    [
        ("{transform: upp}", "steps[0].fallback: transform: 'upp' is not one of"),
        ("[{promt: x}]", "steps[0].fallback[0].promt: unknown field `promt`"),
        ("{prompt: '{{node.x}}'}", "steps[0].fallback: {{node.x}}: there is no node"),
        (
            "{prompt: x, needs: [b]}",
            "steps[0].fallback.needs: 'needs' is not allowed in a fallback",
        ),
        ("{condition: '1'}", "steps[0].fallback: node 'a': a fallback must have an output"),
        ("{prompt: x, for_each: '{{input}}'}", "fallback must not have for_each"),
        ("3", "steps[0].fallback: Input should be a valid string"),
        ("model", "steps[0].fallback: node 'a': a fallback must be a Node, not str"),
    ],
)
def test_fallback_that_cannot_stand_in_is_a_problem_with_its_field(
    tmp_path: Path, fallback: str, problem: str
) -> None:
    text = f"steps:\n  - id: a\n    function: '_spare.py:fails'\n    fallback: {fallback}\n"
    first, *_ = map(str, catalog_of(tmp_path, text).problems())
    assert first.startswith("a/p/f.yaml:4: ")
    assert problem in first
