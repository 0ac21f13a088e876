from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk.local.workflow.expressions import ExpressionError, parse
from noukai_sdk.local.workflow.templates import Reference

VALUES: dict[str, Any] = {
    "input": "hello",
    "message": "Hi",
    "node.a": 3,
    "node.My step.ok": True,
    "parameters.none": None,
    "parameters.list": [1, 2],
    "item": -2,
}


def resolve(reference: Reference) -> Any:
    return VALUES[".".join((reference.root, *reference.path))]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("input == 'hello'", True),
        ("{{input}} != 'hello'", False),
        ("1 < node.a <= 3", True),
        ("1 < node.a < 3", False),
        ("{{ node.My step.ok }} and node.a", 3),
        ("not message or 0", 0),
        ("message and ''", ""),
        ("parameters.none is None", True),
        ("parameters.none is not None", False),
        ("2 in parameters.list", True),
        ("2 not in [1, 3]", True),
        ("node.a in (1, 3)", True),
        ("len(input) > 3 and 'ell' in lower(upper(input))", True),
        ("abs(item) == 2 and -item == 2", True),
        ("int('3') == node.a and float('1.5') > 1 and str(node.a) == '3'", True),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert parse(text).evaluate(resolve) == value


def test_and_and_or_stop_where_the_answer_is_known() -> None:
    seen: list[str] = []

    def note(reference: Reference) -> Any:
        seen.append(str(reference))
        return True

    assert parse("message or input").evaluate(note) is True
    assert seen == ["{{message}}"]


def test_references_are_found_once_each_with_and_without_braces() -> None:
    found = parse("{{node.a.b}} > 1 and lower(parameters.x) in [message]").references
    assert [str(reference) for reference in found] == [
        "{{node.a.b}}",
        "{{parameters.x}}",
        "{{message}}",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "__import__('os').system('true')",
        "message.strip()",
        "(lambda: 1)()",
        "[x for x in input]",
        "input ** 9",
        "f'{input}'",
        "b'bytes' == input",
        "2j == input",
        "len(input, key=1)",
        "len()",
        "len(input, message)",
        "score > 1",
        "node > 1",
        "input[0]",
        "input if 1 else 2",
        "(input := 1)",
        "~item",
        "*input, 1",
        "not " * 100 + "input",
    ],
)
def test_nothing_else_is_an_expression(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


@given(st.text(alphabet="{}().,'\"<>=!- andornotinput1[]node\\\n#x", max_size=40))
@example("\0")
@example("(" * 500)
@example("-" * 100_000 + "1")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except ExpressionError:
        return


@given(st.text(max_size=30), st.text(max_size=30))
def test_values_cannot_change_the_expression(one: str, other: str) -> None:
    expression = parse("{{input}} == {{message}}")
    given_ = {"input": one, "message": other}
    assert expression.evaluate(lambda reference: given_[reference.root]) is (one == other)


def test_what_cannot_be_compared_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        parse("input > 3").evaluate(resolve)
