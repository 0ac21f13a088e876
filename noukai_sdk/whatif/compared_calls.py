"""The calls of a what-if that went live, each beside its recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import NoukaiError, ReplayError
from ..models.results import ExecuteResult
from ..models.traces import StepTrace
from ..protocol.call import FlowCall, FlowRef, Service
from ..protocol.fetching import run_trace
from ..protocol.flow_extensions import describe_flow
from ..protocol.jobs import JobBackend
from ..protocol.program import Program, longest
from ..replay.recorder import Recorder
from ..replay.recording import Recording, differing_fields
from ..replay.redaction import Redactor
from .changes import Changes, LiveTarget, WhatIfOptions
from .measures import Measure, measure, model_steps, step_outputs

_LONGEST_OUTPUT = 50_000  # characters, in a report

Send = Callable[[FlowCall], Program[Any]]


@dataclass
class LiveCall:
    """A call that went live in a what-if.

    Attributes:
        flow: Its address, ``org/project/slug``.
        kind: ``execute``, ``step`` or ``job``.
        number: The number of the call among those of its flow, from 1.
        steps: The steps that ran live; empty if the whole call did.
        recorded: What the recording took and returned; None for a call that has none.
        live: The same of the live call, as far as it is known.
        changed_input: The parts of the input in which the application's call differs from the recording.
        execution_id: The live run; None while it is not known.
    """

    flow: str
    kind: str
    number: int
    steps: tuple[str, ...] = ()
    recorded: Measure | None = None
    changed_input: tuple[str, ...] = ()
    _recorder: Recorder = field(default_factory=Recorder, repr=False)
    _trace: Sequence[StepTrace] = field(default=(), repr=False)
    _redactor: Redactor | None = field(default=None, repr=False)
    _was_left: bool = field(default=False, repr=False)
    _known: tuple[Measure, str | None] | None = field(default=None, repr=False)

    @property
    def live(self) -> Measure:
        """What the live call took and returned so far."""
        if self._known is not None:
            return self._known[0]
        recording = self._recording()
        if recording is None:
            return Measure("running")
        found = self._measure(recording, self._trace)
        is_left = self._was_left and found.status == "running"
        return replace(found, status="abandoned") if is_left else found

    @property
    def execution_id(self) -> str | None:
        """The id of the live run."""
        if self._known is not None:
            return self._known[1]
        recording = self._recording()
        return None if recording is None else recording.execution_id

    def as_dict(self) -> dict[str, Any]:
        """Return the call as JSON values; secrets are masked as in the recording."""
        live = self.live.as_dict()
        if self._redactor is not None:
            live["output"] = self._redactor({"result": {"result": live["output"]}})["result"][
                "result"
            ]
        live["output"] = _cut(live["output"])
        recorded = None if self.recorded is None else self.recorded.as_dict()
        if recorded is not None:
            recorded["output"] = _cut(recorded["output"])
        return {
            "flow": self.flow,
            "kind": self.kind,
            "number": self.number,
            "steps": list(self.steps),
            "executionId": self.execution_id,
            "changedInput": list(self.changed_input),
            "recorded": recorded,
            "live": live,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LiveCall:
        """Return the call that :meth:`as_dict` has written, perhaps in another process."""
        recorded = values.get("recorded")
        return cls(
            str(values.get("flow")),
            str(values.get("kind")),
            int(values.get("number") or 1),
            tuple(map(str, values.get("steps") or ())),
            None if recorded is None else Measure.from_dict(recorded),
            tuple(map(str, values.get("changedInput") or ())),
            _known=(Measure.from_dict(values.get("live") or {}), values.get("executionId")),
        )

    def _recording(self) -> Recording | None:
        recordings = self._recorder.recordings()
        return recordings[-1] if recordings else None

    def _measure(self, recording: Recording, trace: Sequence[StepTrace] = ()) -> Measure:
        step = self.steps[0] if len(self.steps) == 1 else None
        return measure(recording, step, trace)


class WhatIf:
    """One what-if of a replay: which calls run live, and those that have.

    Attributes:
        calls: The calls that went live so far, in their order.
    """

    def __init__(self, options: WhatIfOptions) -> None:
        self.options = options
        self.calls: list[LiveCall] = []

    @property
    def changes(self) -> Changes:
        """What is changed in them."""
        return self.options.changes

    @property
    def targets(self) -> tuple[LiveTarget, ...]:
        """What runs live."""
        return self.options.targets

    def __iter__(self) -> Iterator[LiveCall]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def __repr__(self) -> str:
        live = ", ".join(map(str, self.targets))
        return f"<WhatIf {live}: {self.changes}; {len(self.calls)} live>"

    def targets_of(self, flow: FlowRef, number: int) -> tuple[LiveTarget, ...]:
        """Return the targets that name a call; empty if it is to be replayed."""
        return self.options.target_of(flow.org, flow.project, flow.slug, number)

    def job(self, live: JobBackend) -> JobBackend:
        """Return ``live`` with its polls noted, if a live call has submitted it."""
        for call in self.calls:
            known = call._recorder.job(live)
            if known is not live:
                return known
        return live

    def live(
        self,
        call: FlowCall,
        number: int,
        recording: Recording | None,
        send: Send,
        *,
        redactor: Redactor | None = None,
        on_live: Callable[[LiveCall], None] = lambda _: None,
        on_changed: Callable[[LiveCall], None] = lambda _: None,
    ) -> Program[Any]:
        """Send a call with the changes, and note what comes of it.

        Args:
            call: The call, as the application makes it.
            number: Its number.
            recording: Its recording, if it has one.
            send: Sends a call to the service, in the session of the fork.
            redactor: Masks outputs in reports.
            on_live: Called as the call goes live.
            on_changed: Called if the service gets another request than the application has made.

        Raises:
            ReplayError: The service, or the recording, does not allow it.
        """
        targets = self.targets_of(call.flow, number)
        steps = [each.step for each in targets if each.step is not None]
        if len(steps) < len(targets):  # a target names the whole call
            steps = []
        noted = LiveCall(str(call.flow), call.kind, number, tuple(dict.fromkeys(steps)))
        noted._redactor = redactor
        if recording is not None:
            noted.recorded = noted._measure(recording)
            if recording.request is not None and not recording.message_only:
                request = call.request if redactor is None else redactor.request(call.request)
                noted.changed_input = tuple(differing_fields(recording.request, request))
        request = yield from self._request(call, recording, noted.steps)
        self.calls.append(noted)
        on_live(noted)
        if request != call.request:
            on_changed(noted)
        # With the key of the recorded call, the service would return the recorded run.
        changed = call._replace(request=request, idempotency_key=None)
        try:
            result = yield from noted._recorder.listen(changed, send(changed))
        except GeneratorExit:
            noted._was_left = True
            raise
        if isinstance(result, ExecuteResult):
            yield from complete(noted, call.service, call.flow)
        return result

    def _request(
        self, call: FlowCall, recording: Recording | None, steps: Sequence[str]
    ) -> Program[dict[str, Any]]:
        """Return the request with the changes; with ``steps``, the others get their recorded outputs."""
        if steps:
            outputs = yield from _outputs_beside(call, recording, steps)
            request = self.changes.applied_to(call.request, steps)
            return {**request, "stepOutputs": outputs} if outputs else request
        agents: Sequence[str] = ()
        if self.changes.overrides:
            agents = yield from _agents(call, recording)
        return self.changes.applied_to(call.request, agents)


def complete(call: LiveCall, service: Service, flow: FlowRef) -> Program[None]:
    """Read the trace of a live run, for what its response does not tell. Never fails."""
    recording = call._recording()
    is_known = call._trace or recording is None or recording.kind == "step"
    if is_known or recording is None or recording.execution_id is None:
        return
    try:
        trace = yield from run_trace(_quick(service), flow, recording.execution_id, None)
    except NoukaiError:  # a service that keeps no traces
        return
    call._trace = trace.steps


def _outputs_beside(
    call: FlowCall, recording: Recording | None, steps: Sequence[str]
) -> Program[dict[str, Any]]:
    """Return the recorded outputs of all other steps."""
    flow = call.flow.slug
    if recording is None:
        raise ReplayError(
            f"one step of flow {flow!r} is to run live, and this call has no recording"
        )
    outputs = step_outputs(recording)
    if not outputs:
        raise ReplayError(
            f"the recording of flow {flow!r} does not tell the outputs of its steps, so one of them cannot "
            f"run alone: run the whole flow live ({flow}), or take the session of noukai dev or serve"
        )
    known = list(dict.fromkeys(str(e["stepId"]) for e in recording.events if e.get("stepId")))
    for step in steps:
        if step not in known:
            raise ReplayError(f"flow {flow!r} has no step {step!r}: it has {', '.join(known)}")
    others = {step_id: output for step_id, output in outputs.items() if step_id not in steps}
    if not others:
        return {}
    try:
        described = yield from describe_flow(_quick(call.service), call.flow._replace(version=None))
        is_able = described.takes_step_outputs
    except NoukaiError:
        is_able = False
    if not is_able:
        raise ReplayError(
            f"this service cannot run one step of flow {flow!r} alone: run the whole flow live ({flow}), "
            "or run it on noukai dev or serve"
        )
    return others


def _agents(call: FlowCall, recording: Recording | None) -> Program[Sequence[str]]:
    """Return the ids of the steps that call a model: recorded ones, or those that the service names."""
    service, flow = _quick(call.service), call.flow
    found = [] if recording is None else model_steps(recording)
    if not found:
        try:
            described = yield from describe_flow(service, flow._replace(version=None))
            found = [each.id for each in described.steps if each.kind == "agent"]
        except NoukaiError:
            found = yield from _traced_agents(service, flow, recording)
    if not found:
        raise ReplayError(
            f"no step of flow {flow.slug!r} is known to call a model, so there is nothing to set: name the "
            f"step, {flow.slug}/STEP"
        )
    return found


def _traced_agents(
    service: Service, flow: FlowRef, recording: Recording | None
) -> Program[list[str]]:
    if recording is None or recording.execution_id is None:
        return []
    try:
        trace = yield from run_trace(service, flow, recording.execution_id, None)
    except NoukaiError:
        return []
    return list(dict.fromkeys(each.step_id for each in trace.steps if each.model_used))


def _quick(service: Service) -> Service:
    return service._replace(timeout=min(longest(service.timeout), 5.0))


def _cut(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= _LONGEST_OUTPUT:
        return value
    return f"{text[:_LONGEST_OUTPUT]}… ({len(text):,} characters)"
