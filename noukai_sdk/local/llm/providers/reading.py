"""What is not of the protocol is one clear error, wherever in an answer it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import LlmResponseError

_SHOWN_CHARS = 200


@contextmanager
def expecting(what: str, body: Any) -> Iterator[None]:
    """Read ``body`` inside the block as if it were well-formed.

    Raises:
        LlmResponseError: It was not; the message shows the beginning of it.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        shown = repr(body)[:_SHOWN_CHARS]
        raise LlmResponseError(f"the provider sent no {what}: {shown}") from error


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call in OpenAI's form; ``arguments`` is a JSON text."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}
