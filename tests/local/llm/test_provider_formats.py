"""The providers' formats of requests and responses, without I/O."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.errors import LlmConnectionError, LlmError, LlmResponseError
from noukai_sdk.local.llm.providers.anthropic_requests import message_body
from noukai_sdk.local.llm.providers.anthropic_responses import AnthropicStreamReader, read_message
from noukai_sdk.local.llm.providers.openai_responses import (
    OpenAiStreamReader,
    read_completion,
    read_embeddings,
)

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
    ("reader_type", "stream", "prompt"),
    [(OpenAiStreamReader, OPENAI_STREAM, 1), (AnthropicStreamReader, ANTHROPIC_STREAM, 5)],
)
def test_stream_reader_joins_the_parts_of_tool_calls(
    reader_type: Any, stream: list[Any], prompt: int
) -> None:
    reader = reader_type()
    with pytest.raises(LlmConnectionError):
        reader.end()
    assert "".join(reader.read(chunk) for chunk in stream) == "Hi"
    last = reader.end()
    assert last.tool_calls == CALLS
    assert last.finish_reason == "tool_calls"
    assert (last.usage.prompt, last.usage.completion) == (prompt, 2)


def test_complete_response_has_text_and_tool_calls() -> None:
    message = {"content": None, "tool_calls": [CALLS[0], {"function": {"name": "g"}}]}
    completion = read_completion({"choices": [{"message": message}]})
    assert completion.tool_calls == CALLS
    assert (completion.text, completion.usage, completion.finish_reason) == ("", None, "stop")
    blocks = [
        {"type": "thinking"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_1", "name": "g"},
    ]
    other = read_message({"content": blocks, "stop_reason": "refusal"})
    assert other.tool_calls == CALLS
    assert (other.text, other.finish_reason) == ("Hi", "content_filter")


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
    reader.read(body)
    reader.end()


def error_message(read: Any, body: Any) -> str:
    try:
        read(body)
    except LlmError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "read",
    [
        read_completion,
        read_message,
        read_embeddings,
        lambda body: read_stream(OpenAiStreamReader(), body),
        lambda body: read_stream(AnthropicStreamReader(), body),
    ],
)
@given(body=json_values | near_misses)
def test_malformed_response_raises_a_short_llm_error_or_nothing(read: Any, body: Any) -> None:
    for value in (body, openai_delta(content=body), "x" * 5000):
        assert len(error_message(read, value)) < 300


@pytest.mark.parametrize("content", [5, [], {}])
def test_content_that_is_not_a_text_raises_response_error(content: Any) -> None:
    with pytest.raises(LlmResponseError):
        OpenAiStreamReader().read(openai_delta(content=content))


def anthropic_body(*messages: dict[str, Any], **options: Any) -> dict[str, Any]:
    body = message_body(ChatRequest(list(messages), **options))
    json.dumps(body)
    return body


def test_conversation_in_anthropic_format_merges_adjacent_turns() -> None:
    body = anthropic_body(
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


def test_images_in_anthropic_format_are_linked_or_inline() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    (turn,) = anthropic_body({"role": "user", "content": parts})["messages"]
    linked, inline = turn["content"]
    assert linked == {
        "type": "image",
        "source": {"type": "url", "url": "https://example.org/a.png"},
    }
    assert inline["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def test_tools_in_anthropic_format_have_an_object_schema() -> None:
    described = {"name": "f", "description": "Does f", "parameters": {"properties": {"x": {}}}}
    tools = [{"function": described}, {"function": {"name": "g", "parameters": None}}]
    body = anthropic_body({"role": "user", "content": "Go"}, tools=tools)
    assert body["tools"] == [
        {
            "name": "f",
            "description": "Does f",
            "input_schema": {"type": "object", "properties": {"x": {}}},
        },
        {"name": "g", "input_schema": {"type": "object"}},
    ]
    assert "tool_choice" not in body


def test_tool_choice_in_anthropic_format() -> None:
    turn = {"role": "user", "content": "Go"}
    tools = [{"function": {"name": "f"}}]
    choices: list[tuple[Any, Any]] = [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
        ("nonsense", None),
        (None, None),
    ]
    for choice, expected in choices:
        body = anthropic_body(turn, tools=tools, tool_choice=choice)
        assert body.get("tool_choice") == expected
        assert "tool_choice" not in anthropic_body(turn, tool_choice=choice)
