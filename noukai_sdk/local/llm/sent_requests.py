"""Describe a request to a model as it is sent to the provider, for those who read the trace of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ...masking.values import Masker
from .chat import ChatModel, ChatRequest
from .errors import LlmRequestError

# They say how the response is delivered.
_DELIVERY = ("stream", "stream_options")
# Names, texts and schemas; the others could hold a key.
_UNMASKED = ("model", "system", "response_format", "json_schema")
_masker = Masker()


def model_input(model: ChatModel, request: ChatRequest) -> dict[str, Any]:
    """Return the input of a step that calls a model, as its event holds it (docs/wire.md, "Model inputs").

    Args:
        model: The model. If it has a method ``body``, that returns the body of the request or None.
        request: The request in OpenAI's form.
    """
    shown: dict[str, Any] = {"model": model.name, "messages": request.messages}
    if request.temperature is not None:
        shown["temperature"] = request.temperature
    if request.tools:
        shown["tools"] = request.tools
    sent = _settings(model, request)
    messages, tools = sent.pop("messages", request.messages), sent.pop("tools", request.tools)
    kept = {name: sent.pop(name) for name in _UNMASKED if name in sent}
    described = {**_masker.value(sent), **kept}
    if messages != request.messages:
        described["messages"] = _without_repetitions(messages, request.messages)
    if tools != request.tools:
        described["tools"] = tools
    return {**shown, "request": described}


def body_of(model: ChatModel, request: ChatRequest) -> dict[str, Any] | None:
    """Return the body of the request that a model sends; None if it sends none."""
    body = getattr(model, "body", None)
    try:
        return None if body is None else body(request)
    except LlmRequestError:
        return None  # the request itself fails with this error


def _settings(model: ChatModel, request: ChatRequest) -> dict[str, Any]:
    """Return the body of the request, or the settings of a model that is not asked over HTTP."""
    body = body_of(model, request)
    if body is not None:
        return {name: value for name, value in body.items() if name not in _DELIVERY}
    settings = {each.name: getattr(request, each.name) for each in fields(request)}
    if settings["response_format"] == "text":
        del settings["response_format"]
    return {name: value for name, value in settings.items() if value not in (None, {}, [])}


def _without_repetitions(
    messages: Sequence[dict[str, Any]], given: Sequence[dict[str, Any]]
) -> list[dict[str, Any] | int]:
    """Return the messages; one that is also among ``given`` as its number there."""
    before = len(messages) - len(given)  # a system turn may have been added
    return [
        at - before if 0 <= at - before < len(given) and given[at - before] == each else each
        for at, each in enumerate(messages)
    ]
