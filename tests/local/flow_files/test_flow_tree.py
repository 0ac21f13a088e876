from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local import FlowCatalog
from noukai_sdk.local.flow_files.flow_tree import FlowTree, TreeError

GOOD = "steps:\n  - id: a\n"


def alias_bomb() -> str:
    nine = "*x, *x, *x, *x, *x, *x, *x, *x, *x"
    lines = [
        f"  {name}: &{name} [{nine.replace('x', before)}]"
        for before, name in itertools.pairwise("xabcdefgh")
    ]
    return "\n".join(["parameters:", "  x: &x [1]", *lines, GOOD])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps:\n\t- id: a\n", ":2: invalid YAML: found character '\\t'"),
        ("steps:\n  - id: a\n    id: b\n", ":3: the key 'id' appears twice"),
        (f"{GOOD}steps: []\n", ":3: the key 'steps' appears twice"),
        ("parameters:\n  a: &a [*a]\n" + GOOD, ":2: it contains itself, through an alias"),
        ("parameters: &p\n  p: *p\n" + GOOD, ":1: it contains itself, through an alias"),
        (alias_bomb(), ": it has more than 100000 values, counting those of aliases"),
        ("parameters: {x: " + "[" * 3000 + "]" * 3000 + "}\n", ": it is nested too deeply"),
        ("parameters: {x: " + "9" * 5000 + "}\n", ":1: invalid YAML: '99"),
        ("parameters:\n  x: 2026-02-30\n" + GOOD, ":2: invalid YAML: '2026-02-30' is not a valid"),
        ("parameters:\n  x: !!int abc\n" + GOOD, ":2: invalid YAML: 'abc' is not a valid int"),
        ("parameters:\n  x: !!bool abc\n" + GOOD, ":2: invalid YAML: 'abc' is not a valid bool"),
        ("parameters:\n  x: !!timestamp a\n" + GOOD, ":2: invalid YAML: 'a' is not a valid timest"),
        ("steps:\n  - id: !!python/object:os.system x", ":2: invalid YAML: could not determine"),
        ("steps:\n  - id: [", ":2: invalid YAML: expected the node content"),
        ("steps: [{id: a}]\n---\nsteps: []", ":2: invalid YAML: but found another document"),
        ("steps:\n  - id: a\n    prompt: \0\n", ":3: invalid YAML: special characters"),
        ("1: x\n" + GOOD, ":1: [1]: Keys should be strings"),
        ("parameters:\n  1: x\n" + GOOD, ":2: parameters[1].[key]: Input should be a valid string"),
        ("steps:\n  - id: a\n    1: x\n", ":3: steps[0][1]: Keys should be strings"),
    ],
)
def test_yaml_invalid_is_one_problem_with_line_and_other_flows_load(
    tmp_path: Path, text: str, problem: str
) -> None:
    folder = tmp_path / "o" / "p"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text(text)
    (folder / "good.yaml").write_text(GOOD)
    catalog = FlowCatalog(tmp_path, bundled=False)
    assert [flow.slug for flow in catalog.all()] == ["good"]
    (listed,) = catalog.problems()
    assert f"o/p/bad.yaml{problem}" in str(listed)
    assert "\n" not in str(listed)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("a: &a {x: 1}\nb: *a\nc: {<<: *a, x: 2}", {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 2}}),
        (
            "a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: *a, <<: *b}",
            {"a": {"x": 1}, "b": {"y": 2}, "c": {"x": 1, "y": 2}},
        ),
        # YAML 1.1, as PyYAML has it: 1.2 reads each of these in another way.
        ("a: [yes, off, 010, 0o10, 12:30, 1e3]", {"a": [True, False, 8, "0o10", 750, "1e3"]}),
        ("a: y", {"a": "y"}),
        ("", None),
    ],
)
def test_yaml_value_is_plain_data_by_version_1_1(text: str, value: object) -> None:
    assert FlowTree(text).value == value


@given(st.text(alphabet="{}[]&*a:- \n!'\"<|>?,#%1.\t", max_size=40))
def test_yaml_any_text_is_parsed_or_raises_tree_error(text: str) -> None:
    with suppress(TreeError):
        FlowTree(text)
