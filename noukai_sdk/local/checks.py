"""What can be told to be wrong with a flow before it runs: every problem, not the first alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from . import templates
from .flow import Step


@dataclass(frozen=True)
class Problem:
    """One fault. ``step`` is the step's position, None where the flow as a whole is meant."""

    step: int | None
    field: str | None
    message: str


def problems_of(steps: Sequence[Step]) -> list[Problem]:
    """Everything that is wrong with ``steps``; empty where they can run."""
    if not steps:
        return [Problem(None, "steps", "there are no steps: give at least one")]
    found = [*_repeated_ids(steps), *_unknown_needs(steps)]
    if found:
        return found
    cycle = _cycle(steps)
    if cycle:
        return [Problem(None, "needs", f"these steps wait for each other: {' -> '.join(cycle)}")]
    return list(_bad_references(steps))


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps in an order in which they can run: as given where that is one.

    Raises:
        graphlib.CycleError: There is none.
    """
    seen: set[str] = set()
    for step in steps:
        if not seen.issuperset(step.needs):
            break
        seen.add(step.id)
    else:
        return list(steps)
    by_id = {step.id: step for step in steps}
    return [by_id[name] for name in _sorter(steps).static_order()]


def _sorter(steps: Sequence[Step]) -> TopologicalSorter[str]:
    return TopologicalSorter({step.id: step.needs for step in steps})


def _repeated_ids(steps: Sequence[Step]) -> Iterator[Problem]:
    seen: set[str] = set()
    for position, step in enumerate(steps):
        if step.id in seen:
            yield Problem(position, "id", f"{step.id!r} is the id of an earlier step too")
        seen.add(step.id)


def _unknown_needs(steps: Sequence[Step]) -> Iterator[Problem]:
    known = {step.id for step in steps}
    for position, step in enumerate(steps):
        for need in step.needs:
            if need not in known:
                message = f"no step has the id {need!r}; there are {', '.join(sorted(known))}"
                yield Problem(position, "needs", message)


def _cycle(steps: Sequence[Step]) -> list[str]:
    try:
        _sorter(steps).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _bad_references(steps: Sequence[Step]) -> Iterator[Problem]:
    names = Names(steps)
    for position, step in enumerate(steps):
        for field, text in (("prompt", step.prompt), ("system", step.system or "")):
            for reference in templates.parse(text).references:
                message = reference.problem or _bad_node(reference, step, names)
                if message:
                    yield Problem(position, field, message)


def _bad_node(reference: templates.Reference, step: Step, names: Names) -> str | None:
    if reference.root != "node":
        return None
    target = names.get(reference.path[0])
    if target is None:
        return f"{reference}: there is no step of that name"
    if not names.runs_before(target, step):
        return f"{reference}: that step is not sure to have run by then; add it to needs"
    if len(reference.path) > 1 and target.output == "text":
        return f"{reference}: that step's output is text and has no fields; set its output to json"
    return None


class Names:
    """The steps by what ``{{node.name}}`` calls them: by id, else by name."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._by_id = {step.id: step for step in steps}
        self._by_name = {step.name: step for step in reversed(steps)} | self._by_id

    def get(self, name: str) -> Step | None:
        """The step that is meant, None where there is none."""
        return self._by_name.get(name)

    def runs_before(self, target: Step, step: Step) -> bool:
        """Whether ``target`` is done whenever ``step`` starts."""
        waiting, seen = list(step.needs), set(step.needs)
        while waiting:
            name = waiting.pop()
            if name == target.id:
                return True
            new = [need for need in self._by_id[name].needs if need not in seen]
            waiting += new
            seen.update(new)
        return False
