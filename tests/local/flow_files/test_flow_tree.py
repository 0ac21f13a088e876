"""YAML that is none, or that stands for no plain data: a problem with its line, and no more."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local import FlowCatalog
from noukai_sdk.local.flow_files.flow_tree import TreeError, read_tree, value_of

GOOD = "steps:\n  - id: a\n"
NINE = "*x, *x, *x, *x, *x, *x, *x, *x, *x"


def bomb() -> str:
    names = "xabcdefgh"
    lines = [
        f"  {name}: &{name} [{NINE.replace('x', before)}]"
        for before, name in itertools.pairwise(names)
    ]
    return "\n".join(["parameters:", "  x: &x [1]", *lines, GOOD])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps:\n\t- id: a\n", ":2: no YAML: found character '\\t'"),
        ("steps:\n  - id: a\n    id: b\n", ":3: the key 'id' stands here twice"),
        (f"{GOOD}steps: []\n", ":3: the key 'steps' stands here twice"),
        ("parameters:\n  a: &a [*a]\n" + GOOD, ":2: it holds itself, by an alias"),
        ("parameters: &p\n  p: *p\n" + GOOD, ":1: it holds itself, by an alias"),
        (bomb(), ": it stands for more than 100000 values, with its aliases"),
        ("parameters: {x: " + "[" * 3000 + "]" * 3000 + "}\n", ": it is nested too deeply"),
        ("parameters: {x: " + "9" * 5000 + "}\n", ":1: no YAML: '99"),
        ("parameters:\n  day: 2026-02-30\n" + GOOD, ":2: no YAML: '2026-02-30' is no timestamp"),
        ("parameters:\n  x: !!int abc\n" + GOOD, ":2: no YAML: 'abc' is no int"),
        ("parameters:\n  x: !!bool abc\n" + GOOD, ":2: no YAML: 'abc' is no bool"),
        ("parameters:\n  x: !!timestamp abc\n" + GOOD, ":2: no YAML: 'abc' is no timestamp"),
        ("steps:\n  - id: a\n    prompt: \0\n", ":3: no YAML: special characters"),
        ("1: x\n" + GOOD, ":1: [1]: Keys should be strings"),
        ("steps:\n  - id: a\n    1: x\n", ":3: steps[0][1]: Keys should be strings"),
    ],
)
def test_one_bad_file_leaves_the_others_alone(tmp_path: Path, text: str, told: str) -> None:
    folder = tmp_path / "o" / "p"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(text)
    (folder / "good.yaml").write_text(GOOD)
    catalog = FlowCatalog(tmp_path, bundled=False)
    assert [flow.slug for flow in catalog.all()] == ["good"]
    (problem,) = catalog.problems()
    assert f"o/p/bad.yaml{told}" in str(problem)
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        "parameters: {a: &a {x: 1}, b: *a, c: {<<: *a, y: 2}}\n" + GOOD,
    ],
)
def test_marks_line_ends_and_aliases_are_read(text: str) -> None:
    tree = read_tree(text)
    assert tree is not None
    assert value_of(tree)["steps"] == [{"id": "a"}]


@given(st.text(alphabet="{}[]&*a:- \n!'\"<|>?,#%1.\t", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(TreeError):
        tree = read_tree(text)
        if tree is not None:
            value_of(tree)
