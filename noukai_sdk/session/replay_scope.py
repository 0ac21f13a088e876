"""The scope of a replay: calls are served from a cassette."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import NoukaiError, ReplayError, ReplayInvalidSessionError
from ..models.reports import CallSite, ReportEntry
from ..protocol.call import FlowCall, Service
from ..protocol.jobs import JobBackend, LiveJob
from ..protocol.program import Program, longest
from ..replay.activity import Activity
from ..replay.callsite import call_site
from ..replay.cassette import Cassette
from ..replay.lanes import Claim
from ..replay.player import Player, ReplayOptions
from ..replay.recorder import api_keys
from ..replay.recording import Recording
from ..replay.recording_builder import wall_time
from ..replay.sources import LoadedSession, load_session
from . import lost_scope
from .parts import Key, Others, SessionParts
from .scope import Scope, belonging_to, new_session_id

if TYPE_CHECKING:
    from ..whatif.changes import WhatIfOptions
    from ..whatif.compared_calls import LiveCall, WhatIf

logger = logging.getLogger("noukai_sdk")


class ReplayScope(Scope):
    """A scope that plays one cassette. Calls go live only if the options allow it.

    Attributes:
        parts: The parts of a session that several clients made; None for a cassette file.
        activity: What the tasks and threads of the scope do at the moment.
    """

    parts: SessionParts | None = None

    def __init__(self, cassette: Cassette, options: ReplayOptions | None = None) -> None:
        self._options = options or ReplayOptions()
        # The live calls of a fork belong to a child session, and so does the app's response.
        child = new_session_id() if self._options.allow_live else cassette.session_id
        super().__init__("replay", child)
        self.is_fork = self._options.allow_live
        self._recorded_session = cassette.session_id
        self._calls = itertools.count()
        self._ended = False
        self._reports_outcomes = False
        self._abandoned: list[Claim] = []
        self._send_boundaries: Any = None
        self._edited: list[tuple[int, FlowCall, LiveCall | None]] = []
        self._what_ifs: list[WhatIf] = []
        self.activity = Activity(belonging_to(self))
        self.activity.note_loop()
        self._player = Player(
            cassette, self._options, go_live=self._go_live, activity=self.activity
        )
        self.report = self._player.report
        self.refuses_lost = self._options.lost == "refuse"
        if self._options.what_if is not None:
            try:
                self._begin_what_if(self._options.what_if)
            except ValueError as error:
                raise ReplayInvalidSessionError(f"bad what-if: {error}") from error
        lost_scope.began(self)

    def admit(self, call: FlowCall) -> Program[Any]:
        """Claim the call's place now, and return the program that serves its recording."""
        options = self._player.options
        order = next(self._calls)
        live_from = options.live_from
        # After the end of the scope every call is refused, whatever was allowed in it.
        if live_from is not None and not self._ended and order >= live_from:
            if options.edit is None or order > live_from:
                self._player.skip(call)
                return self._go_live(call)
            self._player.skip(call, f"with another {' and '.join(options.edit)}")
            # The service takes a message or messages.
            replaced = {"message", "messages"} if options.edit.keys() - {"parameters"} else set()
            kept = {name: part for name, part in call.request.items() if name not in replaced}
            self._edited.append((order, call, None))
            return self._go_live(call._replace(request={**kept, **options.edit}))
        if options.redactor is not None:
            options.redactor.add_secrets(api_keys(call))
        parts = self.parts
        if parts is not None and call.service is not parts.first_service:
            return self._from_part(parts, call, order)
        claim = self._player.claim(call, call_site())
        claim.order = order
        if call.session_id in (None, self.session_id, self._recorded_session):
            return self._player.play(call, claim)
        return self._from_other_session(call, claim)

    @property
    def player(self) -> Player:
        """What plays the cassette."""
        return self._player

    def claim_boundary(
        self, call: FlowCall, redact: Callable[[Any], Any], site: CallSite | None
    ) -> Claim:
        """Claim the place of a call of a recorded function.

        Args:
            call: The call.
            redact: What the function itself removes from its arguments.
            site: Where it was called.
        """
        redactor = self._options.redactor

        def comparable(request: Mapping[str, Any]) -> Mapping[str, Any]:
            clean = redact(request)
            return clean if redactor is None else redactor.boundary(clean)

        return self._player.claim(call, site, redact=comparable)

    def keep_boundaries(self, log: Any, send: Any) -> None:
        """Keep the calls of recorded functions of a fork: with its own session, or in the file."""
        if self._options.writer is not None:
            log.write_to_file(wall_time)
            self._options.writer.boundaries = log
        elif self._reports_outcomes:
            super().keep_boundaries(log, send)
        else:
            self._send_boundaries = send  # if the replay becomes a fork

    def replays_session(
        self,
        session: LoadedSession,
        service: Service,
        refused: Mapping[Key, Exception],
        others: Others,
    ) -> None:
        """Note that the recordings are those of a session, which may have more parts.

        Args:
            session: The part that is there already.
            service: The client that it was fetched with.
            refused: As for :class:`SessionParts`.
            others: As for :class:`SessionParts`.
        """
        self.parts = SessionParts(self._player, session, service, refused, others)
        if self.is_fork:
            # The child session remembers what it was served.
            self._reports_outcomes = True

    def _from_part(self, parts: SessionParts, call: FlowCall, order: int) -> Program[Any]:
        """Claim the place of a call by another client than the first; return the program that serves it."""
        part = parts.part_of(call.service)
        if part is not None:
            claim = self._player.claim(call, call_site(), part)
        else:
            claim = self._player.claim_later(call, call_site(), call.service.key)
        claim.order = order
        own = call.session_id in (None, self.session_id, self._recorded_session)
        serve = self._player.play if own else self._from_other_session
        return (
            serve(call, claim) if part is not None else self._when_loaded(parts, call, claim, serve)
        )

    def _when_loaded(
        self, parts: SessionParts, call: FlowCall, claim: Claim, serve: Callable[..., Program[Any]]
    ) -> Program[Any]:
        try:
            yield from parts.load(call.service, call.flow.org)
        except NoukaiError as error:
            claim.assigned = True  # without a recording
            raise self._player.refused(claim, error) from error.__cause__
        except BaseException:
            self._abandoned.append(claim)  # it uses its recording up all the same
            raise
        return (yield from serve(call, claim))

    def _begin_what_if(self, options: WhatIfOptions) -> WhatIf:
        if self._ended:
            raise RuntimeError(
                "the replay has ended: call whatif() before the calls that it is about"
            )
        if self._options.writer is not None:
            raise ValueError("a what-if records nothing: replay the cassette without record_mode")
        recorded = self._player.cassette
        flows = {(each.org, each.project, each.slug) for each in recorded.recordings}
        for target in options.targets if not recorded.missing else ():
            if not any(target.is_flow(*flow) for flow in flows):
                known = ", ".join(sorted({str(slug) for _, _, slug in flows})) or "no call"
                raise ValueError(f"the recording has no call of flow {target}: it has {known}")
        if not self.is_fork:
            # Live calls never go into the recorded session.
            self.session_id, self.is_fork = new_session_id(), True
        self._reports_outcomes = self.parts is not None or self._options.is_stored
        if self._reports_outcomes and self._send_boundaries is not None:
            super().keep_boundaries(self.boundaries, self._send_boundaries)
            self._send_boundaries = None
        if self.verdict is not None:
            self.verdict.allow_leftovers = True
        from ..whatif.compared_calls import WhatIf  # most replays have none

        what_if = WhatIf(options)
        self._what_ifs.append(what_if)
        self._options = replace(self._options, what_if=options)
        self._player.options = replace(self._player.options, what_if=options)
        self._player.divert = self._divert
        return what_if

    def whatif(
        self,
        *live: str,
        model: str | None = None,
        settings: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        message: str | None = None,
    ) -> WhatIf:
        """Run the named calls of this replay live, with a change: see :meth:`Scope.whatif`."""
        from ..whatif.changes import WhatIfOptions

        changes = {"settings": settings, "parameters": parameters, "message": message}
        return self._begin_what_if(WhatIfOptions.of(live, model=model, **changes))

    def _divert(self, call: FlowCall, claim: Claim) -> Program[Any] | None:
        """Return the program of a call that a what-if runs live; None for one that is served."""
        recording = None if claim.index is None else claim.lane.recordings[claim.index]
        number = self._number_of(call, claim, recording)
        for what_if in self._what_ifs:
            if what_if.targets_of(call.flow, number):
                return self._live(what_if, call, claim, number, recording)
        return None

    def _live(
        self,
        what_if: WhatIf,
        call: FlowCall,
        claim: Claim,
        number: int,
        recording: Recording | None,
    ) -> Program[Any]:
        lane = claim.lane
        entry = ReportEntry(lane.slug, lane.kind, claim.position, str(what_if.changes), claim.site)

        def note(live: LiveCall) -> None:
            self.report.live.append(entry)
            self.report.what_if.append(live)

        program = what_if.live(
            call,
            number,
            recording,
            self._go_live,
            redactor=self._player.options.redactor,
            on_live=note,
            on_changed=lambda live: self._edited.append((claim.order, call, live)),
        )
        try:
            return (yield from program)
        except ReplayError as error:
            raise self._player.refused(claim, error) from error.__cause__

    def _number_of(self, call: FlowCall, claim: Claim, recording: Recording | None) -> int:
        """Return the number of a call among those of its flow, however they are made."""
        number = 0
        for each in self._player.cassette.recordings:
            address = (each.org, each.project)
            if each.slug == call.flow.slug and address in (call.flow[:2], (None, None)):
                number += 1
                if each is recording:
                    return number
        return number + max(1, claim.position + 1 - len(claim.lane.recordings))

    def job(self, live: LiveJob) -> JobBackend:
        """Return the recorded job of this id; the live one if this scope may submit jobs live."""
        recorded = self._player.jobs.get(live.execution_id)
        if recorded is not None:
            return recorded.by_id()
        for what_if in self._what_ifs:
            if (noted := what_if.job(live)) is not live:
                return noted
        if not self._options.allow_live:
            raise self._player.unknown_job(live.flow.slug, live.execution_id)
        writer = self._options.writer
        return live if writer is None else writer.recorder.job(live)

    @contextmanager
    def notifying(self, on_served: Callable[[float], object]) -> Iterator[None]:
        """Call ``on_served``, as in :class:`ReplayOptions`, while the block runs."""
        before = self._player.options.on_served
        self._player.options = replace(self._player.options, on_served=on_served)
        try:
            yield
        finally:
            self._player.options = replace(self._player.options, on_served=before)

    @property
    def has_unplayed(self) -> bool:
        """Whether the replay would end with leftovers now, and with no error before them."""
        if self._ended or self._options.allow_live or self.report.misses:
            return False
        return self._player.cassette.remaining > 0 or self._player.cassette.missing > 0

    @property
    def is_past_end(self) -> bool:
        """Whether the program made a call after those that production made for a client that left."""
        return self._player.is_past_end

    def verify(
        self, *, caught: bool = True, complete: bool = True, client_left: bool = False
    ) -> None:
        """Raise the first miss, or ReplayLeftoverError if recordings are left."""
        self._end_replay(complete=complete, client_left=client_left)
        self._player.verify(caught=caught)

    def discard(self) -> None:
        """Write no cassette file at the end."""
        if self._options.writer is not None:
            self._options.writer.discarded = True

    def end(self) -> None:
        """Serve no more calls, and write the new recordings."""
        self._end_replay(complete=False)  # a body that ended well was verified first
        if self._open and self._reports_outcomes:
            self._report_parent()
        super().end()
        if self._options.writer is not None:
            self._options.writer.flush(self._recorded_session)

    def _end_replay(self, *, complete: bool, client_left: bool = False) -> None:
        if not self._ended:
            self._ended = True
            lost_scope.ended(self)
            calls = next(self._calls)
            if self.parts is not None and not (client_left and self._player.cassette.client_left):
                self._report_unread(self.parts)
            self._player.end(calls, complete=complete, client_left=client_left)

    def _report_unread(self, parts: SessionParts) -> None:
        """Report the known clients whose calls could not be fetched, so may have been removed."""
        # A client that was used in another request need not have a part here.
        given = not self._player.cassette.missing
        for transport in () if self.is_fork else parts.not_fetched(given=given):
            error = parts.failures.get(transport.service.key)
            # The error's own text may quote an address, so it goes to the log only.
            reason = "the replay was stopped before" if error is None else type(error).__name__
            detail = f"the calls of another client (another API key) could not be fetched: {reason}"
            self.report.unread.append(ReportEntry(None, None, len(self.report.unread), detail))
            session_id = self._recorded_session
            extra = {"noukai_session": session_id, "noukai_replay": True}
            logger.warning(
                "replay of session %s: %s", session_id, detail, exc_info=error, extra=extra
            )

    def _report_parent(self) -> None:
        """Tell the service, at the end of a fork, which recordings its calls were served."""
        assert self._recorded_session is not None  # a session was fetched
        cassette = self._player.cassette
        index_of = {id(each): index for index, each in enumerate(cassette.recordings)}
        served = []
        for claim in self._player.made:
            if claim.lane.kind == "recorded":
                continue  # the fork has a copy
            if claim.index is not None and claim not in self._player.diverted:
                recording = claim.lane.recordings[claim.index]
                served.append((claim.order, index_of[id(recording)], recording))
        self._served = len(served)
        self._report_at_end(
            self._outcomes.note_served(self._recorded_session, served, self._edited)
        )

    def _go_live(self, call: FlowCall) -> Program[Any]:
        # Never into the recorded session, whose contents must stay as they were recorded.
        session_id = call.session_id if call.session_id != self._recorded_session else None
        program = super().admit(call.tagged(session_id))
        writer = self._options.writer
        return program if writer is None else writer.recorder.listen(call, program)

    def _from_other_session(self, call: FlowCall, claim: Claim) -> Program[Any]:
        """Serve one call from another session; the scope's own recording of it counts as used."""
        assert call.session_id is not None  # admit() has checked
        yield from self._player.use_up(call, claim)
        try:
            session = yield from load_session(call.service, call.session_id)
            cassette = session.cassette()
        except NoukaiError as error:
            raise self._player.refused(claim, error) from error.__cause__
        # This call was not meant to go live, even if the scope's own misses may.
        options = replace(
            self._options,
            on_miss="raise",
            by_input=False,
            redactor=session.redactor,
            writer=None,
        )
        player = Player(cassette, options, parent=self._player, activity=self.activity)
        return (yield from player.play(call, player.claim(call, claim.site)))


def quick(service: Service) -> Service:
    """Return the service for a fetch that may fail, but may not take long."""
    return service._replace(timeout=min(longest(service.timeout), 5.0), max_retries=0)


def open_session(
    service: Service,
    session_id: str,
    options: ReplayOptions,
    refused: Mapping[Key, Exception] = MappingProxyType({}),
    others: Others = lambda given: (),
) -> Program[ReplayScope]:
    """Fetch a session and return the scope that replays it.

    Args:
        service: The client to fetch it with.
        session_id: The session.
        options: How it is replayed.
        refused: Clients that may not read it, with the errors that they got. Then this is another
            attempt, and may not take long.
        others: As for :class:`SessionParts`.
    """
    session = yield from load_session(quick(service) if refused else service, session_id)
    options = replace(options, redactor=session.redactor)
    scope = ReplayScope(session.cassette(), options)
    scope.replays_session(session, service, refused, others)
    return scope
