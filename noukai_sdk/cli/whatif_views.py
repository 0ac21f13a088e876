"""Draw the calls of a what-if for a terminal: recorded beside live, and the spread over the runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from ..replaying.controls import clean_lines
from ..replaying.whatif_runs import WhatIfRun
from ..whatif.measures import Measure
from ..whatif.several_runs import Answer, ComparedCall, Spread, number_of
from .page_links import linked
from .session_views import short

# More runs are shown by their spread alone.
_MOST_COLUMNS = 3
_MOST_RUNS = 10
_MOST_ANSWERS = 8
_MOST_CHANGES = 12
_MOST_FIELDS = 12
_ROWS = (
    ("tokens in", "tokens_in", ",.0f"),
    ("tokens out", "tokens_out", ",.0f"),
    ("cost $", "cost_usd", ".6f"),
    ("seconds", "seconds", ".2f"),
)


def run_lines(run: WhatIfRun) -> str:
    """Return one line for a run that has ended."""
    if run.problem is not None:
        return f"run {run.number}: {clean_lines(run.problem)}"
    return f"run {run.number}: {', '.join(call.live.status for call in run.calls)}"


def views_of(
    compared: Sequence[ComparedCall], runs: Sequence[WhatIfRun], page: str | None
) -> Iterator[RenderableType]:
    """Yield what is printed of all runs."""
    for call in compared:
        name = escape(short(f"{call.flow} [{call.kind}]"))
        yield f"\n[bold]{escape(short(call.title))}[/]  {name}"
        yield from map(escape, _states(call))
        yield _measures(call)
        yield from map(escape, _answers(call))
        for numbers, parts in _by_input(call).items():
            where = ", ".join(parts)
            yield f"the app sent another input than recorded ({escape(where)}) in {_runs(numbers)}"
        if call.fields and len(call.runs) > 1:
            yield _fields(call)
    yield ""
    yield from _responses(runs)
    for run in [each for each in runs if each.problem is not None][:_MOST_RUNS]:
        if run.problem is not None:
            yield f"[yellow]run {run.number}: {escape(short(clean_lines(run.problem), 500))}[/]"
    sessions = [run for run in runs if run.session_id is not None and run.calls]
    names = [linked(escape(short(run.session_id)), page, run.session_id) for run in sessions]
    if names:
        word = "live calls in session" if len(names) == 1 else "live calls in sessions"
        yield f"{word} {', '.join(names[:_MOST_COLUMNS])}" + (
            f" and {len(names) - _MOST_COLUMNS} more" if len(names) > _MOST_COLUMNS else ""
        )


def _states(call: ComparedCall) -> Iterator[str]:
    """Yield the status and the model on both sides."""
    if call.recorded is not None:
        yield f"recorded: {_state(call.recorded.status, call.recorded.model)}"
    groups: dict[tuple[str, str | None], int] = {}
    for each in call.runs.values():
        groups[each.status, each.model] = groups.get((each.status, each.model), 0) + 1
    live = [
        _state(status, model, f" {number}x" if len(call.runs) > 1 else "")
        for (status, model), number in groups.items()
    ]
    yield f"live: {'; '.join(live)}"


def _state(status: str, model: str | None, often: str = "") -> str:
    return f"{status}{often}" + (f", {short(model)}" if model else "")


def _measures(call: ComparedCall) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    # A cut number would be another one.
    numbers_whole: Any = {"justify": "right", "overflow": "fold"}
    table.add_column("recorded", **numbers_whole)
    shows_runs = len(call.runs) <= _MOST_COLUMNS
    if shows_runs:
        for number in call.runs:
            table.add_column("live" if len(call.runs) == 1 else f"run {number}", **numbers_whole)
    if len(call.runs) > 1:
        for name in ("mean", "range", "sd"):
            table.add_column(name, **numbers_whole)
    measures = [call.recorded, *(call.runs.values() if shows_runs else ())]
    for title, name, form in _ROWS:
        numbers = [None if each is None else number_of(each, name) for each in measures]
        cells = ["" if number is None else _figure(number, form) for number in numbers]
        if len(call.runs) > 1:
            cells += _spread_cells(call.spread(name), form)
        if any(cells):
            table.add_row(title, *cells)
    return table


def _spread_cells(spread: Spread | None, form: str) -> list[str]:
    if spread is None:
        return ["", "", ""]
    low, high = _figure(spread.low, form), _figure(spread.high, form)
    finer = ",.1f" if form == ",.0f" else form
    middle = low if low == high else f"{low} to {high}"
    return [_figure(spread.mean, finer), middle, _figure(spread.deviation, finer)]


def _figure(number: float | Decimal, form: str) -> str:
    return format(number, form) if number else "0"


def _answers(call: ComparedCall) -> Iterator[str]:
    answers = call.answers
    total = sum(len(each.runs) for each in answers)
    if not answers:
        yield "no answer"
    elif total > 1:
        many = f"{len(answers)} different answers" if len(answers) > 1 else "one answer"
        yield f"{many} in {total} runs"
    for answer in answers[:_MOST_ANSWERS]:
        yield from _answer(call.recorded, answer, total)
    if len(answers) > _MOST_ANSWERS:
        yield f"and {len(answers) - _MOST_ANSWERS} more"
    for number, measure in call.runs.items():
        if measure.error is not None:
            yield f"run {number} failed: {short(measure.error, 300)}"


def _answer(recorded: Measure | None, answer: Answer, total: int) -> Iterator[str]:
    often = "" if total == 1 else f"{len(answer.runs)}x, {_runs(answer.runs)}: "
    if answer.changes is None:
        yield f"{often}the recording has no answer; live: {short(_text(answer.output), 300)}"
        return
    if not answer.changes:
        yield f"{often}as recorded: {short(_text(answer.output), 200)}"
        return
    yield f"{often}the answer differs"
    for change in answer.changes[:_MOST_CHANGES]:
        if change.path != "$":
            yield f"  {clean_lines(change.path)}"
        for line in change.diff.splitlines():
            yield f"  {clean_lines(line)}" if change.path == "$" else f"    {clean_lines(line)}"
    if len(answer.changes) > _MOST_CHANGES:
        yield f"  and {len(answer.changes) - _MOST_CHANGES} more"


def _fields(call: ComparedCall) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("field", "recorded", "mean", "range", "sd"):
        table.add_column(name, justify="left" if name == "field" else "right")
    for each in call.fields[:_MOST_FIELDS]:
        recorded = "" if each.recorded is None else format(each.recorded, "g")
        table.add_row(escape(short(each.path)), recorded, *_spread_cells(each.spread, ".4g"))
    return table


def _responses(runs: Sequence[WhatIfRun]) -> Iterator[str]:
    replayed = [run for run in runs if run.outcome is not None and run.outcome.replayed]
    for run in replayed[:_MOST_RUNS]:
        outcome = run.outcome
        assert outcome is not None  # it was replayed
        name = "" if len(runs) == 1 else f"run {run.number}: "
        yield f"{name}{escape(outcome.headline)} (HTTP {outcome.status}; {escape(outcome.summary or '')})"
        listed = [str(each) for each in outcome.differences or ()]
        for text in [*outcome.problems, *listed][:_MOST_CHANGES]:
            for line in clean_lines(text).splitlines():
                yield f"  {escape(short(line, 300))}"

    if len(replayed) > _MOST_RUNS:
        yield f"and the responses of {len(replayed) - _MOST_RUNS} more runs (--json has all)"


def _by_input(call: ComparedCall) -> dict[tuple[int, ...], tuple[str, ...]]:
    by_names: dict[tuple[str, ...], list[int]] = {}
    for number, names in call.changed_input.items():
        by_names.setdefault(names, []).append(number)
    return {tuple(numbers): names for names, numbers in by_names.items()}


def _runs(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
    return f"run {listed}" if len(numbers) == 1 else f"runs {listed}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
