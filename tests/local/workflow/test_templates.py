from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
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


@given(st.text())
def test_any_text_parses(text: str) -> None:
    parse(text)


@given(st.text(alphabet=st.characters(blacklist_characters="{\\")))
def test_a_text_without_braces_is_rendered_as_it_is(text: str) -> None:
    assert parse(text).render(lambda _: "never") == text


@given(st.text(), st.text())
def test_what_a_reference_gives_is_never_looked_at_again(before: str, value: str) -> None:
    plain = before.replace("{", "").replace("\\", "")
    text = f"{plain}{{{{message}}}}"
    assert parse(text).render(lambda _: value + "{{node.x}}") == plain + value + "{{node.x}}"


# What the cutting by hand must come to; with long texts the pattern takes for ever.
PATTERN = re.compile(r"\\\{\{|\{\{\s*(.*?)\s*\}\}", re.DOTALL)


@given(st.text(alphabet="{}\\ a.\n"))
def test_texts_are_cut_as_by_a_pattern(text: str) -> None:
    found = [match[1] for match in PATTERN.finditer(text) if match[1] is not None]
    assert list(parse(text).references) == [Reference.from_text(names) for names in found]
    plain = PATTERN.sub(lambda match: "{{" if match[1] is None else "", text)
    assert parse(text).render(lambda _: "") == plain


@pytest.mark.parametrize("text", ["{{" * 200_000, "{{" + " " * 200_000, "}}" + "{{ " * 100_000])
def test_braces_without_an_end_take_no_time(text: str) -> None:
    assert parse(text).parts == (text,)
    with pytest.raises(ExpressionError):
        expressions.parse(text)


def test_braces_within_a_reference_are_its_own() -> None:
    assert parse("{{ parameters.a {{b }} c").parts == (Reference("parameters", ("a {{b",)), " c")


def test_values_that_are_no_json_stand_in_a_text_as_python_shows_them() -> None:
    itself: list[Any] = []
    itself.append(itself)
    assert as_text(itself) == "[[...]]"
    assert as_text({(1, 2): 3}) == "{(1, 2): 3}"


def test_references_are_found_in_order_with_spaces_and_fields() -> None:
    found = parse("a {{message}} b {{ node.My step.title }}\n{{parameters.x}}").references
    assert found == (
        Reference("message"),
        Reference("node", ("My step", "title")),
        Reference("parameters", ("x",)),
    )


def test_a_backslash_makes_braces_plain() -> None:
    template = parse(r"\{{message}} {{message}}")
    assert template.render(lambda _: "hi") == "{{message}} hi"


@pytest.mark.parametrize(
    ("text", "alone"),
    [("{{item}}", Reference("item")), ("{{item}}.", None), ("", None), ("item", None)],
)
def test_a_reference_may_be_the_whole_text(text: str, alone: Reference | None) -> None:
    assert parse(text).alone == alone


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("topic", "write {{parameters.topic}}"),
        ("node", "lacks a name after 'node'"),
        ("node..x", "lacks a name"),
        ("", "does not start with one of"),
    ],
)
def test_a_bad_reference_tells_what_is_wrong(names: str, problem: str) -> None:
    assert problem in (Reference.from_text(names).problem or "")


def test_a_good_reference_has_no_problem() -> None:
    assert Reference.from_text("parameters.a.b").problem is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'),
        (True, "true"),
        ({1}, '"{1}"'),
    ],
)
def test_values_become_text(value: object, text: str) -> None:
    assert as_text(value) == text


def test_fields_are_followed_into_objects_and_lists() -> None:
    found = field_of({"a": [{"b": 7}]}, ["a", "0", "b"], Reference("input"))
    assert found == 7


@pytest.mark.parametrize(
    ("value", "path", "told"),
    [
        ({"a": 1}, ["b"], "there is no 'b' in an object with 'a'"),
        ({}, ["b"], "an object with no fields"),
        ("text", ["b"], "a value of type str"),
        ([1], ["1"], "a value of type list"),
    ],
)
def test_a_field_that_is_not_there_is_named(value: object, path: list[str], told: str) -> None:
    with pytest.raises(UnresolvedReferenceError, match=told):
        field_of(value, path, Reference("input", tuple(path)))
