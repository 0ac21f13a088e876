"""One flow: what its page shows, and the form that runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models.flow_lists import FlowDescription, FlowStep
from ...models.sessions import RecordedCall
from .flow_picture import describe, draw
from .flow_rows import ShownProblem
from .run_progress import as_text
from .versions import version_of

WORKING_COPY = "draft"
"""The choice that stands for no version."""

_EXAMPLE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


class FormError(ValueError):
    """A field of the run form is not valid; the message says why.

    Attributes:
        field: The name of the field.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass
class RunForm:
    """The fields of the run form as the visitor sent them, or as they are at first.

    Attributes:
        error: Why the form was refused, with the field at fault.
    """

    message: str = ""
    parameters: str = "{}"
    tools: str = ""
    version: str = WORKING_COPY
    error: str = ""
    field: str = ""

    @classmethod
    def of(cls, sent: Mapping[str, str]) -> RunForm:
        """Return the form with the values that were sent."""
        names = ("message", "parameters", "tools", "version")
        return cls(**{name: sent[name] for name in names if name in sent})

    @classmethod
    def empty(cls, flow: FlowDescription, version: int | None) -> RunForm:
        """Return the form for a flow, with the defaults of its parameters."""
        takes_tools = any(step.tools for step in flow.steps)
        return cls(
            parameters=json.dumps(flow.parameters, ensure_ascii=False, indent=2),
            tools=json.dumps(_EXAMPLE_TOOLS) if takes_tools else "",
            version=WORKING_COPY if version is None else str(version),
        )

    @classmethod
    def again(cls, call: RecordedCall) -> RunForm:
        """Return the form with the values of an earlier run."""
        request = call.request
        return cls(
            message=as_text(request.get("message") or ""),
            parameters=as_text(request.get("parameters") or {}),
            tools=as_text(request["tools"]) if request.get("tools") else "",
            version=WORKING_COPY if call.version is None else str(call.version),
        )

    def body(self) -> dict[str, Any]:
        """Return the body of the call.

        Raises:
            FormError: A field is not valid.
        """
        parameters = _json("parameters", self.parameters, {})
        if not isinstance(parameters, dict):
            raise FormError("parameters", 'must be a JSON object, such as {"tone": "friendly"}')
        tools = _json("tools", self.tools, [])
        if not isinstance(tools, list):
            raise FormError("tools", "must be a JSON list")
        body: dict[str, Any] = {"message": self.message, "parameters": parameters}
        return {**body, "tools": tools} if tools else body

    def version_number(self) -> int | None:
        """Return the version to run, None for the working copy.

        Raises:
            FormError: It is not a version.
        """
        if self.version == WORKING_COPY:
            return None
        if not (self.version.isascii() and self.version.isdecimal() and len(self.version) < 10):
            raise FormError("version", "choose one of the list")
        return int(self.version)


class FlowDetails:
    """What the page of a flow shows.

    Args:
        flow: The flow, with the steps of ``version``.
        version: The version that the page is about, None for the working copy.

    Attributes:
        seen: Another text if the flow has changed.
        live_url: Streams what changes with the file, whenever it is not as in ``seen``.
    """

    def __init__(self, flow: FlowDescription, version: int | None) -> None:
        self.flow = flow
        self.version = version
        self.url = f"/flows/{flow.address}"
        self.seen = version_of(flow)
        self.live_url = f"/live{self.url}?seen={self.seen}"
        self.problems = [ShownProblem.of(problem) for problem in flow.problems]
        self.picture = draw(flow.steps)
        self.takes_tools = any(step.tools for step in flow.steps)
        has_file = flow.flow_id is not None or flow.problems
        working_copy = [(WORKING_COPY, "the working copy")] if has_file else []
        numbers = sorted((version.version for version in flow.versions), reverse=True)
        self.choices = working_copy + [(str(number), f"version {number}") for number in numbers]

    @staticmethod
    def described(steps: Sequence[FlowStep]) -> list[tuple[FlowStep, str]]:
        """Return the steps of the flow, or of a step that has steps, each with what it is in words."""
        by_id = {step.id: step for step in steps}
        return [(step, describe(step, by_id).partition(": ")[2]) for step in steps]


def _json(field: str, text: str, default: Any) -> Any:
    if not text.strip():
        return default
    try:
        value = json.loads(text, parse_constant=_refuse)
        # Not all that JSON can name can be sent: half a character, or 1e999.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise FormError(
            field, "has a half of a surrogate pair, which is not a character"
        ) from error
    except RecursionError as error:
        raise FormError(field, "is nested too deep") from error
    except json.JSONDecodeError as error:
        message = f"not valid JSON in line {error.lineno}, column {error.colno}: {error.msg}"
        raise FormError(field, message) from error
    except ValueError as error:
        raise FormError(field, str(error)) from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")
