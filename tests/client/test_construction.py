"""Arguments of the clients and of ``flow()``: what is wrong is said before any request."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from noukai_sdk import AsyncNoukai, AuthenticationError, Noukai, ReplayInvalidSessionError

CLIENTS: list[Any] = [Noukai, AsyncNoukai]


@pytest.fixture(params=CLIENTS, ids=["Noukai", "AsyncNoukai"])
def client(request: pytest.FixtureRequest) -> Any:
    """One of the two classes."""
    return request.param


def test_the_defaults(client: Any) -> None:
    service = client(api_key="nk_1")._transport.service
    assert service.base_url == "https://api.noukai.xyz/api/v1"
    assert (service.timeout, service.max_retries, service.log_payloads) == (300.0, 1, False)
    assert (service.log, service.session_id, service.custom_http) == (None, None, False)


def test_the_key_of_the_environment(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_API_KEY", "nk_env")
    assert client()._transport.service.headers["Authorization"] == "Bearer nk_env"
    assert client(api_key="nk_own")._transport.service.headers["Authorization"] == "Bearer nk_own"


def test_no_key(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (None, ""):
        with pytest.raises(AuthenticationError, match="NOUKAI_API_KEY"):
            client(api_key=given)
    monkeypatch.setenv("NOUKAI_API_KEY", "")
    with pytest.raises(AuthenticationError, match="NOUKAI_API_KEY"):
        client()


@pytest.mark.parametrize(
    "key",
    ["sk_1", "nk_", "nk_a b", "nk_a\n", "nk_a\r\nX-Evil: 1", "nk_ü", "NK_1", " nk_1", b"nk_1", 5],
)
def test_a_malformed_key_is_refused_and_not_shown(client: Any, key: Any) -> None:
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
def test_the_service(
    client: Any, monkeypatch: pytest.MonkeyPatch, given: Any, variable: str | None, host: str
) -> None:
    if variable is not None:
        monkeypatch.setenv("NOUKAI_ENV", variable)
    made = client(api_key="nk_1", env=given)
    assert made._transport.service.base_url == f"{host}/api/v1"
    assert repr(made) == f"{client.__name__}('{host}/api/v1')"


def test_no_other_service(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for env in ("staging", "http://evil.test"):
        with pytest.raises(ValueError, match=re.escape(f"bad env {env!r}")):
            client(api_key="nk_1", env=env)
    monkeypatch.setenv("NOUKAI_ENV", "moon")
    with pytest.raises(ValueError, match="'moon'"):
        client(api_key="nk_1")
    with pytest.raises(TypeError):
        client(api_key="nk_1", base_url="http://evil.test")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
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
        ({"timeout": None}, TypeError, "timeout must be a number of seconds, not NoneType"),
        ({"max_retries": -1}, ValueError, "max_retries must be a number ≥ 0"),
        ({"max_retries": 1.5}, ValueError, "max_retries must be a number ≥ 0"),
        ({"max_retries": True}, ValueError, "max_retries must be a number ≥ 0"),
        ({"session_id": "../x"}, ReplayInvalidSessionError, "bad session id"),
        ({"log_handler": "print"}, TypeError, "log_handler must be a plain function"),
    ],
)
def test_bad_arguments(
    client: Any, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        client(api_key="nk_1", **arguments)


def test_a_hook_that_would_never_run(client: Any) -> None:
    async def hook(event: dict[str, Any]) -> None: ...

    with pytest.raises(TypeError, match="log_handler must be a plain function"):
        client(api_key="nk_1", log_handler=hook)


def test_the_other_kind_of_http_client() -> None:
    with httpx.Client() as plain, pytest.raises(TypeError, match=r"httpx\.AsyncClient"):
        AsyncNoukai(api_key="nk_1", http_client=plain)
    with pytest.raises(TypeError, match=r"httpx\.Client"):
        Noukai(api_key="nk_1", http_client=httpx.AsyncClient())


@pytest.mark.parametrize("given", ["client", 5, object(), httpx.Client, httpx.Response(200)])
def test_what_is_no_http_client(client: Any, given: Any) -> None:
    with pytest.raises(TypeError, match=r"needs an? (plain|async) http_client"):
        client(api_key="nk_1", http_client=given)


def test_the_three_forms_of_a_flow(client: Any) -> None:
    made = client(api_key="nk_1", org="acme", project="spelling")
    assert repr(made.flow("grade-3")) == f"{type(made.flow('x')).__name__}('acme/spelling/grade-3')"
    for flow, name in (
        (made.flow("grade-3"), "acme/spelling/grade-3"),
        (made.flow("other/x/y"), "other/x/y"),
        (made.flow(slug="y", org="other", project="x"), "other/x/y"),
    ):
        assert str(flow._ref) == name
        assert flow.slug == name.rsplit("/", 1)[1]


@pytest.mark.parametrize("slug", ["", "a/b", "a/b/c/d", "a//b", "../b/c", None, 5])
def test_a_bad_slug(client: Any, slug: Any) -> None:
    with pytest.raises(ValueError, match=r"slug|project|org"):
        client(api_key="nk_1").flow(slug)


def test_half_of_an_address(client: Any) -> None:
    with pytest.raises(ValueError, match="pass both or neither"):
        client(api_key="nk_1").flow(slug="x", org="acme")
    with pytest.raises(ValueError, match="set org= and project= on the client"):
        client(api_key="nk_1").flow("x")


@pytest.mark.parametrize("value", ["", "..", None, 5, "\ud800"])
def test_a_bad_execution_id(client: Any, value: Any) -> None:
    flow = client(api_key="nk_1").flow("a/b/c")
    for method in (flow.run, flow.job):
        with pytest.raises(ValueError, match="bad execution_id"):
            method(value)


def test_what_a_handle_shows(client: Any) -> None:
    flow = client(api_key="nk_1").flow("a/b/c")
    assert repr(flow.run("e 1")).endswith("Run('e 1')")
    assert repr(flow.job("e 1")).endswith("Job('e 1')")
    assert (flow.run("e").execution_id, flow.job("e").execution_id) == ("e", "e")
    assert flow.job("e").session_id is None
