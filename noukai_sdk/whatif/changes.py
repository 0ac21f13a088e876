"""What runs live in a what-if, and what is changed in it. No I/O."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote, unquote

_FORM = "write FLOW, FLOW#2 or FLOW/STEP, with FLOW as slug or org/project/slug"
_NUMBER = re.compile(r"[1-9][0-9]{0,5}\Z")

SETTINGS = {
    "model": "model",
    "prompt": "prompt",
    "system": "system",
    "temperature": "temperature",
    "max_tokens": "maxTokens",
    "timeout": "timeout",
    "retry": "retry",
}
"""The settings of a step that a call can override, with their names on the wire."""


@dataclass(frozen=True)
class LiveTarget:
    """Calls that run live: all of a flow, one of them, or one step of these.

    Attributes:
        org, project: None for any.
        number: The number of the call among those of its flow, from 1; None for all.
        step: The step that runs live; None for all steps.

    Example:
        >>> LiveTarget.parse("grade-3#2/score")
        LiveTarget(slug='grade-3', org=None, project=None, number=2, step='score')
    """

    slug: str
    org: str | None = None
    project: str | None = None
    number: int | None = None
    step: str | None = None

    @classmethod
    def parse(cls, text: str) -> LiveTarget:
        """Parse ``slug``, ``slug#2``, ``slug/step``, ``org/project/slug`` or ``org/project/slug#2/step``.

        Raises:
            ValueError: It is none of these.
        """
        parts = text.split("/") if isinstance(text, str) else []
        if not 1 <= len(parts) <= 4 or not all(part.strip() for part in parts):
            raise ValueError(f"{text!r} does not name a flow, a call or a step: {_FORM}")
        step = parts.pop() if len(parts) in (2, 4) else None
        slug, mark, number = parts[-1].partition("#")
        org, project = parts[:2] if len(parts) == 3 else (None, None)
        if not slug or (mark and not _NUMBER.match(number)):
            raise ValueError(f"{text!r} does not name a call: {_FORM}")
        return cls(slug, org, project, int(number) if mark else None, step)

    def is_flow(self, org: str | None, project: str | None, slug: str | None) -> bool:
        """Return whether it names this flow. A recording may not tell organisation and project."""
        if slug != self.slug:
            return False
        return self.org is None or org is None or (self.org, self.project) == (org, project)

    def __str__(self) -> str:
        address = self.slug if self.org is None else f"{self.org}/{self.project}/{self.slug}"
        number = "" if self.number is None else f"#{self.number}"
        return f"{address}{number}" + ("" if self.step is None else f"/{self.step}")


@dataclass(frozen=True)
class Changes:
    """What is changed in the calls that run live.

    Attributes:
        model: The model of the steps that call one.
        settings: Other settings of these steps: ``temperature``, ``max_tokens``, ``prompt``, ``system``,
            ``timeout``, ``retry``.
        parameters: Parameters of the call; the others stay as they are.
        message: The input text, in place of that of the call.

    Raises:
        ValueError: A setting is unknown.
        TypeError: A value has the wrong type.
    """

    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    message: str | None = None

    def __post_init__(self) -> None:
        for name, kind, value in (
            ("model", str, self.model),
            ("message", str, self.message),
            ("settings", Mapping, self.settings),
            ("parameters", Mapping, self.parameters),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} must be a {_NAMES[kind]}, not {value!r}")
        for name in self.settings:
            if name not in SETTINGS:
                near = get_close_matches(str(name), SETTINGS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(SETTINGS)}"
                raise ValueError(f"{name!r} is not a setting of a step: {hint}")
        if self.model is not None and "model" in self.settings:
            raise ValueError("the model is given twice: as model, and in the settings")

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings that each step gets, by their names on the wire."""
        given = (
            dict(self.settings) if self.model is None else {"model": self.model, **self.settings}
        )
        return {SETTINGS[name]: value for name, value in given.items()}

    def __bool__(self) -> bool:
        return bool(self.overrides or self.parameters or self.message is not None)

    def applied_to(self, request: Mapping[str, Any], steps: Iterable[str]) -> dict[str, Any]:
        """Return the request of a call with these changes, and the settings on ``steps``."""
        changed = dict(request)
        if self.message is not None:
            changed.pop("messages", None)
            changed["message"] = self.message
        if self.parameters:
            changed["parameters"] = {**(request.get("parameters") or {}), **self.parameters}
        if self.overrides:
            blocks = dict(request.get("blockOverrides") or {})
            for step in steps:
                blocks[step] = {**(blocks.get(step) or {}), **self.overrides}
            changed["blockOverrides"] = blocks
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Return the changes as JSON values, without those that are not made."""
        given = {
            "model": self.model,
            "settings": dict(self.settings) or None,
            "parameters": dict(self.parameters) or None,
            "message": self.message,
        }
        return {name: value for name, value in given.items() if value is not None}

    def __str__(self) -> str:
        given = {**self.settings, **{f"parameters.{k}": v for k, v in self.parameters.items()}}
        if self.model is not None:
            given = {"model": self.model, **given}
        if self.message is not None:
            given["message"] = self.message
        return ", ".join(f"{name}={_short(value)}" for name, value in given.items()) or "no change"


_NAMES: dict[type, str] = {str: "text", Mapping: "mapping"}


@dataclass(frozen=True)
class WhatIfOptions:
    """One what-if: the calls that run live, and what is changed in them."""

    targets: tuple[LiveTarget, ...]
    changes: Changes = field(default_factory=Changes)

    @classmethod
    def of(cls, live: Sequence[str], **changes: Any) -> WhatIfOptions:
        """Return the options for these texts and changes; None stands for no change.

        Raises:
            ValueError, TypeError: They are not valid.
        """
        if not live:
            raise ValueError(f"what runs live? {_FORM}")
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(tuple(map(LiveTarget.parse, live)), Changes(**given))

    def target_of(
        self, org: str | None, project: str | None, slug: str | None, number: int | None
    ) -> tuple[LiveTarget, ...]:
        """Return the targets that name this call; empty if it is to be replayed."""
        return tuple(
            each
            for each in self.targets
            if each.is_flow(org, project, slug) and each.number in (None, number)
        )

    def header_options(self) -> list[tuple[str, str]]:
        """Return the options of ``X-Noukai-Replay`` that stand for this what-if."""
        options = [("live", quote(str(each), safe="/#")) for each in self.targets]
        if self.changes:
            text = json.dumps(self.changes.as_dict(), ensure_ascii=True).encode()
            options.append(("change", base64.urlsafe_b64encode(text).decode().rstrip("=")))
        return options


def read_header(live: Sequence[str], change: str | None) -> WhatIfOptions:
    """Return the what-if of the options ``live`` and ``change`` of ``X-Noukai-Replay``.

    Raises:
        ValueError: They are not valid.
    """
    fields: Any = {}
    if change is not None:
        try:
            padding = "=" * (-len(change) % 4)
            fields = json.loads(base64.b64decode(change + padding, altchars=b"-_", validate=True))
        except (ValueError, RecursionError):
            fields = None
    known = {"model", "settings", "parameters", "message"}
    if not isinstance(fields, dict) or not fields.keys() <= known:
        raise ValueError(
            "change= must be a JSON object with model, settings, parameters or message, in URL-safe base64"
        )
    try:
        return WhatIfOptions.of([unquote(each) for each in live], **fields)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"
