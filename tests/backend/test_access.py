"""API keys: stored ones, as ``noukai keys`` makes them, and those who guess."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from noukai_sdk.backend import access
from noukai_sdk.backend.access import Access, Doorkeeper, FixedKeys
from noukai_sdk.backend.errors import RequestError
from noukai_sdk.cli.commands import noukai
from tests.support.servers import wait_until

from .backends import MESSAGE, Backend, code_of, serving

HELLO = "samples/hello-world/execute"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def command(*arguments: str) -> Result:
    return CliRunner().invoke(noukai, arguments)


def test_stored_key_works_until_it_is_revoked(database: str, tmp_path: Path) -> None:
    with serving(tmp_path, database=database, keys=None) as backend:
        created = command("keys", "create", "--org", "acme", "--name", "ci", "--db", database)
        assert created.exit_code == 0, created.stderr
        key = created.stdout.removesuffix("\n")
        assert key.startswith("nk_")
        assert key not in created.stderr
        other = command("keys", "create", "--org", "otherorg", "--db", database).stdout.strip()
        assert backend.post(HELLO, MESSAGE, "s", **bearer(key)).status_code == 200
        assert code_of(backend.post(HELLO, MESSAGE, **bearer(other))) == (404, "FLOW_NOT_FOUND")
        for unknown in ("nk_dev", key[:-1], key.upper()):
            response = backend.post(HELLO, MESSAGE, **bearer(unknown))
            assert code_of(response) == (401, "UNAUTHENTICATED")
            assert unknown not in response.text

        listed = command("keys", "list", "--json", "--db", database)
        rows = json.loads(listed.stdout)
        assert [(row["org"], row["name"]) for row in rows] == [("acme", "ci"), ("otherorg", "")]
        assert key not in listed.stdout
        of_acme = command("keys", "list", "--org", "acme", "--json", "--db", database)
        assert json.loads(of_acme.stdout) == rows[:1]
        key_id = rows[0]["id"]
        assert key_id in command("keys", "list", "--db", database).stdout
        for _ in range(2):
            assert command("keys", "revoke", key_id, "--db", database).exit_code == 0
        wait_until(lambda: backend.get("/seq/sessions/s", **bearer(key)).status_code == 401)
        assert backend.get("/seq/sessions", **bearer(other)).status_code == 200
        revoked = json.loads(command("keys", "list", "--json", "--db", database).stdout)
        assert [row["revoked"] is None for row in revoked] == [False, True]
        missing = command("keys", "revoke", "key_none", "--db", database)
        assert (missing.exit_code, "no key with the id" in missing.stderr) == (2, True)


def test_keys_command_with_invalid_arguments_is_an_error_without_secrets(tmp_path: Path) -> None:
    for arguments, message in [
        (["--org", "a/b", "--db", f"{tmp_path}/a.db"], "'a/b' is not letters"),
        (["--org", "a", "--db", "mysql://me:secret@h/d"], "--db: the database mysql://me:***@h/d"),
        (["--org", "a", "--db", f"{tmp_path}/none/a.db"], "not a file in a folder that exists"),
        (["--org", "a", "--db", "postgresql://me:secret@127.0.0.1:1/d"], "cannot use the database"),
        (["--org", "a"], "Missing option '--db'"),
    ]:
        result = command("keys", "create", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert (result.stdout, "secret" in result.stderr) == ("", False)


def test_session_id_of_another_organisation_is_free(fresh: Backend) -> None:
    report = {"replayId": "r", "sessionId": "shared", "state": "finished", "verdict": "clean"}
    report |= {"summary": "", "report": {}, "startedAt": "2026-11-20T09:00:00Z"}
    path = "/seq/sessions/shared"
    with serving(fresh.settings.flows[0].parent / "two", keys={"nk_a": "acme", "nk_b": "b"}) as two:
        two.post(HELLO, MESSAGE, "shared", **bearer("nk_a"))
        for key in ("nk_b", "nk_a"):
            put = two.client.put(f"{path}/outcomes", json={"outcomes": []}, headers=bearer(key))
            assert put.status_code == 200
            posted = two.client.post(f"{path}/replays", json=report, headers=bearer(key))
            assert posted.status_code == 200, posted.text
            assert len(two.get(f"{path}/replays", **bearer(key)).json()["replays"]) == 1
        assert code_of(two.client.put(f"{path}/pin", headers=bearer("nk_b")))[0] == 404
        assert two.client.delete(path, headers=bearer("nk_b")).status_code == 204
        assert len(two.get(path, **bearer("nk_a")).json()["executions"]) == 1


async def admit(door: Doorkeeper, key: str, address: str = "192.0.2.1") -> int | Access:
    """Return the access that a key gives, or the status of the error."""
    try:
        return await door.admit(f"Bearer {key}", address)
    except RequestError as error:
        return error.status


@pytest.mark.anyio
async def test_wrong_keys_of_one_address_are_slowed_and_proven_keys_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(access, "_MOST_ADDRESSES", 100)
    door = Doorkeeper(FixedKeys({"nk_a": "a", "nk_b": "b"}), wrong_keys_per_minute=6)
    assert await admit(door, "nk_a") == Access("a")
    assert [await admit(door, f"nk_{n}") for n in range(8)] == [401] * 6 + [429] * 2
    # The address goes on with the key that it has used, but may not try another: it may be a guess.
    assert await admit(door, "nk_a") == Access("a")
    assert await admit(door, "nk_b", "192.0.2.2") == Access("b")
    assert await admit(door, "nk_b") == 429
    clock.now += 10
    assert await admit(door, "nk_b") == Access("b")
    assert [await admit(door, f"nk_{n}") for n in range(2)] == [401, 429]
    # A client that repeats its wrong key does not guess.
    assert [await admit(door, "nk_0") for n in range(8)] == [401] * 8
    clock.now += 1000
    assert [await admit(door, f"nk_{n}") for n in range(8)] == [401] * 6 + [429] * 2
    # A client that has many addresses of IPv6 has one network.
    v6 = [await admit(door, f"nk_x{n}", f"2001:db8::{n:x}%eth0") for n in range(8)]
    assert v6 == [401] * 6 + [429] * 2
    # The memory is bounded.
    for number in range(1000):
        await admit(door, f"nk_y{number}", f"10.0.{number // 250}.{number % 250}")
    assert len(door._wrong._left._items) == 100


def test_wrong_keys_over_http_are_429_with_retry_after(fresh: Backend) -> None:
    limit = fresh.settings.wrong_keys_per_minute
    responses = [fresh.get("/seq/sessions", **bearer(f"nk_{n}")) for n in range(limit + 2)]
    assert code_of(responses[limit - 1]) == (401, "UNAUTHENTICATED")
    assert code_of(responses[-1]) == (429, "TOO_MANY_WRONG_KEYS")
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 60
