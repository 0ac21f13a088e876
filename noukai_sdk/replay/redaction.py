"""Keep secrets out of cassette files.

Redaction works on a copy when a file is written and never changes live values. The same rules are
applied to a call before it is compared with a recording, so a redacted cassette still matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from pydantic_core import to_jsonable_python

from ..masking.values import REDACTED, Masker

Hook = Callable[[dict[str, Any]], dict[str, Any]]
Path = tuple[str, ...]

_PATH_PART = re.compile(
    r"""\.?(\*|[^.\[\]*'"]+)|\[(\*|\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""",
)


class Redactor:
    """Removes secrets from recordings.

    Args:
        paths: JSON paths of a recording to blank, such as ``request.parameters.email`` or
            ``events[*].outputData``. ``*`` stands for every name or index; a leading ``$.`` is
            allowed; a path that does not exist in a recording is not an error.
        hook: Called last with the recording as a dict; returns the dict to keep. When a call is
            compared with a recording, the dict holds only the sent parts: ``request``, and in
            ``rounds`` the ``tool_results``.
        secrets: Texts to remove wherever they occur, such as the client's own key.
        pii: Remove personal data as well: e-mail addresses, phone numbers, payment cards, IBANs.

    Raises:
        ValueError: A path is malformed.

    Example:
        >>> Redactor(["request.parameters.email"])({"request": {"parameters": {"email": "a@b.c"}}})
        {'request': {'parameters': {'email': '[redacted]'}}}
    """

    def __init__(
        self,
        paths: Iterable[str] = (),
        hook: Hook | None = None,
        secrets: Iterable[str] = (),
        *,
        pii: bool = False,
    ) -> None:
        self.paths = tuple(dict.fromkeys(paths))
        self._parsed: list[Path] = [parse_path(path) for path in self.paths]
        self._hook = hook
        self.pii = pii
        self._secrets: tuple[str, ...] = ()
        self._masker = Masker(pii)
        self.add_secrets(secrets)

    def __call__(self, recording: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of the recording without its secrets.

        Raises:
            TypeError: The hook did not return a dict.
        """
        clean: dict[str, Any] = self._masker.value(recording)
        for path in self._parsed:
            _blank(clean, path)
        if self._hook is not None:
            clean = self._hook(clean)
            if not isinstance(clean, dict):
                raise TypeError(
                    f"the redact hook must return the dict to keep, not {type(clean).__name__}"
                )
        return clean

    def exchange(self, exchange: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a captured request and its response without their secrets.

        Of the JSON paths those count that begin with ``exchange``; behind ``exchange.request.body`` and
        ``exchange.response.body`` they go on in the body's JSON. The hook takes only recordings.
        """
        clean: dict[str, Any] = self._masker.value(exchange)
        for path in self._parsed:
            if path[0] != "exchange":
                continue
            side = clean.get(path[1]) if len(path) > 2 else None
            body = side.get("body") if isinstance(side, dict) else None
            if body is None or path[2] != "body" or len(path) == 3:
                _blank({"exchange": clean}, path)
                continue
            with suppress(ValueError):
                content = json.loads(body["text"])
                _blank(content, path[3:])
                body["text"] = json.dumps(content, ensure_ascii=False)
        return clean

    def boundary(self, boundary: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of the call of a recorded function without secrets of this redactor.

        Of the JSON paths those count that begin with ``boundary``. The hook takes only recordings, and what
        names and forms tell to be secret is up to the function's own ``redact=``.
        """
        clean: dict[str, Any] = (
            self._masker.value(boundary) if self.pii else _without(boundary, self._secrets)
        )
        for path in self._parsed:
            if path[0] == "boundary":
                _blank({"boundary": clean}, path)
        return clean

    def without_hook(self) -> Redactor:
        """Return the same redactor without its hook; its other rules can be applied twice."""
        return Redactor(self.paths, secrets=self._secrets, pii=self.pii)

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Remove these texts as well."""
        known = {*self._secrets, *secrets} - {""}
        if len(known) > len(self._secrets):
            # The longest first: one may be part of another.
            self._secrets = tuple(sorted(known, key=lambda secret: (-len(secret), secret)))
            self._masker = Masker(self.pii, self._secrets)

    def request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a call's request as a recording of it would hold it.

        Raises:
            TypeError: The hook did not return a dict with ``request``.
        """
        return self._sent(request, [])["request"]  # type: ignore[no-any-return]  # checked in _sent

    def tool_results(
        self, request: Mapping[str, Any], number: int, results: list[dict[str, Any]]
    ) -> Any:
        """Return the tool results of round ``number`` as a recording of them would hold them."""
        rounds: list[dict[str, Any]] = [{} for _ in range(number)]
        kept = self._sent(request, [*rounds, {"tool_results": results}])
        try:
            return kept["rounds"][number]["tool_results"]
        except (KeyError, IndexError, TypeError):
            return None  # the hook drops them, so they were not recorded

    def _sent(self, request: Mapping[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
        sent = {"request": to_jsonable_python(request), **({"rounds": rounds} if rounds else {})}
        kept = self(sent)
        if not isinstance(kept.get("request"), dict):
            raise TypeError("the redact hook must keep the 'request' of its argument, a dict")
        return kept


class ServiceRedactor(Redactor):
    """Masks calls as the service's capture mode ``redacted`` does, which knows no client's key."""

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Do nothing."""


def parse_path(path: str) -> Path:
    """Parse a JSON path into its names, indexes and stars.

    Raises:
        ValueError: The path is malformed.

    Example:
        >>> parse_path("$.request.parameters['e.mail']")
        ('request', 'parameters', 'e.mail')
    """
    rest = path.removeprefix("$")
    parts: list[str] = []
    position = 0
    while (match := _PATH_PART.match(rest, position)) is not None:
        parts.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    if not parts or position != len(rest):
        raise ValueError(f"bad JSON path {path!r}: write it like 'request.parameters.email'")
    return tuple(parts)


def _without(value: Any, secrets: Iterable[str]) -> Any:
    """Return a copy of a JSON value in which ``secrets`` are redacted."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REDACTED)
        return value
    if isinstance(value, Mapping):
        return {_without(name, secrets): _without(item, secrets) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without(item, secrets) for item in value]
    return value


def _blank(value: Any, path: Path) -> None:
    """Redact every value at ``path``, if there is any."""
    name, *rest = path
    keys: Iterable[Any] = ()
    if isinstance(value, dict):
        keys = list(value) if name == "*" else [name] if name in value else []
    elif isinstance(value, list):
        if name == "*":
            keys = range(len(value))
        elif name.isdecimal() and int(name) < len(value):
            keys = [int(name)]
    for key in keys:
        if rest:
            _blank(value[key], tuple(rest))
        else:
            value[key] = REDACTED
