"""Write the source of a pytest that sends a captured request through an app again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from ..models.exchanges import Exchange, Header

_LONGEST_NAME = 60
# The line length at which ruff and black break lines, unless they are told otherwise.
_LINE = 88

_TEMPLATE = '''\
"""{line} responds as it did{when}.

Written by `noukai session test` from {session}.
Its flow calls are served from the cassette: no model is called.
"""

import pytest
from noukai_sdk.testing import send_captured_request


@pytest.mark.noukai_cassette{options}
def {name}() -> None:
    replayed = {call}
    replayed.assert_unchanged()
'''


def name_of_test(exchange: Exchange) -> str:
    """Return a name for the test function.

    Example:
        >>> from noukai_sdk.models.exchanges import CapturedRequest, CapturedResponse
        >>> request = CapturedRequest(method="POST", origin="http://a", path="/Users/7/grade-all/")
        >>> name_of_test(Exchange(request=request, response=CapturedResponse()))
        'test_post_users_7_grade_all'
    """
    words = f"{exchange.request.method} {unquote(exchange.request.path)}".lower()
    name = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    return f"test_{name[:_LONGEST_NAME].rstrip('_')}"


def source_of_test(
    exchange: Exchange, session_id: str | None, name: str, call: str, *, allow_drift: bool
) -> str:
    """Return the source of a test module.

    Args:
        exchange: The captured request and response.
        session_id: The session that the calls were recorded in.
        name: The name of the test.
        call: The call of ``send_captured_request``, from :func:`call_source`.
        allow_drift: The inputs of calls may differ from the captured ones.
    """
    request = exchange.request
    # The path and the id come from a request, so they must not end the docstring.
    method, path = (re.sub(r"[^\w/.~%:+-]", "?", text) for text in (request.method, request.path))
    line = f"{method} {path}"
    date = re.match(r"\d{4}-\d{2}-\d{2}", exchange.started_at or "")
    session = re.sub(r"[^\w.-]", "?", session_id or "") or "a cassette"
    return _TEMPLATE.format(
        line=line if len(line) <= _LONGEST_NAME else f"{line[:_LONGEST_NAME]}...",
        when=f" on {date[0]}" if date else "",
        session=f"session {session}" if session_id else session,
        options="" if allow_drift else '(drift="error")',
        name=name,
        call=call,
    )


def call_source(
    app_name: str,
    headers: Sequence[Header] = (),
    body: str | None = None,
    ignore: Sequence[str] = (),
    *,
    freeze: bool = False,
) -> str:
    """Return the call of ``send_captured_request`` with these arguments."""
    arguments = [_literal(app_name)]
    if headers:
        items = ", ".join(f"{_literal(name)}: {_literal(value)}" for name, value in headers)
        arguments.append(f"headers={{{items}}}")
    if body is not None:
        arguments.append(f"body={_literal(body)}")
    if ignore:
        arguments.append(f"ignore=[{', '.join(map(_literal, ignore))}]")
    if freeze:
        arguments.append("freeze=True")
    call = f"send_captured_request({', '.join(arguments)})"
    if len(f"    replayed = {call}") <= _LINE:
        return call
    lines = "".join(f"        {argument},\n" for argument in arguments)
    return f"send_captured_request(\n{lines}    )"


def _literal(text: str) -> str:
    """Return a text as Python source, in double quotes if that is as easy to read."""
    source = repr(text)
    return source if '"' in text else f'"{source[1:-1]}"'
