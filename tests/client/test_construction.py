"""Arguments of the clients and of ``flow()``, checked before any request."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from noukai_sdk import AsyncNoukai, AuthenticationError, Noukai, ReplayInvalidSessionError

CLIENTS: list[Any] = [Noukai, AsyncNoukai]


async def async_hook(event: dict[str, Any]) -> None: ...


@pytest.fixture(params=CLIENTS, ids=["Noukai", "AsyncNoukai"])
def client(request: pytest.FixtureRequest) -> Any:
    """One of the two classes."""
    return request.param


def test_client_defaults_are_documented_values(client: Any) -> None:
    service = client(api_key="nk_1")._transport.service
    assert service.base_url == "https://api.noukai.xyz/api/v1"
    assert (service.timeout, service.max_retries, service.log_payloads) == (300.0, 1, False)
    assert (service.log, service.session_id, service.custom_http) == (None, None, False)
    unset = client("nk_1", timeout=None, max_retries=None)._transport.service
    assert (unset.timeout, unset.max_retries) == (300.0, 1)
    assert unset.headers == service.headers


def test_api_key_argument_wins_over_environment(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_API_KEY", "nk_env")
    assert client()._transport.service.headers["Authorization"] == "Bearer nk_env"
    assert client(api_key="nk_own")._transport.service.headers["Authorization"] == "Bearer nk_own"


def test_api_key_missing_raises(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for api_key in (None, ""):
        with pytest.raises(AuthenticationError, match="NOUKAI_API_KEY"):
            client(api_key=api_key)
    monkeypatch.setenv("NOUKAI_API_KEY", "")
    with pytest.raises(AuthenticationError, match="NOUKAI_API_KEY"):
        client()


@pytest.mark.parametrize(
    "key",
    ["sk_1", "nk_", "nk_a b", "nk_a\n", "nk_a\r\nX-Evil: 1", "nk_ü", "NK_1", " nk_1", b"nk_1", 5],
)
def test_api_key_malformed_raises_without_showing_it(client: Any, key: Any) -> None:
    with pytest.raises(AuthenticationError, match="malformed API key") as caught:
        client(api_key=key)
    assert str(key) == "nk_" or str(key) not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "variable", "host"),
    [
        (None, None, "https://api.noukai.xyz"),
        ("production", None, "https://api.noukai.xyz"),
        ("dev", None, "http://localhost:8080"),
        (None, "dev", "http://localhost:8080"),
        ("production", "dev", "https://api.noukai.xyz"),
        (None, "", "https://api.noukai.xyz"),
    ],
)
def test_env_selects_base_url(
    client: Any, monkeypatch: pytest.MonkeyPatch, given: Any, variable: str | None, host: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("NOUKAI_ENV", variable)
    made = client(api_key="nk_1", env=given)
    assert made._transport.service.base_url == f"{host}/api/v1"
    assert repr(made) == f"{client.__name__}('{host}/api/v1')"


def test_env_unknown_raises(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for env in ("staging", "http://evil.test"):
        with pytest.raises(ValueError, match=re.escape(f"bad env {env!r}")):
            client(api_key="nk_1", env=env)
    monkeypatch.setenv("NOUKAI_ENV", "moon")
    with pytest.raises(ValueError, match="'moon'"):
        client(api_key="nk_1")


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        ("http://127.0.0.1:9000/api/v1", "http://127.0.0.1:9000/api/v1"),
        ("http://127.0.0.1:9000/api/v1/", "http://127.0.0.1:9000/api/v1"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/api/v1"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000/api/v1"),
        ("https://proxy.test/noukai", "https://proxy.test/noukai"),
        ("http://[::1]:9000/api/v1", "http://[::1]:9000/api/v1"),
        ("HTTPS://API.test", "HTTPS://API.test/api/v1"),
    ],
)
def test_base_url_wins_over_env(
    client: Any, monkeypatch: pytest.MonkeyPatch, given: str, base_url: str
) -> None:
    monkeypatch.setenv("NOUKAI_ENV", "production")
    monkeypatch.setenv("NOUKAI_BASE_URL", given)
    for made in (client(api_key="nk_1"), client(api_key="nk_1", env="dev")):
        assert made._transport.service.base_url == base_url
    monkeypatch.setenv("NOUKAI_BASE_URL", "http://other.test")
    for env in (None, "dev"):
        made = client(api_key="nk_1", base_url=given, env=env)
        assert repr(made) == f"{client.__name__}('{base_url}')"
    monkeypatch.setenv("NOUKAI_BASE_URL", "")
    assert "api.noukai.xyz" in repr(client(api_key="nk_1"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("", "it must"),
        ("127.0.0.1:9000", "it must be like 'http://127.0.0.1:8080/api/v1'"),
        ("localhost:9000/api/v1", "it must be like"),
        ("ftp://noukai.test", "it must be like"),
        ("http://", "it must be like"),
        ("http:///api/v1", "it must be like"),
        ("http://noukai.test:0", "it must be like"),
        ("http://noukai.test:99999", "range"),
        ("http://noukai.test:port", "port"),
        ("http://[::1", "IPv6"),
        ("http://noukai.test/api v1", "no spaces"),
        ("http://noukai.test/\n", "no spaces"),
        ("http://user:secret@noukai.test", "no user, password"),
        ("http://noukai.test?key=secret", "query"),
        ("http://noukai.test#secret", "fragment"),
    ],
)
def test_base_url_not_valid_raises(
    client: Any, monkeypatch: pytest.MonkeyPatch, given: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=f"bad base_url.*{re.escape(problem)}") as caught:
        client(api_key="nk_1", base_url=given)
    assert "secret" not in str(caught.value)
    if given:
        monkeypatch.setenv("NOUKAI_BASE_URL", given)
        with pytest.raises(ValueError, match=f"bad NOUKAI_BASE_URL.*{re.escape(problem)}"):
            client(api_key="nk_1")
    with pytest.raises(TypeError, match="base_url must be a str, not int"):
        client(api_key="nk_1", base_url=9000)


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"org": "acme"}, ValueError, "pass both or neither"),
        ({"project": "spelling"}, ValueError, "pass both or neither"),
        ({"org": "", "project": "x"}, ValueError, "bad org ''"),
        ({"org": "a", "project": "b/c"}, ValueError, "bad project 'b/c'"),
        ({"timeout": 0}, ValueError, "timeout must be a positive number"),
        ({"timeout": -1.0}, ValueError, "timeout must be a positive number"),
        ({"timeout": float("inf")}, ValueError, "timeout must be a number of seconds up to"),
        ({"timeout": float("nan")}, ValueError, "timeout must be a positive number"),
        ({"timeout": 1e300}, ValueError, "timeout must be a number of seconds up to 1e+09"),
        ({"log_payloads": "no"}, TypeError, "log_payloads must be True or False, not 'no'"),
        ({"timeout": "60"}, TypeError, "timeout must be a number of seconds, not str"),
        ({"timeout": True}, TypeError, "timeout must be a number of seconds, not bool"),
        ({"max_retries": -1}, ValueError, "max_retries must be a number ≥ 0"),
        ({"max_retries": 1.5}, ValueError, "max_retries must be a number ≥ 0"),
        ({"max_retries": True}, ValueError, "max_retries must be a number ≥ 0"),
        ({"session_id": "../x"}, ReplayInvalidSessionError, "bad session id"),
        ({"log_handler": "print"}, TypeError, "log_handler must be a plain function"),
        ({"log_handler": async_hook}, TypeError, "log_handler must be a plain function"),
    ],
)
def test_client_argument_not_valid_raises(
    client: Any, arguments: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=re.escape(problem)):
        client(api_key="nk_1", **arguments)


def test_http_client_of_other_kind_raises() -> None:
    with httpx.Client() as plain, pytest.raises(TypeError, match=r"httpx\.AsyncClient"):
        AsyncNoukai(api_key="nk_1", http_client=plain)
    with pytest.raises(TypeError, match=r"httpx\.Client"):
        Noukai(api_key="nk_1", http_client=httpx.AsyncClient())
    for http_client in ("client", 5, object(), httpx.Client, httpx.Response(200)):
        for kind in CLIENTS:
            with pytest.raises(TypeError, match=r"needs an? (plain|async) http_client"):
                kind(api_key="nk_1", http_client=http_client)


def test_flow_of_each_form_has_its_address(client: Any) -> None:
    made = client(api_key="nk_1", org="acme", project="spelling")
    assert repr(made.flow("grade-3")) == f"{type(made.flow('x')).__name__}('acme/spelling/grade-3')"
    for flow, name in (
        (made.flow("grade-3"), "acme/spelling/grade-3"),
        (made.flow("other/x/y"), "other/x/y"),
        (made.flow(slug="y", org="other", project="x"), "other/x/y"),
    ):
        assert f"{flow.org}/{flow.project}/{flow.slug}" == name
    assert (made.default_org, made.default_project) == ("acme", "spelling")
    other = client(api_key="nk_1")
    assert (other.default_org, other.default_project) == (None, None)


def test_flow_address_not_valid_raises(client: Any) -> None:
    with pytest.raises(ValueError, match="pass both or neither"):
        client(api_key="nk_1").flow(slug="x", org="acme")
    with pytest.raises(ValueError, match="set org= and project= on the client"):
        client(api_key="nk_1").flow("x")
    for owner in ({"org": "a"}, {"project": "b"}, {"org": "a", "project": "b"}):
        with pytest.raises(ValueError, match="leave out org= and project="):
            client(api_key="nk_1").flow("a/b/c", **owner)
    for slug in ("", "a/b", "../b/c", None, 5):
        with pytest.raises(ValueError, match=r"slug|project|org"):
            client(api_key="nk_1").flow(slug)


def test_run_and_job_show_their_id_or_refuse_it(client: Any) -> None:
    flow = client(api_key="nk_1").flow("a/b/c")
    for value in ("", "..", None, 5, "\ud800"):
        for method in (flow.run, flow.job):
            with pytest.raises(ValueError, match="bad execution_id"):
                method(value)
    assert repr(flow.run("e 1")).endswith("Run('e 1')")
    assert repr(flow.job("e 1")).endswith("Job('e 1')")
    assert (flow.run("e").execution_id, flow.job("e").execution_id) == ("e", "e")
    assert (flow.job("e").session_id, flow.job("e").flow_id) == (None, None)
