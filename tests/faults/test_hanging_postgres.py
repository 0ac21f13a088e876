"""Postgres hangs or restarts: calls get 503 soon, and afterwards nothing is lost or doubled."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.support.postgres import PostgresServer
from tests.support.servers import Server, wait_until

from .cluster import FULL, STEPS, Cluster, long

# On a busy machine, the short form leaves more time.
DEADLINE = 5.0 if FULL else 10.0
UNAVAILABLE = (503, "STORE_UNAVAILABLE")
FLOW = "/seq/acme/faults/chain"


def routes(execution_id: str) -> list[tuple[str, str, Any]]:
    """Return a request of every route of the API that needs the database."""
    session = "/seq/sessions/s1"
    run = f"{FLOW}/runs/{execution_id}"
    body = {"message": "refused"}
    exchange = {"request": {"method": "GET", "path": "/"}, "response": {"status": 200}}
    return [
        ("POST", f"{FLOW}/execute", body),
        ("POST", f"{FLOW}/step", body),
        ("POST", f"{FLOW}/jobs", body),
        ("GET", f"{FLOW}/jobs/{execution_id}", None),
        ("DELETE", f"{FLOW}/jobs/{execution_id}", None),
        ("GET", f"{run}/trace", None),
        ("GET", f"{run}/trace/stream", None),
        ("GET", f"{run}/steps/one/trace", None),
        ("GET", "/seq/sessions", None),
        ("GET", session, None),
        ("DELETE", session, None),
        ("PUT", f"{session}/exchange", exchange),
        ("PUT", f"{session}/pin", None),
        ("GET", "/flows", None),
    ]


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["detail"]["code"]


class Caller:
    """Sends requests to one web process from threads, so that all of them are in progress at once."""

    def __init__(self, service: Cluster, server: Server) -> None:
        headers = {"Authorization": f"Bearer {service.key}"}
        client = httpx.Client(base_url=server.api, headers=headers)
        self._client = service.stack.enter_context(client)
        self._threads = service.stack.enter_context(ThreadPoolExecutor(64))

    def send(
        self, method: str, path: str, body: Any = None, timeout: float = DEADLINE, **headers: str
    ) -> Future[httpx.Response]:
        return self._threads.submit(
            self._client.request, method, path, json=body, headers=headers, timeout=timeout
        )

    def ended(self, execution_id: str, flow: str) -> str:
        """Wait until a run has ended; return its status."""

        def look() -> str | None:
            path = f"/seq/acme/faults/{flow}/runs/{execution_id}/trace"
            response = self.send("GET", path, timeout=30).result()
            status = response.json()["flowRun"]["status"] if response.status_code == 200 else ""
            return status if status in ("completed", "failed", "cancelled") else None

        return wait_until(look, what=f"the end of {execution_id}") or ""

    def execute(self, flow: str, message: str) -> Future[httpx.Response]:
        return self.send("POST", f"/seq/acme/faults/{flow}/execute", {"message": message}, 60)


def test_hanging_postgres_is_503_on_every_route_until_it_goes_on(
    service: Cluster, postgres: PostgresServer
) -> None:
    web = service.start_replica()
    service.start_worker()
    caller = Caller(service, web)
    done = caller.execute("chain", "done").result().json()["executionId"]
    held = caller.execute("held", "held")
    service.wait_for_marks(len(STEPS) + 1)
    jobs = service.submit(web, 10)
    ids: list[str] = []
    with postgres.hangs():
        # The first requests find out that it hangs; later ones know.
        for _ in range(2):
            sent = [caller.send(*route) for route in routes(done)]
            for route, request in zip(routes(done), sent, strict=True):
                assert code_of(request.result()) == UNAVAILABLE, route
                assert request.result().headers["retry-after"] == "1"
                ids += filter(None, [request.result().json()["detail"].get("executionId")])
        assert httpx.get(f"{web.url}/healthz", timeout=DEADLINE).status_code == 200
        assert httpx.get(f"{web.url}/readyz", timeout=DEADLINE).status_code == 503
        # A run that ends now is stored later, and its caller is told.
        service.let_go()
        lost = held.result()
        assert code_of(lost) == UNAVAILABLE
        assert "the run is completed, and is stored as soon as" in lost.text
        ids.append(lost.json()["detail"]["executionId"])
        # A new one does not begin: its model would be paid for nothing.
        refused = caller.execute("held", "refused").result()
        assert code_of(refused) == UNAVAILABLE
        assert "executionId" not in refused.json()["detail"]
    wait_until(lambda: httpx.get(f"{web.url}/readyz").status_code == 200)
    # Statements from before may hold their locks for a moment: a 503 asks to try again.
    job = ("POST", f"{FLOW}/jobs", {"message": "job"})
    wait_until(lambda: caller.send(*job).result().status_code == 202, what="a job that is accepted")
    wait_until(lambda: caller.execute("chain", "after").result().status_code == 200, what="a call")
    # A 503 with the id of a run told the truth.
    for execution_id in ids:
        assert caller.ended(execution_id, "held" if execution_id == ids[-1] else "chain")
    assert caller.ended(ids[-1], "held") == "completed"
    polls = service.finish(web, jobs)
    assert {body["status"] for body in polls.values()} == {"completed"}
    service.check_marks(jobs)
    # The first call began, because nobody knew of the outage, and its steps ran once.
    assert service.lines().count(["refused", "one"]) <= 1


@long
def test_postgres_restarted_under_load_loses_and_doubles_nothing(
    service: Cluster, postgres: PostgresServer
) -> None:
    web = service.start_replica()
    service.start_worker()
    caller = Caller(service, web)
    jobs = service.submit(web)
    calls = {f"call{n}": caller.execute("chain", f"call{n}") for n in range(30)}
    service.wait_for_marks(40)
    postgres.stop()
    try:
        wait_until(lambda: code_of(caller.send("GET", "/seq/sessions").result()) == UNAVAILABLE)
        for _ in range(10):
            response = caller.send("POST", f"{FLOW}/execute", {"message": "refused"}).result()
            assert code_of(response) == UNAVAILABLE
            assert "executionId" not in response.json()["detail"]
    finally:
        postgres.start()
    wait_until(lambda: httpx.get(f"{web.url}/readyz").status_code == 200)
    polls = service.finish(web, jobs)
    assert {body["status"] for body in polls.values()} == {"completed"}
    service.check_marks(jobs)
    told = {name: call.result() for name, call in calls.items()}
    for name, response in told.items():
        detail = response.json() if response.status_code == 200 else response.json()["detail"]
        if "executionId" not in detail:
            assert code_of(response) == UNAVAILABLE, response.text
            assert [name, "one"] not in service.lines()
            continue
        status = caller.ended(detail["executionId"], "chain")
        assert response.status_code == 503 or status == "completed", (name, response.text)
    service.check_marks({name: "" for name, r in told.items() if r.status_code == 200})


@long
def test_locked_table_and_connection_limit_are_503_or_work(
    service: Cluster, postgres: PostgresServer
) -> None:
    web = service.start_replica()
    caller = Caller(service, web)
    done = caller.execute("chain", "done").result().json()["executionId"]
    url = service.database.replace("+asyncpg", "+psycopg")
    engine = create_engine(url, pool_size=200)
    with engine.begin() as other:
        other.execute(text("LOCK TABLE executions"))
        late = caller.send("POST", f"{FLOW}/execute", {"message": "late"})
        sent = [
            caller.send("GET", f"{FLOW}/runs/{done}/trace"),
            caller.send("GET", "/seq/sessions/s"),
        ]
        for request in (late, *sent):
            assert code_of(request.result()) == UNAVAILABLE
        assert httpx.get(f"{web.url}/healthz", timeout=DEADLINE).status_code == 200
    assert caller.ended(late.result().json()["detail"]["executionId"], "chain") == "completed"
    taken = []
    try:
        while True:
            taken.append(engine.connect())
    except OperationalError:
        pass
    sent = [caller.send("GET", f"{FLOW}/runs/{done}/trace") for _ in range(40)]
    assert {request.result().status_code for request in sent} <= {200, 503}
    for connection in taken:
        connection.close()
    engine.dispose()
    wait_until(lambda: caller.send("GET", "/seq/sessions").result().status_code == 200)
    sent = [caller.send("GET", f"{FLOW}/runs/{done}/trace") for _ in range(40)]
    assert {request.result().status_code for request in sent} == {200}
    assert caller.execute("chain", "after").result().status_code == 200
