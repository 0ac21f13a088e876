"""Run recorded calls again without the application, in a session that remembers the recorded one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..client import AsyncNoukai
from ..errors import NoukaiError, ReplayError
from ..flow import AsyncFlow
from ..models.boundaries import Boundaries
from ..protocol.call import FlowCall, Service
from ..protocol.program import Program
from ..protocol.session_extensions import put_boundaries, put_outcomes
from ..replay.cassette_file import CassetteFile
from ..replay.recording import Recording
from ..replay.redaction import Redactor
from ..session.scope import Scope, active, new_session_id
from ..transport.background import Send
from ..whatif.changes import WhatIfOptions
from ..whatif.compared_calls import LiveCall, WhatIf, complete

# How the methods of a flow call the fields of a request.
_ARGUMENTS = {
    "message": "message",
    "messages": "messages",
    "parameters": "parameters",
    "blockOverrides": "block_overrides",
    "attachments": "attachments",
    "tools": "tools",
    "toolChoice": "tool_choice",
    "inputOverrides": "input_overrides",
    "runRemaining": "run_remaining",
}
_JOB_SECONDS = 600.0


def named_calls(file: CassetteFile, options: WhatIfOptions) -> list[tuple[int, int, Recording]]:
    """Return the recorded calls that a what-if names: order in the session, number in the flow, recording.

    Raises:
        ReplayError: A target names none of them.
    """
    named: list[tuple[int, int, Recording]] = []
    found: set[object] = set()
    counts: dict[tuple[str | None, ...], int] = {}
    for order, each in enumerate(file.recordings):
        address = each.org, each.project, each.slug
        number = counts[address] = counts.get(address, 0) + 1
        targets = options.target_of(*address, number)
        found.update(targets)
        if targets:
            named.append((order, number, each))
    for target in options.targets:
        if target not in found:
            known = ", ".join(dict.fromkeys(str(each.slug) for each in file.recordings))
            raise ReplayError(f"the session has no call {target}: it has {known or 'no call'}")
    return named


class RerunScope(Scope):
    """The session of calls that are run again. The others count as served by the recorded session.

    Args:
        file: The recorded session.
        options: The calls to run, and what is changed in them.
        is_stored: The service has the recorded session.
    """

    def __init__(self, file: CassetteFile, options: WhatIfOptions, *, is_stored: bool) -> None:
        super().__init__("replay", new_session_id())
        self.is_fork = True
        self.what_if = WhatIf(options)
        self._reports_outcomes = is_stored and file.session_id is not None
        self._file = file
        self._redactor = Redactor(file.redacted, pii=file.redacted_pii) if file.redacted else None
        self._edited: list[tuple[int, FlowCall, LiveCall]] = []
        self._next: tuple[int, int, Recording] | None = None

    def next_is(self, order: int, number: int, recording: Recording) -> None:
        """Say which recording the next call stands for."""
        self._next = order, number, recording

    def admit(self, call: FlowCall) -> Program[Any]:
        """Return the program that sends the call with the changes."""
        assert self._next is not None  # rerun() has said it
        order, number, recording = self._next
        return self.what_if.live(
            call,
            number,
            recording,
            super().admit,
            redactor=self._redactor,
            on_changed=lambda live: self._edited.append((order, call, live)),
        )

    def send_at_end(
        self, send: Send, *args: Any, size: int = 1_000, for_replays: bool = True
    ) -> None:
        """Send nothing in the background: :meth:`tell` does."""

    def tell(self, service: Service) -> Program[None]:
        """Tell the service how calls ended, and which calls of the recorded session belong to this one."""
        if self._reports_outcomes and self.session_id is not None:
            live = {order for order, _, _ in named_calls(self._file, self.what_if.options)}
            served = [
                (order, order, each)
                for order, each in enumerate(self._file.recordings)
                if order not in live
            ]
            assert self._file.session_id is not None  # it reports outcomes
            self._outcomes.note_served(self._file.session_id, served, self._edited)
            for client, outcomes in self._outcomes.take(service):
                if client.key == service.key:
                    yield from put_outcomes(service, self.session_id, outcomes)
            if self._file.boundaries:
                kept = self._file.boundaries
                body = Boundaries(boundaries=kept, total=self._file.total_boundaries)
                yield from put_boundaries(service, self.session_id, body)


async def rerun(client: AsyncNoukai, scope: RerunScope, file: CassetteFile) -> str | None:
    """Make the named calls, one after the other, with their recorded inputs.

    Returns:
        Why a call could not be made; None if all were, well or not.
    """
    problem: str | None = None
    try:
        with active(scope):
            for order, number, recording in named_calls(file, scope.what_if.options):
                scope.next_is(order, number, recording)
                try:
                    await _call(client, recording)
                except ReplayError as error:
                    problem = error.message
                    break
                except NoukaiError as error:  # the call failed, and the next ones may not
                    problem = error.message
                finally:
                    for call in scope.what_if.calls[-1:]:
                        flow = client.flow(call.flow)
                        program = complete(call, client._transport.service, flow._ref)
                        await client._transport.run(program)
    finally:
        scope.end()
    with suppress(NoukaiError):  # the calls were made all the same
        await client._transport.run(scope.tell(client._transport.service))
    return problem


async def _call(client: AsyncNoukai, recording: Recording) -> None:
    request = recording.request
    if request is None:
        raise ReplayError(f"the input of {recording} was not recorded: run it through the app")
    arguments = {_ARGUMENTS[name]: value for name, value in request.items() if name in _ARGUMENTS}
    if recording.version is not None:
        arguments["version"] = recording.version
    flow = _flow(client, recording)
    if recording.kind == "job":
        job = await flow.execute_async(**arguments)
        await job.wait(timeout=_JOB_SECONDS, poll_interval=0.5)
        return
    if "tools" in arguments:
        arguments["tool_handler"] = _recorded_tools(recording)
    if recording.kind == "step":
        async for _ in flow.events(**arguments):
            pass
    else:
        await flow.execute(**arguments)


def _flow(client: AsyncNoukai, recording: Recording) -> AsyncFlow:
    slug = recording.slug or ""
    if recording.org is None or recording.project is None:
        try:
            return client.flow(slug)
        except ValueError as error:
            raise ReplayError(
                f"the recording does not tell the organisation and the project of flow {slug!r}: run it "
                "through the app"
            ) from error
    return client.flow(f"{recording.org}/{recording.project}/{slug}")


def _recorded_tools(recording: Recording) -> Callable[[Sequence[Mapping[str, Any]]], Any]:
    """Return a tool handler that serves the recorded results: of the same call, else of the same tool."""
    known = list(_recorded_results(recording))

    async def handle(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        results = []
        for call in calls:
            name, arguments = call["function"]["name"], _parsed(call["function"].get("arguments"))
            same_tool = [each for each in known if each[0] == name]
            same_call = [each for each in same_tool if each[1] == arguments]
            if not same_tool:
                raise ReplayError(
                    f"the model asks for tool {name!r}, which has no recorded result left: run the session "
                    "through its app"
                )
            taken = (same_call or same_tool)[0]
            known.remove(taken)
            results.append({"tool_call_id": call["id"], "content": taken[2]})
        return results

    return handle


def _recorded_results(recording: Recording) -> Iterator[tuple[str, Any, Any]]:
    for each in recording.rounds:
        results = {
            result.get("tool_call_id") or result.get("toolCallId"): result
            for result in each.tool_results or ()
        }
        for call in each.paused.get("toolCalls") or ():
            result = results.get(call.get("id"))
            if result is not None:
                function = call["function"]
                content = result.get("content", result.get("output"))
                yield function["name"], _parsed(function.get("arguments")), content


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return arguments
