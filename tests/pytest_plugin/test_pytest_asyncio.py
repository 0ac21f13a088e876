"""Cassettes under pytest-asyncio, which runs coroutine functions in another way than anyio."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import Suite

pytest_plugins = ["pytester"]

ASYNCIO = (
    "-p",
    "no:hypothesispytest",
    "-p",
    "no:benchmark",
    "-p",
    "no:anyio",
    "-p",
    "no:cacheprovider",
)
TESTS = """
import asyncio
import pytest_asyncio
from noukai_sdk import AsyncNoukai, current_session_id

pytestmark = [pytest.mark.noukai_cassette, pytest.mark.asyncio]

@pytest_asyncio.fixture
async def flow():
    async with AsyncNoukai() as client:
        yield client.flow("acme/p/flow")

@pytest_asyncio.fixture
async def prepared(flow):
    assert current_session_id() is not None
    return (await flow.execute(message="prepared")).result

async def test_one(flow, prepared, noukai_cassette):
    assert prepared == "PREPARED!"
    assert (await flow.execute(message="x")).result == "X!"
    assert current_session_id() == noukai_cassette.session_id

async def test_at_once(flow):
    texts = ["a", "b", "c"]
    answers = await asyncio.gather(*(flow.execute(message=text) for text in texts))
    assert [answer.result for answer in answers] == ["A!", "B!", "C!"]

class TestClass:
    async def test_two(self, flow):
        assert (await flow.execute(message="y")).result == "Y!"

async def test_one_more(flow, request):
    await flow.execute(message="z")
    if not request.config.getoption("--noukai-record"):
        with pytest.raises(Exception):
            await flow.execute(message="more")
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_async_tests_and_fixtures_use_cassettes(suite: Suite, mode: str) -> None:
    suite.write(TESTS)
    suite.pytester.makeini(
        f"[pytest]\nasyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function"
    )
    recorded = suite.pytester.runpytest_subprocess(*ASYNCIO, "--noukai-record=once")
    recorded.assert_outcomes(passed=4)
    assert len(suite.cassettes()) == 4
    assert len(suite.service.calls) == 7
    played = suite.pytester.runpytest_subprocess(*ASYNCIO)
    played.assert_outcomes(passed=3, failed=1)
    played.stdout.fnmatch_lines(["*ReplayMissError: no recording answers execute call 2 of*"])
    assert len(suite.service.calls) == 7
