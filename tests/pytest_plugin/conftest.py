"""A service that counts its calls, and test suites that call it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# pytester forgets every module that is first imported during its test: import all of ours before.
from noukai_sdk import *  # noqa: F403
from noukai_sdk.session.scope import current_scope
from tests.support.servers import serve_app

CONFTEST = """
import pytest
from noukai_sdk import AsyncNoukai, Noukai

@pytest.fixture(scope="session")
def flow():
    with Noukai() as client:
        yield client.flow("acme/p/flow")

@pytest.fixture(scope="session")
def async_flow():
    return AsyncNoukai().flow("acme/p/flow")

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
def ask(flow):
    return lambda text="x", **options: flow.execute(message=text, **options).result
"""


# Other plugins of this environment, which would be imported again in each run.
QUICK = ("-p", "no:hypothesispytest", "-p", "no:benchmark", "-p", "no:asyncio")


class Service:
    """Responds to every call with its message in capitals."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = json.loads((await receive())["body"])["message"]
        self.calls.append(message)
        result = f"{message.upper()}!"
        body = json.dumps({"status": "completed", "result": result, "executionId": "e"}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="session")
def running_service() -> Iterator[tuple[Service, str]]:
    service = Service()
    with serve_app(service, lifespan="off") as url:
        yield service, url


@pytest.fixture
def service(running_service: tuple[Service, str], use_service: Callable[[str], None]) -> Service:
    """The service that test suites reach; without calls yet."""
    service, url = running_service
    use_service(url)
    service.calls.clear()
    return service


class Suite:
    """A separate test suite in a folder of its own."""

    def __init__(self, pytester: pytest.Pytester, service: Service) -> None:
        self.pytester = pytester
        self.service = service
        self.path = pytester.path
        pytester.makeconftest(CONFTEST)

    def write(self, text: str, name: str = "test_it") -> None:
        """Write a test module."""
        self.pytester.makepyfile(**{name: f"import pytest\n{text}"})

    def run(self, *args: str, **expected: int) -> str:
        """Run the tests, and return the output of pytest."""
        result = self.pytester.runpytest_inprocess(*QUICK, "-p", "no:cacheprovider", *args)
        assert current_scope() is None
        counts = {name: n for name, n in result.parseoutcomes().items() if name != "warnings"}
        assert counts == expected, result.stdout.str()
        return result.stdout.str()

    def record(self, *args: str, mode: str = "once", **expected: int) -> str:
        """Run the tests with recording."""
        return self.run(f"--noukai-record={mode}", *args, **expected)

    def cassettes(self, folder: str = "cassettes") -> list[str]:
        """The files in a folder, as paths below it."""
        root = self.path / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def cassette(self, name: str) -> Path:
        """One cassette file."""
        return self.path / "cassettes" / name


@pytest.fixture
def suite(pytester: pytest.Pytester, service: Service) -> Suite:
    return Suite(pytester, service)
