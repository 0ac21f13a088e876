"""``noukai session show --context``: what models received, and what changed from one call to another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import click

from ..contexts.call_changes import CallChange, RequestChange, compare_calls, tool_name
from ..contexts.chosen import ChosenCall, read_choice, with_step
from ..contexts.message_changes import MessageChange, TextLine, folded, word_of
from ..contexts.model_inputs import (
    CallInputs,
    ModelInput,
    StepInputs,
    call_inputs,
    shared_messages,
)
from ..contexts.model_messages import count_characters
from ..replay.cassette_file import CassetteFile
from ..replaying.controls import clean_lines
from .session_source import Env, is_file, load_steps, name_of
from .session_views import open_console, print_json, short
from .shared_options import CommandError, count

# Characters of a text that is not shown in full.
_PREVIEW = 100
# A longer removed text is folded.
_MOST_REMOVED = 12
_LONGEST_VALUE = 300
_SIGNS = {
    "same": "=",
    "added": "+",
    "removed": "-",
    "truncated": "~",
    "changed": "~",
    "reordered": ">",
}
_COLORS = {"added": "green", "removed": "red", "truncated": "yellow", "changed": "yellow"}
_COLORS["reordered"] = "cyan"
_LINES = {"same": (" ", None), "added": ("+", "green"), "removed": ("-", "red")}


def _check_choice(_context: Any, _option: Any, text: str | None) -> tuple[ChosenCall, ...] | None:
    try:
        return None if text is None else read_choice(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


context_option = click.option(
    "--context",
    "context",
    metavar="N[..M][/STEP]",
    callback=_check_choice,
    help="Show what the models received at call N, or what changed from call N to call M.",
)


def print_context(
    file: CassetteFile,
    source: str,
    chosen: Sequence[ChosenCall],
    env: Env | None,
    base_url: str | None,
    *,
    full: bool,
    as_json: bool,
) -> None:
    """Print what the models of a call received, or what changed from one call to another.

    Raises:
        CommandError: There is no such call, or no such step.
    """
    calls = [_inputs(file, source, each, env, base_url) for each in chosen]
    change = compare_calls(*calls) if len(calls) == 2 else None
    if as_json:
        shown = {"call": calls[0].as_dict()} if change is None else {"change": change.as_dict()}
        print_json({"sessionId": file.session_id, **shown})
        return
    lines = _call_lines(calls[0], full=full) if change is None else _change_lines(change, full=full)
    # Not through the console, which expands tabs: texts can be searched and copied as they were.
    open_console()
    click.echo("\n".join(lines), color=False if os.environ.get("NO_COLOR") else None)


def _inputs(
    file: CassetteFile, source: str, chosen: ChosenCall, env: Env | None, base_url: str | None
) -> CallInputs:
    number = chosen.number
    if number > len(file.recordings):
        calls = count(len(file.recordings), "call")
        raise CommandError(f"there is no call {number}: {name_of(file, source)} has {calls}")
    recording = file.recordings[number - 1]
    found = call_inputs(number, recording)
    if not found.steps and recording.execution_id is not None and not is_file(source):
        steps = load_steps(source, recording.execution_id, env, base_url)
        found = call_inputs(number, recording, steps)
    try:
        return with_step(found, chosen.step)
    except LookupError as error:
        raise CommandError(clean_lines(error.args[0])) from error


def _call_lines(call: CallInputs, *, full: bool) -> Iterator[str]:
    yield _title(call)
    if call.note:
        yield clean_lines(f"note: {call.note}")
    for step in call.steps:
        yield ""
        yield _bold(f"step {clean_lines(step.label)}") + _attempt(step)
        if step.note:
            yield clean_lines(step.note)
        if step.tokens:
            yield clean_lines(f"tokens: {_tokens(step.tokens)}")
        before: ModelInput | None = None
        for request in step.inputs:
            if len(step.inputs) > 1:
                yield ""
                yield _bold(f"request {request.number} of {len(step.inputs)}")
            yield from _request_lines(request, before, full=full)
            before = None if full else request


def _title(call: CallInputs) -> str:
    facts = "  ".join(filter(None, (call.kind, call.execution_id)))
    title = _bold(f"call {call.number}  {short(call.slug)}")
    return f"{title}  {clean_lines(facts)}"


def _attempt(step: StepInputs) -> str:
    return f"  attempt {step.attempt}" if step.attempt > 1 else ""


def _tokens(tokens: Any) -> str:
    known = {name: tokens.get(name) for name in ("prompt", "completion", "total")}
    listed = ", ".join(f"{value} {name}" for name, value in known.items() if value is not None)
    return f"{listed} (all requests of the step)"


def _request_lines(request: ModelInput, before: ModelInput | None, *, full: bool) -> Iterator[str]:
    if request.note:
        yield clean_lines(f"note: {request.note}")
    if before is not None and before.around == request.around:
        yield _dim("model, settings and tools: as in the request before")
    else:
        yield from _setting_lines(request, full=full)
    yield f"messages: {len(request.messages)}, {count_characters(request.size)}"
    same = 0 if before is None else shared_messages(before, request)
    if same:
        yield _dim(f"{_numbers(1, same)}: as in the request before (--full shows them)")
    for number, message in enumerate(request.messages[same:], same + 1):
        title = f"{clean_lines(message.title)}, {count_characters(message.size)}"
        yield _dim(f"[{number}] {title}:")
        yield clean_lines(message.text)


def _setting_lines(request: ModelInput, *, full: bool) -> Iterator[str]:
    if request.model:
        yield f"model: {clean_lines(request.model)}"
    if request.settings:
        listed = [f"{name}={_value(value, full)}" for name, value in request.settings.items()]
        yield f"settings: {clean_lines(', '.join(listed))}"
    if request.schema is not None:
        yield f"output: {clean_lines(_value(request.schema, full))}"
    for tool in request.tools:
        yield f"tool {clean_lines(tool_name(tool))}: {clean_lines(_value(tool, full))}"


def _numbers(first: int, last: int) -> str:
    return f"[{first}]" if first == last else f"[{first}] to [{last}]"


def _value(value: Any, full: bool) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if full or len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[:_LONGEST_VALUE]}… {len(text) - _LONGEST_VALUE:,} more characters"


def _bold(text: str) -> str:
    return click.style(text, bold=True)


def _dim(text: str) -> str:
    return click.style(text, dim=True)


def _change_lines(change: CallChange, *, full: bool) -> Iterator[str]:
    for sign, call in (("-", change.old), ("+", change.new)):
        yield f"{sign} {_title(call)}"
        if call.note:
            yield clean_lines(f"  note: {call.note}")
    if not change.steps:
        yield "no requests to models to compare"
    elif change.is_same and not full:
        yield "the models received the same"
        return
    for step in change.steps:
        yield ""
        yield _bold(f"step {clean_lines(step.label)}") + _only(change, step.old, step.new)
        for request in step.requests:
            if len(step.requests) > 1:
                number = request.new.number if request.new else request.old and request.old.number
                only = _only(change, request.old, request.new)
                yield _bold(f"request {number}") + only
            yield from _request_change_lines(request, full=full)


def _only(change: CallChange, old: object, new: object) -> str:
    if old is not None and new is not None:
        return ""
    return f"  only in call {change.new.number if old is None else change.old.number}"


def _request_change_lines(request: RequestChange, *, full: bool) -> Iterator[str]:
    notes = {each.note for each in (request.old, request.new) if each is not None and each.note}
    yield from (clean_lines(f"note: {note}") for note in sorted(notes))
    for value in request.values:
        pair = _pair(value.old, value.new, full)
        yield click.style(clean_lines(f"{value.name}: {pair}"), fg="yellow")
    counts = (f"{number} {word_of(kind)}" for kind, number in request.counts.items())
    yield f"messages: {', '.join(counts) or 'none'}"
    for is_same, group in groupby(request.messages, lambda each: each.kind == "same"):
        changes = list(group)
        if is_same and not full and len(changes) > 2:
            first, last = changes[0].new_number or 0, changes[-1].new_number or 0
            yield _dim(f"= {_numbers(first, last)}: unchanged")
            continue
        for each in changes:
            yield from _message_lines(each, full=full)


def _pair(old: Any, new: Any, full: bool) -> str:
    return " → ".join("(not set)" if each is None else _value(each, full) for each in (old, new))


def _message_lines(change: MessageChange, *, full: bool) -> Iterator[str]:
    headline = f"{_SIGNS[change.kind]} {_headline(change)}"
    color = _COLORS.get(change.kind)
    yield _dim(headline) if color is None else click.style(headline, fg=color)
    if change.kind in ("same", "reordered"):
        if full:
            yield from _text_lines([TextLine("same", change.message.text)])
        return
    if change.kind == "truncated" and not full:
        yield from _cut_lines(change)
        return
    lines = change.lines()
    if not full and change.kind == "removed" and len(lines) > _MOST_REMOVED:
        yield from _text_lines(lines[:_MOST_REMOVED])
        yield _dim(f"  … {count(len(lines) - _MOST_REMOVED, 'more line')} removed")
        return
    yield from _text_lines(lines if full else folded(lines))


def _headline(change: MessageChange) -> str:
    headline = clean_lines(change.headline)
    if change.kind in ("same", "reordered"):
        return f"{headline}: {short(change.message.text, _PREVIEW)}"
    return headline


def _cut_lines(change: MessageChange) -> Iterator[str]:
    """Yield what was cut from the start and the end of a text, in short."""
    assert change.old is not None
    assert change.new is not None
    text, (start, stop) = change.old.text, change.kept
    for place, cut in (("start", text[:start]), ("end", text[stop:])):
        if cut:
            size = count_characters(len(cut))
            line = f"  - {size} cut at the {place}: {short(cut, _PREVIEW)}"
            yield click.style(line, fg="red")
    if change.rest != change.new.text:
        yield _dim(f"  now: {short(change.new.text, _PREVIEW)}")


def _text_lines(lines: Sequence[TextLine]) -> Iterator[str]:
    for line in lines:
        sign, color = _LINES[line.kind]
        for text in line.text.removesuffix("\n").split("\n"):
            shown = f"  {sign} {clean_lines(text)}"
            yield _dim(shown) if color is None else click.style(shown, fg=color)
