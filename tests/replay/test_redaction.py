"""Secrets never reach a file, live values stay as they are, and a redacted cassette still matches."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk import CassetteError, FlowNotFoundError, ReplayMissError
from noukai_sdk.replay.cassette_file import read_cassette
from noukai_sdk.replay.redaction import (
    REDACTED,
    Redactor,
    is_secret_name,
    parse_path,
    without_secrets,
)
from tests.replay.live import TOOLS, Live, outcome, recorded, replayed, tool

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "use {}, please", '"{}"', "Authorization: {}\n", "x={};"])
def test_keys_are_known_wherever_they_stand(key: str, around: str) -> None:
    assert without_secrets(around.format(key)) == around.format(REDACTED)
    assert Redactor()({key: [key, {"a": around.format(key)}]}) == {
        REDACTED: [REDACTED, {"a": around.format(REDACTED)}]
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
    ],
)
def test_other_words_stay(text: str) -> None:
    assert without_secrets(text) == text


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
def test_named_secrets_in_text(text: str, clean: str) -> None:
    assert without_secrets(text) == clean


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
@pytest.mark.parametrize("value", ["x", 5, ["x"], {"x": "y"}])
def test_fields_that_are_named_like_secrets(name: str, value: Any) -> None:
    assert Redactor()({"a": [{name: value, "b": 1}]}) == {"a": [{name: REDACTED, "b": 1}]}
    in_text = json.dumps({name: value, "b": 1})
    for text in (in_text, f" {in_text}\n", json.dumps([in_text]), json.dumps(in_text)):
        assert REDACTED in Redactor()({"arguments": text})["arguments"]
        assert json.dumps(value) not in Redactor()({"arguments": text})["arguments"]


@pytest.mark.parametrize("value", [None, True, False])
def test_that_there_is_a_secret_is_none(value: Any) -> None:
    assert Redactor()({"password": value}) == {"password": value}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_fields_that_are_not(name: Any) -> None:
    assert not is_secret_name(name)
    assert Redactor()({name: "x"}) == {name: "x"}


@given(st.text(" \n\t.,;:!?{}[]\"'abcdefghij", max_size=60))
def test_ordinary_text_stays_and_redacting_twice_is_redacting_once(text: str) -> None:
    assert Redactor()({"a": text}) == {"a": text}
    once = Redactor()({"a": f"{text} {KEYS[0]} {text}"})
    assert Redactor()(once) == once


def test_text_that_only_looks_like_json_stays() -> None:
    for text in ("{", "[1, 2", '{"a": 1} b', '{"a":1}', "[" * 100_000):
        assert Redactor()({"a": text}) == {"a": text}


def test_known_secrets_go_the_longest_first() -> None:
    redactor = Redactor(secrets=["pass", ""])
    redactor.add_secrets(["password", "pass"])
    assert redactor({"a": "a pass, a password"}) == {"a": f"a {REDACTED}, a {REDACTED}"}


def test_what_is_redacted_is_a_copy() -> None:
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
    ("path", "found"),
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
def test_json_paths(path: str, found: int) -> None:
    clean = Redactor([path])(DOCUMENT)
    assert json.dumps(clean).count(REDACTED) == found
    assert (clean != DOCUMENT) == bool(found)


@pytest.mark.parametrize("path", ["", "$", "a[", "a[b]", "a..", "a]", "a['b", "[*", "a[*]]"])
def test_bad_json_paths(path: str) -> None:
    with pytest.raises(ValueError, match="bad JSON path"):
        Redactor([path])
    with pytest.raises(ValueError, match="write it like"):
        parse_path(path)


def test_the_hook_comes_last_and_decides() -> None:
    seen = []

    def hook(recording: dict[str, Any]) -> dict[str, Any]:
        seen.append(copy.deepcopy(recording))
        return {**recording, "request": {"message": "hidden"}}

    redactor = Redactor(["result"], hook)
    assert redactor({"request": {"token": "x"}, "result": 1})["request"] == {"message": "hidden"}
    assert seen == [{"request": {"token": REDACTED}, "result": REDACTED}]
    assert redactor.request({"message": "m"}) == {"message": "hidden"}
    assert seen[1] == {"request": {"message": "m"}}


@pytest.mark.parametrize("answer", [None, 5, []])
def test_a_hook_that_forgets_to_answer(answer: Any) -> None:
    with pytest.raises(TypeError, match="must return the dict to keep"):
        Redactor(hook=lambda recording: answer)({})


def test_a_hook_that_drops_the_request_of_a_call() -> None:
    redactor = Redactor(hook=lambda recording: {})
    assert redactor({"request": {}}) == {}
    with pytest.raises(TypeError, match="must keep the 'request'"):
        redactor.request({})


# With the real backend.

SECRETS = {
    "password": "hunter2hunter2",
    "config": json.dumps({"apiKey": "abcabcabc", "level": 3}),
    "header": "Bearer 0123456789abc",
    "email": "ann@example.org",
}
TOOL_SECRETS = {"password": "hunter2", "degrees": 20}
FORBIDDEN = ["hunter2", "abcabcabc", "0123456789abc", "nk_dev"]


async def with_secrets(live: Live) -> list[Any]:
    message = f"my key is {KEYS[0]}, the client's nk_dev"
    return [
        await live.execute(message, slug="echo", parameters=SECRETS),
        await live.execute("Weather in Paris?", slug="acme/samples/weather", tools=TOOLS,
                           tool_handler=lambda calls: [
                               {**tool([call])[0], "output": TOOL_SECRETS} for call in calls
                           ]),
    ]  # fmt: skip


async def test_no_secret_reaches_the_file_and_it_still_matches(live: Live, tmp_path: Path) -> None:
    parameters = copy.deepcopy(SECRETS)
    seen = await recorded(live, tmp_path / "c.jsonl", with_secrets)
    text = (tmp_path / "c.jsonl").read_text()
    for secret in [*FORBIDDEN, *KEYS]:
        assert secret not in text
    assert "ann@example.org" in text
    assert seen[0].result["text"].startswith(f"my key is {KEYS[0]}")  # what is live stays
    assert parameters == SECRETS
    again = await replayed(live, tmp_path / "c.jsonl", with_secrets)
    assert again[0].result["text"] == f"my key is {REDACTED}, the client's {REDACTED}"
    assert "hunter2" in seen[1].result
    assert "hunter2" not in again[1].result


async def test_paths_are_remembered_by_the_file(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact_paths=["request.parameters.email"])
    assert "ann@example.org" not in path.read_text()
    assert read_cassette(path).redacted == ("request.parameters.email",)
    await replayed(live, path, with_secrets)


async def test_more_paths_at_the_replay_do_no_harm(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact_paths=["request.parameters.email"])
    with pytest.raises(ReplayMissError, match="inputs are strict"):
        await replayed(live, path, with_secrets, redact_paths=["request.message"])


def shout(recording: dict[str, Any]) -> dict[str, Any]:
    recording["request"]["message"] = recording["request"]["message"].upper()
    return recording


async def test_a_hook_is_applied_to_calls_as_well(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact=shout)
    assert read_cassette(path).recordings[1].request is not None
    assert read_cassette(path).recordings[1].request["message"] == "WEATHER IN PARIS?"
    await replayed(live, path, with_secrets, redact=shout)
    async with live.scope(cassette=path) as scope:
        await with_secrets(live)
    assert [entry.detail for entry in scope.report.drift] == [
        "the input differs from the recorded one in: message"
    ] * 2


async def test_new_recordings_are_redacted_as_the_old_ones(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact_paths=["request.parameters.email"])
    async with live.scope(cassette=path, record_mode="new_episodes"):
        await with_secrets(live)
        await live.execute("new", slug="echo", parameters=SECRETS)
    assert "ann@example.org" not in path.read_text()
    assert read_cassette(path).redacted == ("request.parameters.email",)
    assert len(read_cassette(path).recordings) == 3


def grow(recording: dict[str, Any]) -> dict[str, Any]:
    recording["request"]["message"] += "!"
    return recording


async def test_the_hook_sees_each_recording_once(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    await recorded(live, path, with_secrets, redact=grow)
    async with live.scope(
        cassette=path,
        record_mode="new_episodes",
        redact=grow,
        redact_paths=["request.parameters.email"],
    ):
        await live.execute("new", slug="echo", parameters=SECRETS)
    requests = [each.request for each in read_cassette(path).recordings]
    messages = [request["message"] for request in requests if request is not None]
    assert [message.count("!") for message in messages] == [1, 1, 1]
    assert "ann@example.org" not in path.read_text()  # paths hold for the old ones too


async def test_secrets_in_errors(live: Live, tmp_path: Path) -> None:
    async def body(live: Live) -> list[Any]:
        return [await outcome(live.execute(f"{KEYS[0]}", slug="acme/samples/nk_dev"))]

    ((kind, said, _),) = await recorded(live, tmp_path / "c.jsonl", body)
    assert kind is FlowNotFoundError
    assert "nk_dev" in said
    assert "nk_dev" not in (tmp_path / "c.jsonl").read_text().partition("request")[2]


async def test_a_hook_that_fails_writes_nothing(live: Live, tmp_path: Path) -> None:
    def broken(recording: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await recorded(live, tmp_path / "c.jsonl", with_secrets, redact=broken)
    assert list(tmp_path.iterdir()) == []


async def test_redaction_that_breaks_a_recording_says_so(live: Live, tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match=r"after redaction echo .* is not a valid recording"):
        await recorded(live, tmp_path / "c.jsonl", with_secrets, redact_paths=["result"])
    assert list(tmp_path.iterdir()) == []
