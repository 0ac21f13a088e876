"""Send a captured request again."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CapturedRequestError
from ..masking.values import REDACTED
from ..models.exchanges import CapturedRequest, Exchange, Header


@dataclass(frozen=True)
class ResentRequest:
    """What to send to make a captured request again.

    Attributes:
        origin: Where it was sent, such as ``http://127.0.0.1:8000``.
        target: Path and query, percent-encoded.
        headers: The captured ones, without those that the HTTP client sets by itself.
        content: The body; None if the request had none.
        masked: What is missing or masked, such as ``header authorization`` or ``body $.password``.
            The application may respond differently without it.
    """

    method: str
    origin: str
    target: str
    headers: tuple[Header, ...]
    content: bytes | None
    masked: tuple[str, ...] = ()


# Set by the client that sends the request, to fit its connection and the body.
_OF_CLIENT = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})


def sent_again(exchange: Exchange) -> ResentRequest:
    """Return what to send to make the request of ``exchange`` again.

    A body in which fields were masked can be sent, with the masks; ``masked`` names them.

    Raises:
        CapturedRequestError: The capture holds only a part of the body, or only the handshake of a
            websocket.

    Example:
        >>> from noukai_sdk.models.exchanges import CapturedResponse
        >>> request = CapturedRequest(method="GET", origin="http://localhost", path="/a", query="b=1")
        >>> sent_again(Exchange(request=request, response=CapturedResponse())).target
        '/a?b=1'
    """
    request = exchange.request
    if request.origin.startswith("ws"):
        raise CapturedRequestError(
            f"{request.target} is a websocket: its messages are not captured"
        )
    content = _content(request)
    headers = tuple(each for each in request.headers if each[0].lower() not in _OF_CLIENT)
    # Brackets are not allowed in a URL.
    target = request.target.replace(REDACTED, f"%5B{REDACTED[1:-1]}%5D")
    return ResentRequest(request.method, request.origin, target, headers, content, request.redacted)


def _content(request: CapturedRequest) -> bytes | None:
    body = request.body
    if body is None or not (body.size or body.text):
        return None
    name = f"{request.method} {request.path}"
    if body.truncated and not body.text:
        problem = (
            f"its body of {body.size} bytes could not be searched for secrets, and was left out"
        )
    elif body.truncated:
        problem = f"only the first part of its body of {body.size} bytes was captured"
    elif not body.complete:
        problem = f"only the first {body.size} bytes of its body were received"
    else:
        return body.content
    raise CapturedRequestError(f"{name} cannot be sent again: {problem}. Pass the body yourself")
