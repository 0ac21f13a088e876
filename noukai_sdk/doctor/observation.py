"""Note what came out of a run: the inputs of its calls, and its response."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic_core import to_jsonable_python

from ..models.exchanges import Header
from ..models.reports import CallSite
from ..protocol.call import FlowCall
from ..protocol.program import Effect, Program
from ..replay.callsite import call_site
from ..replay.lanes import Claim
from ..replay.player import Player
from ..replay.recording import INPUT_FIELDS
from ..replay.redaction import Redactor
from ..session.scope import Scope

# Headers of calls that name one request among others, or change in transport.
_UNIQUE = ("request-id", "requestid", "correlation", "trace", "idempotency", "noukai", "span")


@dataclass
class MadeCall:
    """One call that the app made.

    Attributes:
        name: The address of the flow, or the name of a recorded function.
        kind: How it was called; ``"recorded"`` for a recorded function.
        input: What of it a replay compares, with secrets masked.
        site: The line that made it, as ``(file, line)``.
        overlapped: Another call to the same flow was under way.
        output: What it returned, in a live run.
    """

    name: str
    kind: str
    input: dict[str, Any]
    site: tuple[str, int] | None
    overlapped: bool = False
    output: str | None = None

    @property
    def lane(self) -> tuple[str, str]:
        """Calls are compared with calls of the same lane."""
        return self.name, self.kind


@dataclass
class Response:
    """The response of a run, or the outcome of a test."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: str = ""

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        return base64.b64decode(self.body)


@dataclass
class Observation:
    """What came out of a run.

    Attributes:
        calls: In the order in which they were made.
        overlaps: Calls of any flows were under way together.
        response: None if the run came to none.
        refusal: Why the replay refused a call or had recordings left, None if it did not.
        failure: The exception that the app raised and did not handle.
        problem: Why there was no run at all: the app cannot be imported, say.
        reads: What the user's code read; see :meth:`Sources.as_list`.
        modules: The modules that were imported, without the user's.
    """

    calls: list[MadeCall] = field(default_factory=list)
    overlaps: bool = False
    response: Response | None = None
    refusal: str | None = None
    failure: str | None = None
    problem: str | None = None
    reads: list[dict[str, Any]] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the app failed in this run."""
        status = 500 if self.response is None else self.response.status
        return self.failure is not None or self.refusal is not None or status >= 500

    def as_dict(self) -> dict[str, Any]:
        """Return the observation as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Observation:
        """Read what :meth:`as_dict` has written."""
        calls = []
        for each in value["calls"]:
            site = None if each["site"] is None else tuple(each["site"])
            calls.append(MadeCall(**{**each, "site": site}))
        response = None
        if value["response"] is not None:
            headers = [(name, text) for name, text in value["response"]["headers"]]
            response = Response(**{**value["response"], "headers": headers})
        return cls(**{**value, "calls": calls, "response": response})


class Observer:
    """Notes the calls of one run. Safe to use from many threads."""

    def __init__(self, redactor: Redactor) -> None:
        self.observation = Observation()
        self._redactor = redactor
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], int] = {}
        self._all_under_way = 0

    @contextmanager
    def watching(self, *, live: bool = False) -> Iterator[None]:
        """Note the calls that are made in scopes of this process."""
        owner: Any = Scope if live else Player
        name = "admit" if live else "play"
        original = getattr(owner, name)

        def watched(of: Any, call: FlowCall, *claim: Claim) -> Program[Any]:
            site = claim[0].site if claim else call_site()
            if call.kind == "recorded":
                made = self.begin(
                    call.flow.slug, call.kind, lambda: dict(claim[0].redacted_request()), site
                )
            else:
                made = self.begin(
                    str(call.flow), call.kind, lambda: _input_of(call, self._redactor), site
                )
            return self._watch(original(of, call, *claim), made)

        setattr(owner, name, watched)
        try:
            yield
        finally:
            setattr(owner, name, original)

    def begin(
        self,
        name: str,
        kind: str,
        read_input: Callable[[], dict[str, Any]],
        site: CallSite | None,
    ) -> MadeCall:
        """Note a call that is made now."""
        try:
            given = read_input()
        except Exception as error:  # noqa: BLE001  # a call that cannot be sent fails by itself
            given = {"message": f"({type(error).__name__})"}
        place = None if site is None else (site.file, site.line)
        made = MadeCall(name, kind, given, place)
        with self._lock:
            made.overlapped = self._under_way.get(made.lane, 0) > 0
            if made.overlapped:
                earlier = [each for each in self.observation.calls if each.lane == made.lane]
                earlier[-1].overlapped = True
            self.observation.overlaps |= self._all_under_way > 0
            self._under_way[made.lane] = self._under_way.get(made.lane, 0) + 1
            self._all_under_way += 1
            self.observation.calls.append(made)
        return made

    def end(self, made: MadeCall, output: str | None = None) -> None:
        """Note that a call has ended."""
        with self._lock:
            made.output = output
            self._under_way[made.lane] -= 1
            self._all_under_way -= 1

    def _watch(self, program: Program[Any], made: MadeCall) -> Program[Any]:
        seen: list[str] = []
        try:
            item = next(program)
            while True:
                if not isinstance(item, Effect):
                    seen.append(_text(item))
                try:
                    outcome = yield item
                except Exception as error:  # noqa: BLE001  # thrown in for the program, not for us
                    item = program.throw(error)
                else:
                    item = program.send(outcome)
        except StopIteration as end:
            seen.append(_text(end.value))
            return end.value
        finally:
            program.close()
            self.end(made, "\n".join(seen))


def _text(value: Any) -> str:
    result = getattr(value, "result", None)
    return repr(result if result is not None else type(value).__name__)[:10_000]


def _input_of(call: FlowCall, redactor: Redactor) -> dict[str, Any]:
    """Return what a replay compares of a call, and the headers that the caller adds."""
    request = redactor.request(
        {name: call.request[name] for name in INPUT_FIELDS if name in call.request}
    )
    given = {name: request[name] for name in INPUT_FIELDS if name in request}
    if call.flow.version is not None:
        given["version"] = call.flow.version
    headers = {
        name: value
        for name, value in call.extra_headers.items()
        if not any(part in name.lower().replace("_", "-") for part in _UNIQUE)
    }
    if headers:
        given["headers"] = redactor({"headers": headers})["headers"]
    jsonable: dict[str, Any] = to_jsonable_python(given)
    return jsonable


def response_of(status: int, headers: list[Header], content: bytes) -> Response:
    """Return a response with the headers that a replay compares."""
    kept = [each for each in headers if each[0].lower() in ("content-type", "location")]
    return Response(status, kept, base64.b64encode(content).decode())
