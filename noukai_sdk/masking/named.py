"""Secrets in text that show by their name: ``"password": "..."``, ``API_KEY=...``, ``?token=...``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .forms import Span
from .names import is_secret_name, name_words

_SEPARATOR = re.compile("[:=]")
# What stands to the left of a separator, from right to left: a name, perhaps in quotes.
_TO_THE_LEFT = re.compile(
    r"""\s{0,4}(?:\]?(["']\\{0,8})([\w.-]{1,64}(?:[ ][\w.-]{1,32})?)\1|([\w.-]{1,64}))"""
)
_FIRST_WORD = re.compile(r" (?:ipa|ssecca|terces|etavirp|dedoc|tnuocca)(?![\w.-])", re.IGNORECASE)
_OPENING = re.compile(r"""[=>]?\s{0,4}(?:(\\{0,8}["'])|(?=(\S)))""")
# The start of a value decides, so that text is not read again and again.
_BARE = re.compile(r"""[^\s"'\\,;&(){}\[\]<>`]{1,256}""")
_TAIL = re.compile(r"""[^\s"'\\,;&(){}\[\]<>`]*""")
_REST = {'"': re.compile(r'(?:[^"\\\n]|\\.)*'), "'": re.compile(r"(?:[^'\\\n]|\\.)*")}

_SCHEME = re.compile(
    r"(basic|bearer|token|digest|negotiate|ntlm|apikey|aws4-hmac-sha256)\s{1,4}", re.IGNORECASE
)
_COOKIES = re.compile(r"""[^\s=;,"'\\]{1,128}=[^\r\n"'\\]*""")
_LINE = re.compile(r"""[^\r\n"']{0,1000}""")

# An option of a command, such as --token abc123.
_FLAG = re.compile(r"""(?<![\w-])--([a-z][\w-]{1,40}) ["']?([^\s"'\\-][^\s"'\\]*)""")

_PLACEHOLDER = re.compile(r"[$%*]|x{3,}$|\.\.\.|your[-_]", re.IGNORECASE)
_ALGORITHM = re.compile(
    r"(?:base|sha|utf|oauth|hs|rs|es|aes|md|ed|x|http|gpt|saml|v)-?\d", re.IGNORECASE
)
_LITERALS = frozenset(
    {"none", "null", "nil", "true", "false", "undefined", "required", "optional", "missing"}
)
_SCHEMA_WORDS = frozenset(
    {"string", "integer", "number", "boolean", "object", "secretstr", "hidden", "invalid"}
)
# Words of prose behind "Authorization: Bearer".
_AUTH_WORDS = frozenset(
    {
        "token",
        "tokens",
        "auth",
        "authentication",
        "scheme",
        "header",
        "headers",
        "realm",
        "and",
        "the",
    }
)
_PASSWORDS = ("password", "passwords", "passwd", "pwd", "passphrase", "passcode")
_PINS = ("pin", "otp", "passcode")


def named_spans(text: str) -> Iterator[Span]:
    """Yield the places of the values in ``text`` whose name says that they are secret."""
    if "--" in text:
        for flag in _FLAG.finditer(text):
            last_word = (name_words(flag[1]) or ("",))[-1]
            if is_secret_name(flag[1]) and _has_form_of_secret(flag[2], last_word, True):
                yield flag.span(2)
    done = 0
    for separator in _SEPARATOR.finditer(text):
        at = separator.start()
        if at < done:
            continue
        # Ends before a name that is longer, so that it is not taken for its last part.
        left = text[max(at - 110, 0) : at][::-1]
        match = _TO_THE_LEFT.match(left)
        if match is None:
            continue
        quoted = match[2] is not None
        name = (match[2] or match[3])[::-1]
        end = match.end()
        if not quoted and (more := _FIRST_WORD.match(left, end)) is not None:
            name, end = f"{more[0][1:][::-1]} {name}", more.end()
        start = at - end
        if not is_secret_name(name) and not _is_signature(text, start, name):
            continue
        span = _value(text, at, start, name, quoted)
        if span is not None:
            first, done = span
            if done - first >= 256 and (tail := _TAIL.match(text, done)) is not None:
                done = tail.end()
            yield first, done


def _value(text: str, at: int, start: int, name: str, quoted: bool) -> Span | None:
    """Return the place of the value behind the separator at ``at``; None if it is not a secret."""
    opening = _OPENING.match(text, at + 1)
    if opening is None:
        return None
    first = opening.end()
    last_word = name_words(name)[-1]
    before = text[start - 1 : start]
    if opening[1] is not None:
        last = _end_of_quoted(text, first, opening[1])
        # A label or a sentence: the secret: "be kind".
        prose = not quoted and text[at] == ":" and " " in text[first:last]
        if prose or first == last or _PLACEHOLDER.match(text, first, last):
            return None
        return first, last
    if last_word == "authorization":
        return _authorization(text, first)
    if last_word in ("cookie", "cookies"):
        cookies = _COOKIES.match(text, first)
        return cookies.span() if cookies is not None and not quoted else None
    bare = _BARE.match(text, first)
    if bare is None:
        return None
    value = bare[0].rstrip(".:?")
    last = first + len(value)
    if before and before in "?&":
        value = value.partition("#")[0]
        is_secret = bool(value) and not _PLACEHOLDER.match(value)
        return (first, first + len(value)) if is_secret else None
    if len(value) < 3 or _is_code(text, value, last):
        return None
    if quoted:
        # JSON that is cut or within other text.
        return (first, last) if any(c.isdigit() for c in value) else None
    attached = text[at] == "=" and first == at + 1 and not text[at - 1].isspace()
    if attached and name.isupper():
        return first, last
    is_secret = _has_form_of_secret(value, last_word, attached) or (
        value.isalpha() and _is_secret_word(text, (start, first, last), last_word, attached)
    )
    return (first, last) if is_secret else None


def _is_secret_word(text: str, place: tuple[int, int, int], last_word: str, attached: bool) -> bool:
    """Return whether a bare value of letters alone is a secret, by its name and place."""
    start, first, last = place
    before, after = text[start - 1 : start], text[last : last + 1]
    if last_word in ("auth", "pin", "otp"):
        return False
    if attached:
        is_argument = before in ("(", " ") and after in ("(", ")", ",")
        return not is_argument and last - first >= (4 if last_word in _PASSWORDS else 6)
    # YAML: nothing else in the line.
    alone = before in ("", "\n") or text[max(text.rfind("\n", 0, start), 0) : start].isspace()
    is_word = text[first:last].lower() in _SCHEMA_WORDS
    ends = after in ("", "\r", "\n")
    return last_word in _PASSWORDS and alone and ends and last - first >= 6 and not is_word


def _is_signature(text: str, start: int, name: str) -> bool:
    in_url = start > 0 and text[start - 1] in "?&"
    return in_url and name_words(name)[-1:] in (("signature",), ("sig",))


def _end_of_quoted(text: str, first: int, quote: str) -> int:
    """Return the end of a quoted value; of one that is not closed, the end of its line."""
    if len(quote) == 1:
        rest = _REST[quote].match(text, first)
        assert rest is not None  # it matches the empty text too
        return rest.end()
    line_end = text.find("\n", first)
    line_end = len(text) if line_end < 0 else line_end
    last = text.find(quote, first, line_end)
    return line_end if last < 0 else last


def _authorization(text: str, first: int) -> Span | None:
    scheme = _SCHEME.match(text, first)
    if scheme is not None and scheme[1].lower() in ("digest", "aws4-hmac-sha256"):
        line = _LINE.match(text, first)
        return line.span() if line is not None and "=" in line[0] else None
    bare = _BARE.match(text, scheme.end() if scheme is not None else first)
    if bare is None or _PLACEHOLDER.match(bare[0]):
        return None
    value = bare[0].rstrip(".:?")
    if value.lower() in _AUTH_WORDS or len(value) < (3 if scheme is not None else 8):
        return None
    if scheme is None and not _has_form_of_secret(value, "authorization", False):
        return None
    return first, bare.start() + len(value)


def _is_code(text: str, value: str, last: int) -> bool:
    """Return whether a bare value is a variable, a call, a placeholder or a word of a language."""
    return (
        text[last : last + 1] in {"(", "["}
        or value.lower() in _LITERALS
        or _PLACEHOLDER.match(value) is not None
        or ("." in value and all(part.isidentifier() for part in value.split(".")))
        or is_secret_name(value)
    )


def _has_form_of_secret(value: str, last_word: str, attached: bool) -> bool:
    """Return whether a bare value looks like a secret, unlike a word of prose."""
    if value.isdecimal():
        if last_word in _PINS:
            return 4 <= len(value) <= 12
        return attached and len(value) >= (4 if last_word in _PASSWORDS else 8)
    if _ALGORITHM.match(value):
        return False
    has_letter = any(c.isalpha() for c in value)
    if has_letter and any(c.isdigit() for c in value):
        return len(value) >= 6
    if has_letter and not value.isalpha() and last_word in _PASSWORDS and attached:
        return len(value) >= 6
    changes = len(re.findall("[a-z][A-Z]", value[:200]))
    return len(value) >= 16 and changes >= 2
