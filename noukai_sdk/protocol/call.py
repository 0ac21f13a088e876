"""A flow call as a value: what goes through the one seam between the client and the scope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .program import ToolHandler

CallKind = Literal["execute", "step", "job"]


@dataclass(frozen=True)
class FlowRef:
    """A flow's address. ``version`` None is the draft, an int a published version."""

    org: str
    project: str
    slug: str
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.org}/{self.project}/{self.slug}"


@dataclass(frozen=True)
class Service:
    """The service as one client sees it.

    Attributes:
        headers: Sent with every request, the key among them: never printed.
        timeout: Seconds, where a call names none.
        max_retries: How often a request is sent again at most.
        log: Takes the dict of the README's ``log_handler``; never raises.
        log_payloads: Put bodies into it.
        session_id: The client's own session, for calls that name none and run in no scope.
        custom_http: The user brought the HTTP client, for instance one with a mock transport.
    """

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    max_retries: int
    log: Callable[[dict[str, Any]], None] | None
    log_payloads: bool = False
    session_id: str | None = None
    custom_http: bool = False


@dataclass(frozen=True)
class FlowCall:
    """One call of a flow, before it is decided who answers it.

    Attributes:
        kind: How the flow is called; recordings of different kinds are counted apart.
        request: The body of the fresh call, in the wire's names, without null fields. Only ``step``
            calls carry ``inputOverrides`` and ``runRemaining``; cursor fields are added by the program.
        session_id: As given to the method; ``tagged`` fills in a scope's or the client's.
        tool_handler, max_tool_rounds: Who answers tool pauses, and how often.
        manual_tools: A stream's consumer can answer tool pauses itself (async clients).
    """

    kind: CallKind
    flow: FlowRef
    service: Service
    request: Mapping[str, Any]
    session_id: str | None = None
    timeout: float | None = None
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tool_handler: ToolHandler | None = None
    max_tool_rounds: int = 10
    manual_tools: bool = False

    def tagged(self, session_id: str | None) -> FlowCall:
        """This call in that session."""
        return self if session_id == self.session_id else replace(self, session_id=session_id)
