from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk.local.workflow import expressions
from noukai_sdk.local.workflow.expressions import ExpressionError
from noukai_sdk.local.workflow.templates import (
    Reference,
    UnresolvedReferenceError,
    as_text,
    field_of,
    parse,
)

# What cutting by hand must be equal to. On long texts the pattern takes quadratic time.
PATTERN = re.compile(r"\\\{\{|\{\{\s*(.*?)\s*\}\}", re.DOTALL)


@given(st.text(alphabet="{}\\ a.\n") | st.text())
@example(r"\{{message}} {{message}}")
@example("{{ parameters.a {{b }} c")
def test_parse_any_text_is_cut_as_by_pattern(text: str) -> None:
    names = [match[1] for match in PATTERN.finditer(text) if match[1] is not None]
    assert list(parse(text).references) == [Reference.from_text(name) for name in names]
    plain = PATTERN.sub(lambda match: "{{" if match[1] is None else "", text)
    assert parse(text).render(lambda _: "") == plain


@pytest.mark.parametrize("text", ["{{" * 200_000, "{{" + " " * 200_000, "}}" + "{{ " * 100_000])
def test_parse_braces_never_closed_is_linear(text: str) -> None:
    assert parse(text).parts == (text,)
    with pytest.raises(ExpressionError):
        expressions.parse(text)


def test_parse_references_with_spaces_and_fields_are_listed_in_order() -> None:
    template = parse("a {{message}} b {{ node.My step.title }}\n{{parameters.x {{y}}")
    assert template.references == (
        Reference("message"),
        Reference("node", ("My step", "title")),
        Reference("parameters", ("x {{y",)),
    )


@given(st.text(), st.text())
def test_render_value_with_braces_is_not_parsed_again(before: str, value: str) -> None:
    plain = before.replace("{", "").replace("\\", "")
    text = f"{plain}{{{{message}}}}"
    assert parse(text).render(lambda _: value + "{{node.x}}") == plain + value + "{{node.x}}"


def test_alone_is_the_reference_that_is_the_whole_text() -> None:
    assert parse("{{item}}").alone == Reference("item")
    for text in ("{{item}}.", "", "item", "{{item}}{{item}}"):
        assert parse(text).alone is None, text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("topic", "write {{parameters.topic}}"),
        ("node", "lacks a name after 'node'"),
        ("node..x", "lacks a name"),
        ("", "does not start with one of"),
        ("parameters.a.b", None),
    ],
)
def test_reference_invalid_has_a_problem(text: str, problem: str | None) -> None:
    actual = Reference.from_text(text).problem
    assert actual is None if problem is None else problem in (actual or "")


def test_as_text_any_value_is_text_or_json() -> None:
    itself: list[Any] = []
    itself.append(itself)
    for value, text in [
        ("plain", "plain"),
        (None, ""),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'),
        (True, "true"),
        ({1}, "{1}"),
        (itself, "[[...]]"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
    ]:
        assert as_text(value) == text


def test_field_of_path_into_objects_and_lists_returns_the_value() -> None:
    assert field_of({"a": [{"b": 7}]}, ["a", "0", "b"], Reference("input")) == 7


@pytest.mark.parametrize(
    ("value", "name", "message"),
    [
        ({"a": 1}, "b", "{{input.b}}: there is no 'b' in an object with 'a'"),
        ({}, "b", "an object with no fields"),
        ("text", "b", "a value of type str"),
        ([1], "1", "a value of type list"),
    ],
)
def test_field_of_name_missing_raises_unresolved(value: object, name: str, message: str) -> None:
    with pytest.raises(UnresolvedReferenceError, match=message):
        field_of(value, [name], Reference("input", (name,)))
