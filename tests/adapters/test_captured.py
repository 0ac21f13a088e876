"""``capture_requests``: requests and responses are stored with their session, without secrets."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from noukai_sdk import AsyncNoukai, CapturedRequestError, Noukai, trace_scope_sync
from noukai_sdk.adapters import CaptureRequests, captured, redacted_bodies
from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware as AsgiMiddleware
from noukai_sdk.adapters.starlette import NoukaiTraceMiddleware as StarletteMiddleware
from noukai_sdk.adapters.starlette import instrument
from noukai_sdk.adapters.wsgi import NoukaiTraceMiddleware as WsgiMiddleware
from noukai_sdk.models.exchanges import Exchange
from noukai_sdk.replay.cassette_file import read_cassette
from noukai_sdk.replay.resending import sent_again
from noukai_sdk.replay.response_diff import ReceivedResponse, compare_responses
from noukai_sdk.transport import background
from tests.support import asgi_driver, wsgi_driver
from tests.support.service import DONE, Reply, Request, Service

SECRET = "hunter2-and-more"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MB = 1_000_000


@pytest.fixture(autouse=True)
def fresh_sender(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(background, "IDLE", 0.05)
    monkeypatch.setattr(background, "_current", None)
    yield
    background.flush(10)


class Store:
    """What the service was sent for each session."""

    def __init__(self, service: Service) -> None:
        self.raw: list[bytes] = []
        self.taken = True
        self.refused: str | None = None  # the key that may not write the sessions
        self.session: dict[str, Any] = {}
        self.requests = service.requests
        service.replies = [self]
        service.requests.clear()

    def __call__(self, request: Request) -> Reply:
        if not request.path.endswith("/exchange"):
            return Reply(self.session if request.method == "GET" else DONE)
        if self.refused is not None and self.refused in request.headers["authorization"]:
            return Reply({"detail": {"code": "SESSION_FORBIDDEN", "message": "not yours"}}, 403)
        self.raw.append(request.raw)
        return Reply({}, 200 if self.taken else 404)

    @property
    def exchanges(self) -> list[Exchange]:
        assert background.flush(10)
        return [Exchange.model_validate_json(raw) for raw in self.raw]

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]


@pytest.fixture
def sync_noukai(store: Store) -> Iterator[Noukai]:
    with Noukai(org="acme", project="spelling") as client:
        yield client


@pytest.fixture
async def noukai(store: Store) -> AsyncIterator[AsyncNoukai]:
    async with AsyncNoukai(org="acme", project="spelling") as client:
        yield client


@pytest.fixture
def store(service: tuple[Service, str], use_service: Callable[[str], None]) -> Store:
    running, url = service
    use_service(f"{url}/api/v1")
    return Store(running)


class Reading:
    """An application of both kinds: it reads its body and responds with ``answer`` of it."""

    def __init__(
        self,
        answer: Callable[[bytes], bytes | list[bytes]] = lambda body: b"ok",
        *,
        headers: tuple[tuple[str, str], ...] = (("content-type", "text/plain"),),
        status: int = 200,
        reads: bool = True,
    ) -> None:
        self.answer, self.headers, self.status, self.reads = answer, headers, status, reads

    def parts(self, body: bytes) -> list[bytes]:
        answer = self.answer(body)
        return answer if isinstance(answer, list) else [answer]

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = self.reads
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(name.encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        *parts, last = self.parts(body)
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last})

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read() if self.reads else b""
        start_response(f"{self.status} Fine", list(self.headers))
        return (part for part in self.parts(body))


class Side:
    """Runs one request through an application of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(
        self,
        app: Reading,
        body: bytes | list[bytes] = b"",
        *,
        method: str = "POST",
        target: str = "/a",
        headers: tuple[tuple[str, str], ...] = (),
        capture: Any = True,
        client: Any = None,
    ) -> bytes:
        chunks = body if isinstance(body, list) else [body]
        path, _, query = target.partition("?")
        client = client or (AsyncNoukai if self.kind == "asgi" else Noukai)(org="acme", project="a")
        if self.kind == "asgi":
            scope = asgi_driver.http_scope(path, method=method)
            scope["query_string"] = query.encode()
            scope["path"] = httpx.URL(f"http://a{path}").path
            scope["headers"] += [(name.lower().encode(), value.encode()) for name, value in headers]
            incoming = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
            incoming[-1]["more_body"] = False
            wrapped = AsgiMiddleware(app.asgi, client=client, capture_requests=capture)
            return anyio.run(asgi_driver.Connection(wrapped, scope, incoming).run).body
        exchange = wsgi_driver.Exchange(
            WsgiMiddleware(app.wsgi, client=client, capture_requests=capture), method=method
        )
        exchange.environ |= {
            "wsgi.input": io.BytesIO(b"".join(chunks)),
            "wsgi.url_scheme": "http",
            "HTTP_HOST": "test",
            "QUERY_STRING": query,
            "RAW_URI": target,
            "CONTENT_LENGTH": str(sum(map(len, chunks))),
        }
        for name, value in headers:
            key = name.upper().replace("-", "_")
            exchange.environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
        return exchange.run().body


@pytest.fixture(params=["asgi", "wsgi"])
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


def typed(kind: str) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", kind),)


def test_request_and_response_are_stored_with_the_session(side: Side, store: Store) -> None:
    app = Reading(lambda body: [b'{"got": ', body, b"}"], headers=typed(JSON), status=201)
    headers = (*typed(JSON), ("Accept", "*/*"), ("User-Agent", "x"), ("X-Tenant", "acme"))
    body = '{"text": "Zoë"}'.encode()
    assert side(app, body, target="/a%20b/%C3%A9?q=a+b&q=%2F", headers=headers) == (
        b'{"got": ' + body + b"}"
    )
    exchange = store.last
    request, response = exchange.request, exchange.response
    assert (request.method, request.origin) == ("POST", "http://test")
    assert request.target == "/a%20b/%C3%A9?q=a+b&q=%2F"
    assert sorted(request.headers) == [("accept", "*/*"), ("content-type", JSON)]
    assert request.body is not None
    assert (request.body.content, request.body.size, request.body.complete) == (body, 16, True)
    assert request.redacted == ()
    assert (response.status, response.headers) == (201, (("content-type", JSON),))
    assert response.body is not None
    assert json.loads(response.body.text) == {"got": {"text": "Zoë"}}
    assert exchange.started_at is not None
    assert exchange.started_at <= (exchange.completed_at or "")
    [put] = [each for each in store.requests if each.method == "PUT"]
    assert put.path.endswith("/exchange")

    again = sent_again(exchange)
    assert (again.content, again.target, again.masked) == (body, request.target, ())
    received = ReceivedResponse(201, typed(JSON), b'{"got":{"text":"Zo\xc3\xab"}}')
    assert compare_responses(response, received) == []


def test_nothing_is_stored_by_default(side: Side, store: Store) -> None:
    side(Reading(), b"x", capture=False)
    assert store.exchanges == []


def test_service_that_takes_no_exchanges_is_asked_once(side: Side, store: Store) -> None:
    store.taken = False
    for _ in range(3):
        side(Reading(), b"x")
        assert background.flush(10)
    assert len(store.raw) == 1


def test_exchange_of_a_session_of_another_organisation_is_sent_with_its_key(store: Store) -> None:
    store.refused = "nk_acme"
    with Noukai(api_key="nk_acme") as first, Noukai(api_key="nk_globex") as other:
        flow = other.flow("globex/spelling/grade-3")
        app = Reading(lambda body: str(flow.execute(message="m").result).encode())
        Side("wsgi")(app, client=first)
        [exchange] = store.exchanges
    assert exchange.response.status == 200


NDJSON, SSE = "application/x-ndjson", "text/event-stream"
FIELD = f'{{"credentials": {{"x": ["{SECRET}"]}}}}'
# § stands for the secret.
HIDDEN: dict[str, tuple[str | bytes, str]] = {
    "JSON field": ('{"a": [{"dbPassword": "§"}]}', JSON),
    "JSON below a secret field": (FIELD, JSON),
    "JSON without its type": ('{"password": "§"}', FORM),
    "JSON with a repeated name": ('{"credentials": {"a": "§"}, "credentials": null}', JSON),
    "JSON with NaN and half a surrogate": ('{"n": NaN, "s": "\\ud800", "pin": "§"}', JSON),
    "JSON in a string": (json.dumps({"x": FIELD}), JSON),
    "JSON with a byte order mark": (f"\ufeff{FIELD}", JSON),
    "JSON in UTF-16": (FIELD.encode("utf-16"), JSON),
    "JSON in Latin-1": (f'["é", {FIELD}]'.encode("latin-1"), f"{JSON}; charset=latin-1"),
    "JSON with a wrong charset": (f'[{FIELD}, "ÿÿ"]'.encode("latin-1"), f"{JSON}; charset=utf-16"),
    "JSON lines": (f'{{"a": 1}}\n{FIELD}\n', NDJSON),
    "JSON that is not valid": (f"{FIELD} {FIELD[:-9]}", JSON),
    "JSON in a string that is not valid": (json.dumps([FIELD, "a" * 40])[:-30], JSON),
    "JSON nested deeply": ("[" * 100_000 + FIELD + "]" * 100_000, JSON),
    "events": (f"event: x\ndata: {FIELD}\n\n", SSE),
    "an event of several lines": ('data: {"credentials":\ndata: ["§"]}\n\n', SSE),
    "form": ("a=1&user%5Bpassword%5D=§&b=2", FORM),
    "form without its type": ("a=1&pin=§", "text/plain"),
    "text": ("login with password=§ please", "text/plain"),
    "GraphQL": (json.dumps({"query": f'mutation {{ login(password: "{SECRET}") }}'}), JSON),
    "XML": ("<a><ns:password>§</ns:password></a>", "text/xml"),
    "HTML": ('<input type="hidden" name="csrf_token" value="§">', "text/html"),
    "no UTF-8": (b'\xff{"password": "%s"}' % SECRET.encode(), JSON),
    "MessagePack": (b"\x81\xa8password\xb0" + SECRET.encode(), "application/msgpack"),
    "a compressed file": (gzip.compress(SECRET.encode()), "application/gzip"),
}


@pytest.mark.parametrize(("body", "kind"), HIDDEN.values(), ids=HIDDEN)
def test_secret_fields_leave_in_no_body(
    side: Side, store: Store, body: str | bytes, kind: str
) -> None:
    body = body.replace("§", SECRET).encode() if isinstance(body, str) else body
    assert side(Reading(lambda body: body, headers=typed(kind)), body, headers=typed(kind)) == body
    sent = store.last
    for part in (sent.request.body, sent.response.body):
        assert part is not None
        for encoding in ("utf-8", "utf-16"):
            assert SECRET not in part.content.decode(encoding, "replace")
        assert part.size == len(body)
    assert [name for name in sent.request.redacted if name.startswith("body")], sent.request
    assert SECRET.encode() not in store.raw[-1]
    assert base64.b64encode(SECRET.encode())[:-4] not in store.raw[-1]


@pytest.mark.parametrize(
    "coding", ["gzip", "deflate", "raw deflate", "br", "gzip, gzip", "damaged"]
)
def test_compressed_bodies_are_searched_or_left_out(side: Side, store: Store, coding: str) -> None:
    plain = b'{"credentials": ["%s"], "n": 1}' % SECRET.encode()
    raw = zlib.compressobj(wbits=-15)
    body = {
        "gzip": gzip.compress(plain),
        "deflate": zlib.compress(plain),
        "raw deflate": raw.compress(plain) + raw.flush(),
        "gzip, gzip": gzip.compress(gzip.compress(plain)),
    }.get(coding, plain)
    name = {"raw deflate": "deflate", "damaged": "gzip"}.get(coding, coding)
    headers = (*typed(JSON), ("Content-Encoding", name))
    side(Reading(lambda body: body, headers=headers), body, headers=headers)
    for part in (store.last.request, store.last.response):
        assert part.body is not None
        if coding in ("br", "damaged"):
            assert (part.body.text, part.body.truncated) == ("", True)
        else:
            assert json.loads(part.body.text) == {"credentials": "[redacted]", "n": 1}
        assert part.headers == (("content-type", JSON),)
    if coding == "br":
        assert store.last.request.redacted == ("body",)


def test_credentials_leave_in_no_header_url_or_echo(side: Side, store: Store) -> None:
    basic = base64.b64encode(f"ada:{SECRET}-1".encode()).decode()
    headers = (
        *typed("text/plain"),
        ("Authorization", f"Basic {basic}"),
        ("Proxy-Authorization", "Custom opaque-value-17"),
        ("Cookie", "lang=en; sid=abcdef%2Babcdef"),
        ("X-Api-Key", "an-opaque-key"),
        ("X-Auth-Request-Access-Token", "an-opaque-token"),
        ("X-Tenant", "acme"),
        ("Accept-Language", "sk-live-0123456789abcdef"),
    )
    echo = (
        f"{basic} {SECRET}-1 opaque-value-17 abcdef+abcdef an-opaque-key an-opaque-token a%2Fb%2Fc%2Fd "
        "a&lt;b&#34;c&#39;d a<b\\\"c'd"
    )
    app = Reading(
        lambda _: echo.encode(),
        headers=(
            *typed("text/plain"),
            ("Set-Cookie", "session=zyxwvu; Path=/"),
            ("Location", f"/next?token=a-third-secret&x={SECRET}-1"),
            ("X-Tenant", "zyxwvu"),
        ),
    )
    asked = ["X-Tenant", "authorization", "Cookie", "X-API-Key", "set-cookie"]
    side(app, b"x", target="/a?token=a/b/c/d&pwd=a%3Cb%22c%27d&q=1", headers=headers, capture=asked)
    sent = store.last
    assert sent.request.query == "token=%5Bredacted%5D&pwd=%5Bredacted%5D&q=1"
    assert ("x-tenant", "acme") in sent.request.headers
    assert ("x-tenant", "[redacted]") in sent.response.headers
    assert {
        "header authorization",
        "header cookie",
        "header x-api-key",
        "header accept-language",
        "query token",
    } <= set(sent.request.redacted)
    raw = store.raw[-1].decode()
    for text in (*echo.split(), "zyxwvu", "a-third-secret", "a/b/c/d", "sk-live", "a<b"):
        assert text not in raw


def test_value_of_a_cookie_is_masked_in_the_response_and_kept_in_other_fields(
    side: Side, store: Store
) -> None:
    body = b'{"tenant": "acme-corp", "sid": "abc123def"}'
    headers = (*typed(JSON), ("Cookie", "tenant=acme-corp; sid=abc123def"))
    side(Reading(lambda body: body, headers=typed(JSON)), body, headers=headers)
    request, response = store.last.request.body, store.last.response.body
    assert request is not None
    assert response is not None
    assert json.loads(request.text) == {"tenant": "acme-corp", "sid": "[redacted]"}
    assert json.loads(response.text) == {"tenant": "[redacted]", "sid": "[redacted]"}


def test_many_secrets_and_escapes_stay_within_what_the_service_takes(
    side: Side, store: Store
) -> None:
    form = b"&".join(b"password=%d-secret" % number for number in range(50_000))
    side(Reading(lambda body: b'"\n' * 500_000), form, headers=typed(FORM))
    assert store.last.response.body is not None
    assert store.last.response.body.truncated
    assert b"-secret" not in store.raw[-1]
    assert len(store.raw[-1]) < 4 * MB


def test_multipart_keeps_files_and_masks_fields(side: Side, store: Store) -> None:
    files = {
        "file": ("a.png", b"\x89PNG\r\n\x1a\n\x00", "image/png"),
        "json": ("a.json", json.dumps({"credentials": [SECRET]}).encode(), JSON),
        "zip": ("a.gz", gzip.compress(SECRET.encode()), "application/gzip"),
    }
    built = httpx.Request("POST", "http://a", data={"text": "hi", "user[pin]": SECRET}, files=files)
    kind = built.headers["content-type"]
    side(Reading(), built.read(), headers=typed(kind))
    request = store.last.request
    assert request.body is not None
    assert SECRET.encode() not in request.body.content
    assert request.redacted == ("body user[pin]", "body json", "body zip")
    assert b"\r\n\r\nhi\r\n" in request.body.content
    assert files["file"][1] in request.body.content
    assert request.body.content.endswith(built.read()[-40:])
    # The rest can be sent again.
    assert sent_again(store.last).content == request.body.content


def test_secret_in_two_chunks_is_found(side: Side, store: Store) -> None:
    chunks = [b'{"t": "Bearer abc1', b'23def456", "pass', b'word": "hun', b'ter2-and-more"}']
    side(Reading(lambda _: chunks, headers=typed(JSON)), chunks, headers=typed(JSON))
    for part in (store.last.request.body, store.last.response.body):
        assert part is not None
        assert json.loads(part.text) == {"t": "[redacted]", "password": "[redacted]"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b'["' + b"x y " * 4_980 + b'", {"auth": ["hunter2-and-more"' + b', "xy"' * 9),
        (JSON, b'["' + b"x y " * 4_990 + b'", "nk_' + b"abcdef" * 20 + b'"]'),
        (FORM, b"a=" + b"x" * 19_970 + b"&password=" + SECRET.encode() * 4),
        ("text/plain", b"x y " * 4_990 + "é".encode() * 17 + b" nk_" + b"abcdef" * 90),
    ],
)
def test_long_body_is_cut_before_a_secret(
    side: Side, store: Store, monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes
) -> None:
    for module in (captured, redacted_bodies):
        monkeypatch.setattr(module, "LIMIT", 20_000)
    side(Reading(lambda body: [body, b"!"], headers=typed(kind)), body, headers=typed(kind))
    for part in (store.last.request.body, store.last.response.body):
        assert part is not None
        assert part.truncated
        assert 15_000 < len(part.text) <= 20_000
        for secret in (SECRET, "nk_abc", "abcdef"):
            assert secret not in part.text
    received = ReceivedResponse(200, typed(kind), body + b"!")
    if b"abcdef" not in body:
        found = compare_responses(store.last.response, received)
        assert [each.where for each in found] in ([], ["body"])
    with pytest.raises(CapturedRequestError, match="only the first part"):
        sent_again(store.last)


def test_memory_of_a_large_upload_and_download_is_bounded(side: Side, store: Store) -> None:
    megabyte = b"\x00" * MB

    class Endless(io.RawIOBase):
        left = 100

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return megabyte if self.left >= 0 else b""

    def parts() -> Iterator[bytes]:
        yield from (megabyte for _ in range(100))

    def wsgi(environ: Any, start_response: Any) -> Any:
        while environ["wsgi.input"].read(MB):
            pass
        start_response("200 OK", [("content-type", "image/png")])
        return parts()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        headers = [(b"content-type", b"image/png")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def drop(message: Any) -> None:
        pass

    tracemalloc.start()
    try:
        if side.kind == "asgi":
            left = [100]

            async def receive() -> Any:
                left[0] -= 1
                return {"type": "http.request", "body": megabyte, "more_body": left[0] > 0}

            client = AsyncNoukai(org="acme", project="a")
            app = AsgiMiddleware(asgi, client=client, capture_requests=True)
            anyio.run(app, asgi_driver.http_scope("/"), receive, drop)
        else:
            environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "wsgi.input": Endless()}
            sync_client = Noukai(org="acme", project="a")
            wsgi_app = WsgiMiddleware(wsgi, client=sync_client, capture_requests=True)
            body = wsgi_app(environ, lambda *_: lambda _: None)
            for _ in body:
                pass
            body.close()  # type: ignore[attr-defined]  # its type is known here
        assert tracemalloc.get_traced_memory()[1] < 40 * MB
    finally:
        tracemalloc.stop()
    for part in (store.last.request.body, store.last.response.body):
        assert part is not None
        assert (part.size, part.truncated) == (100 * MB, True)
        assert 990_000 < len(part.content) <= MB


def test_body_that_is_not_read_is_not_captured(side: Side, store: Store) -> None:
    side(Reading(reads=False), b"unread", headers=typed(JSON))
    assert store.last.request.body is None
    assert sent_again(store.last).content is None


def test_application_that_fails_is_captured(side: Side, store: Store) -> None:
    def fail(_: bytes) -> bytes:
        raise KeyError("mine")

    app = Reading(fail)
    if side.kind == "asgi":
        app.status = 200
    with pytest.raises(KeyError):
        side(app, b"x")
    response = store.last.response
    assert response.status in (None, 200)
    assert response.body is None or not response.body.complete


async def test_asgi_client_that_leaves_makes_bodies_incomplete(
    store: Store, noukai: AsyncNoukai
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part \n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})  # as BaseHTTPMiddleware does
        raise OSError("the client has left")

    incoming = [
        {"type": "http.request", "body": b"half of it", "more_body": True},
        {"type": "http.disconnect"},
    ]
    wrapped = AsgiMiddleware(app, client=noukai, capture_requests=True)
    with pytest.raises(OSError, match="left"):
        await asgi_driver.Connection(wrapped, asgi_driver.http_scope("/"), incoming).run()
    sent = store.last
    assert sent.request.body is not None
    assert sent.response.body is not None
    assert (sent.request.body.text, sent.request.body.complete) == ("half of ", False)
    assert (sent.response.body.text, sent.response.body.complete) == ("part \n", False)
    assert sent.client_left
    with pytest.raises(CapturedRequestError, match="only the first 10 bytes"):
        sent_again(sent)


async def test_asgi_mounted_paths_files_and_websocket_handshakes(
    store: Store, noukai: AsyncNoukai, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"from a file")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept", "headers": []})
            await send({"type": "websocket.send", "text": "secret talk"})
            await receive()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(tmp_path / "a.txt")})

    wrapped = AsgiMiddleware(app, client=noukai, capture_requests=True)
    scope = asgi_driver.http_scope("/users/ada lovelace")
    scope |= {"root_path": "/api", "headers": [(b"host", b"user:pw@bad host")]}
    del scope["raw_path"]
    await asgi_driver.Connection(wrapped, scope).run()
    assert store.last.request.path == "/api/users/ada%20lovelace"
    assert store.last.request.origin == "http://test:80"
    assert store.last.response.body is not None
    assert store.last.response.body.text == "from a file"

    messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    await asgi_driver.Connection(wrapped, asgi_driver.websocket_scope("/w"), messages).run()
    sent = store.last
    assert (sent.request.origin, sent.request.method) == ("ws://test", "GET")
    assert (sent.response.status, sent.response.body) == (101, None)
    with pytest.raises(CapturedRequestError, match="websocket"):
        sent_again(sent)
    assert b"talk" not in store.raw[-1]


@pytest.mark.parametrize("how", ["add_middleware", "instrument"])
@pytest.mark.parametrize("handled", [False, True])
async def test_starlette_unhandled_exception_is_captured_with_its_response(
    store: Store, noukai: AsyncNoukai, how: str, handled: bool
) -> None:
    async def boom(request: Any) -> Any:
        raise KeyError(await request.body())

    async def unavailable(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"sorry": "later"}, 503)

    handlers: Any = {Exception: unavailable} if handled else {}
    app = Starlette(routes=[Route("/boom", boom, methods=["POST"])], exception_handlers=handlers)
    if how == "instrument":
        instrument(app, client=noukai, capture_requests=True)
    else:
        app.add_middleware(StarletteMiddleware, client=noukai, capture_requests=True)
    connection = asgi_driver.Connection(app, asgi_driver.http_scope("/boom", method="POST"))
    connection.incoming = [{"type": "http.request", "body": b"x"}]
    with pytest.raises(KeyError):
        await connection.run()
    response = store.last.response
    assert response.body is not None
    assert response.status == connection.status == (503 if handled else 500)
    assert response.body.content == connection.body
    assert response.body.complete


def test_wsgi_files_lists_and_writes_pass_as_they_are(store: Store, sync_noukai: Noukai) -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    listed = [b"a", b"b"]

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/file":
            start_response("200 OK", [])
            return environ["wsgi.file_wrapper"](file)
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/write":
            write(b"by write")
            return iter([b", and more"])
        return listed

    wrapped = WsgiMiddleware(app, client=sync_noukai, capture_requests=True)
    seen = {}
    for path, kind in (("/file", wsgi_driver.FileWrapper), ("/list", list), ("/write", object)):
        exchange = wsgi_driver.Exchange(wrapped)
        exchange.environ["PATH_INFO"] = path
        assert isinstance(exchange.call().result, kind)
        exchange.written += exchange.result
        exchange.close()
        captured = store.last.response.body
        assert captured is not None
        assert (captured.content, captured.complete) == (exchange.body, True)
        seen[path] = exchange.body
    assert seen == {"/file": b"456789", "/list": b"ab", "/write": b"by write, and more"}


def test_wsgi_input_reads_as_before(store: Store, sync_noukai: Noukai) -> None:
    lines = b"one\ntwo\nthree\nfour\nfive"

    def app(environ: Any, start_response: Any) -> Any:
        stream = environ["wsgi.input"]
        got = [stream.readline(), next(iter(stream)), *stream.readlines(5)]
        stream.seek(0)
        got.append(stream.read(3))
        buffer = bytearray(20)
        count = stream.readinto(buffer)
        got += [bytes(buffer[:count]), stream.read(), str(stream.tell()).encode()]
        start_response("200 OK", [])
        return [b"|".join(got)]

    exchange = wsgi_driver.Exchange(
        WsgiMiddleware(app, client=sync_noukai, capture_requests=True), method="POST"
    )
    exchange.environ["wsgi.input"] = io.BytesIO(lines)
    exchange.environ["CONTENT_LENGTH"] = str(len(lines))
    expected = b"one\n|two\n|three\n|one|\ntwo\nthree\nfour\nfive"[:41]
    assert exchange.run().body.startswith(expected[:20])
    assert store.last.request.body is not None
    assert store.last.request.body.content == lines
    assert store.last.request.body.complete


def test_options_mask_personal_data_and_call_the_hook(side: Side, store: Store) -> None:
    def redact(exchange: dict[str, Any]) -> dict[str, Any] | None:
        if exchange["request"]["path"] == "/health":
            return None
        exchange["request"]["body"]["text"] = exchange["request"]["body"]["text"].upper()
        return exchange

    options = CaptureRequests(headers=["X-Tenant"], redact_pii=True, redact=redact)
    app = Reading()
    side(app, b"mail ada@example.org", capture=options, target="/a?mail=ada%40example.org")
    assert store.last.request.body is not None
    assert store.last.request.body.text == "MAIL [REDACTED]"
    assert store.last.request.query == "mail=%5Bredacted%5D"
    side(app, b"x", capture=options, target="/health")
    assert len(store.exchanges) == 1


def test_hook_that_fails_sends_nothing_and_disturbs_nobody(
    side: Side, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "noukai_sdk")
    options = CaptureRequests(redact=lambda exchange: exchange["nope"])
    assert side(Reading(), b"x", capture=options) == b"ok"
    assert store.exchanges == []
    assert "nope" in caplog.text


@pytest.mark.parametrize("bad", ["x-tenant", 1, [1], CaptureRequests])
def test_option_that_is_not_understood_is_an_error(side: Side, store: Store, bad: Any) -> None:
    with pytest.raises(TypeError, match="headers"):
        side(Reading(), capture=bad)


def test_recorded_file_gets_the_exchange(side: Side, store: Store, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer.jsonl", tmp_path / "inner.jsonl"

    def answer(body: bytes) -> bytes:
        with trace_scope_sync(record=inner):
            return b'{"email": "ada@example.org"}'

    app = Reading(answer, headers=typed(JSON))
    side(app, b"one", headers=typed("text/plain"))
    exchange = read_cassette(inner).exchange
    assert exchange is not None
    assert exchange.request.body is not None
    assert exchange.request.body.text == "one"
    assert len(store.exchanges) == 1

    # The scope of a test, in which the application runs.
    paths = ["exchange.response.body.email", "exchange.request.query"]
    with trace_scope_sync(record=outer, redact_paths=paths):
        if side.kind == "wsgi":
            side(app, b"two", target="/a?q=1")
            side(app, b"three")
        else:
            anyio.run(_two_requests, app)
    kept = read_cassette(outer).exchange
    assert kept is not None
    assert kept.request.body is not None
    assert kept.response.body is not None
    assert (kept.request.body.text, kept.request.query) == ("two", "[redacted]")
    assert json.loads(kept.response.body.text) == {"email": "[redacted]"}
    assert len(store.exchanges) == 1


async def _two_requests(app: Reading) -> None:
    wrapped = AsgiMiddleware(
        app.asgi, client=AsyncNoukai(org="acme", project="a"), capture_requests=True
    )
    for body in (b"two", b"three"):
        scope = asgi_driver.http_scope("/a")
        scope["query_string"] = b"q=1"
        incoming = [{"type": "http.request", "body": body}]
        await asgi_driver.Connection(wrapped, scope, incoming).run()


@pytest.mark.parametrize("parts", [[b"whole"], [b"a ", b"b ", b"c "]])
def test_replayed_request_is_captured_only_as_a_fork(
    side: Side, store: Store, replay_enabled: None, parts: list[bytes]
) -> None:
    store.session = {"sessionId": "s-1", "executions": []}
    app = Reading(lambda _: parts)
    for header, count in (("s-1", 0), ("s-1;live-from=0", 1)):
        headers = (*typed("text/plain"), ("X-Noukai-Replay", header))
        assert side(app, b"sent", headers=headers) == b"".join(parts)
        assert len(store.exchanges) == count
    request, response = store.last.request.body, store.last.response.body
    assert request is not None
    assert response is not None
    assert (request.text, response.content) == ("sent", b"".join(parts))
    [put] = [each for each in store.requests if each.method == "PUT" and "exchange" in each.path]
    assert "/s-1/" not in put.path
