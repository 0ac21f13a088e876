"""Where a test's scope is current: in its function, its fixtures, and the applications it calls."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import Suite

pytest_plugins = ["pytester"]


def test_scope_is_current_in_function_scoped_fixtures_only(suite: Suite) -> None:
    suite.write(
        """
from noukai_sdk import current_session_id

pytestmark = [pytest.mark.noukai_cassette, pytest.mark.anyio]
ended = []

@pytest.fixture
def plain(ask):
    return ask("plain"), current_session_id()

@pytest.fixture
def steps(ask):
    yield ask("steps"), current_session_id()
    ended.append(current_session_id())

@pytest.fixture
async def coroutine(async_flow):
    return (await async_flow.execute(message="coroutine")).result, current_session_id()

@pytest.fixture
async def async_steps(async_flow):
    yield (await async_flow.execute(message="async steps")).result, current_session_id()
    ended.append(current_session_id())

@pytest.fixture(scope="module")
def outside():
    return current_session_id()

class TestFixtures:
    name = "class"

    @pytest.fixture
    def method(self, ask):
        self.name = "method"
        return ask(self.name), current_session_id()

    async def test_all(self, plain, steps, coroutine, async_steps, method, outside, noukai_cassette):
        seen = [plain, steps, coroutine, async_steps, method]
        assert {session for _, session in seen} == {noukai_cassette.session_id}
        assert [text for text, _ in seen] == [
            "PLAIN!", "STEPS!", "COROUTINE!", "ASYNC STEPS!", "METHOD!"
        ]
        assert self.name == "method"
        assert outside is None

@pytest.mark.noukai_cassette("nothing")
def test_afterwards():
    assert len(set(ended)) == 1
    assert ended[0] is not None
    assert len(ended) == 2
"""
    )
    suite.record(passed=2)
    assert len(suite.service.calls) == 5
    suite.run(passed=2)
    assert len(suite.service.calls) == 5


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_scope_does_not_stay_in_an_event_loop_that_outlives_the_test(
    suite: Suite, backend: str
) -> None:
    suite.write(
        f"""
from noukai_sdk import current_session_id
from noukai_sdk.session.scope import current_scope

pytestmark = pytest.mark.anyio

@pytest.fixture(scope="module")
def anyio_backend():
    return "{backend}"

@pytest.fixture(scope="module")
async def keeps_the_loop():
    yield current_session_id()

@pytest.fixture
async def look():
    return current_scope()

@pytest.mark.noukai_cassette
async def test_first(async_flow, noukai_cassette, keeps_the_loop):
    await async_flow.execute(message="x")
    assert current_scope() is noukai_cassette
    assert keeps_the_loop is None

async def test_second(keeps_the_loop, look):
    assert current_scope() is None
    assert look is None

@pytest.mark.noukai_cassette("test_first")
async def test_third(async_flow, noukai_cassette, keeps_the_loop, look):
    await async_flow.execute(message="x")
    assert current_scope() is noukai_cassette
    assert look is noukai_cassette
"""
    )
    suite.record(passed=3)
    suite.run(passed=3)


FASTAPI = """
from fastapi import FastAPI
from noukai_sdk import AsyncNoukai, trace
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

noukai = AsyncNoukai()
app = FastAPI()
app.add_middleware(NoukaiTraceMiddleware, client=noukai)

@app.get("/")
@trace
async def ask(text: str):
    return (await noukai.flow("a/b/c").execute(message=text)).result
"""

FLASK = """
from flask import Flask, request
from noukai_sdk import Noukai
from noukai_sdk.adapters.flask import init_noukai_trace

noukai = Noukai()
app = Flask(__name__)
init_noukai_trace(app, client=noukai)

@app.get("/")
def ask():
    return [noukai.flow("a/b/c").execute(message=request.args["text"]).result]
"""

CLIENTS = {
    "starlette": FASTAPI
    + """
from starlette.testclient import TestClient

@pytest.fixture
def client():
    with TestClient(app) as client:
        yield client

@pytest.mark.noukai_cassette
def test_one(client, noukai_cassette):
    for text in ("a", "b"):
        response = client.get("/", params={"text": text})
        assert response.json() == text.upper() + "!"
        assert response.headers["x-noukai-session"] == noukai_cassette.session_id
""",
    "httpx": FASTAPI
    + """
import httpx

@pytest.mark.anyio
@pytest.mark.noukai_cassette
async def test_one(noukai_cassette):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        for text in ("a", "b"):
            response = await client.get("/", params={"text": text})
            assert response.json() == text.upper() + "!"
            assert response.headers["x-noukai-session"] == noukai_cassette.session_id
""",
    "flask": FLASK
    + """
@pytest.mark.noukai_cassette
def test_one(noukai_cassette):
    for text in ("a", "b"):
        response = app.test_client().get("/", query_string={"text": text})
        assert response.json == [text.upper() + "!"]
        assert response.headers["x-noukai-session"] == noukai_cassette.session_id
""",
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_application_called_by_its_test_client_joins_the_scope(suite: Suite, kind: str) -> None:
    suite.write(CLIENTS[kind])
    suite.record(passed=1)
    assert suite.service.calls == ["a", "b"]
    suite.run(passed=1)
    assert suite.service.calls == ["a", "b"]


def test_doctest_item_runs_without_a_scope(suite: Suite) -> None:
    suite.write('def grade():\n    """\n    >>> 1 + 1\n    2\n    """\n')
    suite.run("--doctest-modules", passed=1)
