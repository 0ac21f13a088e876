"""Observe a request and its response, for ``capture_requests=``.

Nothing is read ahead and nothing is held back: a request's body is seen as the application reads it, a
response's as the application sends it. What the application does not read is not captured.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import (
    Callable,
    Iterable,
    MutableMapping,
)
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Union

from ..errors import PermissionDeniedError
from ..masking.names import is_secret_name, name_words

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..models.exchanges import Exchange
    from ..protocol.call import Service
    from ..protocol.program import Program
    from ..session.scope import Scope

logger = logging.getLogger("noukai_sdk")

LIMIT = 1_000_000
"""How many bytes of each body are kept."""

REQUEST_HEADERS = frozenset(
    {
        "accept", "accept-language", "content-encoding", "content-language", "content-type", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-event-id",
        "prefer", "range", "x-http-method-override", "x-requested-with"
    }
)  # fmt: skip
RESPONSE_HEADERS = frozenset(
    {
        "allow", "cache-control", "content-disposition", "content-encoding", "content-language",
        "content-range", "content-type", "etag", "last-modified", "link", "location", "retry-after",
        "vary"
    }
)  # fmt: skip

# A header with one of these words in its name holds a credential, or something that one is made of.
_SECRET_WORDS = frozenset(
    {
        "assertion", "auth", "authentication", "authorization", "cookie", "credential", "credentials",
        "jwt", "key", "password", "secret", "session", "sessionid", "signature", "token"
    }
)  # fmt: skip

_HOST = re.compile(r"[\w.:\[\]-]+")
URL_CHARACTERS = "%/:@!$&'()*+,;=~?[]"

Message = MutableMapping[str, Any]
Hook = Callable[[dict[str, Any]], "dict[str, Any] | None"]


@dataclass(frozen=True)
class CaptureRequests:
    """What ``capture_requests=`` captures of each request and response, beyond the defaults.

    Attributes:
        headers: More headers to keep, of requests and responses. Headers whose name suggests a
            credential are never kept.
        redact_pii: Mask e-mail addresses, phone numbers, payment cards and IBANs too.
        redact: Called with the masked exchange as a dict, with the names of
            ``PUT /seq/sessions/{id}/exchange``; returns the dict to keep, or None to keep nothing. It
            runs in another thread, after the response.

    Example:
        >>> app.add_middleware(                                   # doctest: +SKIP
        ...     NoukaiTraceMiddleware,
        ...     client=noukai,
        ...     capture_requests=CaptureRequests(headers=["x-tenant"], redact_pii=True),
        ... )
    """

    headers: Iterable[str] = ()
    redact_pii: bool = False
    redact: Hook | None = None
    extra: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.headers, str) or not all(isinstance(name, str) for name in self.headers):
            raise TypeError(f"headers must be a list of names, not {self.headers!r}")
        if self.redact is not None and not callable(self.redact):
            raise TypeError(f"redact must be a function, not {self.redact!r}")
        names = {name.strip().lower() for name in self.headers}
        secret = sorted(name for name in names if is_secret_header(name))
        if secret:
            logger.warning("capture_requests never keeps these headers: %s", ", ".join(secret))
        object.__setattr__(self, "extra", frozenset(names.difference(secret)))


CaptureOption = Union[bool, Iterable[str], CaptureRequests]  # noqa: UP007  # evaluated at run time


def capture_options(value: CaptureOption) -> CaptureRequests | None:
    """Return the options that ``capture_requests=value`` asks for; None if it captures nothing.

    Raises:
        TypeError: It is not a boolean, a list of headers or a CaptureRequests.
    """
    if isinstance(value, CaptureRequests):
        return value
    if isinstance(value, bool) or value is None:
        return CaptureRequests() if value else None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"capture_requests must be True, a list of headers or a CaptureRequests, not {value!r}"
        )
    return CaptureRequests(tuple(value))


def is_secret_header(name: str) -> bool:
    """Return whether a header may hold a credential.

    Example:
        >>> is_secret_header("X-Api-Key"), is_secret_header("Set-Cookie"), is_secret_header("X-Tenant")
        (True, True, False)
    """
    words = name_words(name)
    return is_secret_name(name) or not _SECRET_WORDS.isdisjoint(words) or words[-1:] == ("apikey",)


class ObservedBody:
    """The first part of a body, and its size.

    Attributes:
        complete: The last part came.
        readable: False if it was not seen: the server sends it from a file that this process cannot read.
    """

    __slots__ = ("complete", "data", "readable", "size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0
        self.complete = False
        self.readable = True

    def add(self, part: Any) -> None:
        """Add a part; what is beyond the limit is only counted."""
        left = LIMIT - len(self.data)
        if left > 0:
            self.data += part[:left]
        self.size += len(part)

    def add_file(self, file: Any, count: int | None = None) -> None:
        """Add the rest of an open file, without moving its position."""
        try:
            start = file.tell()
            end = file.seek(0, os.SEEK_END)
            file.seek(start)
            part = file.read(min(LIMIT + 1, end - start if count is None else count))
            file.seek(start)
            if not isinstance(part, bytes):
                raise TypeError("a text file")
        except Exception:  # noqa: BLE001  # any object may stand for a file
            self.readable = False
            return
        self.add(part)
        self.size += max(0, (end - start if count is None else min(count, end - start)) - len(part))

    @property
    def truncated(self) -> bool:
        """Whether a part of the body is missing in ``data``."""
        return self.size > len(self.data) or not self.readable


class Captured:
    """One request and its response, as far as they were observed.

    Attributes:
        files: The cassette files that were recorded in the request; they get the exchange too.
        client_left: The client went away before the end.
    """

    def __init__(self, options: CaptureRequests) -> None:
        self.options = options
        self.method = "GET"
        self.origin = ""
        self.path = "/"
        self.query = ""
        self.headers: list[tuple[str, str]] = []
        self.body = ObservedBody()
        self.status: int | None = None
        self.response_headers: list[tuple[str, str]] = []
        self.response = ObservedBody()
        self.client_left = False
        self.started_at = _now()
        self.completed_at: str | None = None
        self.files: list[Any] = []

    @classmethod
    def begin(
        cls, options: CaptureRequests, scope: Scope, joined: bool, *connection: Any
    ) -> Self | None:
        """Begin to observe a request; None if it is not captured. Never raises.

        Args:
            options: What to capture.
            scope: The scope of the request.
            joined: The request runs in a scope that was open before.
            *connection: The other arguments of the class.
        """
        try:
            if not _is_captured(scope, joined):
                return None
            captured = scope.captured = cls(options, *connection)
            scope.is_captured = True
            return captured
        except Exception:
            logger.warning("a request is not captured", exc_info=True)
            return None

    def finish(self, scope: Scope) -> None:
        """Hand the exchange to the file that ``scope`` records, or to the service. Never raises.

        What is expensive runs later, in the background.
        """
        if self.completed_at is not None:
            return
        self.completed_at = _now()
        scope.captured = None  # a task that outlives the request keeps its scope, not the bodies
        try:
            keep = getattr(scope, "keep_exchange", None)
            if keep is not None:
                keep(self.exchange)
                return
            for file in self.files:
                file.add_exchange(self.exchange())
            size = len(self.body.data) + len(self.response.data)
            scope.send_at_end(_send, self, scope.other_services, size=size + 1_000)
        except Exception:
            logger.warning("a request was not captured", exc_info=True)

    def exchange(self, service: Service | None = None) -> Exchange | None:
        """Return the redacted exchange; None if the ``redact`` hook keeps nothing.

        Args:
            service: Its API key is masked too.
        """
        from .redacted_exchange import redacted_exchange

        return redacted_exchange(self, service)


def _send(
    service: Service, session_id: str, captured: Captured, others: tuple[Service, ...]
) -> Program[bool]:
    """Store the exchange of a session, with another client's key if all calls are of its organisation."""
    from ..protocol.session_extensions import put_exchange
    from ..transport.background import send_later

    exchange = captured.exchange(service)
    if exchange is None:
        return True
    try:
        return (yield from put_exchange(service, session_id, exchange))
    except PermissionDeniedError:
        if not others:
            raise
    send_later(others[0], _send, session_id, captured, others[1:], about=session_id)
    return True


_send.__name__ = "put_exchange"  # by this name it is remembered that a service takes none


def _is_captured(scope: Scope, joined: bool) -> bool:
    if hasattr(scope, "keep_exchange"):
        return True
    # A scope that was open before, and records no file, may have many requests.
    if joined or scope._service is None:
        return False
    from ..transport.background import takes

    return takes(scope._service, _send)


def origin_of(scheme: str, headers: Iterable[tuple[str, str]], server: Any) -> str:
    """Return scheme and host of a request, by its Host header if that is well-formed."""
    host = next((value for name, value in headers if name == "host"), "")
    if not _HOST.fullmatch(host):
        name, port = (*(server or ("", None)), None)[:2]
        host = f"{name or 'localhost'}:{port}" if port else name or "localhost"
    return f"{scheme}://{host}"


def _now() -> str:
    # With the UTC offset of this process, which a replay can take over.
    return datetime.now().astimezone().isoformat()
