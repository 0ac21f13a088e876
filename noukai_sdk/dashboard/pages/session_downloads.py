"""Downloads of a session: the cassette file, a pytest with its cassette, and one HTML file."""

from __future__ import annotations

import asyncio
import io
import re
import zipfile
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response

from ...errors import CapturedRequestError, CassetteError
from ...pytest_plugin.folders import cassette_path
from ...replay.cassette_file import CassetteFile, encode_cassette, file_of, redacted_file
from ...replay.redaction import Redactor
from ...replay.resending import sent_again
from ...replay.sources import with_ancestors
from ...replaying.app_request import refuse_websocket
from ...testing.written_tests import call_source, name_of_test, source_of_test
from ..export import session_html
from .compare import load_session
from .visit import PageError, Visit, page

_PATH = "/sessions/{session_id}"
_APP = re.compile(r"[\w.]+:[\w.]+(\(\))?\Z", re.ASCII)


@page(f"{_PATH}/cassette.jsonl")
async def cassette(visit: Visit) -> Response:
    """Return the session as a cassette file, without its secrets."""
    file = await _file(visit)
    content = await asyncio.to_thread(encode_cassette, file)
    return _download(content, f"{file.session_id}.jsonl", "application/x-ndjson")


@page(f"{_PATH}/session.html")
async def html(visit: Visit) -> Response:
    """Return the session as one HTML file, without its secrets."""
    file = await _file(visit, as_made=False)
    text = await asyncio.to_thread(session_html, file)
    return _download(text.encode("utf-8", "replace"), f"{file.session_id}.html", "text/html")


@page(f"{_PATH}/test.zip")
async def test_files(visit: Visit) -> Response:
    """Return a pytest that sends the captured request through the app, and its cassette."""
    app = visit.query.get("app", "")
    if not _APP.match(app):
        raise PageError(400, "Name the app as MODULE:APP, such as main:app or main:create_app().")
    file = await _file(visit)
    exchange = file.exchange
    if exchange is None:
        message = (
            "The request of this session was not captured: pass capture_requests=True to the adapter of "
            "the app, and capture the request again."
        )
        raise PageError(404, message)
    try:
        refuse_websocket(exchange)
        sent_again(exchange)
    except CapturedRequestError as error:
        raise PageError(409, f"No test can send this request: {error.message}.") from error
    name = name_of_test(exchange)
    module = Path(f"{name}.py")
    source = source_of_test(exchange, file.session_id, name, call_source(app), allow_drift=True)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(str(module), source)
        recorded = await asyncio.to_thread(encode_cassette, file)
        archive.writestr(cassette_path(module, name).as_posix(), recorded)
    return _download(content.getvalue(), f"{name}.zip", "application/zip")


async def _file(visit: Visit, *, as_made: bool = True) -> CassetteFile:
    """Return the whole session as `noukai session pull` writes it, or as the service ran it."""
    session_id = visit.path["session_id"]
    sessions = await load_session(visit, session_id)
    exchange = await visit.api.exchange(session_id)

    def redact() -> CassetteFile:
        loaded = with_ancestors(sessions, as_made=as_made)
        return redacted_file(file_of(loaded, exchange), Redactor(), f"{session_id}.jsonl")

    try:
        return await asyncio.to_thread(redact)
    except CassetteError as error:
        raise PageError(
            409, f"This session cannot be written to a file: {error.message}."
        ) from error


def _download(content: bytes, name: str, media_type: str) -> Response:
    # Never opened in the place of a page: it is a file, whatever is in it.
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(content, media_type=media_type, headers=headers)
