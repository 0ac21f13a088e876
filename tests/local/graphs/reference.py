"""What a graph must return, by plain recursion over its steps. It shares no code with the engine.

It goes on after a failure, so that it knows every step that may be the first to fail.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.providers.offline import OfflineModel

from .graph import BRANCHES, TOOLS, WEATHER, Case, Graph, Step, made, tool_results

FALSE_TEXTS = ["", "false", "no", "off", "0", "none", "null"]


class FailedError(Exception):
    """A step failed.

    Attributes:
        reasons: What may be its code and its message. The message is None if it is not known.
    """

    def __init__(self, reasons: set[tuple[str, str | None]]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


@dataclass
class Outcome:
    """What came out of one graph.

    Attributes:
        failed: The steps that fail, each with its possible codes and messages.
        blocked: The steps that need one that failed.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, set[tuple[str, str | None]]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    result: Any = None


class Reference:
    """Runs of graphs, one step after the other.

    Attributes:
        calls: How often each function is called, by where it stands.
        tokens: What all agents use.
        has_failed_flow: Whether a step of a sub-flow has failed, so that others were interrupted.
        is_open: Whether an output depends on which of several steps fails first.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.calls: Counter[str] = Counter()
        self.tokens = 0
        self.has_failed_flow = False
        self.is_open = False
        self._kept: dict[str, Any] = {}

    async def run(self) -> Outcome:
        inputs = self.case.inputs
        return await self._run_graph(self.case.graph, inputs["message"], inputs)

    async def _run_graph(self, graph: Graph, message: Any, parameters: dict[str, Any]) -> Outcome:
        outcome = Outcome()
        scope = Scope(graph, message, parameters, outcome)
        for step in graph.steps:
            parents = [parent for parent, _ in step.needs]
            if any(p in outcome.failed or p in outcome.blocked for p in parents):
                outcome.blocked.add(step.id)
            elif scope.is_skipped(step):
                outcome.skipped.add(step.id)
            else:
                try:
                    outcome.outputs[step.id] = await self._run_step(step, scope)
                except FailedError as error:
                    outcome.failed[step.id] = error.reasons
        last = [name for name in graph.last if name in outcome.outputs]
        outcome.result = {name: outcome.outputs[name] for name in last} or None
        if len(last) == 1:
            outcome.result = outcome.outputs[last[0]]
        return outcome

    async def _run_step(self, step: Step, scope: Scope) -> Any:
        where = f"{scope.where}/{step.id}"
        if step.over is None:
            return await self._keep(where, lambda: self._run_once(step, scope, where))
        items = scope.parameters["items"] if step.over == "items" else scope.output(step.over)
        if not isinstance(items, list):
            raise FailedError({("NOT_A_LIST", None)})
        outputs: list[Any] = []
        failed: set[tuple[str, str | None]] = set()
        for index, item in enumerate(items):
            try:
                outputs.append(await self._run_item(step, scope, where, index, item))
            except FailedError as error:  # noqa: PERF203 - slow is fine here
                failed |= error.reasons
        if failed:
            raise FailedError(failed)
        return outputs

    async def _run_item(self, step: Step, scope: Scope, where: str, index: int, item: Any) -> Any:
        """Run one item, as often as its node may be retried."""
        scope = replace(scope, item=item, index=index)
        where = f"{where}.{index}"
        try:
            return await self._keep(where, lambda: self._run_once(step, scope, where))
        except FailedError as error:
            prefix = f"item {index} of "
            reasons = {(code, text and prefix + text) for code, text in error.reasons}
            if not step.keeps_errors:
                raise FailedError(reasons) from error
            self.is_open = self.is_open or len(reasons) > 1 or (None in next(iter(reasons)))
            code, message = next(iter(reasons))
            return {"error": {"index": index, "code": code, "message": message}}

    async def _keep(self, where: str, run: Callable[[], Awaitable[Any]]) -> Any:
        """Run what is not finished yet: no retry of a sub-flow repeats it."""
        if where not in self._kept:
            self._kept[where] = await run()
        return self._kept[where]

    async def _run_once(self, step: Step, scope: Scope, where: str) -> Any:
        match step.kind:
            case "function":
                return self._call(step, scope, where)
            case "condition":
                return is_true(self._decision(step, scope))
            case "route":
                return self._branch(step, scope)
            case "transform":
                value = scope.input(step) if "{{" in step.does else scope.value(step)
                return transform(step.does, value)
            case "agent":
                return await self._ask("Say " + as_text(scope.input(step)))
            case "tools":
                return await self._ask(f"{WEATHER} {as_text(scope.input(step))}", TOOLS)
        # The references in its inputs are resolved at each attempt, with the same result.
        message = scope.value(step) if step.reads is None else scope.output(step.reads)
        run = self._run_flow if step.kind == "flow" else self._repeat
        failure = FailedError(set())
        for _ in range((step.retry or 0) + 1):
            try:
                return await run(step, scope, where, message)
            except FailedError as error:  # noqa: PERF203 - slow is fine here
                failure = error
        raise failure

    def _call(self, step: Step, scope: Scope, where: str) -> Any:
        value, read = scope.input(step), step.reads and scope.output(step.reads)
        fails = step.fails if scope.index in (None, step.fails_at) else 0
        retry = self.case.retry if step.retry is None else step.retry
        for _ in range(retry + 1):
            self.calls[where] += 1
            if self.calls[where] > fails:
                return made(step.does, value, read, scope.tone)
        text = f"step {step.id!r} failed: FlakyError: {step.id} is broken"
        raise FailedError({("STEP_FAILED", text)})

    def _decision(self, step: Step, scope: Scope) -> Any:
        match step.does:
            case "function":
                self.calls[step.id] += 1
                return made("word", scope.value(step))
            case "truth":
                return scope.input(step)
            case "length":
                return len(as_text(scope.input(step))) % 2 == 0
        read = step.reads and scope.output(step.reads)
        return len(as_text(scope.input(step))) <= len(as_text(read))

    def _branch(self, step: Step, scope: Scope) -> Any:
        if step.does == "function":
            value = self._decision(step, scope)
        else:
            value = len(as_text(scope.input(step))) % 4
        for branch in BRANCHES[step.does]:
            if reads_as(branch) == reads_as(value):
                return branch
        if step.has_default:
            return "else"
        raise FailedError({("NO_BRANCH", None)})

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

    async def _run_flow(
        self, step: Step, scope: Scope, where: str, message: Any, number: int | None = None
    ) -> Any:
        assert step.inner is not None
        parameters = {**scope.parameters, "where": where, "message": message}
        if number is not None:
            parameters["round"] = number
        outcome = await self._run_graph(step.inner, message, parameters)
        if not outcome.failed:
            return outcome.result
        self.has_failed_flow = True
        failed = set[tuple[str, str | None]]().union(*outcome.failed.values())
        raise FailedError({(c, text and f"step {step.id!r}: {text}") for c, text in failed})

    async def _repeat(self, step: Step, scope: Scope, where: str, message: Any) -> Any:
        for number in range(1, step.at_most + 1):
            message = await self._keep(
                f"{where}#{number}",
                lambda m=message, n=number: self._run_flow(step, scope, where, m, n),
            )
            match step.does:
                case "round >= 2" | "round >= 3":
                    is_enough = number >= int(step.does[-1])
                case "function":
                    is_enough = is_true(made("word", message))
                case _:
                    is_enough = len(as_text(message)) % 2 == 0
            if is_enough:
                return message
        if step.has_default:
            return message
        raise FailedError({("REPEAT_LIMIT", None)})


@dataclass(frozen=True)
class Scope:
    """What the steps of one graph can refer to."""

    graph: Graph
    message: Any
    parameters: dict[str, Any]
    outcome: Outcome
    item: Any = None
    index: int | None = None

    @property
    def where(self) -> str:
        return f"{self.parameters['where']}@{self.parameters['round']}"

    @property
    def tone(self) -> Any:
        return self.parameters.get("tone", self.graph.name)

    def step(self, step_id: str) -> Step:
        return next(step for step in self.graph.steps if step.id == step_id)

    def value(self, step: Step) -> Any:
        """Return the step's input."""
        if self.index is not None:
            return self.item
        if not step.needs:
            return self.message
        ran = [parent for parent, _ in step.needs if parent not in self.outcome.skipped]
        data = [p for p in ran if self.step(p).kind not in ("condition", "route")]
        if not data:
            return self.value(self.step(ran[0]))
        if len(data) == 1:
            return self.outcome.outputs[data[0]]
        return {parent: self.outcome.outputs[parent] for parent in data}

    def input(self, step: Step) -> Any:
        """Return the value of ``{{input}}``; a first step needs a message for it."""
        value = self.value(step)
        if value is None and not step.needs:
            text = f"step {step.id!r}: {{{{input}}}}: the call has no message"
            raise FailedError({("TEMPLATE_UNRESOLVED", text)})
        return value

    def output(self, step_id: str) -> Any:
        """Return the output of a step; None if it was skipped."""
        return self.outcome.outputs.get(step_id)

    def is_skipped(self, step: Step) -> bool:
        ran = [need for need in step.needs if need[0] not in self.outcome.skipped]
        for parent, branches in ran:
            output = reads_as(self.outcome.outputs[parent])
            if branches is not None and output not in [reads_as(branch) for branch in branches]:
                return True
        return bool(step.needs and not ran)


def transform(name: str, value: Any) -> Any:
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
        return value.strip(" \t\r\n.!\"'`*").lower() not in FALSE_TEXTS
    return bool(value)


def reads_as(value: Any) -> str:
    text = as_text(value).strip(" .").lower()
    return {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text, text)


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
