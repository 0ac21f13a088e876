"""Test which servers the page may send requests to, and that no other address is connected to."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from noukai_sdk.replaying.app_request import AppRequest
from noukai_sdk.replaying.sending import Limits, RequestSender
from noukai_sdk.replaying.targets import AllowedTargets, Origin, Target, TargetError
from tests.support.servers import serve_app

pytestmark = pytest.mark.anyio

NAMES = {
    "mine.test": ["127.0.0.1"],
    "mine6.test": ["::1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "outside.test": ["93.184.216.34"],
    "both.test": ["127.0.0.1", "93.184.216.34"],
    "cloud.test": ["169.254.169.254"],
    "intranet.test": ["10.1.2.3"],
    "any.test": ["0.0.0.0"],
    "any6.test": ["::"],
    "nat64.test": ["64:ff9b::7f00:1"],
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Resolve the names above; return those that were looked up."""
    asked: list[str] = []

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        asked.append(name)
        if name in NAMES:
            return [(0, 1, 6, "", (address, port)) for address in NAMES[name]]
        return real(host, port, *args, **options)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_targets_of_this_machine_are_allowed_and_all_others_refused(names: list[str]) -> None:
    allowed = AllowedTargets()
    for host in ("127.0.0.1", "127.9.9.9", "[::1]", "mine.test", "mine6.test", "mapped.test"):
        target = await allowed.check(f"http://{host}:8000")
        assert target.addresses == NAMES.get(host, [host.strip("[]")])
    assert "localhost" not in names
    for host in ("localhost", "LOCALHOST", "app.localhost"):
        assert (await allowed.check(f"http://{host}:8000/")).addresses == ["127.0.0.1", "::1"]
    refused = ["93.184.216.34", "169.254.169.254", "10.0.0.1", "0.0.0.0", "[::]", "[fe80::1]"]
    refused += [name for name in NAMES if not name.startswith("m")]
    for host in refused:
        with pytest.raises(TargetError, match=r"not allowed.*--replay-to"):
            await allowed.check(f"http://{host}:8000")
    with pytest.raises(TargetError, match="unknown"):
        await allowed.check("http://no-such-name.invalid")


async def test_urls_that_are_more_than_an_origin_are_refused() -> None:
    for url in (
        "",
        "localhost:8000",
        "ftp://localhost",
        "file:///etc/passwd",
        "http://",
        "http://localhost:0",
        "http://localhost:65536",
        "http://localhost:-1",
        "http://localhost:8000@outside.test",
        "http://user:key@localhost",
        "http://outside.test\\@localhost",
        "http://localhost#@outside.test",
        "http://localhost?x",
        "http://localhost/path",
        "http://local host",
        "http://localhost\r\nHost: a",
        "http://[::1%25lo]:8000",
        "http://[localhost]",
        "http://lоcalhost",  # a Cyrillic o  # noqa: RUF001
        "http://localhost.%61",
        "//localhost",
    ):
        with pytest.raises(TargetError, match="is not the address of a server"):
            await AllowedTargets().check(url)


async def test_configured_targets_are_allowed_by_scheme_host_and_port_alone(
    names: list[str],
) -> None:
    allowed = AllowedTargets([Origin.parse("http://intranet.test:8000")], loopback=False)
    target = await allowed.check("http://Intranet.test:8000")
    assert (str(target.origin), target.addresses) == ("http://intranet.test:8000", ["10.1.2.3"])
    for url in ("http://intranet.test", "https://intranet.test:8000", "http://localhost:8000"):
        with pytest.raises(TargetError, match=r"only to http://intranet.test:8000"):
            await allowed.check(url)
    with pytest.raises(TargetError, match="nowhere"):
        await AllowedTargets(loopback=False).check("http://localhost")


async def reports() -> list[Any]:
    return []


async def test_request_goes_to_the_checked_address_and_follows_no_redirect(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def elsewhere(request: Request) -> Response:
        seen.append(request.headers["host"])
        return RedirectResponse("http://outside.test/secret")

    app = Starlette(routes=[Route("/", elsewhere)])
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    with serve_app(app) as url:
        port = httpx.URL(url).port
        target = await AllowedTargets().check(f"http://mine.test:{port}")
        looked_up = list(names)
        monkeypatch.setitem(NAMES, "mine.test", ["93.184.216.34"])  # DNS rebinding
        request = AppRequest("GET", f"{target.origin}/", ())
        sender = RequestSender(request, stored_reports=reports, transport=target.transport)
        outcome = await sender.replay("s-1", lambda received: None, wait=0)
        assert (outcome.status, outcome.result) == (307, "not replayed")
        assert seen == [f"mine.test:{port}"]
        assert "mine.test" not in names[len(looked_up) :]
        # The next address is tried if nobody listens at the first one.
        both = Target(target.origin, ["127.0.0.2", "127.0.0.1"])
        sender = RequestSender(request, stored_reports=reports, transport=both.transport)
        assert (await sender.replay("s-1", lambda received: None, wait=0)).status == 307
        async with httpx.AsyncClient(transport=both.transport()) as client:
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.get(f"http://other.test:{port}")


async def test_limits_end_responses_that_are_too_long_or_take_too_long() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET /long"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
            writer.write(b"x" * 300_000)
        with suppress(ConnectionError):
            await reader.read()  # until the client gives up
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = await AllowedTargets().check(f"http://127.0.0.1:{port}")

    async def outcome_of(path: str, limits: Limits) -> Any:
        request = AppRequest("GET", f"{target.origin}{path}", ())
        sender = RequestSender(
            request, stored_reports=reports, transport=target.transport, limits=limits
        )
        return await sender.replay("s-1", lambda received: None, wait=0)

    async with server:
        [note] = (await outcome_of("/long", Limits(seconds=60, size=100_000))).notes
        assert "bytes of the response were read" in note
        with pytest.raises(Exception, match=r"no response within 0.2 seconds"):
            await outcome_of("/silent", Limits(seconds=0.2))
