"""The bodies of requests. Null fields are left out (docs/wire.md)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict

from .base import WireModel


class Attachment(WireModel):
    """A file for the flow, by HTTPS URL. Its keys are snake_case on the wire too."""

    url: str
    mime_type: str | None = None

    model_config: ClassVar[ConfigDict] = {"alias_generator": None}


class ExecuteRequest(WireModel):
    """The body of ``POST .../execute`` and, without the resume fields, of ``POST .../jobs``.

    A fresh call has ``message`` (or ``messages``). A resume has ``execution_id``, ``paused_at_step``,
    ``iterations_used``, ``accumulated_outputs`` and ``tool_call_messages`` instead.

    Attributes:
        step_outputs: Outputs of steps that are not to run, by step id. Of a fresh call; an extension of
            our backend.
    """

    message: str | None = None
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] | None = None
    block_overrides: dict[str, dict[str, Any]] | None = None
    step_outputs: dict[str, Any] | None = None
    attachments: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    execution_id: str | None = None
    paused_at_step: str | None = None
    iterations_used: int | None = None
    tool_call_messages: list[dict[str, Any]] | None = None
    accumulated_outputs: dict[str, Any] | None = None
    trace: bool | None = None


class StepRequest(ExecuteRequest):
    """The body of ``POST .../step``."""

    step_index: int = 0
    input_overrides: dict[str, Any] | None = None
    run_remaining: bool | None = None
