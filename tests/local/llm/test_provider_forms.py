"""Reading and writing the providers' forms, with no I/O."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.errors import LlmConnectionError, LlmError, LlmResponseError
from noukai_sdk.local.llm.providers import anthropic_answers, openai_answers
from noukai_sdk.local.llm.providers.anthropic_requests import body_of

CALLS = (
    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
    {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
)


def openai_delta(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


OPENAI_STREAM: list[dict[str, Any]] = [
    openai_delta(role="assistant", content=None),
    openai_delta(content="Hi"),
    openai_delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f"}}]),
    openai_delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}]),
    openai_delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
    openai_delta(tool_calls=[{"index": 1, "function": {"name": "g"}}]),
    {"choices": [{"index": 0, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]

ANTHROPIC_STREAM: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 1, "cache_read_input_tokens": 4}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "a", "name": "f", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"x"'},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": ": 1}"},
    },
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "call_1", "name": "g", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "thinking_delta"}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 2},
    },
    {"type": "message_stop"},
]


@pytest.mark.parametrize(
    ("reader", "stream", "prompt"),
    [
        (openai_answers.StreamReader, OPENAI_STREAM, 1),
        (anthropic_answers.StreamReader, ANTHROPIC_STREAM, 5),
    ],
)
def test_tool_calls_come_in_parts(reader: Any, stream: list[Any], prompt: int) -> None:
    read = reader()
    assert "".join(read.read(chunk) for chunk in stream) == "Hi"
    last = read.end()
    assert last.tool_calls == CALLS
    assert last.finish_reason == "tool_calls"
    assert (last.usage.prompt, last.usage.completion) == (prompt, 2)


@pytest.mark.parametrize("reader", [openai_answers.StreamReader, anthropic_answers.StreamReader])
def test_a_stream_that_nothing_ended_is_cut(reader: Any) -> None:
    with pytest.raises(LlmConnectionError):
        reader().end()


@pytest.mark.parametrize("content", [5, [], {}])
def test_text_that_is_no_text(content: Any) -> None:
    with pytest.raises(LlmResponseError):
        openai_answers.StreamReader().read(openai_delta(content=content))


def test_whole_answers_with_tool_calls() -> None:
    message = {"content": None, "tool_calls": [CALLS[0], {"function": {"name": "g"}}]}
    read = openai_answers.read_completion({"choices": [{"message": message}]})
    assert read.tool_calls == CALLS
    assert (read.text, read.usage, read.finish_reason) == ("", None, "stop")
    blocks = [
        {"type": "thinking"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_1", "name": "g"},
    ]
    other = anthropic_answers.read_message({"content": blocks, "stop_reason": "refusal"})
    assert other.tool_calls == CALLS
    assert (other.text, other.finish_reason) == ("Hi", "content_filter")


def test_long_garbage_is_shortened_in_the_message() -> None:
    with pytest.raises(LlmResponseError) as caught:
        openai_answers.read_completion("x" * 5000)
    assert len(str(caught.value)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
near_misses = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["message_start", "content_block_start", "content_block_delta", "message_delta"]
        )
        | json_values,
        "choices": st.lists(
            st.fixed_dictionaries(
                {}, optional={"delta": json_values, "message": json_values, "index": json_values}
            )
        )
        | json_values,
        "content": json_values,
        "delta": json_values | st.just({"stop_reason": "end_turn"}),
        "message": json_values,
        "content_block": json_values,
        "usage": json_values | st.dictionaries(st.sampled_from(["input_tokens"]), json_values),
        "index": json_values,
    },
)


def read_stream(reader: Any, body: Any) -> None:
    read = reader()
    read.read(body)
    read.end()


@pytest.mark.parametrize(
    "read",
    [
        openai_answers.read_completion,
        anthropic_answers.read_message,
        lambda body: read_stream(openai_answers.StreamReader, body),
        lambda body: read_stream(anthropic_answers.StreamReader, body),
    ],
)
@given(body=json_values | near_misses)
def test_garbage_is_an_error_of_ours_or_nothing(read: Any, body: Any) -> None:
    with suppress(LlmError):
        read(body)


def request(*messages: dict[str, Any], **options: Any) -> dict[str, Any]:
    return body_of(ChatRequest(list(messages), **options))


def test_a_conversation_in_anthropics_form() -> None:
    body = request(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Paris and Rome?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": list(CALLS)},
        {"role": "tool", "tool_call_id": "a", "content": "18 C"},
        {"role": "tool", "tool_call_id": "call_1", "content": "25 C"},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "So?"}]},
        {"role": "assistant", "content": ""},
        temperature=0.5,
    )
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["max_tokens"] == 4096
    assert body["temperature"] == 0.5
    user, assistant, results = body["messages"]
    assert user == {
        "role": "user",
        "content": [{"type": "text", "text": "Weather in Paris and Rome?"}],
    }
    assert assistant["content"] == [
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_1", "name": "g", "input": {}},
    ]
    assert results == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "18 C"},
            {"type": "tool_result", "tool_use_id": "call_1", "content": "25 C"},
            {"type": "text", "text": "So?"},
        ],
    }


def test_images_in_anthropics_form() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    (turn,) = request({"role": "user", "content": parts})["messages"]
    linked, inline = turn["content"]
    assert linked == {
        "type": "image",
        "source": {"type": "url", "url": "https://example.org/a.png"},
    }
    assert inline["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def test_tools_in_anthropics_form() -> None:
    described = {"name": "f", "description": "Does f", "parameters": {"properties": {"x": {}}}}
    tools = [{"function": described}, {"function": {"name": "g", "parameters": None}}]
    body = request({"role": "user", "content": "Go"}, tools=tools)
    assert body["tools"] == [
        {
            "name": "f",
            "description": "Does f",
            "input_schema": {"type": "object", "properties": {"x": {}}},
        },
        {"name": "g", "input_schema": {"type": "object"}},
    ]
    assert "tool_choice" not in body


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
        ("nonsense", None),
        (None, None),
    ],
)
def test_tool_choice_in_anthropics_form(choice: Any, expected: Any) -> None:
    turn = {"role": "user", "content": "Go"}
    tools = [{"function": {"name": "f"}}]
    assert request(turn, tools=tools, tool_choice=choice).get("tool_choice") == expected
    assert "tool_choice" not in request(turn, tool_choice=choice)


def test_bodies_are_json() -> None:
    json.dumps(request({"role": "user", "content": "Go"}))
