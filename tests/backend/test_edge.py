"""The edge of the service as an operator meets it: hosts, files, health, metrics, logs."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

from noukai_sdk.backend.json_logs import JsonFormatter, JsonRequestLog
from noukai_sdk.backend.limits_from_env import limits_from
from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.health import Health
from noukai_sdk.backend.trusted_hosts import TrustedHosts, loopback_hosts
from noukai_sdk.local.engine.sizes import SizeLimits
from tests.support.servers import serve_command, wait_until

from .backends import ASKS_WEATHER, Backend, code_of, serving

HELLO = "/api/v1/seq/acme/samples/hello-world/execute"
HEADERS = {"Authorization": "Bearer nk_dev"}


def test_dev_trusts_its_hosts_alone_and_keeps_its_files_private(tmp_path: Path) -> None:
    database = tmp_path / "new/folder/dev.db"
    dev = f"exec {sys.executable} -m noukai_sdk.cli dev --port {{port}} --db {database}"
    command = ["bash", "-c", f"umask 000; {dev} --trusted-host My.Example"]
    with serve_command(command, ready="/healthz") as server:
        url = server.url + HELLO

        def status(host: str) -> int:
            body = {"message": "hi"}
            return httpx.post(url, json=body, headers={**HEADERS, "Host": host}).status_code

        port = url.split(":")[2].split("/")[0]
        trusted = [f"localhost:{port}", "127.0.0.1", "127.0.0.2:1", "[::1]:80", "a.localhost"]
        trusted.append("my.example:1")
        assert {host: status(host) for host in trusted} == dict.fromkeys(trusted, 200)
        refused = [
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost.evil.example",
            "",
        ]
        assert {host: status(host) for host in refused} == dict.fromkeys(refused, 421)
        response = httpx.get(
            f"{server.api}/seq/sessions", headers={**HEADERS, "Host": "evil.example"}
        )
        assert code_of(response) == (421, "HOST_NOT_ALLOWED")
        assert "--trusted-host" in response.json()["detail"]["message"]
        assert httpx.get(f"{server.url}/healthz", headers={"Host": "10.0.0.1"}).status_code == 200
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in database.parent.iterdir()}
        assert {"dev.db", "dev.db-wal", "dev.db-shm"} <= set(modes)
        assert {name: mode for name, mode in modes.items() if ".db" in name and mode != 0o600} == {}
        for folder in (database.parent, database.parent.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_trusted_hosts_of_all_addresses_are_addresses_but_no_names() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise NotImplementedError

    for host in ("0.0.0.0", "::"):
        hosts = TrustedHosts(app, loopback_hosts(host))
        assert hosts.trusts("192.168.1.5")
        assert hosts.trusts("fe80::1")
        assert not hosts.trusts("rebound.example")


def samples(page: str) -> dict[str, float]:
    """Return the metrics by name and labels; check that Prometheus can read them."""
    families = text_string_to_metric_families(page)
    return {
        f"{s.name}{sorted(s.labels.items())}" if s.labels else s.name: s.value
        for family in families
        for s in family.samples
    }


def test_metrics_count_requests_by_route_and_runs_by_status(fresh: Backend) -> None:
    fresh.post("tests/three/execute", {"message": "hi"})
    fresh.post("tests/broken/execute", {"message": "hi"})
    fresh.finished("tests/three", fresh.submit("tests/three"))
    pause = fresh.post("tests/asks/execute", ASKS_WEATHER).json()
    assert pause["status"] == "tool_calls_required"
    httpx.get(f"{fresh.url}/nonesuch-1")
    httpx.request("NONESUCH", f"{fresh.url}/nonesuch-2")
    response = httpx.get(f"{fresh.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(response.text)
    execute = "/seq/{org}/{project}/{slug}/execute"
    requests = {
        key: value for key, value in found.items() if key.startswith("noukai_http_requests_total")
    }
    name = "noukai_http_requests_total[('method', '{}'), ('route', '{}'), ('status', '{}')]"
    assert requests[name.format("POST", execute, 200)] == 2
    assert requests[name.format("POST", execute, 502)] == 1
    assert requests[name.format("GET", "other", 404)] == 1
    assert requests[name.format("OTHER", "other", 404)] == 1
    assert found[f"noukai_http_request_seconds_count[('route', '{execute}')]"] == 3
    assert found["noukai_runs_started_total"] == 4
    assert found["noukai_runs_ended_total[('status', 'completed')]"] == 2
    assert found["noukai_runs_ended_total[('status', 'failed')]"] == 1
    assert found["noukai_steps_total[('status', 'completed')]"] == 3 + 1 + 3 + 1
    assert found["noukai_model_calls_total"] == 3 + 2 + 3 + 2
    assert found["noukai_tokens_total[('kind', 'completion')]"] > 0
    assert found["noukai_runs_in_progress[('status', 'pending')]"] == 0
    assert (found["noukai_database_up"], found["noukai_database_outages_total"]) == (1, 0)


def test_metrics_with_token_need_it(tmp_path: Path) -> None:
    for token, sent, status in (
        ("", "", 404),
        ("s3", "", 401),
        ("s3", "s4", 401),
        ("s3", "s3", 200),
    ):
        with serving(tmp_path, metrics_token=token) as backend:
            headers = {"Authorization": f"Bearer {sent}"} if sent else {}
            assert httpx.get(f"{backend.url}/metrics", headers=headers).status_code == status


def test_readyz_says_why_process_is_not_ready(stored: Backend) -> None:
    def ready() -> tuple[int, str]:
        stored.service.store.health._found_at = -1e9
        response = httpx.get(f"{stored.url}/readyz")
        return (200, "") if response.status_code == 200 else code_of(response)

    assert ready() == (200, "")
    stored.app.state.is_draining = True
    assert ready() == (503, "NOT_READY")
    stored.app.state.is_draining = False
    with httpx.Client() as client:
        execute_sql(stored, "UPDATE alembic_version SET version_num = 'newer'")
        assert ready() == (503, "NOT_READY")
        assert "version newer" in client.get(f"{stored.url}/readyz").text
        execute_sql(stored, "DROP TABLE alembic_version")
        assert ready() == (503, "NOT_READY")
        assert "it cannot be used" in client.get(f"{stored.url}/readyz").text
        assert client.get(f"{stored.url}/healthz").status_code == 200


def execute_sql(backend: Backend, statement: str) -> None:
    url = backend.settings.database_url

    async def run() -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


async def test_health_of_hanging_database_answers_within_its_time() -> None:
    class Hanging:
        asked = 0

        def connect(self) -> Hanging:
            return self

        async def __aenter__(self) -> None:
            self.asked += 1
            await asyncio.sleep(60)

        async def __aexit__(self, *_: object) -> None:
            raise NotImplementedError

    engine = Hanging()
    health = Health(engine, seconds=0.01)  # type: ignore[arg-type]  # a stand-in
    for _ in range(3):
        assert await health.look() == ("it did not respond within 0.01 seconds", {})
    assert engine.asked == 1
    await health.aclose()


def test_json_log_has_line_for_each_request_and_record() -> None:
    async def app(scope: object, receive: object, send: Any) -> None:
        await send({
            "type": "http.response.start", "status": 404,
            "headers": [(b"X-Request-ID", b"req_1")],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": b'{"detail": {"code": "NONE"}}'})

    async def call() -> None:
        headers = [(b"x-session-id", b"s")]
        scope = {"type": "http", "method": "GET", "raw_path": b"/a%0ab", "headers": headers}

        async def send(message: object) -> None:
            pass

        await JsonRequestLog(app, lines.append)(scope, send, send)  # type: ignore[arg-type]  # a stand-in

    lines: list[str] = []
    asyncio.run(call())
    [line] = lines
    entry = json.loads(line)
    assert line.endswith("}\n")
    assert datetime.fromisoformat(entry.pop("time")).tzinfo is not None
    assert entry.pop("ms") >= 0
    assert entry == {
        "level": "info", "logger": "noukai.requests", "message": "GET /a%0ab 404", "method": "GET",
        "path": "/a%0ab", "route": "other", "status": 404, "code": "NONE", "requestId": "req_1",
        "sessionId": "s",
    }  # fmt: skip
    record = logging.LogRecord("a.b", logging.ERROR, "f", 1, "bad\n%s", ("\ud800",), None)
    assert json.loads(JsonFormatter().format(record))["message"] == "bad\n\ud800"
    try:
        raise ValueError("x" * 1_000_000)
    except ValueError as error:
        failed = logging.LogRecord("a", logging.ERROR, "f", 1, "failed", (), None)
        failed.exc_info = (ValueError, error, error.__traceback__)
    assert len(JsonFormatter().format(failed)) < 25_000


def test_serve_logs_json_and_shows_metrics_to_their_token_alone(
    new_database: Callable[[], URL],
) -> None:
    url = new_database().render_as_string(hide_password=False)
    command = ["python", "-m", "noukai_sdk.cli", "serve", "--db", url, "--port", "{port}"]
    env = {"NOUKAI_METRICS_TOKEN": "s3cret", "NOUKAI_MAX_BODY_BYTES": "1000"}
    with serve_command(command, env=env, ready="/readyz") as server:
        headers = {"Host": "any.example", "X-Session-Id": "logged"}
        refused = httpx.post(server.url + HELLO, json={"message": "hi"}, headers=headers)
        assert refused.status_code == 401
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/dev/stats").status_code == 404
        token = {"Authorization": "Bearer s3cret"}
        found = samples(httpx.get(f"{server.url}/metrics", headers=token).text)
        assert found["noukai_database_up"] == 1
        assert found["noukai_http_open_connections"] >= 1
        line = wait_until(
            lambda: next((x for x in server.output().splitlines() if '"logged"' in x), None)
        )
        assert line is not None
        entry = json.loads(line)
        assert (entry["status"], entry["code"]) == (401, "UNAUTHENTICATED")
        assert entry["requestId"] == refused.headers["x-request-id"]
        assert "s3cret" not in server.output()


def test_worker_shows_its_health_and_what_its_jobs_did(new_database: Callable[[], URL]) -> None:
    url = new_database().render_as_string(hide_password=False)
    command = ["python", "-m", "noukai_sdk.cli", "worker", "--db", url, "--status-port", "{port}"]
    env = {"NOUKAI_METRICS_TOKEN": "s3cret"}
    with serve_command(command, env=env, ready="/readyz") as server:
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "ready"}
        token = {"Authorization": "Bearer s3cret"}
        found = samples(httpx.get(f"{server.url}/metrics", headers=token).text)
        assert found["noukai_runs_in_progress[('status', 'pending')]"] == 0
        assert httpx.get(f"{server.api}/seq/sessions").status_code == 404
        server.stop()
        assert server.process.returncode == 0
        assert "Traceback" not in server.output()


def test_limits_from_environment_reject_what_is_no_number() -> None:
    found = limits_from({"NOUKAI_MAX_RUN_BYTES": "5", "NOUKAI_MAX_CONNECTIONS": " 7 "})
    assert (found["sizes"].max_run_bytes, found["max_connections"]) == (5, 7)
    assert Settings("a.db", **found).sizes.max_output_bytes == SizeLimits().max_output_bytes
    for text_ in ("0", "-1", "many", "1e3", "9" * 30):
        with pytest.raises(ValueError, match="NOUKAI_MAX_PENDING_JOBS"):
            limits_from({"NOUKAI_MAX_PENDING_JOBS": text_})
