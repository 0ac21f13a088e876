from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import noukai_sdk
from noukai_sdk import local
from noukai_sdk.local import Executor, Node
from noukai_sdk.local.runtime.loop_thread import loop_thread
from noukai_sdk.local.runtime.worker_threads import DEFAULT_WORKER_THREADS, set_worker_threads
from tests.support.engine import workflow_of
from tests.support.servers import wait_until


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    local.shutdown()
    stack_size = threading.stack_size()
    yield
    local.shutdown()
    threading.stack_size(stack_size)
    set_worker_threads(DEFAULT_WORKER_THREADS)
    loop_thread.limit(None)


def hello() -> local.Workflow:
    return workflow_of(Node.agent("Hello", "hi"))


def test_nothing_has_to_be_started_first() -> None:
    health = local.health_check()
    assert health["overall_healthy"] is True
    assert health["loop_thread_responds"] is None
    info = local.get_system_info()
    assert (info["runtime_initialized"], info["runtime_uptime_seconds"]) == (False, 0)
    assert info["version"] == local.version() == noukai_sdk.__version__
    Executor().execute(hello())
    assert local.health_check()["loop_thread_responds"] is True


def test_a_loop_that_hangs_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "responds", lambda within: False)
    assert local.health_check()["overall_healthy"] is False


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (None, logging.WARNING),
        ("trace", logging.DEBUG),
        ("debug", logging.DEBUG),
        ("info", logging.INFO),
        ("warn", logging.WARNING),
        ("error", logging.ERROR),
    ],
)
def test_the_level_takes_effect(level: str | None, number: int) -> None:
    local.init(log_level=level)
    assert logging.getLogger("noukai_sdk").level == number
    assert local.get_system_info()["runtime_initialized"] is True


def test_an_unknown_level_is_an_error_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="log_level must be one of trace, debug"):
        local.init(log_level="loud")
    assert local.get_system_info()["runtime_initialized"] is False


@pytest.mark.parametrize("settings", [{"enable_tracing": True}, {"debug": True}])
def test_tracing_logs_the_steps(
    caplog: pytest.LogCaptureFixture, settings: dict[str, bool]
) -> None:
    local.init()
    Executor().execute(hello())
    assert "step Hello took" not in caplog.text
    local.init(**settings)
    Executor().execute(hello())
    assert "step Hello took" in caplog.text


def test_records_reach_stderr_where_the_application_has_no_logging() -> None:
    code = """
import logging
from noukai_sdk import local
local.init(log_level="info")
logging.getLogger("noukai_sdk.x").info("told once")
local.init(log_level="info")
local.shutdown()
logging.getLogger("noukai_sdk.x").info("not told")
logging.getLogger().addHandler(logging.NullHandler())
local.init(log_level="info")
logging.getLogger("noukai_sdk.x").info("the application's")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "told once\n"


def test_shutdown_releases_threads_and_may_be_followed_by_more() -> None:
    before = set(threading.enumerate())
    local.init()
    Executor().execute(hello())
    assert local.get_system_info()["loop_thread_running"] is True
    local.shutdown()
    local.shutdown()
    # Idle worker threads are told to end, and do so by themselves.
    wait_until(lambda: set(threading.enumerate()) <= before, what="all threads have ended")
    assert local.get_system_info()["loop_thread_running"] is False
    assert logging.getLogger("noukai_sdk").level == logging.NOTSET
    local.init()
    assert Executor().execute(hello()).is_success()


def test_worker_threads_limit_functions_at_once() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1

    workflow = workflow_of(*(Node.function(f"n{i}", work) for i in range(12)))

    async def main() -> tuple[int, int]:
        nonlocal most
        found = []
        for count in (3, 1):
            most = 0
            local.configure_runtime(worker_threads=count)
            await Executor().run_async(workflow)
            found.append(most)
        return found[0], found[1]

    few, one = asyncio.run(main())
    assert few <= 3
    assert one == 1
    assert local.get_system_info()["runtime_worker_threads"] == 1


def test_blocking_calls_and_stacks_are_limited() -> None:
    local.configure_runtime(max_blocking_threads=2, thread_stack_size_mb=1)
    assert local.get_system_info()["runtime_max_blocking_threads"] == 2
    assert threading.stack_size() == 1024 * 1024
    assert Executor().execute(hello()).is_success()
    local.configure_runtime()
    assert local.get_system_info()["runtime_max_blocking_threads"] == 2


@pytest.mark.parametrize("mebibytes", [10**7, 10**20])
def test_a_stack_that_no_thread_can_have_is_refused(mebibytes: int) -> None:
    before = threading.stack_size()
    with pytest.raises(ValueError, match="a thread cannot have a stack"):
        local.configure_runtime(thread_stack_size_mb=mebibytes)
    assert threading.stack_size() == before


@pytest.mark.parametrize("value", ["3", 2.5])
def test_a_number_of_threads_is_a_whole_one(value: Any) -> None:
    with pytest.raises(ValueError, match="worker_threads must be 1 or more"):
        local.configure_runtime(worker_threads=value)


@pytest.mark.parametrize("name", ["worker_threads", "max_blocking_threads", "thread_stack_size_mb"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 1 or more"):
        local.configure_runtime(**{name: 0})


def test_a_process_ends_though_nothing_was_shut_down() -> None:
    code = """
from noukai_sdk.local import Executor, Node, Workflow
workflow = Workflow("x")
workflow.add_node(Node.agent("Hello", "hi"))
print(Executor().execute(workflow).state())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("completed\n", "")


def test_importing_the_package_loads_no_provider() -> None:
    code = """
import sys
import noukai_sdk.local
before = set(sys.modules)
assert not before & {"openai", "anthropic", "xllamacpp", "yaml", "anyio", "pydantic"}, before
assert "Executor" in dir(noukai_sdk.local)
from noukai_sdk.local import *
from noukai_sdk.local import FlowCatalog, Executor
assert not set(sys.modules) & {"openai", "anthropic", "xllamacpp", "yaml", "fastapi", "click"}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonesuch"):
        local.nonesuch  # noqa: B018
