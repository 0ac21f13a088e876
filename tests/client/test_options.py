"""Arguments of flow calls: checked before any request, and all shown by ``help()``."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from noukai_sdk import AsyncFlow, Flow, ReplayInvalidSessionError
from noukai_sdk.options import (
    CallOptions,
    EventOptions,
    ExecuteOptions,
    JobOptions,
    StepOptions,
    ToolOptions,
)
from tests.support.service import COMPLETED, DONE, PAUSED, STARTED, Reply, Service, finished, stream
from tests.support.sides import SYNC, Side

METHODS = {
    "execute": ExecuteOptions,
    "steps": StepOptions,
    "events": EventOptions,
    "execute_async": JobOptions,
}
TOOL = {"type": "function", "function": {"name": "f"}}
ATTACHMENT = {"url": "https://files.test/a"}

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"message": None}, TypeError, "needs exactly one of message= and messages="),
    ({"messages": []}, TypeError, "needs exactly one of message= and messages="),
    ({"message": 5}, TypeError, "message must be a str, not int"),
    ({"message": b"hi"}, TypeError, "message must be a str, not bytes"),
    ({"message": None, "messages": "hi"}, TypeError, "messages must be a list of dicts"),
    ({"message": None, "messages": ["hi"]}, TypeError, "messages must be a list of dicts"),
    ({"parameters": [1]}, TypeError, "parameters must be a dict, not list"),
    ({"block_overrides": "x"}, TypeError, "block_overrides must be a dict, not str"),
    ({"attachments": "https://x"}, TypeError, "attachments must be a list of dicts"),
    ({"attachments": ["https://x"]}, TypeError, "attachments must be a list of dicts"),
    ({"attachments": ATTACHMENT}, TypeError, "attachments must be a list of dicts"),
    ({"attachments": [{}]}, ValueError, "an attachment needs a 'url' that starts with https://"),
    ({"attachments": [{"url": "http://x"}]}, ValueError, "starts with https://"),
    ({"attachments": [ATTACHMENT] * 11}, ValueError, "11 attachments: at most 10 are allowed"),
    ({"version": 0}, ValueError, "bad version 0"),
    ({"version": "v3"}, ValueError, "bad version 'v3'"),
    ({"version": "production"}, NotImplementedError, "not supported yet"),
    ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds"),
    ({"timeout": 10**400}, ValueError, "timeout must be a number of seconds up to 1e+09"),
    ({"trace": "yes"}, TypeError, "trace must be True or False, not 'yes'"),
    ({"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
    ({"session_id": "a b"}, ReplayInvalidSessionError, "bad session id"),
    ({"extra_headers": {"Authorization": "x"}}, ValueError, "may not set Authorization"),
    ({"extra_headers": {"AUTHORIZATION": "x"}}, ValueError, "may not set AUTHORIZATION"),
    ({"extra_headers": {"x-noukai-api-version": "x"}}, ValueError, "may not set"),
    ({"extra_headers": {"User-agent": "x"}}, ValueError, "may not set"),
    ({"extra_headers": {"X-Request-ID": "x"}}, ValueError, "may not set"),
    ({"extra_headers": {"content-Type": "x"}}, ValueError, "may not set"),
    ({"extra_headers": {"Cookie": "x"}}, ValueError, "may not set"),
    ({"extra_headers": {"Content-Length": "3"}}, ValueError, "may not set Content-Length"),
    ({"extra_headers": {"transfer-encoding": "chunked"}}, ValueError, "may not set"),
    ({"extra_headers": {"Host": "evil.test"}}, ValueError, "may not set Host"),
    ({"extra_headers": {"X Y": "x"}}, ValueError, "'X Y' is not a valid header name"),
    ({"extra_headers": {5: "x"}}, ValueError, "5 is not a valid header name"),
    ({"extra_headers": {"X-Mine": "a\r\nX-Evil: 1"}}, ValueError, "value of X-Mine must be"),
    ({"extra_headers": {"X-Mine": " a"}}, ValueError, "with no space at either end"),
    ({"extra_headers": {"X-Mine": "a\t"}}, ValueError, "with no space at either end"),
    ({"extra_headers": {"X-Mine": "ü"}}, ValueError, "value of X-Mine must be"),
    ({"extra_headers": {"X-Mine": 5}}, ValueError, "value of X-Mine must be"),
    ({"mesage": "typo"}, TypeError, "unexpected keyword argument 'mesage'"),
]
BAD_WITH_TOOLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tools": [TOOL] * 65}, ValueError, "65 tools: at most 64 are allowed"),
    ({"tools": TOOL}, TypeError, "tools must be a list of dicts"),
    ({"tool_choice": 5}, TypeError, "tool_choice must be a str or a dict, not int"),
    ({"tool_handler": 5}, TypeError, "tool_handler must be a function, not int"),
    ({"max_tool_rounds": -1}, ValueError, "max_tool_rounds must be a number ≥ 0"),
    ({"max_tool_rounds": True}, ValueError, "max_tool_rounds must be a number ≥ 0"),
    ({"max_tool_rounds": 1.0}, ValueError, "max_tool_rounds must be a number ≥ 0"),
]
BAD_STEP_OPTIONS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("steps", {"input_overrides": [1]}, TypeError, "input_overrides must be a dict, not list"),
    ("events", {"run_remaining": 1}, TypeError, "run_remaining must be True or False, not 1"),
]
OF_OTHER_METHODS = [
    ("execute", "run_remaining"),
    ("execute", "input_overrides"),
    ("steps", "run_remaining"),
    ("execute_async", "tools"),
    ("execute_async", "tool_handler"),
]


def refused(method: str, options: dict[str, Any], error: type[Exception], problem: str) -> None:
    with SYNC.make() as client, pytest.raises(error, match=re.escape(problem)):
        getattr(client.flow("grade-3"), method)(**{"message": "hi", **options})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("options", "error", "problem"), BAD, ids=str)
def test_call_argument_not_valid_raises(
    service: Service, method: str, options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    refused(method, options, error, problem)
    assert not service.requests


@pytest.mark.parametrize("method", ["execute", "steps", "events"])
@pytest.mark.parametrize(("options", "error", "problem"), BAD_WITH_TOOLS, ids=str)
def test_tool_argument_not_valid_raises(
    service: Service, method: str, options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    refused(method, options, error, problem)
    assert not service.requests


async def test_message_by_position_is_sent(side: Side, service: Service) -> None:
    service.reply(
        DONE,
        stream(STARTED, finished("x"), COMPLETED),
        stream(STARTED, finished("x"), COMPLETED),
        Reply({"executionId": "e", "status": "pending"}, 202),
    )
    async with side.flow() as flow:
        assert (await side.call(flow.execute, "one", timeout=None)).result == {"grade": 3}
        await side.collect(flow.steps("two", input_overrides={"a": 1}))
        await side.collect(flow.events("three", run_remaining=True))
        await side.call(flow.execute_async, "four", trace=True)
        for call in (flow.execute, flow.steps, flow.events, flow.execute_async):
            with pytest.raises(TypeError, match="multiple values for argument 'message'"):
                call("one", message="two")
            with pytest.raises(TypeError, match="needs exactly one of message= and messages="):
                call("one", messages=[])
            with pytest.raises(TypeError, match="message must be a str, not int"):
                call(5)
    messages = [request.body["message"] for request in service.requests]
    assert messages == ["one", "two", "three", "four"]


def test_step_argument_not_valid_raises() -> None:
    for method, options, error, problem in BAD_STEP_OPTIONS:
        refused(method, options, error, problem)
    for method, name in OF_OTHER_METHODS:
        problem = f"{method}() got an unexpected keyword argument {name!r}"
        refused(method, {name: None}, TypeError, problem)


def test_call_argument_none_means_default(service: Service) -> None:
    nothing: Any = {name: None for name in EventOptions.__optional_keys__ if name != "version"}
    service.reply(PAUSED, DONE)
    with SYNC.make() as client:
        options = {name: nothing[name] for name in nothing if name in ToolOptions.__optional_keys__}
        client.flow("grade-3").execute(
            **{**options, "message": "hi", "tool_handler": lambda calls: []}
        )
    assert service.requests[0].body == {"message": "hi"}


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "~"])
def test_extra_header_value_is_sent_unchanged(service: Service, value: str) -> None:
    with SYNC.make() as client:
        client.flow("grade-3").execute(message="hi", extra_headers={"X-Mine": value})
    assert service.last.headers["x-mine"] == value


def test_async_call_argument_not_valid_raises_before_await() -> None:
    from noukai_sdk import AsyncNoukai

    flow = AsyncNoukai(api_key="nk_1").flow("a/b/c")
    for method in METHODS:
        with pytest.raises(TypeError, match="exactly one of"):
            getattr(flow, method)()


def test_call_argument_without_json_form_raises(service: Service) -> None:
    for value in (object(), float("nan")):
        refused("execute", {"parameters": {"x": value}}, TypeError, "cannot be sent as JSON")
    assert not service.requests


@pytest.mark.parametrize("most", [{"attachments": [ATTACHMENT] * 10}, {"tools": [TOOL] * 64}])
def test_call_argument_at_its_limit_is_sent(service: Service, most: dict[str, Any]) -> None:
    with SYNC.make() as client:
        client.flow("grade-3").execute(message="hi", **most)
    assert {name: len(service.last.body[name]) for name in most} == {
        name: len(items) for name, items in most.items()
    }


@pytest.mark.parametrize("kind", [Flow, AsyncFlow])
@pytest.mark.parametrize(("method", "options"), METHODS.items())
def test_signature_names_every_argument(kind: Any, method: str, options: Any) -> None:
    shown = inspect.signature(getattr(kind, method))
    keywords = {name: each for name, each in shown.parameters.items() if name != "self"}
    inputs = {"message", "messages", "response_model"}
    assert set(keywords) == {*inputs, *options.__optional_keys__}
    by_position = [n for n, each in keywords.items() if each.kind is not each.KEYWORD_ONLY]
    assert by_position == list(keywords)[:1] == ["message"]
    assert keywords["version"].default == "draft"
    assert keywords["message"].annotation == "str | None"
    assert "max_tool_rounds" not in keywords or keywords["max_tool_rounds"].default == 10
    assert shown.return_annotation
    assert shown.bind(None, message="hi").arguments["message"] == "hi"


def test_options_docstrings_describe_every_argument() -> None:
    texts = "".join(
        options.__doc__ or "" for options in (CallOptions, ToolOptions, StepOptions, EventOptions)
    )
    for name in EventOptions.__optional_keys__:
        assert re.search(rf"^ +{name}: ", texts, re.MULTILINE), name
