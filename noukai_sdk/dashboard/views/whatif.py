"""What-ifs: the form, what a visitor has entered, and recorded beside live as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import CapturedRequestError
from ...models.exchanges import Header
from ...models.session_lists import StoredReport
from ...replay.cassette_file import CassetteFile
from ...replay.recording import Recording
from ...replaying.app_request import refuse_websocket
from ...whatif.changes import WhatIfOptions
from ...whatif.compared_calls import LiveCall
from ...whatif.measures import Measure, model_steps, step_outputs
from ...whatif.several_runs import Answer, ComparedCall, FieldSpread, Spread, compare
from .numbers import dollars
from .replay import ChangedPart, diff_lines, replay_view, response_part, value_text
from .replay_form import HEADER_FIELD, FormError, header_of

MOST_RUNS = 20
LONGEST = 3_600.0
"""Seconds after which a what-if that is not finished never will be."""
_MOST_CALLS = 200
_LONGEST_HEADER = 5_500  # a header can take 8,190 bytes in gunicorn
_MOST_ANSWERS = 20
_TEXTS = ("prompt", "system")
_NUMBERS: Mapping[str, type] = {"temperature": float, "max_tokens": int, "timeout": float}


@dataclass
class WhatIfForm:
    """The form of a session.

    Attributes:
        flows, calls, steps: What can run live: the value to send, and what it is called.
        can_use_app: The request was captured, so it can go through the app.
        server: Where it was captured.
        masked_headers: Headers that were removed at capture.
        values: What the visitor has entered.
        error: Why it is shown again.
    """

    session_id: str
    flows: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    steps: tuple[tuple[str, str], ...] = ()
    can_use_app: bool = False
    server: str = ""
    masked_headers: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    most_runs: int = MOST_RUNS

    def value(self, name: str, default: str = "") -> str:
        """Return what a field shows. Values of headers may be secrets: they are not shown again."""
        return self.values.get(name, default)


@dataclass(frozen=True)
class WhatIfInput:
    """What the visitor has entered.

    Attributes:
        server: The server of the app; None to make the calls alone.
    """

    options: WhatIfOptions
    runs: int
    server: str | None = None
    headers: tuple[Header, ...] = ()
    on_miss_live: bool = False


def what_if_form(file: CassetteFile, values: Mapping[str, str]) -> WhatIfForm:
    """Return the form for a session."""
    form = WhatIfForm(file.session_id or "", values=values)
    flows: dict[str, int] = {}
    calls: list[tuple[str, str]] = []
    steps: dict[str, str] = {}
    for recording in file.recordings:
        address = _address(recording)
        number = flows[address] = flows.get(address, 0) + 1
        if len(calls) < _MOST_CALLS:
            calls.append((f"{address}#{number}", f"{recording.slug} call {number}"))
        if recording.org is not None:
            for step in _steps(recording):
                steps.setdefault(f"{address}/{step}", f"{recording.slug}, step {step}")
    form.flows = tuple(
        (address, f"{address.rpartition('/')[2]}, " + ("1 call" if n == 1 else f"all {n:,} calls"))
        for address, n in flows.items()
    )
    form.calls, form.steps = tuple(calls), tuple(list(steps.items())[:_MOST_CALLS])
    if file.exchange is not None:
        try:
            refuse_websocket(file.exchange)
        except CapturedRequestError:
            return form
        request = file.exchange.request
        form.can_use_app, form.server = True, request.origin
        parts = [each.partition(" ") for each in request.redacted]
        form.masked_headers = tuple(name for kind, _, name in parts if kind == "header")
    return form


def _address(recording: Recording) -> str:
    slug = recording.slug or "(deleted)"
    if recording.org is None or recording.project is None:
        return slug
    return f"{recording.org}/{recording.project}/{slug}"


def _steps(recording: Recording) -> list[str]:
    outputs = step_outputs(recording)
    return [step for step in model_steps(recording) if step in outputs]


def read_what_if(form: Mapping[str, str]) -> WhatIfInput:
    """Return what the visitor has entered.

    Raises:
        FormError: A field is not valid.
    """
    settings: dict[str, Any] = {}
    for name, kind in _NUMBERS.items():
        text = form.get(name, "").strip()
        if text:
            try:
                settings[name] = kind(text)
            except ValueError as error:
                raise FormError(f"{name} must be a number, not {text[:50]!r}") from error
    for name in _TEXTS:
        text = form.get(name, "").replace("\r\n", "\n")
        if text.strip():
            settings[name] = text
    message = form.get("message", "").replace("\r\n", "\n")
    runs = form.get("runs", "1").strip() or "1"
    if not (runs.isascii() and runs.isdecimal() and 1 <= int(runs[:6]) <= MOST_RUNS):
        raise FormError(f"The number of runs must be from 1 to {MOST_RUNS}")
    try:
        options = WhatIfOptions.of(
            [form.get("live", "").strip()],
            model=form.get("model", "").strip() or None,
            settings=settings,
            parameters=_parameters(form.get("parameters", "")),
            message=message if message.strip() else None,
        )
    except (ValueError, TypeError) as error:
        raise FormError(str(error)) from error
    if form.get("way") != "app":
        return WhatIfInput(options, int(runs))
    if sum(len(value) for _, value in options.header_options()) > _LONGEST_HEADER:
        raise FormError(
            "The change is too long to go through the app, in a header: run the calls alone, or use the "
            "command line with --app"
        )
    headers = tuple(
        header_of(name.removeprefix(HEADER_FIELD), value)
        for name, value in form.items()
        if name.startswith(HEADER_FIELD) and value
    )
    server = form.get("target", "").strip()
    return WhatIfInput(options, int(runs), server, headers, form.get("on_miss") == "live")


def _parameters(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FormError(
            "The parameters must be a JSON object, such as {'level': 3}".replace("'", '"')
        )
    return value


@dataclass(frozen=True)
class AnswerView:
    """One of the different answers: which runs gave it, and how it differs."""

    title: str
    text: str
    parts: tuple[ChangedPart, ...]


@dataclass(frozen=True)
class CallView:
    """A call that ran live: rows of texts, of which the first names the row."""

    title: str
    flow: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    answers: tuple[AnswerView, ...]
    fields: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ResponseView:
    """The response of the app in one run."""

    number: int
    headline: str
    facts: str
    parts: tuple[ChangedPart, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class WhatIfView:
    """A what-if: what was asked for, and what came of it so far."""

    report: StoredReport
    state: str
    headline: str
    age: float
    live: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]
    runs: int
    ended: int
    calls: tuple[CallView, ...] = ()
    responses: tuple[ResponseView, ...] = ()
    problems: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The address of its page."""
        return f"/whatifs/{self.report.replay_id}"

    @property
    def is_running(self) -> bool:
        """Return whether it has not ended."""
        return self.state == "running"


def what_if_view(report: StoredReport, *, longest: float) -> WhatIfView:
    """Return a stored what-if as its page shows it."""
    about = (report.sent.what_if if report.sent is not None else None) or {}
    runs = [each for each in report.report.get("runs") or () if isinstance(each, dict)]
    count = int(about.get("runs") or 1)
    replay = replay_view(report, longest=longest)
    state = replay.state if replay.state in ("running", "failed", "unknown") else "clean"
    message = str((report.error or {}).get("message") or "")
    done = f"{len(runs)} of {count} runs" if count > 1 else "the run"
    headlines = {
        "running": f"Running: {len(runs)} of {count} done",
        "clean": f"Done: {done}",
        "failed": message or f"Done, with failures: {done}",
    }
    calls = [(number, _live_calls(run)) for number, run in enumerate(runs, 1)]
    return WhatIfView(
        report,
        state,
        headlines.get(state, message or "It is not known how it ended"),
        replay.age,
        tuple(map(str, about.get("live") or ())),
        tuple(_changes(about.get("changes") or {})),
        count,
        len(runs),
        tuple(_call(each) for each in compare(calls)),
        tuple(_response(run) for run in runs if isinstance(run.get("response"), dict)),
        tuple(f"run {run.get('number')}: {run['problem']}" for run in runs if run.get("problem")),
        tuple(str(run["sessionId"]) for run in runs if run.get("sessionId") and run.get("calls")),
    )


def _live_calls(run: Mapping[str, Any]) -> list[LiveCall]:
    try:
        return [LiveCall.from_dict(each) for each in run.get("calls") or ()]
    except (TypeError, ValueError, AttributeError):  # anybody with a key may post a report
        return []


def _changes(changes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("settings", "parameters"):
        for key, value in (changes.get(name) or {}).items():
            text = value if isinstance(value, str) else value_text(value)
            yield key if name == "settings" else f"parameter {key}", text
    for name in ("model", "message"):
        if changes.get(name) is not None:
            yield name, str(changes[name])


def _call(call: ComparedCall) -> CallView:
    shows_runs = len(call.runs) <= 5
    numbers = list(call.runs) if shows_runs else []
    heads = ["recorded", *("live" if len(call.runs) == 1 else f"run {each}" for each in numbers)]
    several = len(call.runs) > 1
    if several:
        heads += ["mean", "range", "standard deviation"]
    measures = [call.recorded, *(call.runs[each] for each in numbers)]
    rows = [
        ("status", *(each.status if each else "" for each in measures), *[""] * 3 * several),
        ("model", *(each.model or "" if each else "" for each in measures), *[""] * 3 * several),
    ]
    for title, name in (
        ("tokens in", "tokens_in"),
        ("tokens out", "tokens_out"),
        ("cost", "cost_usd"),
        ("seconds", "seconds"),
    ):
        cells = [_cell(each, name) for each in measures]
        if several:
            cells += _spread(call.spread(name), name)
        rows.append((title, *cells))
    notes = [
        f"run {number}: the app sent another input than recorded ({', '.join(names)})"
        for number, names in call.changed_input.items()
    ]
    notes += [
        f"run {number}: {measure.error}" for number, measure in call.runs.items() if measure.error
    ]
    answers = call.answers
    return CallView(
        call.title,
        call.flow,
        tuple(heads),
        tuple(row for row in rows if any(row[1:])),
        tuple(_answer(each, several) for each in answers[:_MOST_ANSWERS]),
        tuple(_field(each) for each in call.fields) if several else (),
        tuple(notes),
    )


def _cell(measure: Measure | None, name: str) -> str:
    value = None if measure is None else getattr(measure, name)
    if value is None:
        return ""
    return dollars(str(value)) if name == "cost_usd" else _number(value, name)


def _number(value: float, name: str) -> str:
    if name == "cost_usd":
        return dollars(f"{value:.10f}")
    return f"{value:,.2f}" if name == "seconds" else f"{value:,.4g}"


def _spread(spread: Spread | None, name: str) -> list[str]:
    if spread is None:
        return ["", "", ""]
    low, high = _number(spread.low, name), _number(spread.high, name)
    middle = low if low == high else f"{low} to {high}"
    return [_number(spread.mean, name), middle, _number(spread.deviation, name)]


def _answer(answer: Answer, several: bool) -> AnswerView:
    runs = ", ".join(map(str, answer.runs))
    often = f"{len(answer.runs)} of the runs ({runs})" if several else "The answer"
    if answer.changes is None:
        return AnswerView(f"{often}: nothing recorded to compare", value_text(answer.output), ())
    if not answer.changes:
        return AnswerView(f"{often}: as recorded", value_text(answer.output), ())
    parts = tuple(
        ChangedPart("answer" if each.path == "$" else each.path, diff_lines(each.diff))
        for each in answer.changes
    )
    return AnswerView(f"{often}: differs", value_text(answer.output), parts)


def _field(each: FieldSpread) -> tuple[str, ...]:
    recorded = "" if each.recorded is None else f"{each.recorded:g}"
    return each.path, recorded, *_spread(each.spread, "field")


def _response(run: Mapping[str, Any]) -> ResponseView:
    response = run["response"]
    parts: Sequence[Mapping[str, Any]] = response.get("differences") or ()
    return ResponseView(
        int(run.get("number") or 0),
        str(response.get("headline") or ""),
        f"HTTP {response.get('status')}; {response.get('summary') or 'no report'}",
        tuple(response_part(each) for each in parts),
        tuple(map(str, response.get("problems") or ())),
    )
