"""Turn the response of an agent's model into the node's output."""

from __future__ import annotations

import json
from typing import Any

from ...errors import FlowExecutionError
from ..workflow.kinds import Agent
from ..workflow.output_types import MismatchError, output_type, unfenced

_SHOWN_CHARS = 500


class OutputInvalidError(FlowExecutionError):
    """The response of an agent's model is not what its ``output`` asks for. The code is ``OUTPUT_INVALID``.

    Attributes:
        problems: What does not fit, line by line.
        text: The response.
    """

    def __init__(self, step_id: str, problems: str, text: str, expected: str) -> None:
        shown = text[:_SHOWN_CHARS] + ("..." if text[_SHOWN_CHARS:] else "")
        message = f"the response of step {step_id!r} is not {expected}: {problems}\nIt was: {shown}"
        super().__init__(message, code="OUTPUT_INVALID")
        self.problems = problems
        self.text = text


def output_of(step_id: str, agent: Agent, text: str) -> Any:
    """Return the output for a response.

    Raises:
        OutputInvalidError: The response does not fit.
    """
    if agent.output == "text":
        return text
    try:
        if agent.output == "json":
            return json.loads(unfenced(text))
        return output_type(agent.output).parse(text)
    except MismatchError as error:
        expected = f"valid JSON of {output_type(agent.output).name}"
        raise OutputInvalidError(step_id, str(error), text, expected) from error.__cause__
    except ValueError as error:
        raise OutputInvalidError(step_id, str(error), text, "valid JSON") from error


def repair_turns(error: OutputInvalidError) -> list[dict[str, Any]]:
    """Return the turns that ask the model to correct its response."""
    request = (
        f"This is not valid:\n{error.problems}\n\n"
        "Respond again with the whole JSON value, corrected, and with nothing else."
    )
    return [{"role": "assistant", "content": error.text}, {"role": "user", "content": request}]
