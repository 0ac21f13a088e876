"""Secrets stay out of cassette files.

Redaction works on a copy, when a file is written; live values are never touched. The same rules are
applied to a call before it is compared with a recording, so that a redacted cassette still matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

REDACTED = "[redacted]"

Hook = Callable[[dict[str, Any]], dict[str, Any]]

# Fields whose value is a secret wherever they stand.
_SECRET_NAMES = re.compile(
    r"(proxy-)?authorization|(set-)?cookie|(x-)?api[-_]?key|pass(word|wd|phrase)|secret|"
    r"client[-_]?secret|private[-_]?key|((access|refresh|id|auth|bearer|session)[-_]?)?token",
    re.IGNORECASE,
)
# Text that is a secret wherever it stands: keys of Noukai, OpenAI and Anthropic, GitHub and AWS;
# bearer tokens; JSON web tokens.
_SECRET_TEXT = re.compile(
    r"\bnk_[A-Za-z0-9_-]{8,}|\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b|"
    r"\bBearer\s+[A-Za-z0-9._~+/=-]{8,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"
)
_PATH = re.compile(r"\.?(\*|[^.\[\]*]+)|\[(\*|\d+)\]")


class Redactor:
    """What to take out of a recording.

    Args:
        paths: JSON paths of a recording to blank, such as ``request.parameters.email`` or
            ``events[*].outputData``; ``*`` stands for every name or index, a leading ``$.`` is
            allowed, a path that leads nowhere is no error.
        hook: Called last with the recording as a dict, or with one that holds only ``request``
            where a call is matched; returns what to keep.
        secrets: Texts to take out wherever they stand: the client's own key.

    Raises:
        ValueError: A path cannot be read.

    Example:
        >>> Redactor(["request.parameters.email"])({"request": {"parameters": {"email": "a@b.c"}}})
        {'request': {'parameters': {'email': '[redacted]'}}}
    """

    def __init__(
        self, paths: Iterable[str] = (), hook: Hook | None = None, secrets: Iterable[str] = ()
    ) -> None:
        self.paths = tuple(paths)
        self._parsed = [_parse(path) for path in self.paths]
        self._hook = hook
        self._secrets = [secret for secret in secrets if secret]

    def __call__(self, recording: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the recording without its secrets."""
        clean: dict[str, Any] = self._clean(recording)
        for path in self._parsed:
            _blank(clean, path)
        return clean if self._hook is None else self._hook(clean)

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Take these texts out as well."""
        self._secrets += [secret for secret in secrets if secret and secret not in self._secrets]

    def request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A call's request, as a recording of it would hold it."""
        clean: dict[str, Any] = self({"request": request})["request"]
        return clean

    def _clean(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._field(name, item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        return self._text(value) if isinstance(value, str) else value

    def _field(self, name: str, value: Any) -> Any:
        if isinstance(name, str) and isinstance(value, str) and _SECRET_NAMES.fullmatch(name):
            return REDACTED
        return self._clean(value)

    def _text(self, text: str) -> str:
        if text[:1] in ("{", "["):
            text = self._json_text(text)
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return _SECRET_TEXT.sub(REDACTED, text)

    def _json_text(self, text: str) -> str:
        """Tool arguments are JSON in a string: their fields count too."""
        try:
            value = json.loads(text)
        except ValueError:
            return text
        clean = self._clean(value)
        return text if clean == value else json.dumps(clean)


def _parse(path: str) -> list[str]:
    rest = path.removeprefix("$")
    parts: list[str] = []
    position = 0
    while position < len(rest):
        found = _PATH.match(rest, position)
        if found is None:
            break
        parts.append(found[1] or found[2])
        position = found.end()
    if not parts or position != len(rest):
        raise ValueError(f"bad JSON path {path!r}: write it like 'request.parameters.email'")
    return parts


def _blank(value: Any, path: list[str]) -> None:
    name, rest = path[0], path[1:]
    for key in _keys(value, name):
        if rest:
            _blank(value[key], rest)
        else:
            value[key] = REDACTED


def _keys(value: Any, name: str) -> list[Any]:
    if isinstance(value, dict):
        return list(value) if name == "*" else [name] if name in value else []
    if isinstance(value, list):
        if name == "*":
            return list(range(len(value)))
        return [int(name)] if name.isdigit() and int(name) < len(value) else []
    return []
