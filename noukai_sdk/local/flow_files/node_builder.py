"""Turn the steps of a flow file into nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..llm.errors import LlmConfigError
from ..workflow import node_checks
from ..workflow.json_schemas import JsonSchema, SchemaError
from ..workflow.kinds import (
    Agent,
    Approval,
    Branch,
    Condition,
    Function,
    Repeat,
    Route,
    SubFlow,
    Transform,
    Work,
    with_context,
)
from ..workflow.node import Node
from ..workflow.output_types import output_type
from ..workflow.plan import Flow, Plan
from ..workflow.validation import problems_of
from .flow_entry import AGENT_SETTINGS, ALLOWED, REQUIRED, Body, Loc, StepEntry

Fault = tuple[Loc, str]
"""A place in the file, and what is wrong there."""

CheckModel = Callable[[str], object]
"""Raises LlmConfigError if a name is not the name of a model."""


class InnerFlowError(ValueError):
    """A flow that a step runs cannot be used.

    Attributes:
        problems: Everything that is wrong with it.
        sources: The files that it names. A change of one may solve a problem.
    """

    def __init__(self, problems: Sequence[object], sources: Sequence[Path] = ()) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
        self.sources = tuple(sources)


@dataclass
class NodeBuilder:
    """Turns steps into nodes.

    Attributes:
        default_model: For steps that name none.
        load_function: Returns the function of a name; raises ValueError if there is none.
        load_flow: Returns the flow of a name; raises InnerFlowError if it cannot be used.
        check_model: None accepts any name of a model.
        nodes: The nodes made so far.
        locs: The place in the file of each of them.
        faults: What is wrong with single steps, beyond what :class:`StepEntry` detects.
    """

    default_model: str
    load_function: Callable[[str], Callable[..., Any]]
    load_flow: Callable[[str], Flow]
    check_model: CheckModel | None = None
    nodes: list[Node] = field(default_factory=list)
    locs: list[Loc] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def add_all(self, steps: Sequence[StepEntry], loc: Loc = ("steps",)) -> None:
        """Add a list of steps. A step without ``needs`` needs the one before it."""
        before: list[str] = []
        for place, step in enumerate(steps):
            step_loc = (*loc, place)
            self._check_fields(step, step_loc)
            if step.parallel is None:
                before = [self._add(step, step_loc, before)]
                continue
            needs, when = self._needs(step, before)
            before = []
            for inner_place, inner in enumerate(step.parallel):
                inner_loc = (*step_loc, "parallel", inner_place)
                self._check_fields(inner, inner_loc)
                if inner.parallel is None:
                    before.append(self._add(inner, inner_loc, needs, when))
                else:
                    message = "a group cannot contain a group"
                    self.faults.append(((*inner_loc, "parallel"), message))

    def all_faults(self) -> list[Fault]:
        """Return what is wrong with the steps; if nothing is, what is wrong with the whole."""
        return self.faults or list(self._faults_of_whole())

    def check(self, model: str | None, loc: Loc) -> None:
        """Add a fault if ``model`` is not the name of a model."""
        if model is None or self.check_model is None:
            return
        try:
            self.check_model(model)
        except LlmConfigError as error:
            self.faults.append((loc, error.message))

    def _faults_of_whole(self) -> Iterator[Fault]:
        for problem in problems_of(self.nodes):
            loc = () if problem.place is None else self.locs[problem.place]
            yield (*loc, problem.field) if problem.field else loc, problem.message

    def _check_fields(self, step: StepEntry, loc: Loc) -> None:
        described = {"agent": "a step that asks a model", "parallel": "a group"}
        kind = described.get(step.kind, f"a step with {step.kind!r}")
        for name in step.given:
            if name not in ALLOWED[step.kind]:
                self.faults.append(((*loc, name), f"{name!r} is not allowed in {kind}"))
        for name in REQUIRED.get(step.kind, ()):
            if name not in step.given:
                self.faults.append(((*loc, step.kind), f"{kind} needs {name!r} too"))

    def _add(
        self,
        step: StepEntry,
        loc: Loc,
        before: Sequence[str],
        when: dict[str, tuple[Branch, ...]] | None = None,
    ) -> str:
        if step.id is None:
            self.faults.append(((*loc, "id"), "a step needs an id"))
        step_id = step.id or ""
        needs, own_when = self._needs(step, before)
        work = self._work(step, loc)
        # The nodes of a sub-flow have retries of their own.
        retry = step.retry or 0 if isinstance(work, SubFlow) else step.retry
        node = Node(
            id=step_id,
            name=step.name or step_id,
            work=work,
            needs=tuple(needs),
            when=own_when if step.needs is not None else when or {},
            retry=retry,
            timeout=step.timeout,
            for_each=step.for_each,
            concurrency=step.concurrency or 1,
            on_error=step.on_error or "fail",
        )
        self.nodes.append(replace(node, fallback=self._fallbacks(step, node, (*loc, "fallback"))))
        self.locs.append(loc)
        return step_id

    def _fallbacks(self, step: StepEntry, node: Node, loc: Loc) -> tuple[Any, ...]:
        """Return the models and nodes that stand in for a step."""
        given = step.fallback if isinstance(step.fallback, list) else [step.fallback]
        fallbacks: list[str | Node] = []
        for place, one in enumerate(given):
            one_loc = (*loc, place) if isinstance(step.fallback, list) else loc
            if isinstance(one, str):
                self.check(one, one_loc)
                fallbacks.append(one)
            elif one is not None:
                fallbacks.append(self._fallback(one, node, one_loc))
        kind = str | Node if isinstance(node.work, Agent) else Node
        try:
            return node_checks.fallbacks(node.id, fallbacks, kind)
        except (TypeError, ValueError) as error:
            self.faults.append((loc, str(error)))
            return ()

    def _fallback(self, step: StepEntry, node: Node, loc: Loc) -> Node:
        self._check_fields(step, loc)
        for name in ("needs", "on_error", "concurrency", "parallel"):
            if name in step.given:
                self.faults.append(((*loc, name), f"{name!r} is not allowed in a fallback"))
        fallback = Node(
            id=node.id,
            name=step.name or step.id or step.kind,
            work=self._work(step, loc),
            retry=step.retry,
            timeout=step.timeout,
            for_each=step.for_each,
        )
        return replace(fallback, fallback=self._fallbacks(step, fallback, (*loc, "fallback")))

    def _needs(
        self, step: StepEntry, before: Sequence[str]
    ) -> tuple[Sequence[str], dict[str, tuple[Branch, ...]]]:
        """Return what a step needs, and on which branches it is."""
        if step.needs is None:
            return before, {}
        needs: list[str] = []
        when: dict[str, tuple[Branch, ...]] = {}
        for need in step.needs:
            if isinstance(need, dict):
                for name, branches in need.items():
                    needs.append(name)
                    when[name] = tuple(branches) if isinstance(branches, list) else (branches,)
            else:
                needs.append(need.removeprefix("not "))
                if need.startswith("not "):
                    when[needs[-1]] = (False,)
        return needs, when

    def _work(self, step: StepEntry, loc: Loc) -> Work:
        if step.condition is not None:
            return Condition(step.condition)
        if step.route is not None:
            return self._route(step, loc)
        if step.approval is not None:
            return Approval(step.approval)
        if step.transform is not None:
            return Transform(step.transform)
        if step.flow is not None:
            return SubFlow(self._body(step, step.flow, (*loc, "flow")), step.inputs)
        if step.repeat is not None:
            plan = self._body(step, step.repeat, (*loc, "repeat"))
            until, on_limit = step.until or "True", step.on_limit or "fail"
            return Repeat(plan, step.inputs, until, step.at_most or 1, on_limit)
        if step.function is not None:
            call: Callable[..., Any] = str
            try:
                call = self.load_function(step.function)
            except ValueError as error:
                self.faults.append(((*loc, "function"), str(error)))
            return Function(call, step.arguments)
        self.check(step.model, (*loc, "model"))
        settings = {name: value for name, value in step.given.items() if name in AGENT_SETTINGS}
        settings["system"] = with_context(step.system, step.context)
        if step.output is not None:
            settings["output"] = self._output(step.output, (*loc, "output"))
        return Agent(**{"model": self.default_model, **settings})

    def _output(self, output: str | dict[str, Any], loc: Loc) -> Any:
        """Return the type of an agent's output: a JSON schema, or a type of a Python file."""
        if isinstance(output, dict):
            schema = JsonSchema(output)
            try:
                schema.check()
            except SchemaError as error:
                self.faults.append(((*loc, *error.path), f"not a JSON schema: {error}"))
            return schema
        if ":" not in output:
            return output
        kind: Any = str
        try:
            kind = self.load_function(output)
            if not isinstance(kind, type):
                self.faults.append((loc, f"{output} is not a type, such as a pydantic model"))
            else:
                output_type(kind)
        except (TypeError, ValueError) as error:
            self.faults.append((loc, str(error)))
        return kind

    def _route(self, step: StepEntry, loc: Loc) -> Route:
        branches = step.branches or [True]
        try:
            node_checks.branches(step.id or "", branches, step.default)
        except ValueError as error:
            self.faults.append(((*loc, "branches"), str(error)))
        return Route.of(step.route or "", branches, step.default)

    def _body(self, step: StepEntry, body: Body, loc: Loc) -> Plan:
        """Return what a step runs."""
        if isinstance(body, str):
            try:
                return self.load_flow(body).plan
            except InnerFlowError as error:
                self.faults += [(loc, str(problem)) for problem in error.problems]
            return Plan([])
        inner = replace(self, nodes=[], locs=[], faults=[])
        if isinstance(body, StepEntry):
            # One step needs no name: nothing refers to it.
            body = body.model_copy(update={"id": body.id or step.id or "step"})
            inner._check_fields(body, loc)
            if body.parallel is not None:
                inner.faults.append((loc, "write a list of steps instead of one group"))
            else:
                inner._add(body, loc, ())
        else:
            inner.add_all(body, loc)
        faults = inner.all_faults()
        self.faults += faults
        return Plan([] if faults else inner.nodes)
