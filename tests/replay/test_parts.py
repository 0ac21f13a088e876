"""Sessions of several organisations: flows of the same slug, and several clients in one scope."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from click.testing import CliRunner

from noukai_sdk import (
    AsyncNoukai,
    Noukai,
    NoukaiError,
    ReplayForbiddenError,
    ReplayLeftoverError,
    ReplayMissError,
    copy_scope,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.adapters import wsgi
from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware
from noukai_sdk.cli.session import session
from noukai_sdk.models.sessions import RecordedCall
from noukai_sdk.replay import verdicts
from tests.support.replays import SessionService, SyncSide, execution
from tests.support.servers import serve_app, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:concurrent execute calls")]


def run_of(number: int, flow: str, *, hosted: bool = False, **fields: Any) -> dict[str, Any]:
    """A run of a flow, with its organisation and project or as the hosted service sends it."""
    org, project, slug = flow.split("/")
    call = RecordedCall(org=org, project=project, slug=slug, request={"message": f"m{number}"})
    additions = {} if hosted else {"call": call.model_dump(by_alias=True)}
    return execution(number, slug=slug, **additions, **fields)


class Organisations:
    """A service whose keys read the runs of their own organisation: ``nk_a`` those of ``a``.

    Attributes:
        fetches: The key of each fetch of a session.
        puts: The key and the body of each PUT.
        forks: The session "fork", as each key can read it.
        refusal: The status for keys that can read no run of the session.
    """

    def __init__(self, *runs: tuple[str, dict[str, Any]]) -> None:
        self.runs = runs
        self.fetches: list[str] = []
        self.refusal = 403
        self.failures = 0
        self.forks: dict[str, Any] = {}
        self.total_calls: int | None = None
        self.puts: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        headers = dict(scope["headers"])
        status, response = self._respond(headers[b"authorization"].decode()[7:], scope, body)
        await anyio.sleep(0.02)
        start = {"type": "http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": json.dumps(response).encode()})

    def _respond(self, key: str, scope: Any, body: bytes) -> tuple[int, Any]:
        if scope["method"] == "PUT":
            self.puts.append((key, json.loads(body)))
            return 200, {}
        if scope["method"] != "GET":
            return 200, {"status": "completed", "result": "live", "executionId": "e"}
        self.fetches.append(key)
        if self.failures:
            self.failures -= 1
            return 500, {}
        if scope["path"].endswith("/fork"):
            return (200, self.forks[key]) if key in self.forks else (self.refusal, {})
        runs = [run for owner, run in self.runs if owner in (key, "both")]
        if not runs:
            return self.refusal, {"detail": "another organisation"}
        total = {} if self.total_calls is None else {"totalCalls": self.total_calls}
        return 200, {"sessionId": "s-1", "executions": runs, **total}


@pytest.fixture
def organisations() -> Iterator[Organisations]:
    """Calls of two clients, alternately, to flows of the same slug and one more."""
    service = Organisations(
        ("nk_a", run_of(0, "a/p/grade-3")),
        ("nk_b", run_of(1, "b/p/grade-3")),
        ("nk_a", run_of(2, "a/p/grade-3")),
        ("nk_b", run_of(3, "b/p/grade-3")),
        ("nk_b", run_of(4, "b/q/other")),
    )
    with serve_app(service, lifespan="off") as url:
        service.url = f"{url}/api/v1"  # type: ignore[attr-defined]  # its type is known here
        yield service


def client(kind: type, service: Any, key: str, **options: Any) -> Any:
    return kind(f"nk_{key}", base_url=service.url, org=key, project="p", max_retries=0, **options)


ALL = ["m0", "m1", "m2", "m3", "m4"]


def expected(*messages: str) -> list[str]:
    return [f"answer to {message}" for message in messages]


@pytest.mark.parametrize("hosted", [False, True], ids=["ours", "hosted"])
@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("kind", [Noukai, AsyncNoukai], ids=["sync", "async"])
async def test_each_client_replays_its_part_fetched_once_with_its_key(
    organisations: Organisations, kind: type, first: str, hosted: bool
) -> None:
    if hosted:
        for _, run in organisations.runs:
            run.pop("call")
    clients = {key: client(kind, organisations, key) for key in "ab"}
    calls = [("a", "grade-3"), ("b", "grade-3")] * 2 + [("b", "b/q/other")]
    if kind is Noukai:
        with trace_scope_sync(client=clients[first], replay_session_id="s-1") as scope:
            results = [
                clients[key].flow(slug).execute(message)
                for (key, slug), message in zip(calls, ALL, strict=True)
            ]
    else:
        async with trace_scope(client=clients[first], replay_session_id="s-1") as scope:
            results = await asyncio.gather(
                *(
                    clients[key].flow(slug).execute(message)
                    for (key, slug), message in zip(calls, ALL, strict=True)
                )
            )
    assert [result.result for result in results] == expected(*ALL)
    assert scope.report.summary() == "hits=5; misses=0; drift=0; leftovers=0"
    assert sorted(organisations.fetches) == ["nk_a", "nk_b"]


async def test_calls_in_threads_and_on_trio_wait_for_one_fetch(
    organisations: Organisations,
) -> None:
    a, b, sync_b = (
        client(AsyncNoukai, organisations, "a"),
        client(AsyncNoukai, organisations, "b"),
        client(Noukai, organisations, "b"),
    )

    async def main() -> None:
        async with trace_scope(client=a, replay_session_id="s-1") as scope:
            with ThreadPoolExecutor() as pool:
                threads = [
                    pool.submit(copy_scope(sync_b.flow("grade-3").execute), message)
                    for message in ("m1", "m3")
                ]
                results = []

                async def call(flow: Any, message: str) -> None:
                    results.append((await flow.execute(message)).result)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(call, b.flow("b/q/other"), "m4")
                    for message in ("m0", "m2"):
                        tasks.start_soon(call, a.flow("grade-3"), message)
                results += [
                    (await anyio.to_thread.run_sync(thread.result)).result for thread in threads
                ]
        assert sorted(results) == expected(*ALL)
        assert scope.report.clean
        await b.aclose()
        await a.aclose()

    await anyio.to_thread.run_sync(lambda: anyio.run(main, backend="trio"))
    assert sorted(organisations.fetches) == ["nk_a", "nk_b"]


async def test_part_that_a_key_may_not_read_is_a_miss_that_names_the_organisation(
    organisations: Organisations,
) -> None:
    a, c = client(Noukai, organisations, "a"), client(Noukai, organisations, "c")
    with trace_scope_sync(client=a, replay_session_id="s-1", on_miss="raise") as scope:
        with pytest.raises(ReplayMissError, match="calls of organisation 'c' could not be read"):
            c.flow("grade-3").execute("m1")
        with pytest.raises(ReplayMissError, match="another organisation"):
            c.flow("grade-3").execute("m1")
        for message in ("m0", "m2"):
            a.flow("grade-3").execute(message)
    assert len(scope.report.misses) == 2
    assert organisations.fetches == ["nk_a", "nk_c"]


async def test_part_that_fails_to_load_is_asked_for_again(organisations: Organisations) -> None:
    a, b = client(Noukai, organisations, "a"), client(Noukai, organisations, "b")
    with trace_scope_sync(client=a, replay_session_id="s-1", on_miss="live") as scope:
        organisations.failures = 1
        with pytest.raises(NoukaiError):
            b.flow("grade-3").execute("m1")
        assert b.flow("grade-3").execute("m1").result == expected("m1")[0]
    assert len(scope.report.hits) == 1
    assert organisations.fetches == ["nk_a", "nk_b", "nk_b"]


async def test_fork_of_two_clients_replays_whole(organisations: Organisations) -> None:
    """The second client made no live call, so it can't read the fork, only the fork's parent."""
    a, b = client(Noukai, organisations, "a"), client(Noukai, organisations, "b")

    def calls() -> list[Any]:
        pairs = ((a, "m0"), (b, "m1"), (a, "m2"))
        return [each.flow("grade-3").execute(message).result for each, message in pairs]

    served = [{"order": order, "index": order, "executionId": f"exec-{order}"} for order in (0, 1)]
    fork = {"sessionId": "fork", "executions": [run_of(2, "a/p/grade-3")]}
    organisations.forks["nk_a"] = {**fork, "parent": {"sessionId": "s-1", "served": served}}
    with trace_scope_sync(client=a, replay_session_id="fork") as scope:
        assert calls() == expected("m0", "m1", "m2")
    assert scope.report.summary() == "hits=3; misses=0; drift=0; leftovers=0"


async def test_keys_of_one_organisation_share_its_recordings(organisations: Organisations) -> None:
    organisations.runs = tuple(("both", run_of(n, "a/p/grade-3", hosted=True)) for n in range(2))
    a, b = client(Noukai, organisations, "a"), client(Noukai, organisations, "b")
    with trace_scope_sync(client=a, replay_session_id="s-1") as scope:
        results = [b.flow("grade-3").execute("m0"), a.flow("grade-3").execute("m1")]
    assert [result.result for result in results] == expected("m0", "m1")
    assert len(scope.report.hits) == 2


async def test_flow_of_another_organisation_is_a_miss_that_says_so(
    side: SyncSide, service: SessionService
) -> None:
    service.record(run_of(0, "acme/spelling/grade-3"), run_of(1, "acme/drafts/grade-3"))
    async with side.scope() as scope:
        for flow in ("acme/other/grade-3", "zeta/spelling/grade-3"):
            with pytest.raises(ReplayMissError) as caught:
                await side.execute("m0", slug=flow)
            assert "acme/drafts and acme/spelling" in caught.value.message
            assert flow.removesuffix("/grade-3") in caught.value.message
        # The same slug in two projects: each has its own.
        assert await side.ask("m1", slug="acme/drafts/grade-3") == expected("m1")
        assert await side.ask("m0", slug="acme/spelling/grade-3") == expected("m0")
    assert scope.report.summary() == "hits=2; misses=2; drift=0; leftovers=0"


async def test_session_that_tells_only_some_organisations_serves_no_other_one(
    side: SyncSide, service: SessionService
) -> None:
    service.record(
        run_of(0, "acme/p/grade-3", hosted=True),
        run_of(1, "zeta/p/grade-3"),
        run_of(2, "acme/p/grade-3"),
    )
    async with side.scope() as scope:
        assert await side.ask("m0", "m2", slug="acme/p/grade-3") == expected("m0", "m2")
        assert await side.ask("m1", slug="zeta/p/grade-3") == expected("m1")
        with pytest.raises(ReplayMissError):
            await side.execute("m1", slug="acme/p/grade-3")
    assert len(scope.report.hits) == 3


@pytest.mark.parametrize("kind", [Noukai, AsyncNoukai], ids=["sync", "async"])
@pytest.mark.parametrize("refusal", [403, 404])
async def test_session_that_the_middlewares_client_may_not_read_is_fetched_by_another(
    organisations: Organisations, kind: type, refusal: int
) -> None:
    organisations.refusal = refusal
    organisations.runs = organisations.runs[-1:]
    first, second = (client(kind, organisations, key) for key in "ab")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        flow = second.flow("b/q/other")
        result = flow.execute("m4")
        result = await result if kind is AsyncNoukai else result
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": result.result.encode()})

    async def get(clients: Any) -> httpx.Response:
        transport = httpx.ASGITransport(NoukaiTraceMiddleware(app, client=clients))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as caller:
            return await caller.get("/", headers={"X-Noukai-Replay": "s-1"})

    alone = await get(client(kind, organisations, "z"))
    assert alone.status_code == refusal
    both = await get([first, second])
    assert (both.status_code, both.text) == (200, "answer to m4")
    assert both.headers["X-Noukai-Replay-Report"] == "hits=1; misses=0; drift=0; leftovers=0"
    assert organisations.fetches == ["nk_z", "nk_a", "nk_b"]


async def test_clients_of_one_captured_request_are_known_to_each_other(
    organisations: Organisations,
) -> None:
    organisations.runs = organisations.runs[1:2]
    a, b = client(Noukai, organisations, "a", timeout=3), client(Noukai, organisations, "b")
    with pytest.raises(ReplayForbiddenError), trace_scope_sync(client=a, replay_session_id="s-1"):
        pass
    with trace_scope_sync(client=a):
        b.flow("grade-3").execute("x")
    with trace_scope_sync(client=a, replay_session_id="s-1") as scope:
        assert b.flow("grade-3").execute("m1").result == "answer to m1"
    assert scope.report.clean
    stranger = client(Noukai, organisations, "d")
    with (
        pytest.raises(ReplayForbiddenError),
        trace_scope_sync(client=stranger, replay_session_id="s-1"),
    ):
        pass


@pytest.mark.parametrize("kind", [Noukai, AsyncNoukai], ids=["wsgi", "asgi"])
@pytest.mark.parametrize(
    ("known", "total", "stream", "end", "finding"),
    [
        ("ab", None, False, "leftovers=3", "the recorded call 1 ('m4') was removed"),
        ("ab", None, True, "leftovers=3", "the recorded call 1 ('m4') was removed"),
        ("a", 5, False, "leftovers=3", "3 calls of other clients (another API key) were recorded"),
        ("a", 3, True, "leftovers=1", "1 call of another client (another API key) was recorded"),
        ("a", None, False, "leftovers=0", ""),
        ("ab", 2, False, "leftovers=0", ""),  # nothing is missing
        ("ac", None, True, "leftovers=0", ""),  # may not read the session
        ("ab", None, False, "leftovers=0; unread=1", ""),  # the fetch fails
        ("ab", None, True, "leftovers=0; unread=1", ""),
    ],
)
async def test_client_that_is_not_called_any_more_leaves_its_recordings(
    organisations: Organisations,
    kind: type,
    known: str,
    total: int | None,
    stream: bool,
    end: str,
    finding: str,
) -> None:
    organisations.total_calls = total
    clients = [client(kind, organisations, key) for key in known]
    flow = clients[0].flow("grade-3")
    fails = "unread" in end
    media = "text/event-stream" if stream else "text/plain"

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        parts = [(await flow.execute(message)).result.encode() for message in ("m0", "m2")]
        organisations.failures = int(fails)
        headers = [(b"content-type", media.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts if stream else [b"".join(parts)]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    def wsgi_app(environ: Any, start_response: Any) -> Any:
        parts = [flow.execute(message).result.encode() for message in ("m0", "m2")]
        organisations.failures = int(fails)
        start_response("200 OK", [("Content-Type", media)])
        return iter(parts) if stream else [b"".join(parts)]

    headers = {"X-Noukai-Replay": "s-1"}
    if kind is AsyncNoukai:
        transport = httpx.ASGITransport(NoukaiTraceMiddleware(asgi_app, client=clients))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as caller:
            response = await caller.get("/", headers=headers)
        for each in clients:
            await each.aclose()
    else:
        traced = httpx.WSGITransport(wsgi.NoukaiTraceMiddleware(wsgi_app, client=clients))
        with httpx.Client(transport=traced, base_url="http://app") as caller_in_thread:
            response = await anyio.to_thread.run_sync(
                lambda: caller_in_thread.get("/", headers=headers)
            )
    stored = verdicts.stored_report(response.headers["X-Noukai-Replay-Id"])
    assert stored is not None
    is_clean = end == "leftovers=0"
    assert (stored.verdict, stored.summary) == (
        "clean" if is_clean else "failed",
        f"hits=2; misses=0; drift=0; {end}",
    )
    assert finding in " ".join(each["text"] for each in stored.report["findings"])
    if not stream:
        assert response.headers["X-Noukai-Replay-Report"] == stored.summary
        assert response.status_code == (200 if is_clean or fails else 500)
    assert response.text == "answer to m0answer to m2" or response.status_code == 500
    asks = total is None or (known == "ab" and total > 2)
    assert organisations.fetches == [f"nk_{key}" for key in (known if asks else "a")]


@pytest.mark.parametrize("kind", [Noukai, AsyncNoukai], ids=["sync", "async"])
async def test_scope_fetches_the_calls_of_a_client_that_it_does_not_use(
    organisations: Organisations, kind: type
) -> None:
    a, b = client(kind, organisations, "a"), client(kind, organisations, "b")
    clients = {"a": a, "b": b}

    async def run(calls: str, **options: Any) -> Any:
        if kind is Noukai:
            with trace_scope_sync(client=a, **options) as scope:
                for key in calls:
                    clients[key].flow("grade-3").execute("m")
        else:
            async with trace_scope(client=a, **options) as scope:
                for key in calls:
                    await clients[key].flow("grade-3").execute("m")
        return scope

    alone = await run("aa")
    captured = await run("abab")
    await anyio.to_thread.run_sync(lambda: wait_until(lambda: len(organisations.puts) == 2))
    # To each organisation, and nothing else of the other one. One client costs nothing.
    told = {"outcomes": None, "parent": None, "totalCalls": 4}
    assert sorted(organisations.puts, key=str) == [("nk_a", told), ("nk_b", told)]
    assert alone.session_id != captured.session_id
    for calls in ("aa", ""):
        with pytest.raises(ReplayLeftoverError, match="other #1"):
            await run(calls, replay_session_id="s-1")
    assert organisations.fetches == ["nk_a", "nk_b"] * 2
    fork = await run("aa", replay_session_id="s-1", on_miss="live")
    assert fork.report.live == []
    assert organisations.fetches[4:] == ["nk_a"]
    if kind is AsyncNoukai:
        await a.aclose()
        await b.aclose()


async def test_client_that_stores_the_request_is_told_of_the_calls_of_another(
    organisations: Organisations,
) -> None:
    a, b = client(AsyncNoukai, organisations, "a"), client(AsyncNoukai, organisations, "b")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in ("m1", "m3"):
            await b.flow("grade-3").execute(message)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    traced = NoukaiTraceMiddleware(app, client=a, capture_requests=True)
    transport = httpx.ASGITransport(traced)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as caller:
        await caller.get("/")
    await anyio.to_thread.run_sync(lambda: wait_until(lambda: len(organisations.puts) == 2))
    assert [
        (key, body.get("totalCalls")) for key, body in organisations.puts if "outcomes" in body
    ] == [("nk_a", 2)]
    await a.aclose()
    await b.aclose()


async def test_pulled_cassette_knows_of_the_calls_that_it_lacks(
    organisations: Organisations, tmp_path: Path
) -> None:
    organisations.total_calls = 5
    path = tmp_path / "pulled.jsonl"
    options = ["pull", "s-1", "-o", str(path), "--base-url", organisations.url]  # type: ignore[attr-defined]  # its type is known here
    pulled = await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(session, options, env={"NOUKAI_API_KEY": "nk_a"})
    )
    assert pulled.exit_code == 0, pulled.output
    assert "3 calls with other API keys are not in the file" in pulled.output
    a = client(Noukai, organisations, "a")

    def replay() -> None:
        with trace_scope_sync(cassette=path):
            for message in ("m0", "m2"):
                a.flow("grade-3").execute(message)

    with pytest.raises(ReplayLeftoverError) as caught:
        replay()
    assert len(caught.value.leftovers) == 3
