"""Set up, limits, health and shutdown of the process's runtime."""

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
from noukai_sdk.local import Executor, LlmClient, LlmConfig, Node
from noukai_sdk.local.runtime.loop_thread import loop_thread
from noukai_sdk.local.runtime.worker_threads import DEFAULT_WORKER_THREADS, set_worker_threads
from tests.support.engine import workflow_of
from tests.support.servers import wait_until


@pytest.fixture(autouse=True)
def fresh_runtime() -> Iterator[None]:
    local.shutdown()
    stack_size = threading.stack_size()
    yield
    local.shutdown()
    threading.stack_size(stack_size)
    set_worker_threads(DEFAULT_WORKER_THREADS)
    loop_thread.limit(None)


def hello() -> local.Workflow:
    return workflow_of(Node.agent("Hello", "hi"))


def stderr_of(code: str) -> str:
    """Run Python code in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr


def test_health_is_good_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    health = local.health_check()
    assert (health["overall_healthy"], health["loop_thread_responds"]) == (True, None)
    info = local.get_system_info()
    assert (info["runtime_initialized"], info["runtime_uptime_seconds"]) == (False, 0)
    assert info["version"] == local.version() == noukai_sdk.__version__
    Executor().execute(hello())
    assert local.health_check()["loop_thread_responds"] is True
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
def test_init_sets_log_level_or_raises(level: str | None, number: int) -> None:
    with pytest.raises(ValueError, match="log_level must be one of trace, debug"):
        local.init(log_level="loud")
    assert local.get_system_info()["runtime_initialized"] is False
    local.init(log_level=level)
    assert logging.getLogger("noukai_sdk").level == number
    assert local.get_system_info()["runtime_initialized"] is True


@pytest.mark.parametrize("settings", [{"enable_tracing": True}, {"debug": True}])
def test_init_with_tracing_logs_steps(
    caplog: pytest.LogCaptureFixture, settings: dict[str, bool]
) -> None:
    local.init()
    Executor().execute(hello())
    assert "step Hello took" not in caplog.text
    local.init(**settings)
    Executor().execute(hello())
    assert "step Hello took" in caplog.text


def test_init_logs_to_stderr_if_application_has_no_handlers() -> None:
    code = """
import logging
from noukai_sdk import local
local.init(log_level="info")
logging.getLogger("noukai_sdk.x").info("logged once")
local.init(log_level="info")
local.shutdown()
logging.getLogger("noukai_sdk.x").info("not logged")
logging.getLogger().addHandler(logging.NullHandler())
local.init(log_level="info")
logging.getLogger("noukai_sdk.x").info("goes to the application")
"""
    assert stderr_of(code) == "logged once\n"


def test_shutdown_releases_threads_and_allows_new_start() -> None:
    before = set(threading.enumerate())
    local.init()
    Executor().execute(workflow_of(Node.function("f", threading.get_ident)))
    client = LlmClient(LlmConfig.offline())
    client.complete("x")
    assert local.get_system_info()["loop_thread_running"] is True
    local.shutdown()
    local.shutdown()
    # Idle worker threads are told to end, and do so by themselves.
    wait_until(lambda: set(threading.enumerate()) <= before, what="all threads have ended")
    assert local.get_system_info()["loop_thread_running"] is False
    assert logging.getLogger("noukai_sdk").level == logging.NOTSET
    local.init()
    assert Executor().execute(hello()).is_success()


def test_process_ends_without_shutdown() -> None:
    code = """
from noukai_sdk.local import Executor, Node, Workflow
workflow = Workflow("x")
workflow.add_node(Node.agent("Hello", "hi"))
assert Executor().execute(workflow).is_success()
"""
    assert stderr_of(code) == ""


def test_worker_threads_limit_functions_at_once() -> None:
    running = most = 0
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

    async def main() -> None:
        nonlocal most
        for count in (3, 1):
            most = 0
            local.configure_runtime(worker_threads=count)
            await Executor().run_async(workflow)
            assert most <= count

    asyncio.run(main())
    assert local.get_system_info()["runtime_worker_threads"] == 1


def test_configure_runtime_limits_blocking_calls_and_stack() -> None:
    local.configure_runtime(max_blocking_threads=2, thread_stack_size_mb=1)
    assert local.get_system_info()["runtime_max_blocking_threads"] == 2
    assert threading.stack_size() == 1024 * 1024
    assert Executor().execute(hello()).is_success()
    local.configure_runtime()
    assert local.get_system_info()["runtime_max_blocking_threads"] == 2


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("worker_threads", 0, "must be 1 or more"),
        ("worker_threads", "3", "must be 1 or more"),
        ("worker_threads", 2.5, "must be 1 or more"),
        ("max_blocking_threads", 0, "must be 1 or more"),
        ("thread_stack_size_mb", 0, "must be 1 or more"),
        ("thread_stack_size_mb", 10**7, "a thread cannot have a stack"),
        ("thread_stack_size_mb", 10**20, "a thread cannot have a stack"),
    ],
)
def test_configure_runtime_out_of_range_raises(name: str, value: Any, error: str) -> None:
    stack_size = threading.stack_size()
    with pytest.raises(ValueError, match=error):
        local.configure_runtime(**{name: value})
    assert threading.stack_size() == stack_size
