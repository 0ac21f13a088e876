"""Secrets stay out of cassette files.

Redaction works on a copy, when a file is written; live values are never touched. The same rules are
applied to a call before it is compared with a recording, so that a redacted cassette still matches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from .json_paths import Path, blank, parse_path
from .secrets import REDACTED, is_secret_name, without_secrets

Hook = Callable[[dict[str, Any]], dict[str, Any]]


class Redactor:
    """What to take out of a recording.

    Args:
        paths: JSON paths of a recording to blank, such as ``request.parameters.email`` or
            ``events[*].outputData``; ``*`` stands for every name or index, a leading ``$.`` is
            allowed, a path that leads nowhere is no error.
        hook: Called last with the recording as a dict; returns what to keep. Where a call is
            compared with a recording, the dict holds what the call sent and no more: ``request``,
            and in ``rounds`` the ``tool_results``.
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
        self.paths = tuple(dict.fromkeys(paths))
        self._parsed: list[Path] = [parse_path(path) for path in self.paths]
        self._hook = hook
        self._secrets: tuple[str, ...] = ()
        self.add_secrets(secrets)

    def __call__(self, recording: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the recording without its secrets.

        Raises:
            TypeError: The hook did not return a dict.
        """
        clean: dict[str, Any] = self._clean(recording)
        for path in self._parsed:
            blank(clean, path, REDACTED)
        return clean if self._hook is None else self._checked(self._hook(clean))

    def without_hook(self) -> Redactor:
        """The same, but for the hook: redacting twice by these rules is redacting once."""
        return Redactor(self.paths, secrets=self._secrets)

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Take these texts out as well."""
        known = {*self._secrets, *secrets} - {""}
        if len(known) == len(self._secrets):
            return
        # The longest first: one may be part of another.
        self._secrets = tuple(sorted(known, key=lambda secret: (-len(secret), secret)))

    def request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A call's request, as a recording of it would hold it.

        Raises:
            TypeError: The hook did not return a dict with ``request``.
        """
        return self._sent(request, [])["request"]  # type: ignore[no-any-return]  # _sent has looked

    def tool_results(
        self, request: Mapping[str, Any], number: int, results: list[dict[str, Any]]
    ) -> Any:
        """The tool results of a call's round ``number``, as a recording of them would hold them."""
        rounds: list[dict[str, Any]] = [{} for _ in range(number)]
        kept = self._sent(request, [*rounds, {"tool_results": results}])
        try:
            return kept["rounds"][number]["tool_results"]
        except (KeyError, IndexError, TypeError):
            return None  # the hook drops them, so nothing of them was recorded

    def _sent(self, request: Mapping[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
        sent = {"request": to_jsonable_python(request), **({"rounds": rounds} if rounds else {})}
        kept = self(sent)
        if not isinstance(kept.get("request"), dict):
            raise TypeError("the redact hook must keep the 'request' of what it is given, a dict")
        return kept

    def _checked(self, kept: Any) -> dict[str, Any]:
        if not isinstance(kept, dict):
            raise TypeError(
                f"the redact hook must return the dict to keep, not {type(kept).__name__}"
            )
        return kept

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._name(name): self._field(name, item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        return value

    def _name(self, name: Any) -> Any:
        return self._plain(name) if isinstance(name, str) else name

    def _field(self, name: Any, value: Any) -> Any:
        # Neither True nor None is a secret, and both often say whether there is one.
        if isinstance(value, bool) or value is None or not is_secret_name(name):
            return self._clean(value)
        return REDACTED

    def _text(self, text: str) -> str:
        start = text.lstrip()[:1]
        return self._plain(self._json_text(text) if start in ("{", "[", '"') else text)

    def _plain(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return without_secrets(text)

    def _json_text(self, text: str) -> str:
        """Tool arguments are JSON in a string: their fields count too."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        clean = self._clean(value)
        return text if clean == value else json.dumps(clean, ensure_ascii=False)
