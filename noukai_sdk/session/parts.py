"""The parts of a session that several clients made: each is fetched with the key of its own client.

A part is fetched when the first call of its client comes, in the program of that call. Other calls wait for
it, so that overlapping calls still complete in their recorded order. The parts of known clients that made
no call are fetched at the end: their calls were removed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ReplayForbiddenError, ReplaySessionNotFoundError
from ..protocol.call import Service
from ..protocol.program import AwaitTurn, Program
from ..replay.player import Player
from ..replay.recording import Recording
from ..replay.sources import LoadedSession, load_session

LONGEST_WAIT = (
    10.0  # seconds to wait for a fetch in another thread or task, before fetching as well
)

Key = tuple[str, str | None]
"""The base URL and the Authorization header of a client."""

Others = Callable[..., Sequence[Any]]


class SessionParts:
    """The parts of one session. Safe to use from many threads and event loops.

    Args:
        player: Plays the recordings.
        session: The part that is there already.
        service: The client that it was fetched with.
        refused: Clients that may not read the session, with the errors that they got.
        others: Returns the transports of the other clients that are known, or of those that were given
            together with the first one.

    Attributes:
        failures: The errors of clients whose parts could not be fetched at the end.
    """

    def __init__(
        self,
        player: Player,
        session: LoadedSession,
        service: Service,
        refused: Mapping[Key, Exception],
        others: Others,
    ) -> None:
        self.first_service = service
        self.failures: dict[Key, Exception] = {}
        self._others = others
        self._player = player
        self._session_id = session.session_id
        self._link = session.parent
        self._parts: dict[Key, int] = {service.key: 0}
        self._part_of_run: dict[str, int] = {}
        self._known: set[tuple[object, ...]] = set()
        self._fetches: dict[Key, _Fetch] = {}
        self._lock = threading.Lock()
        self._unnoted = session.recordings
        for key, error in refused.items():
            self._add(key, None, error)

    def part_of(self, service: Service) -> int | None:
        """Return the number of a client's part, None if it was not fetched yet."""
        return self._parts.get(service.key)

    def not_fetched(self, *, given: bool = False) -> list[Any]:
        """Return the transports of the known clients whose parts may exist, and are not fetched yet.

        Args:
            given: Only of clients that were given together with the first one.
        """
        cassette = self._player.cassette
        if cassette.total_calls is not None and not cassette.missing:
            return []
        return [each for each in self._others(given=given) if each.service.key not in self._parts]

    def load(self, service: Service, org: str | None = None) -> Program[None]:
        """Fetch the client's part, once, however many calls ask for it.

        Args:
            service: The client.
            org: The organisation of the call that needs the part, for the error; None without a call.

        Raises:
            NoukaiError: The service failed. The next call tries again.
        """
        key = service.key
        waited: _Fetch | None = None
        while key not in self._parts:
            with self._lock:
                fetch = self._fetches.get(key)
                if fetch is None or fetch is waited:
                    fetch = own = self._fetches[key] = _Fetch()
                    self._player.cassette.loading = own
                else:
                    own = None
            if own is None:
                yield AwaitTurn(fetch)
                waited = fetch
                continue
            try:
                try:
                    session = yield from load_session(service, self._session_id, self._link)
                    session.require_snapshots()
                except (ReplayForbiddenError, ReplaySessionNotFoundError) as error:
                    self._add(key, None, error, org)
                else:
                    self._add(key, session)
            finally:
                with self._lock:
                    if self._fetches.get(key) is own:
                        del self._fetches[key]
                    if self._player.cassette.loading is own:
                        self._player.cassette.loading = next(iter(self._fetches.values()), None)
                own.done.set()

    def _add(
        self,
        key: Key,
        session: LoadedSession | None,
        error: Exception | None = None,
        org: str | None = None,
    ) -> None:
        with self._lock:
            if key in self._parts:
                return
            self._note(self._unnoted, 0)
            self._unnoted = []
            recordings = [] if session is None else session.recordings
            new = [each for each in recordings if _identity(each) not in self._known]
            # Two keys of one organisation can read the same runs: then their parts are one.
            shared = [
                self._part_of_run[each.execution_id]
                for each in recordings
                if each.execution_id in self._part_of_run
            ]
            part = shared[0] if shared else len(self._parts)
            self._note(new, part)
            problem = None
            if error is not None:
                whose = "another organisation" if org is None else f"organisation {org!r}"
                problem = f"The calls of {whose} could not be read with this client's key: {error}."
            redactor = None if session is None else session.redactor
            self._player.add(new, part, key, redactor, problem)
            if session is not None and session.total_calls is not None:
                cassette = self._player.cassette
                cassette.total_calls = max(cassette.total_calls or 0, session.total_calls)
            self._parts[key] = part

    def _note(self, recordings: list[Recording], part: int) -> None:
        for each in recordings:
            self._known.add(_identity(each))
            if each.execution_id is not None:
                self._part_of_run[each.execution_id] = part


def _identity(recording: Recording) -> tuple[object, ...]:
    if recording.execution_id is not None:
        return (recording.execution_id,)
    return (
        recording.kind,
        recording.org,
        recording.project,
        recording.slug,
        recording.started_at,
    )


class _Fetch:
    """A fetch under way, which other calls wait for as for a turn."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self._thread = threading.get_ident()

    def wait(self) -> None:
        """Block this thread until the fetch is over."""
        # A task of this thread's event loop fetches, and goes on only if the thread does.
        if self._thread != threading.get_ident():
            self.done.wait(LONGEST_WAIT)

    async def wait_async(self) -> None:
        """Wait on asyncio or trio until the fetch is over."""
        import anyio

        until = time.monotonic() + LONGEST_WAIT
        # A loop, because threads and other event loops fetch, too.
        while not self.done.is_set() and time.monotonic() < until:  # noqa: ASYNC110
            await anyio.sleep(0.002)
