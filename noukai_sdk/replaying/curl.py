"""A request as a curl command for the shell."""

from __future__ import annotations

import base64
import re
import shlex
import string
from urllib.parse import quote

from .app_request import AppRequest, has_header
from .controls import CONTROLS_IN_LINES

# Linux takes no longer word on a command line; what the shell itself prints may be longer.
_LONGEST_WORD = 100_000
_OF_URLS = string.punctuation


def curl_line(request: AppRequest) -> str:
    """Return the shell command that sends the same request with curl."""
    words = ["curl", "-i"]
    # A service may have stored a path with characters that curl refuses.
    url = quote(request.url, safe=_OF_URLS)
    if set(url) & set("[]{}"):
        words.append("-g")  # without it, curl expands brackets to a list of URLs
    if "/." in url:
        words.append("--path-as-is")  # without it, curl removes /../
    for name, value in request.headers:
        words += ["-H", f"{name}: {value}" if value else f"{name};"]
    if request.has_body and not has_header(request.headers, "content-type"):
        words += ["-H", "Content-Type:"]  # without it, curl adds that of a form
    if request.method == "HEAD":
        words.append("--head")
    elif request.method != ("POST" if request.has_body else "GET"):
        words += ["-X", request.method]
    source = ""
    if request.file is not None:
        words += ["--data-binary", f"@{request.file}"]  # -d would remove the line breaks of a file
    elif request.content is not None:
        text = _as_word(request.content)
        if text is not None and len(request.content) <= _LONGEST_WORD:
            words += ["-d" if text[:1] != "@" else "--data-raw", text]
        else:
            words += ["--data-binary", "@-"]
            encoded = base64.b64encode(request.content).decode()
            given = f"printf %s {_quote(text)}" if text is not None else ""
            source = f"{given or f'printf %s {encoded} | base64 -d'} | "
    return source + " ".join(map(_quote, [*words, url]))


def _quote(word: str) -> str:
    """Quote a word for bash and zsh, so that it cannot control the terminal that it is shown in."""
    if not CONTROLS_IN_LINES.search(word):
        return shlex.quote(word)

    def escape(match: re.Match[str]) -> str:
        return "".join(f"\\x{byte:02x}" for byte in match[0].encode())

    text = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{CONTROLS_IN_LINES.sub(escape, text)}'"


def _as_word(content: bytes) -> str | None:
    """Return a body as a word for the shell, None if it cannot be one."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
