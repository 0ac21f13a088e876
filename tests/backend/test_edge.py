"""The edge of the service as an operator meets it: hosts, files, health, metrics, logs."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import httpx

from noukai_sdk.backend.trusted_hosts import TrustedHosts, loopback_hosts
from tests.support.servers import serve_command

from .backends import code_of

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
        assert hosts._is_trusted("192.168.1.5")
        assert hosts._is_trusted("fe80::1")
        assert not hosts._is_trusted("rebound.example")
