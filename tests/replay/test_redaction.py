"""Redaction: secrets never reach a file, and a redacted cassette still matches."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk import CassetteError, FlowNotFoundError, ReplayMissError
from noukai_sdk.masking.names import is_secret_name
from noukai_sdk.masking.values import REDACTED, Masker
from noukai_sdk.replay.cassette_file import read_cassette
from noukai_sdk.replay.redaction import Redactor, parse_path
from tests.support.replays import TOOLS, SyncSide, outcome, recorded, replayed, weather_tool

pytestmark = pytest.mark.anyio


# Put together here, so that no scanner takes this file for a leak.
KEYS = [
    "nk_" + "live_0123456789",
    "sk-" + "proj-0123456789abcdef",
    "sk-" + "ant-api03-0123456789abcdef",
    "AIza" + "SyA0123456789abcdefghijklmnopqrstu",
    "ghp_" + "0123456789abcdefghijklmn",
    "github_pat_" + "0123456789abcdefghijklmn",
    "xoxb-" + "0123456789-abcdef",
    "AKIA" + "0123456789ABCDEF",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".c2lnbmF0dXJl",
    "Bearer " + "abcdef123456",
    "Bearer " + "abcdefghijklmnopqrstuvwxyz",
]


def test_known_keys_are_removed_wherever_they_occur() -> None:
    for key in KEYS:
        for around in ("{}", "use {}, please", '"{}"', "Authorization: {}\n", "x={};"):
            clean = around.format(REDACTED)
            assert Masker().text(around.format(key)) == clean
            assert Redactor()({key: [key, {"a": around.format(key)}]}) == {
                REDACTED: [REDACTED, {"a": clean}]
            }


@pytest.mark.parametrize(
    "text",
    [
        "Bearer certificates are bearer instruments.",
        "the standard bearer token of esteem",
        "nk_x",
        "sk-8 is a street",
        "a secret: nobody knows",
        "password",
        '"password": ',
        "What is a token? Tokens: 3",
        "https://example.org/?page=2&tokens=3",
        # Not JSON as a whole, or JSON without a secret.
        "{",
        "[1, 2",
        '{"a": 1} b',
        '{"a":1}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_ordinary_text_is_kept(text: str) -> None:
    assert Masker().text(text) == text
    assert Redactor()({"a": text}) == {"a": text}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('log in with "password": "hunter2", then', f'log in with "password": "{REDACTED}", then'),
        ("{'api_key' : 'abc'}", f"{{'api_key' : '{REDACTED}'}}"),
        (r"{\"client_secret\":\"a b\"} and", rf"{{\"client_secret\":\"{REDACTED}\"}} and"),
        ("https://x.org/?a=1&api_key=abc#top", f"https://x.org/?a=1&api_key={REDACTED}#top"),
        (
            "https://x.org/f?X-Amz-Signature=0af&b=2",
            f"https://x.org/f?X-Amz-Signature={REDACTED}&b=2",
        ),
    ],
)
def test_named_secrets_in_text_are_removed(text: str, clean: str) -> None:
    assert Masker().text(text) == clean


SECRET_NAMES = [
    "password", "Passwd", "db_password", "dbPassword", "passphrase", "secret", "clientSecret",
    "client-secret", "AWS_SECRET_ACCESS_KEY", "api_key", "apikey", "apiKey", "X-API-Key", "openaiApiKey",
    "private_key", "Authorization", "proxy-authorization", "Cookie", "set-cookie", "token",
    "access_token", "refreshToken", "id_token", "bot-token", "credentials",
]  # fmt: skip
OTHER_NAMES = [
    "tokens", "max_tokens", "completion_tokens", "nextPageToken", "secretary", "keyboard", "key",
    "passage", "author", "session_id", "message", "cookie_recipe", "", 5, None,
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_fields_with_secret_names_are_removed(name: str) -> None:
    for value in ("x", 5, ["x"], {"x": "y"}):
        assert Redactor()({"a": [{name: value, "b": 1}]}) == {"a": [{name: REDACTED, "b": 1}]}
        in_text = json.dumps({name: value, "b": 1})
        for text in (in_text, f" {in_text}\n", json.dumps([in_text]), json.dumps(in_text)):
            clean = Redactor()({"arguments": text})["arguments"]
            assert REDACTED in clean
            assert json.dumps(value) not in clean
    for value in (None, True, False):  # these only say whether there is a secret
        assert Redactor()({name: value}) == {name: value}


def test_fields_with_other_names_are_kept() -> None:
    for name in OTHER_NAMES:
        assert not is_secret_name(name)
        assert Redactor()({name: "x"}) == {name: "x"}


@given(st.text(" \n\t.,;:!?{}[]\"'abcdefghij", max_size=60))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert Redactor()({"a": text}) == {"a": text}
    once = Redactor()({"a": f"{text} {KEYS[0]} {text}"})
    assert Redactor()(once) == once


def test_known_secrets_are_removed_longest_first() -> None:
    redactor = Redactor(secrets=["pass", ""])
    redactor.add_secrets(["password", "pass"])
    assert redactor({"a": "a pass, a password"}) == {"a": f"a {REDACTED}, a {REDACTED}"}


def test_redacted_recording_is_a_copy() -> None:
    recording = {"request": {"password": "x", "list": [KEYS[0]], "tuple": (1,)}}
    before = copy.deepcopy(recording)
    clean = Redactor(["request.list"])(recording)
    assert recording == before
    assert clean == {"request": {"password": REDACTED, "list": REDACTED, "tuple": [1]}}


DOCUMENT: dict[str, Any] = {
    "request": {"parameters": {"email": "x", "e.mail": "x", "name": "n"}},
    "events": [{"outputData": "x", "eventType": "a"}, {"outputData": "x"}, {"other": 1}],
}


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("request.parameters.email", 1),
        ("$.request.parameters.email", 1),
        ("request.parameters['e.mail']", 1),
        ('request["parameters"]["e.mail"]', 1),
        ("request.parameters.*", 3),
        ("*.parameters.email", 1),
        ("events[*].outputData", 2),
        ("events[1].outputData", 1),
        ("events[1]", 1),
        ("events[9].outputData", 0),
        ("events.outputData", 0),
        ("request.parameters.email.more", 0),
        ("nothing.here", 0),
    ],
)
def test_json_path_blanks_every_value_that_it_leads_to(path: str, count: int) -> None:
    clean = Redactor([path])(DOCUMENT)
    assert json.dumps(clean).count(REDACTED) == count
    assert (clean != DOCUMENT) == bool(count)


@pytest.mark.parametrize("path", ["", "$", "a[", "a[b]", "a..", "a]", "a['b", "[*", "a[*]]"])
def test_json_path_that_is_malformed_is_an_error(path: str) -> None:
    for parse in (lambda path: Redactor([path]), parse_path):
        with pytest.raises(ValueError, match=r"bad JSON path .* write it like"):
            parse(path)  # type: ignore[operator]  # both take a path


def test_hook_comes_last_and_its_result_is_kept() -> None:
    seen = []

    def hook(recording: dict[str, Any]) -> dict[str, Any]:
        seen.append(copy.deepcopy(recording))
        return {**recording, "request": {"message": "hidden"}}

    redactor = Redactor(["result"], hook)
    assert redactor({"request": {"token": "x"}, "result": 1})["request"] == {"message": "hidden"}
    assert seen == [{"request": {"token": REDACTED}, "result": REDACTED}]
    assert redactor.request({"message": "m"}) == {"message": "hidden"}
    assert seen[1] == {"request": {"message": "m"}}


def test_hook_that_returns_no_dict_or_drops_the_request_is_an_error() -> None:
    for result in (None, 5, []):
        with pytest.raises(TypeError, match="must return the dict to keep"):
            Redactor(hook=lambda recording, result=result: result)({})  # type: ignore[misc]  # wrong on purpose
    redactor = Redactor(hook=lambda recording: {})
    assert redactor({"request": {}}) == {}
    with pytest.raises(TypeError, match="must keep the 'request'"):
        redactor.request({})

    def without_rounds(recording: dict[str, Any]) -> dict[str, Any]:
        recording.pop("rounds", None)
        return recording

    redactor = Redactor(hook=without_rounds)
    assert redactor.tool_results({"message": "m"}, 1, [{"content": "x"}]) is None


def test_redactor_without_hook_still_removes_the_clients_keys() -> None:
    redactor = Redactor(hook=lambda recording: recording)
    redactor.add_secrets(["plain words"])
    again = redactor.without_hook()
    assert again({"request": {"message": "plain words"}}) == {"request": {"message": REDACTED}}


# With the real backend.

SECRETS = {
    "password": "hunter2hunter2",
    "config": json.dumps({"apiKey": "abcabcabc", "level": 3}),
    "header": "Bearer 0123456789abc",
    "email": "ann@example.org",
}
# The model repeats the value without its name.
TOOL_SECRETS = {"password": KEYS[1], "degrees": 20}
FORBIDDEN = ["hunter2", "abcabcabc", "0123456789abc", "nk_dev"]


async def with_secrets(live: SyncSide) -> list[Any]:
    def handler(calls: Any) -> Any:
        return [{**each, "output": TOOL_SECRETS} for each in weather_tool(calls)]

    message = f"my key is {KEYS[0]}, the client's nk_dev"
    weather = {"slug": "acme/samples/weather", "tools": TOOLS, "tool_handler": handler}
    return [
        await live.execute(message, slug="echo", parameters=SECRETS),
        await live.execute("Weather in Paris?", **weather),
    ]


async def test_recording_holds_no_secret_and_still_matches(live: SyncSide, tmp_path: Path) -> None:
    parameters = copy.deepcopy(SECRETS)
    seen = await recorded(live, tmp_path / "c.jsonl", with_secrets)
    text = (tmp_path / "c.jsonl").read_text()
    for secret in [*FORBIDDEN, *KEYS]:
        assert secret not in text
    assert "ann@example.org" in text
    assert seen[0].result["text"].startswith(f"my key is {KEYS[0]}")  # live values are kept
    assert parameters == SECRETS
    again = await replayed(live, tmp_path / "c.jsonl", with_secrets)
    assert again[0].result["text"] == f"my key is {REDACTED}, the client's {REDACTED}"
    assert KEYS[1] in seen[1].result
    assert KEYS[1] not in again[1].result


async def test_redact_paths_are_kept_in_the_file_for_replays_and_new_recordings(
    live: SyncSide, tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact_paths=["request.parameters.email"])
    assert "ann@example.org" not in path.read_text()
    assert read_cassette(path).redacted == ("request.parameters.email",)
    await replayed(live, path, with_secrets)
    with pytest.raises(ReplayMissError, match="inputs are strict"):
        await replayed(live, path, with_secrets, redact_paths=["request.message"])
    async with live.scope(cassette=path, record_mode="new_episodes"):
        await with_secrets(live)
        await live.execute("new", slug="echo", parameters=SECRETS)
    assert "ann@example.org" not in path.read_text()
    assert read_cassette(path).redacted == ("request.parameters.email",)
    assert len(read_cassette(path).recordings) == 3


def shout(recording: dict[str, Any]) -> dict[str, Any]:
    recording["request"]["message"] = recording["request"]["message"].upper() + "!"
    return recording


async def test_hook_is_applied_to_calls_and_to_each_recording_once(
    live: SyncSide, tmp_path: Path
) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact=shout)
    await replayed(live, path, with_secrets, redact=shout)
    async with live.scope(cassette=path) as scope:
        await with_secrets(live)
    assert [entry.detail for entry in scope.report.drift] == [
        "the input differs from the recorded one in: message"
    ] * 2
    options = {"redact": shout, "redact_paths": ["request.parameters.email"]}
    async with live.scope(cassette=path, record_mode="new_episodes", **options):
        await live.execute("new", slug="echo", parameters=SECRETS)
    requests = [each.request for each in read_cassette(path).recordings]
    messages = [request["message"] for request in requests if request is not None]
    assert [message.count("!") for message in messages] == [1, 1, 1]
    assert messages[-1] == "WEATHER IN PARIS?!"
    assert "ann@example.org" not in path.read_text()  # new paths hold for the old recordings too


async def test_secret_in_an_error_is_removed(live: SyncSide, tmp_path: Path) -> None:
    async def body(live: SyncSide) -> list[Any]:
        return [await outcome(live.execute(f"{KEYS[0]}", slug="acme/samples/nk_dev"))]

    ((kind, text, _),) = await recorded(live, tmp_path / "c.jsonl", body)
    assert kind is FlowNotFoundError
    assert "nk_dev" in text
    assert "nk_dev" not in (tmp_path / "c.jsonl").read_text().partition("request")[2]


async def test_redaction_that_fails_or_breaks_a_recording_writes_nothing(
    live: SyncSide, tmp_path: Path
) -> None:
    def broken(recording: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await recorded(live, tmp_path / "c.jsonl", with_secrets, redact=broken)
    with pytest.raises(CassetteError, match=r"after redaction echo .* is not a valid recording"):
        await recorded(live, tmp_path / "c.jsonl", with_secrets, redact_paths=["result"])
    assert list(tmp_path.iterdir()) == []


async def test_redact_pii_is_kept_in_the_file_for_replays(live: SyncSide, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact_pii=True)
    assert "ann@example.org" not in path.read_text()
    assert read_cassette(path).redacted_pii
    await replayed(live, path, with_secrets)
