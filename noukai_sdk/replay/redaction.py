"""Keep secrets out of cassette files.

Redaction works on a copy when a file is written and never changes live values. The same rules are
applied to a call before it is compared with a recording, so a redacted cassette still matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydantic_core import to_jsonable_python

Hook = Callable[[dict[str, Any]], dict[str, Any]]
Path = tuple[str, ...]

REDACTED = "[redacted]"

# A name ends in one of these words, as secret_key, dbPassword and X-Api-Key do. Of the tokens only
# those that grant access count: the text of a model comes in tokens too.
_WORDS = (
    r"authorization|cookies?|pass(?:word|wd|phrase)|secrets?|credentials?|"
    r"(?:api|private|secret|access)[-_]?key|(?:access|refresh|id|auth|bearer|session|api|bot)[-_]?token"
)
_SECRET_NAME = re.compile(rf"(?:(?:.*[-_.\s])?(?:{_WORDS})|token)", re.IGNORECASE | re.DOTALL)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Keys of Noukai, OpenAI and Anthropic, Google, GitHub, Slack and AWS; JSON web tokens; bearer tokens,
# which hold a digit or are very long, unlike the words that follow "bearer" in prose.
_SECRET_TEXT = re.compile(
    r"\bnk_[A-Za-z0-9_-]{8,}|\bsk-[A-Za-z0-9_-]{16,}|\bAIza[\w-]{30,}|"
    r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bxox[abeprs]-[\w-]{10,}|\bA[KS]IA[A-Z0-9]{16}\b|"
    r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|"
    r"\bBearer\s+(?:(?=[A-Za-z._~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})"
)

# A named secret in text that is not JSON as a whole: "password": "...", api_key=...
_NAMED_IN_TEXT = re.compile(
    rf"""(\\?["'])((?:[\w.-]*[-_.])?(?:{_WORDS}|token))\1(\s*[:=]\s*)(\\?["'])(?:(?!\4).)+\4""",
    re.IGNORECASE,
)
_NAMED_IN_URL = re.compile(
    rf"""([?&;](?:[\w.-]*[-_.])?(?:{_WORDS}|token|signature)=)[^&\s"'#]+""", re.IGNORECASE
)

_IN_TEXT = (
    (_SECRET_TEXT, REDACTED),
    (_NAMED_IN_TEXT, rf"\1\2\1\3\4{REDACTED}\4"),
    (_NAMED_IN_URL, rf"\1{REDACTED}"),
)

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

    Raises:
        ValueError: A path is malformed.

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
        """Return a copy of the recording without its secrets.

        Raises:
            TypeError: The hook did not return a dict.
        """
        clean: dict[str, Any] = self._clean(recording)
        for path in self._parsed:
            _blank(clean, path)
        if self._hook is not None:
            clean = self._hook(clean)
            if not isinstance(clean, dict):
                raise TypeError(
                    f"the redact hook must return the dict to keep, not {type(clean).__name__}"
                )
        return clean

    def without_hook(self) -> Redactor:
        """Return the same redactor without its hook; its other rules can be applied twice."""
        return Redactor(self.paths, secrets=self._secrets)

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Remove these texts as well."""
        known = {*self._secrets, *secrets} - {""}
        if len(known) > len(self._secrets):
            # The longest first: one may be part of another.
            self._secrets = tuple(sorted(known, key=lambda secret: (-len(secret), secret)))

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

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            # Tool arguments are JSON in a string: their fields count too.
            return self._clean_text(
                self._clean_json(value) if value.lstrip()[:1] in ("{", "[", '"') else value
            )
        if isinstance(value, Mapping):
            return {
                self._clean_text(name) if isinstance(name, str) else name: self._clean_field(
                    name, item
                )
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        return value

    def _clean_field(self, name: Any, value: Any) -> Any:
        # Booleans and None are not secrets, and often say whether there is one.
        if isinstance(value, bool) or value is None or not is_secret_name(name):
            return self._clean(value)
        return REDACTED

    def _clean_text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return without_secrets(text)

    def _clean_json(self, text: str) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        clean = self._clean(value)
        return text if clean == value else json.dumps(clean, ensure_ascii=False)


@lru_cache(maxsize=4096)
def is_secret_name(name: object) -> bool:
    """Return whether the value of a field of this name is a secret.

    Example:
        >>> is_secret_name("OPENAI_API_KEY"), is_secret_name("clientSecret"), is_secret_name("tokens")
        (True, True, False)
    """
    return isinstance(name, str) and _SECRET_NAME.fullmatch(_HUMP.sub("_", name)) is not None


def without_secrets(text: str) -> str:
    """Return ``text`` without the parts that look like secrets.

    Example:
        >>> without_secrets("curl -H 'Authorization: Bearer abc123def456'")
        "curl -H 'Authorization: [redacted]'"
    """
    for pattern, replacement in _IN_TEXT:
        # Few texts hold a secret, and a failed search is faster than a replacement of nothing.
        if pattern.search(text) is not None:
            text = pattern.sub(replacement, text)
    return text


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
