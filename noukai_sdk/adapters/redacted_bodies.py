"""Mask the secrets in the bodies and query strings of HTTP messages.

A field whose name says that it is secret is masked in JSON, forms, multipart forms, XML, event streams and
lines of JSON; what shows by its form is masked everywhere. A body that cannot be searched, such as a
compressed one of an unknown kind, is left out.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote_plus, unquote_plus

from ..masking.names import is_secret_name
from ..masking.values import REDACTED, Masker
from .captured import LIMIT

_MASKED_FIELD = quote_plus(REDACTED)

Redacted = tuple[str, Literal["utf-8", "base64"], bool]
"""The text, its encoding, and whether it had to be cut."""

# The service takes 4 MB for a request and its response, in JSON: a quote or line break takes two bytes.
_MOST_ESCAPED = 1_800_000

# Where a text was cut it may end in the first half of a secret.
_LAST_WORD = re.compile(r"""[^\s"'<>,;&]{0,4096}\Z""")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CHARSET = re.compile(r"""charset=["']?([\w.:-]+)""", re.IGNORECASE)

# Other binary bodies (MessagePack, protobuf, archives) have fields that cannot be told apart here.
_OPAQUE = re.compile(
    r"(?:image|audio|video|font)/|application/(?:pdf|octet-stream|msword|vnd\.ms-|"
    r"vnd\.openxmlformats|vnd\.oasis\.opendocument|epub\+zip)|\Z"
)
_TEXTUAL = re.compile(
    r"text/|application/(?:[\w.+-]*(?:json|xml|javascript|x-www-form-urlencoded))"
)
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf", b"Rar!")

# A form without its content type.
_FORM = re.compile(r"[^\s=&]{1,200}=\S*\Z")
_BLOCKS = re.compile(r"((?:\r\n|\n|\r){2})")
_CONTAINER = re.compile(r"""(\\{0,8}")([\w .-]{1,64})\1\s{0,9}:\s{0,9}[\[{]""")
_TOKENS = re.compile(r"""\\*"|[\[\]{}]""")
_ELEMENT = re.compile(r"<([A-Za-z_][\w:.-]{0,80})(\s[^<>]{0,1000})?>")
_INPUT = re.compile(r"<input\b[^<>]{0,2000}>", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"""\b(name|value|type|id)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""", re.IGNORECASE
)
_PART_NAME = re.compile(
    r""";\s*(name|filename)\*?=(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))""", re.IGNORECASE
)
_PART_HEADERS = ("content-disposition", "content-type")


class BodyRedactor:
    """Masks bodies, and notes what it has masked.

    Attributes:
        paths: The places in the last body, such as ``$.user.password``; ``""`` for the body as a whole.
        secrets: The values of all secret fields so far.
    """

    def __init__(self, masker: Masker) -> None:
        self.masker = masker
        self.paths: list[str] = []
        self.secrets: list[Any] = []

    def body(self, data: bytes, content_type: str, cut: bool) -> Redacted | None:
        """Return a body without its secrets; None if it cannot be searched for them.

        Args:
            data: The body, without its content encoding.
            content_type: The header.
            cut: The end of the body is missing.
        """
        self.paths = []
        try:
            clean = self._body(data, content_type, cut)
        except (ValueError, RecursionError, LookupError):
            return None
        if clean is None:
            return None
        shortened = len(clean) > LIMIT
        clean = clean[:LIMIT]
        if cut or shortened:
            clean = _without_half_character(clean)
        try:
            text = clean.decode()
        except UnicodeDecodeError:
            pass
        else:
            if not _CONTROLS.search(text):
                size = len(json.dumps(text, ensure_ascii=False))
                if size > _MOST_ESCAPED:
                    return text[: len(text) * _MOST_ESCAPED // size], "utf-8", True
                return text, "utf-8", shortened
        return base64.b64encode(clean).decode(), "base64", shortened

    def _body(self, data: bytes, content_type: str, cut: bool) -> bytes | None:
        kind = content_type.partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            return self._multipart(data, content_type, cut)
        decoded = _text_of(data, content_type, cut)
        if decoded is not None:
            text, encoding = decoded
            data = self._text(text, kind, cut).encode(encoding, "backslashreplace")
            if encoding == "utf-8":
                return data
        elif data.startswith(_COMPRESSED) or not (_OPAQUE.match(kind) or _TEXTUAL.match(kind)):
            return None
        # One character for each byte: what a text between other bytes says is found, whatever charset the
        # header claims.
        text = data.decode("latin-1")
        clean = self._text(text, kind if _TEXTUAL.match(kind) else "", cut)
        return clean.encode("latin-1", "backslashreplace")

    def _text(self, text: str, kind: str, cut: bool) -> str:
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        text = text[len(mark) :]
        if text.lstrip()[:1] in ("{", "[", '"'):
            value = self._json(text)
            if value is not None:
                return mark + value
        if cut:
            text = _without_last_word(text)
        if kind == "application/x-www-form-urlencoded" or _FORM.match(text):
            clean, names = redacted_pairs(text, self)
            self.paths += names
            return mark + clean
        return mark + self._lines(text, kind)

    def _json(self, text: str) -> str | None:
        """Return JSON without its secrets, the same text if it has none; None if it is not JSON."""
        repeated = False

        def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal repeated
            value = dict(pairs)
            repeated = repeated or len(value) < len(pairs)
            return value

        try:
            value = json.loads(text, object_pairs_hook=to_object)
            clean = self.masker.value(value)
        except (ValueError, RecursionError):
            return None
        found = list(self._masked(value, clean, "$"))
        self.paths += found
        # A repeated name hides a value from us that stands in the text.
        if not (found or repeated):
            return text
        if not found:
            self.paths.append("")
        return json.dumps(clean, ensure_ascii=False)

    def _masked(self, value: Any, clean: Any, path: str) -> Iterator[str]:
        """Yield the paths of what was masked, and note the values of secret fields."""
        if isinstance(clean, dict) and isinstance(value, dict):
            for (name, item), (clean_name, clean_item) in zip(
                value.items(), clean.items(), strict=False
            ):
                inside = f"{path}.{clean_name}"
                if clean_name != name:
                    yield inside
                if clean_item == REDACTED and is_secret_name(name):
                    self.secrets.append(item)
                    yield inside
                else:
                    yield from self._masked(item, clean_item, inside)
        elif isinstance(clean, list) and isinstance(value, list):
            for index, pair in enumerate(zip(value, clean, strict=True)):
                yield from self._masked(*pair, f"{path}[{index}]")
        elif isinstance(value, str) and clean != value:
            yield path

    def _lines(self, text: str, kind: str) -> str:
        """Mask a text that is not one JSON value, but may have some in its lines or events."""
        clean = text
        if kind == "text/event-stream":
            clean = "".join(self._event(block) for block in _BLOCKS.split(text))
        clean = "".join(self._line(line) for line in clean.splitlines(keepends=True))
        clean = self._containers(clean)
        if "<" in clean:
            clean = self._markup(clean)
        clean = self.masker.text(clean)
        if clean != text and not self.paths:
            self.paths.append("")
        return clean

    def _event(self, block: str) -> str:
        """Mask the data of an event that stands in several lines."""
        lines = block.splitlines()
        data = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
        if len(data) < 2:
            return block
        joined = "\n".join(data)
        clean = self._json(joined) or joined
        if clean == joined:
            return block
        others = [line for line in lines if not line.startswith("data:")]
        return "\n".join([*others, *(f"data: {line}" for line in clean.split("\n"))])

    def _line(self, line: str) -> str:
        start = len("data:") if line.startswith("data:") else 0
        content = line[start:].strip()
        if content[:1] not in ("{", "["):
            return line
        clean = self._json(content) or content
        return line if clean == content else line.replace(content, clean, 1)

    def _containers(self, text: str) -> str:
        """Mask the objects and lists with a secret name in what is not valid JSON as a whole."""
        parts = []
        position = 0
        for match in _CONTAINER.finditer(text):
            if match.start() < position or not is_secret_name(match[2]):
                continue
            quote_mark = match[1]
            depth, in_string, position_before = 1, False, position
            position = len(text)
            for token in _TOKENS.finditer(text, match.end()):
                if token[0].endswith('"'):
                    # Further backslashes are part of the string, in pairs, or escape the quote.
                    in_string ^= len(token[0]) % (2 * len(quote_mark)) == len(quote_mark)
                elif not in_string:
                    depth += 1 if token[0] in "{[" else -1
                    if not depth:
                        position = token.end()
                        break
            parts += [text[position_before : match.end() - 1], quote_mark, REDACTED, quote_mark]
        return "".join([*parts, text[position:]])

    def _markup(self, text: str) -> str:
        """Mask the content of XML elements and the values of HTML inputs with a secret name."""
        parts = []
        position = 0
        for match in _ELEMENT.finditer(text):
            if match.start() < position or not is_secret_name(match[1].rpartition(":")[2]):
                continue
            if (match[2] or "").endswith("/"):
                continue
            end = text.find(f"</{match[1]}", match.end())
            end = len(text) if end < 0 else end
            content = text[match.end() : end].strip()
            if content:
                self.secrets.append(content)
                parts += [text[position : match.end()], REDACTED]
                position = end
        text = "".join([*parts, text[position:]])
        return _INPUT.sub(self._input, text)

    def _input(self, match: re.Match[str]) -> str:
        attributes = {
            name.lower(): value.strip("\"'") for name, value in _ATTRIBUTE.findall(match[0])
        }
        names = (attributes.get("name", ""), attributes.get("id", ""), attributes.get("type", ""))
        value = attributes.get("value")
        if not value or not any(map(is_secret_name, map(_field_name, names))):
            return match[0]
        self.secrets.append(value)
        return match[0].replace(value, REDACTED)

    def _multipart(self, data: bytes, content_type: str, cut: bool) -> bytes | None:
        """Mask each part by the name of its field and by its own content type; None if it is malformed."""
        boundary = re.search(r'boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
        if boundary is None:
            return None
        mark = b"--" + (boundary[1] or boundary[2]).encode("latin-1")
        _, *parts = (b"\r\n" + data).split(b"\r\n" + mark)
        if not parts:
            return b"" if cut else None
        out = [b""]  # what stands before the first part is ignored by all readers
        for number, part in enumerate(parts, 1):
            is_last = number == len(parts)
            if part.startswith(b"--"):
                out.append(b"--\r\n")
                break
            head, gap, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            if not gap:
                if is_last and cut:
                    break
                return None
            out.append(self._part(head.decode("utf-8", "replace"), content, cut and is_last))
        return (b"\r\n" + mark).join(out).removeprefix(b"\r\n")

    def _part(self, head: str, content: bytes, cut: bool) -> bytes:
        fields = {}
        lines = []
        encoded = False
        for line in head.split("\r\n"):
            name = line.partition(":")[0].strip().lower()
            fields[name] = line.partition(":")[2].strip()
            encoded = encoded or name == "content-transfer-encoding"
            if name in _PART_HEADERS:
                lines.append(self.masker.text(line))
        found = _PART_NAME.findall(fields.get("content-disposition", ""))
        names = [
            _plain_name(quoted or bare) for kind, quoted, bare in found if kind.lower() == "name"
        ]
        is_file = len(names) < len(found)
        outer, self.paths = self.paths, []
        if any(is_secret_name(_field_name(name)) for name in names):
            self.secrets.append(content.decode("utf-8", "replace"))
            clean: bytes | None = REDACTED.encode()
        elif encoded:
            clean = None
        else:
            kind = fields.get("content-type", "" if is_file else "text/plain")
            try:
                clean = self._body(content, kind, cut)
            except (ValueError, RecursionError, LookupError):
                clean = None
        if clean != content:
            outer += map(self.masker.text, names)
        self.paths = outer
        lines += ["", ""]
        return (
            b"\r\n" + "\r\n".join(lines).encode() + (REDACTED.encode() if clean is None else clean)
        )


def redacted_pairs(text: str, redactor: BodyRedactor) -> tuple[str, list[str]]:
    """Mask a query string or a form. What holds no secret stays as it was sent.

    Returns:
        The text, and the names of the fields that were masked.

    Example:
        >>> redacted_pairs("q=a%20b&user[password]=hunter2", BodyRedactor(Masker()))
        ('q=a%20b&user[password]=%5Bredacted%5D', ['user[password]'])
    """
    masker = redactor.masker
    pairs, names = [], []
    for pair in text.split("&"):
        raw_name, equals, raw_value = pair.partition("=")
        name, value = unquote_plus(raw_name), unquote_plus(raw_value)
        clean_name = masker.text(name)
        if value and is_secret_name(_field_name(name)):
            redactor.secrets.append(value)
            raw_value = _MASKED_FIELD
            names.append(clean_name)
        elif (clean := masker.text(value)) != value:
            raw_value = quote_plus(clean)
            names.append(clean_name)
        if clean_name != name:
            raw_name = quote_plus(clean_name)
            names.append(clean_name)
        pairs.append(raw_name + equals + raw_value)
    return "&".join(pairs), list(dict.fromkeys(names))


def decompressed(data: bytes, coding: str, truncated: bool) -> tuple[bytes, bool] | None:
    """Remove a content encoding.

    Returns:
        At most LIMIT bytes, and whether that is not all; None if the encoding is unknown or the data
        damaged.
    """
    for name in reversed([part.strip() for part in coding.split(",") if part.strip()]):
        if name == "identity":
            continue
        if name not in ("gzip", "x-gzip", "deflate"):
            return None
        found = None
        # 47: zlib or gzip; -15: what some servers send as "deflate".
        for bits in (47, -15) if name == "deflate" else (47,):
            try:
                found = _inflated(data, bits)
            except zlib.error:
                continue
            break
        if found is None:
            return None
        data, is_whole = found
        truncated = truncated or not is_whole
    return data, truncated


def _inflated(data: bytes, bits: int) -> tuple[bytes, bool]:
    out = b""
    while data and len(out) < LIMIT:  # a gzip file may have several members
        inflater = zlib.decompressobj(bits)
        out += inflater.decompress(data, LIMIT - len(out))
        if not inflater.eof:
            return out, False
        data = inflater.unused_data
    return out, not data


def leaves(value: Any) -> Iterator[str]:
    """Yield the texts and numbers in a JSON value as texts."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, (str, int)) and not isinstance(value, bool):
        yield str(value)


def _field_name(name: str) -> str:
    """Return the last part of a name such as ``user[password]`` or ``tokens[]``."""
    parts = [part for part in re.split(r"[\[\]]+", name) if part and not part.isdigit()]
    return parts[-1] if parts else name


def _plain_name(name: str) -> str:
    r"""Return the name of a part as its sender wrote it: ``utf-8''pass%20word`` is ``pass word``."""
    return unquote_plus(re.sub(r"^[\w-]*'[\w-]*'", "", name).replace("\\", ""))


def _text_of(data: bytes, content_type: str, cut: bool) -> tuple[str, str] | None:
    """Return a body as text and its encoding; None if it is binary."""
    charset = _CHARSET.search(content_type)
    # The header may be wrong, and applications ignore it.
    encodings = ["utf-8"]
    if charset is not None:
        encodings.append(charset[1])
    if b"\0" in data[:4]:
        encodings.append(json.detect_encoding(data))
    whole = _without_half_character(data) if cut else data
    for encoding in encodings:
        part = whole if encoding == "utf-8" else data
        try:
            text = part.decode(encoding)
            if text.encode(encoding) == part and not _CONTROLS.search(text):
                return text, encoding
        except (UnicodeError, LookupError):
            continue
    return None


def _without_half_character(data: bytes) -> bytes:
    """Remove the first half of a UTF-8 character at the end."""
    for length in range(1, min(4, len(data)) + 1):
        byte = data[-length]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-length] if needed > length else data
        if byte < 0x80:
            break
    return data


def _without_last_word(text: str) -> str:
    match = _LAST_WORD.search(text, max(0, len(text) - 4096))
    return text if match is None else text[: match.start()]
