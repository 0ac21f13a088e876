"""The picture of a flow: boxes in layers from top to bottom, and the arrows between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...models.flow_lists import Branch, FlowStep

MOST_STEPS = 200
"""A flow with more steps has no picture, because nobody could read it."""

_WIDTH, _HEIGHT = 184, 50
# Between two boxes of a layer, between two layers, and around everything.
_GAP, _LAYER_GAP, _MARGIN = 24, 44, 12
# The place that an arrow takes in a layer that it passes.
_LANE = 20
_LONGEST_NAME, _LONGEST_NOTE = 23, 28
_PASSES = 4


@dataclass(frozen=True)
class Box:
    """One step. ``x`` and ``y`` are its upper left corner.

    Attributes:
        number: Its place among the steps, from 1.
        shape: The kind of the step.
        note: What it does, in a few words.
        label: All of it in words, for people who do not see the picture.
        is_loop: The step runs for each item of a list.
    """

    number: int
    shape: str
    name: str
    note: str
    label: str
    is_loop: bool
    x: float
    y: float
    width: float = _WIDTH
    height: float = _HEIGHT


@dataclass(frozen=True)
class Arrow:
    """A line between two boxes, as the ``d`` of an SVG path, with the branch that it is."""

    path: str
    label: str
    label_x: float
    label_y: float


@dataclass(frozen=True)
class Picture:
    """A drawn flow."""

    boxes: Sequence[Box]
    arrows: Sequence[Arrow]
    width: float
    height: float


@dataclass
class _Item:
    """A box in a layer, or the place of an arrow that passes the layer."""

    key: tuple[str, ...]
    width: float
    x: float = 0.0

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def draw(steps: Sequence[FlowStep]) -> Picture | None:
    """Return the picture of a flow; None if it has no steps, or too many."""
    if not steps or len(steps) > MOST_STEPS:
        return None
    by_id = {step.id: step for step in steps}
    depths = _depths(steps)
    layers, routes = _layers(steps, by_id, depths)
    _place(layers, routes)
    width = max(item.x + item.width for layer in layers for item in layer.values()) + _MARGIN
    tops = [_MARGIN + depth * (_HEIGHT + _LAYER_GAP) for depth in range(len(layers))]
    boxes = [
        _box(number, step, by_id, layers[depths[step.id]][step.id,].x, tops[depths[step.id]])
        for number, step in enumerate(steps, 1)
    ]
    arrows = [
        _arrow(
            route,
            layers,
            depths[route[0][0]],
            tops,
            _label(by_id[route[-1][0]], by_id[route[0][0]]),
        )
        for route in routes
    ]
    return Picture(boxes, arrows, width, tops[-1] + _HEIGHT + _MARGIN)


def describe(step: FlowStep, by_id: Mapping[str, FlowStep]) -> str:
    """Return a step in words.

    Example:
        >>> asks = FlowStep(id="ask", name="ask", kind="agent", model="offline", tools=True)
        >>> describe(asks, {"ask": asks})
        'ask: agent, offline, may ask for tools'
    """
    parts = [step.kind]
    if step.steps:
        parts.append(f"{len(step.steps)} step{'s' if len(step.steps) > 1 else ''}")
    if step.at_most is not None:
        parts.append(f"until {step.code}, at most {step.at_most}")
    if step.model:
        parts.append(step.model)
    if step.for_each:
        parts.append(f"for each of {step.for_each}")
    if step.tools:
        parts.append("may ask for tools")
    if step.functions:
        parts.append(f"with the tools {', '.join(step.functions)}")
    for need in step.needs:
        name = by_id[need].name if need in by_id else need
        branches = _branches(step, by_id[need]) if need in by_id else None
        is_either = " or ".join(_word(each, ("true", "false")) for each in branches or ())
        parts.append(f"if {name} is {is_either}" if branches else f"after {name}")
    return f"{step.name}: {', '.join(parts)}"


def _branches(step: FlowStep, needed: FlowStep) -> Sequence[Branch] | None:
    """Return the branches of ``needed`` that lead to a step; None for all, and if it has none."""
    by_default = (needed.id not in step.unless,) if needed.kind == "condition" else None
    return step.when.get(needed.id, by_default)


def _label(step: FlowStep, needed: FlowStep) -> str:
    """Return what the arrow from ``needed`` to ``step`` is labelled with."""
    branches = _branches(step, needed) or ()
    return _cut(" or ".join(_word(each, ("yes", "no")) for each in branches), _LONGEST_NAME)


def _word(branch: Branch, words: tuple[str, str]) -> str:
    return words[0 if branch else 1] if isinstance(branch, bool) else str(branch)


def _depths(steps: Sequence[FlowStep]) -> dict[str, int]:
    """Return the layer of each step: one below those that it needs. The steps are in order."""
    depths: dict[str, int] = {}
    for step in steps:
        depths[step.id] = 1 + max((depths.get(need, -1) for need in step.needs), default=-1)
    return depths


_Layer = dict["tuple[str, ...]", _Item]
_Route = list["tuple[str, ...]"]


def _layers(
    steps: Sequence[FlowStep], by_id: Mapping[str, FlowStep], depths: Mapping[str, int]
) -> tuple[list[_Layer], list[_Route]]:
    """Return the items of each layer, and the items that each arrow goes through."""
    layers: list[_Layer] = [{} for _ in range(max(depths.values()) + 1)]
    for step in steps:
        layers[depths[step.id]][step.id,] = _Item((step.id,), _WIDTH)
    routes: list[_Route] = []
    for step in steps:
        for need in dict.fromkeys(step.needs):
            if need not in by_id or depths[need] >= depths[step.id]:
                continue
            route: _Route = [(need,)]
            for depth in range(depths[need] + 1, depths[step.id]):
                key = (need, step.id, str(depth))
                layers[depth][key] = _Item(key, _LANE)
                route.append(key)
            routes.append([*route, (step.id,)])
    return layers, routes


def _place(layers: list[_Layer], routes: Sequence[_Route]) -> None:
    """Give each item its place: near those that it is connected to, and no two at the same place."""
    above: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    below: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for route in routes:
        for upper, lower in pairwise(route):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    items = {key: item for layer in layers for key, item in layer.items()}
    for layer in layers:
        x = -sum(item.width + _GAP for item in layer.values()) / 2
        for item in layer.values():
            item.x = x
            x += item.width + _GAP
    for turn in range(_PASSES):
        neighbours = below if turn % 2 else above
        for layer in layers[::-1] if turn % 2 else layers:
            wanted = {
                key: sum(items[other].middle for other in near) / len(near)
                for key in layer
                if (near := neighbours.get(key))
            }
            row = sorted(layer.values(), key=lambda item: wanted.get(item.key, item.middle))
            _spread(row, wanted)
    left = min(item.x for item in items.values()) - _MARGIN
    for item in items.values():
        item.x -= left


def _spread(row: Sequence[_Item], wanted: Mapping[tuple[str, ...], float]) -> None:
    """Put a layer's items side by side in this order, on the whole where they are wanted."""
    least = -math.inf
    for item in row:
        item.x = max(least, wanted.get(item.key, item.middle) - item.width / 2)
        least = item.x + item.width + _GAP
    # Those that had to make room moved to the right only.
    moved = [item.middle - wanted[item.key] for item in row if item.key in wanted]
    shift = sum(moved) / len(moved) if moved else 0.0
    for item in row:
        item.x -= shift


def _box(number: int, step: FlowStep, by_id: Mapping[str, FlowStep], x: float, y: float) -> Box:
    if step.kind == "agent":
        notes = [step.model or "", "tools" if step.tools or step.functions else ""]
        note = " · ".join(part for part in notes if part)
    elif step.kind == "repeat":
        note = f"until {step.code}"
    elif step.kind == "flow":
        note = f"{len(step.steps)} step{'s' if len(step.steps) > 1 else ''}"
    else:
        note = step.code or ""
    return Box(
        number=number,
        shape=step.kind,
        name=_cut(step.name, _LONGEST_NAME),
        note=_cut(note, _LONGEST_NOTE),
        label=describe(step, by_id),
        is_loop=step.for_each is not None,
        x=x,
        y=y,
    )


def _arrow(
    route: _Route, layers: Sequence[_Layer], depth: int, tops: Sequence[float], label: str
) -> Arrow:
    middles = [layers[depth + place][key].middle for place, key in enumerate(route)]
    x, y = middles[0], tops[depth] + _HEIGHT
    parts = [f"M{x:g} {y:g}"]
    label_x, label_y = x, y
    for place, middle in enumerate(middles[1:], 1):
        top = tops[depth + place]
        bend = (y + top) / 2
        parts.append(f"C{x:g} {bend:g} {middle:g} {bend:g} {middle:g} {top:g}")
        if place == 1:
            label_x, label_y = (x + middle) / 2, bend
        x, y = middle, top
        if place < len(middles) - 1:
            y = top + _HEIGHT
            parts.append(f"V{y:g}")
    return Arrow(" ".join(parts), label, label_x, label_y)


def _cut(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
