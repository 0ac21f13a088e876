"""What a graph must return, by plain recursion over its steps. It shares no code with the engine.

It goes on after a failure, so that it knows every step that may be the first to fail.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.providers.offline import OfflineModel

from .graph import TOOLS, WEATHER, Case, Graph, Step, made, tool_results

FALSE_TEXTS = ["", "false", "no", "off", "0", "none", "null"]


class FailedError(Exception):
    """A step failed, with one of these codes."""

    def __init__(self, *codes: str) -> None:
        super().__init__(*codes)
        self.codes = set(codes)


@dataclass
class Outcome:
    """What came out of one graph.

    Attributes:
        failed: The steps that fail, each with the codes that it may fail with.
        blocked: The steps that need one that failed.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, set[str]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    result: Any = None


class Reference:
    """Runs of graphs, one step after the other.

    Attributes:
        calls: How often each function is called, by where it stands.
        tokens: What all agents use.
        repeats_flows: Whether a sub-flow failed and was repeated.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.calls: Counter[str] = Counter()
        self.tokens = 0
        self.repeats_flows = False

    async def run(self) -> Outcome:
        inputs = self.case.inputs
        return await self._run_graph(self.case.graph, inputs["message"], inputs)

    async def _run_graph(self, graph: Graph, message: Any, parameters: dict[str, Any]) -> Outcome:
        outcome = Outcome()
        steps = {step.id: step for step in graph.steps}
        for step in graph.steps:
            parents = [parent for parent, _ in step.needs]
            if any(p in outcome.failed or p in outcome.blocked for p in parents):
                outcome.blocked.add(step.id)
            elif _is_skipped(step, steps, outcome):
                outcome.skipped.add(step.id)
            else:
                scope = _Scope(graph, steps, message, parameters, outcome)
                try:
                    outcome.outputs[step.id] = await self._run_step(step, scope)
                except FailedError as error:
                    outcome.failed[step.id] = error.codes
        needed = {parent for step in graph.steps for parent, _ in step.needs}
        last = {name: value for name, value in outcome.outputs.items() if name not in needed}
        outcome.result = next(iter(last.values())) if len(last) == 1 else last or None
        return outcome

    async def _run_step(self, step: Step, scope: _Scope) -> Any:
        if step.over is None:
            return await self._run_once(step, scope, None)
        if step.over == "items":
            items = scope.parameters["items"]
        else:
            items = None if step.over in scope.outcome.skipped else scope.outcome.outputs[step.over]
        if not isinstance(items, list):
            raise FailedError("NOT_A_LIST")
        outputs, codes = [], set[str]()
        for index, item in enumerate(items):
            try:
                outputs.append(await self._run_once(step, scope.of_item(item, index), index))
            except FailedError as error:  # noqa: PERF203 - slow is fine here
                codes |= error.codes
        if codes:
            raise FailedError(*codes)
        return outputs

    async def _run_once(self, step: Step, scope: _Scope, index: int | None) -> Any:
        where = scope.parameters["where"] + "/" + step.id + ("" if index is None else f".{index}")
        match step.kind:
            case "function":
                return self._call(step, scope, where, index)
            case "condition":
                return self._decide(step, scope)
            case "transform":
                has_reference = "{{" in step.does
                return _transform(
                    step.does, scope.input(step) if has_reference else scope.value(step)
                )
            case "agent":
                return await self._ask("Say " + as_text(scope.input(step)))
            case "tools":
                return await self._ask(f"{WEATHER} {as_text(scope.input(step))}", TOOLS)
            case "flow":
                return await self._run_flow(step, scope, where)

    def _call(self, step: Step, scope: _Scope, where: str, index: int | None) -> Any:
        value, read = scope.input(step), scope.read(step)
        fails = step.fails if index is None or index == step.fails_at else 0
        retry = self.case.retry if step.retry is None else step.retry
        for _ in range(retry + 1):
            self.calls[where] += 1
            if self.calls[where] > fails:
                return made(step.does, value, read, scope.tone)
        raise FailedError("STEP_FAILED")

    def _decide(self, step: Step, scope: _Scope) -> bool:
        match step.does:
            case "function":
                self.calls[step.id] += 1
                return is_true(made("word", scope.value(step)))
            case "truth":
                return is_true(scope.input(step))
            case "length":
                return len(as_text(scope.input(step))) % 2 == 0
        return len(as_text(scope.input(step))) <= len(as_text(scope.read(step)))

    async def _ask(self, prompt: str, tools: list[dict[str, Any]] | None = None) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        while True:
            answer = await OfflineModel().answer(ChatRequest(messages=messages, tools=tools))
            assert answer.usage is not None
            self.tokens += answer.usage.total or 0
            if not answer.tool_calls:
                return answer.text
            calls = list(answer.tool_calls)
            messages = [*messages, {"role": "assistant", "content": None, "tool_calls": calls}]
            for result in tool_results(calls):
                turn = {"tool_call_id": result["tool_call_id"], "content": result["output"]}
                messages.append({"role": "tool", **turn})

    async def _run_flow(self, step: Step, scope: _Scope, where: str) -> Any:
        assert step.inner is not None
        message = scope.value(step) if step.reads is None else scope.read(step)
        parameters = {**scope.parameters, "where": where, "message": message}
        codes: set[str] = set()
        for _ in range((step.retry or 0) + 1):
            outcome = await self._run_graph(step.inner, message, parameters)
            if not outcome.failed:
                return outcome.result
            self.repeats_flows = True
            codes = set[str]().union(*outcome.failed.values())
        raise FailedError(*codes)


@dataclass(frozen=True)
class _Scope:
    """What a step can refer to."""

    graph: Graph
    steps: dict[str, Step]
    message: Any
    parameters: dict[str, Any]
    outcome: Outcome
    item: Any = None
    index: int | None = None

    def of_item(self, item: Any, index: int) -> _Scope:
        return _Scope(
            self.graph, self.steps, self.message, self.parameters, self.outcome, item, index
        )

    @property
    def tone(self) -> Any:
        return self.parameters.get("tone", self.graph.name)

    def value(self, step: Step) -> Any:
        """Return the step's input."""
        if self.index is not None:
            return self.item
        if not step.needs:
            return self.message
        ran = [parent for parent, _ in step.needs if parent not in self.outcome.skipped]
        data = [parent for parent in ran if self.steps[parent].kind != "condition"]
        if not data:
            return self.value(self.steps[ran[0]])
        if len(data) == 1:
            return self.outcome.outputs[data[0]]
        return {parent: self.outcome.outputs[parent] for parent in data}

    def input(self, step: Step) -> Any:
        """Return the value of ``{{input}}``; a first step needs a message for it."""
        value = self.value(step)
        if value is None and self.index is None and not step.needs:
            raise FailedError("TEMPLATE_UNRESOLVED")
        return value

    def read(self, step: Step) -> Any:
        return None if step.reads is None else self.outcome.outputs.get(step.reads)


def _is_skipped(step: Step, steps: dict[str, Step], outcome: Outcome) -> bool:
    ran = [(parent, when) for parent, when in step.needs if parent not in outcome.skipped]
    against = [
        parent
        for parent, when in ran
        if steps[parent].kind == "condition" and outcome.outputs[parent] is not when
    ]
    return bool(against) or bool(step.needs and not ran)


def _transform(name: str, value: Any) -> Any:
    text = as_text(value)
    match name:
        case "uppercase":
            return text.upper()
        case "lowercase":
            return text.lower()
        case "trim":
            return text.strip()
        case "words":
            return text.split()
        case "lines":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "<{{input}}>":
            return f"<{text}>"
    return text


def is_true(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().rstrip(".!").lower() not in FALSE_TEXTS
    return bool(value)


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
