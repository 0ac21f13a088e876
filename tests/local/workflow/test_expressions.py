from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk.local.workflow import templates
from noukai_sdk.local.workflow.expressions import ExpressionError, is_true, parse
from noukai_sdk.local.workflow.templates import Reference, UnresolvedReferenceError

VALUES: dict[str, Any] = {
    "input": "hello",
    "message": "Hi",
    "node.a": 3,
    "node.My step": {"ok": True},
    "parameters.none": None,
    "parameters.list": [1, 2],
    "item": -2,
    "node.my-step": {"scores": [1, {"at most": 5}]},
    "node.verdict": "False",
    "node.skipped": None,
}


def resolve(reference: Reference) -> Any:
    own = reference.path[: templates.ROOTS[reference.root]]
    value = VALUES[".".join((reference.root, *own))]
    return templates.field_of(value, reference.path[len(own) :], reference)


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
        ("node['my-step'].scores[0] == 1 == {{node.my-step}}['scores'][-2]", True),
        ("node['my-step']['scores'][-1]['at most'] == input[2 - 1] or node.a / 2", 1.5),
        ("{{node.my-step.scores}}[node.a - 2]['at most'] * 2 + 1", 11),
        ("input[0] + message[-1] == 'hi'", True),
        ("7 // 2 + 7 % 4 - 1", 5),
        ("[1] + parameters.list == [1, 1, 2]", True),
        ("node.skipped[0]['any'] == null", True),
        ("not node.verdict and true", True),
        ("node.verdict or false", False),
        ("int('3') == node.a and float('1.5') > 1 and str(node.a) == '3'", True),
    ],
)
def test_evaluate_valid_expression_returns_value(text: str, value: Any) -> None:
    assert parse(text).evaluate(resolve) == value


def test_evaluate_and_or_stop_at_the_deciding_operand() -> None:
    resolved: list[str] = []

    def resolve(reference: Reference) -> Any:
        resolved.append(str(reference))
        return True

    assert parse("message or input").evaluate(resolve) is True
    assert resolved == ["{{message}}"]


@pytest.mark.parametrize("text", ["input > 3", "input * 1000", "'%9d' % 1", "parameters.list * 9"])
def test_evaluate_values_of_wrong_types_raises_type_error(text: str) -> None:
    with pytest.raises(TypeError, match="convert with int"):
        parse(text).evaluate(resolve)


@pytest.mark.parametrize("text", ["input[5]", "parameters.list['x']", "parameters.list[0][0]"])
def test_evaluate_missing_subscript_raises_unresolved_reference_error(text: str) -> None:
    with pytest.raises(UnresolvedReferenceError, match="there is no"):
        parse(text).evaluate(resolve)


def test_is_true_text_that_says_no_is_false() -> None:
    for text in ("False", "false", " NO.\n", "0", "None", "null", "off", "", '"False"', "**No**"):
        assert not is_true(text), text
    for text in ("True", "yes", "1", "nothing", "False alarm"):
        assert is_true(text), text


@given(st.text(max_size=30), st.text(max_size=30))
def test_evaluate_value_looks_like_code_stays_a_value(one: str, other: str) -> None:
    values = {"input": one, "message": other}
    expression = parse("{{input}} == {{message}}")
    assert expression.evaluate(lambda reference: values[reference.root]) is (one == other)


def test_references_with_and_without_braces_are_listed_in_order() -> None:
    references = parse("{{node.a.b}} > 1 and lower(parameters.x) in [message]").references
    assert [str(reference) for reference in references] == [
        "{{node.a.b}}",
        "{{parameters.x}}",
        "{{message}}",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a valid expression: ''"),
        ("1 +", "not a valid expression: '1 +'"),
        ("message; input", "not a valid expression"),
        ("input = 1", "not a valid expression"),
        ("__import__('os').system('true')", "is not allowed in a condition: the functions are abs"),
        ("__import__('os')", "is not allowed in a condition: the functions are abs"),
        ("message.strip()", "'message.strip()' is not allowed in a condition"),
        ("{{node.a}}.strip() == 1", "'{{node.a}} .strip()' is not allowed"),
        ("node.my-step.score > 1", "write node[\"my-step\"] if the name of a step has a '-'"),
        ("''.__class__", "is not allowed"),
        ("len(input, key=1)", "each takes one argument"),
        ("len()", "each takes one argument"),
        ("len(input, message)", "each takes one argument"),
        ("(lambda: 1)()", "is not allowed"),
        ("[x for x in input]", "is not allowed"),
        ("{{input}} ** 9", "'{{input}}  ** 9' is not allowed in a condition"),
        ("f'{input}'", "is not allowed"),
        ("b'bytes' == input", "is not allowed"),
        ("2j == input", "is not allowed"),
        ("... == input", "is not allowed"),
        ("{1: 2} == input", "is not allowed"),
        ("input[0:1]", "is not allowed"),
        ("input if 1 else 2", "is not allowed"),
        ("(input := 1)", "is not allowed"),
        ("~item", "is not allowed"),
        ("[*input]", "'*input' is not allowed"),
        ("score > 1", "{{score}} does not start with one of message, input"),
        ("node > 1", "{{node}} lacks a name after 'node'"),
        ("not " * 100 + "input", "nested too deeply"),
        # Python parses these, but recursion over their trees would fail.
        ("+".join(["1"] * 900), "nested too deeply"),
        ("input" + "[0]" * 900, "nested too deeply"),
        ("score" + ".b" * 2500, "{{score.b.b"),
    ],
)
def test_parse_text_outside_the_language_raises_expression_error(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert message in str(caught.value)


@given(st.text(alphabet="{}().,'\"<>=!- andornotinput1[]node\\\n#x", max_size=40))
@example("\0")
@example("(" * 500)
@example("-" * 100_000 + "1")
@example("message" + ".b" * 5000)
def test_parse_any_text_returns_or_raises_expression_error(text: str) -> None:
    try:
        parse(text)
    except ExpressionError:
        return
