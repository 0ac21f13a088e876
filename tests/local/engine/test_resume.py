"""``Executor(store=...)``: runs go on where they have stopped, and repeat nothing that is finished."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from noukai_sdk.errors import RunNotFoundError
from noukai_sdk.local import (
    Executor,
    ItemError,
    LlmConfig,
    Node,
    OutputNotStorableError,
    RunExistsError,
    RunInProgressError,
    RunStore,
    RunStoreError,
    Workflow,
    WorkflowChangedError,
)
from noukai_sdk.local.run_store import sqlite
from tests.support.engine import GET_WEATHER, workflow_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


class Calls:
    """Makes function nodes, counts their calls, and lets those in ``broken`` fail."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.broken: set[str] = set()

    def node(self, name: str, **settings: Any) -> Node:
        async def call(value: Any) -> Any:
            call_name = f"{name} {value}" if "for_each" in settings else name
            self.counts[call_name] += 1
            if call_name in self.broken:
                self.failed[call_name] += 1
                raise ValueError(f"{call_name} is broken")
            return f"{value}+{name}" if isinstance(value, str) else value

        return Node.function(name, call, **settings)


def everything(calls: Calls) -> Workflow:
    """A workflow with agents, a loop, a condition, and sub-flows two levels deep."""
    deep = workflow_of(calls.node("d1"), Node.agent("ask", "{{input}}"), edges="d1>ask")
    inner = workflow_of(
        calls.node("i1"), Node.flow(deep, "deep"), calls.node("i2"), edges="i1>deep deep>i2"
    )
    return workflow_of(
        Node.agent("first", "{{message}}"),
        calls.node("loop", for_each="{{parameters.items}}", on_error="keep"),
        Node.condition("check", "true"),
        calls.node("no"),
        Node.flow(inner, "each", for_each="{{parameters.items}}", concurrency=2),
        calls.node("last"),
        edges="first>loop loop>check check!no check>each each>last",
    )


INPUTS = {"message": "hi", "items": ["a", "b", "c"]}


@pytest.mark.parametrize("broken", ["loop b", "i1", "i2", "d1", "last"])
async def test_run_that_fails_anywhere_goes_on_and_repeats_nothing(path: Path, broken: str) -> None:
    straight = Executor().execute(everything(Calls()), INPUTS)
    calls = Calls()
    calls.broken = {broken, "loop c"}
    if broken == "loop b":
        calls.broken.add("last")
    workflow = everything(calls)
    executor = Executor(store=path)
    failed = await executor.run_async(workflow, INPUTS, run_id="r1")
    assert failed.is_failed()
    calls.broken = set()
    # As another process would: nothing is shared but the file and the functions.
    other = Executor(store=path)
    result = await other.resume_async(workflow, "r1")
    assert result.is_success()
    # Each has succeeded once; in the loop over sub-flows, once for each item.
    often = {name: 3 if name in ("i1", "d1", "i2") else 1 for name in calls.counts}
    kept_errors = {"loop b", "loop c"} if broken == "loop b" else {"loop c"}
    often |= dict.fromkeys(kept_errors, 0)
    assert {name: calls.counts[name] - calls.failed[name] for name in often} == often
    assert result.failed_items == {"loop": [1, 2] if broken == "loop b" else [2]}
    loop = result.get_node_output("loop")
    assert isinstance(loop[2], ItemError)
    assert result.get_node_output("each") == straight.get_node_output("each")
    assert result.skipped == ["no"]
    assert (result.tokens, result.cost_usd) == (straight.tokens, straight.cost_usd)
    (info,) = other.runs()
    assert (info.run_id, info.workflow, info.state) == ("r1", "test", "completed")
    # A run that has completed returns its result again.
    assert (await other.resume_async(workflow, "r1")).outputs == result.outputs
    assert other.get_stats()["total_tokens"] == straight.tokens.total - failed.tokens.total  # type: ignore[union-attr]  # its type is known here


async def test_run_that_waits_for_tools_goes_on_in_another_process(path: Path) -> None:
    ask = workflow_of(
        Node.function("before", lambda text: text),
        Node.agent("ask", "{{input}}", tools=True),
        edges="before>ask",
    )

    def results(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"tool_call_id": call["id"], "output": "18 C"} for call in calls]

    message = "weather in Paris and Rome"
    straight = Executor().execute(ask, message, tools=[GET_WEATHER], tool_handler=results)
    paused = await Executor(store=path).run_async(ask, message, tools=[GET_WEATHER])
    assert Executor(store=path).runs()[0].state == "paused"
    for _ in range(2):
        with pytest.raises(ValueError, match="pass tool_results="):
            await Executor(store=path).resume_async(ask, paused.run_id)
    assert paused.pause is not None
    paused = await Executor(store=path).resume_async(
        ask, paused.run_id, results(paused.pause.tool_calls)
    )
    assert paused.is_paused()
    done = await Executor(store=path).resume_async(ask, paused.run_id, tool_handler=results)
    assert (done.result, done.tokens) == (straight.result, straight.tokens)
    # A stream goes on after its pause.
    stream = Executor(store=path).execute_streaming(ask, message, tools=[GET_WEATHER])
    async for event in stream:
        if event.type == "tool_calls_required":
            await event.resume(tool_results=results(event.tool_calls))
    assert stream.result is not None
    assert stream.result.result == straight.result
    assert Executor(store=path).runs()[0].state == "completed"


async def test_edited_workflow_is_refused_and_runs_what_does_not_fit_any_more(path: Path) -> None:
    calls = Calls()
    calls.broken = {"c"}

    def chain(prompt: str = "Say {{message}}", extra: bool = False, retry: int = 0) -> Workflow:
        nodes = [Node.agent("a", prompt), calls.node("b"), calls.node("c", retry=retry)]
        edges = "a>b b>c"
        if extra:
            nodes, edges = [*nodes, calls.node("d")], "a>b b>c c>d"
        nodes.append(calls.node("side"))
        return workflow_of(*nodes, edges=f"{edges} a>side")

    executor = Executor(store=path)
    failed = await executor.run_async(chain(), {"message": "hi"})
    assert calls.counts["b"] == 1
    edited = chain("Shout {{message}}", extra=True)
    with pytest.raises(WorkflowChangedError, match="allow_edited=True") as error:
        await executor.resume_async(edited, failed.run_id)
    assert error.value.changes == ["node 'a' has another prompt", "node 'd' is new"]
    assert executor.runs()[0].state == "failed"
    calls.broken = set()
    # How a node is run may change, and so may the code of its function.
    result = await executor.resume_async(chain(retry=3), failed.run_id)
    assert (result.is_success(), calls.counts["b"]) == (True, 1)
    result = await executor.resume_async(chain(extra=True), failed.run_id, allow_edited=True)
    assert (calls.counts["b"], calls.counts["c"], calls.counts["d"]) == (1, 2, 1)
    result = await executor.resume_async(edited, failed.run_id, allow_edited=True)
    assert result.is_success()
    assert "Shout" in result.get_node_output("a")
    assert (calls.counts["b"], calls.counts["c"], calls.counts["d"]) == (2, 3, 2)
    assert (await executor.resume_async(edited, failed.run_id)).result == result.result


@dataclass
class Price:
    amount: int


class Model(BaseModel):
    amount: int


class Size(str, Enum):
    LARGE = "large"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Decimal(1), "a Decimal, which"),
        ({"price": [Price(1)]}, "a Price at price[0]"),
        (Model(amount=1), "a Model"),
        (b"x", "a bytes"),
        ({1: 2}, "a key of type int"),
        (Size.LARGE, "a Size"),
    ],
)
async def test_output_that_json_cannot_hold_fails_its_node_at_once(
    path: Path, value: Any, problem: str
) -> None:
    calls = 0

    def work(_: Any) -> Any:
        nonlocal calls
        calls += 1
        return value

    workflow = workflow_of(
        Node.function("make", work, retry=3), Node.agent("ask"), edges="make>ask"
    )
    result = await Executor(store=path).run_async(workflow, "x")
    assert isinstance(result.errors[0].error, OutputNotStorableError)
    result_of_loop = await Executor(store=path).run_async(
        workflow_of(Node.function("make", work, for_each="{{parameters.i}}", on_error="keep")),
        {"i": [1, 2]},
    )
    for failed in (result, result_of_loop):
        assert failed.errors[0].code == "OUTPUT_NOT_STORABLE"
        assert "'make'" in failed.errors[0].message
    assert calls == 2
    assert problem in result.errors[0].message
    with pytest.raises(OutputNotStorableError, match="an input of the run"):
        await Executor(store=path).run_async(workflow, {"message": "x", "value": value})
    # Without a store, values keep their types.
    assert (await Executor().run_async(workflow, "x")).get_node_output("make") == value


async def test_values_are_the_same_in_a_run_and_after_it_was_resumed(path: Path) -> None:
    value = {"pair": (1, 2.5), "half": "\ud800", "big": 10**400, "none": None}
    workflow = workflow_of(Node.function("make", lambda: value))
    result = await Executor(store=path).run_async(workflow)
    again = await Executor(store=path).resume_async(workflow, result.run_id)
    assert result.result == again.result == {**value, "pair": [1, 2.5]}


async def test_run_is_run_once_at_a_time_and_ids_are_unique(path: Path) -> None:
    started, go = anyio.Event(), anyio.Event()

    async def wait(text: str) -> str:
        started.set()
        await go.wait()
        return text

    workflow = workflow_of(Node.function("wait", wait))
    executor = Executor(store=path)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: executor.run_async(workflow, "x", run_id="one"))
            await started.wait()
            assert executor.runs()[0].state == "running"
            for other in (executor, Executor(store=RunStore(path))):
                with pytest.raises(RunInProgressError):
                    await other.resume_async(workflow, "one")
                with pytest.raises(RunExistsError, match="'one' already"):
                    await other.run_async(workflow, "x", run_id="one")
            with pytest.raises(RunInProgressError):
                RunStore(path).delete("one")
            go.set()
        assert executor.runs()[0].state == "completed"
        # A run that is cancelled is given up.
        with anyio.move_on_after(0.01):
            started, go = anyio.Event(), anyio.Event()
            await executor.run_async(workflow, "y", run_id="two")
        assert executor.runs()[0].state == "interrupted"
        go.set()
        assert (await executor.resume_async(workflow, "two")).result == "y"
    with pytest.raises(RunNotFoundError, match="no run 'three'"):
        await executor.resume_async(workflow, "three")
    RunStore(path).delete("one")
    assert [info.run_id for info in executor.runs()] == ["two"]
    with pytest.raises(ValueError, match="Executor\\(store="):
        await Executor().resume_async(workflow, "one")


async def test_store_has_no_keys_and_is_private(path: Path) -> None:
    config = LlmConfig.openai(
        "sk-secret-of-the-test-1234567890",
        "gpt-4o-mini",
        base_url="http://localhost:1",
        max_retries=0,
    )
    workflow = workflow_of(Node.agent("ask", llm_config=config, timeout=5))
    result = await Executor(config, store=path).run_async(workflow, "x")
    assert result.is_failed()
    files = list(path.parent.iterdir())
    assert len(files) >= 2
    assert all(b"sk-secret" not in file.read_bytes() for file in files)
    if os.name == "posix":
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.parametrize("kind", ["foreign", "text", "damaged", "folder", "newer"])
async def test_file_that_is_no_store_is_a_typed_error(path: Path, kind: str) -> None:
    workflow = workflow_of(Node.transform("loud", "uppercase"))
    if kind == "foreign":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE users (name)")
        connection.close()
    elif kind == "text":
        path.write_text("hello " * 1000)
    elif kind == "folder":
        path.mkdir()
    else:
        store = RunStore(path)
        await Executor(store=store).run_async(workflow, "x", run_id="one")
        connection = store._opened()
        if kind == "newer":
            connection.execute("PRAGMA user_version = 99")
        else:
            connection.execute("UPDATE engine_parts SET value = '{'")
        store.close()
    with pytest.raises(RunStoreError, match=str(path) if kind != "damaged" else "is damaged"):
        await Executor(store=path).resume_async(workflow, "one")
    with pytest.raises(ValueError, match="must name a file"):
        Executor(store="")
    with pytest.raises(TypeError, match="store must be a path or a RunStore, not int"):
        Executor(store=3)  # type: ignore[arg-type]  # wrong on purpose


async def test_store_that_fails_in_the_run_fails_the_node_and_keeps_the_run(path: Path) -> None:
    class Full(RunStore):
        is_full = True

        def write(self, *arguments: Any) -> None:
            if self.is_full:
                raise RunStoreError("the disk is full")
            super().write(*arguments)

    calls = Calls()
    store = Full(path)
    workflow = workflow_of(calls.node("a", retry=3), calls.node("b"), edges="a>b")
    executor = Executor(store=store)
    result = await executor.run_async(workflow, "x")
    assert (result.errors[0].code, calls.counts) == ("RUN_STORE_FAILED", {"a": 1})
    loop = workflow_of(calls.node("each", for_each="{{parameters.i}}", on_error="keep", retry=3))
    failed = await executor.run_async(loop, {"i": ["q"]})
    assert (failed.errors[0].code, calls.counts["each q"]) == ("RUN_STORE_FAILED", 1)
    store.is_full = False
    assert (await executor.resume_async(workflow, result.run_id)).result == "x+a+b"


def test_store_that_another_process_makes_at_the_same_moment_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = sqlite._number
    others: list[threading.Thread] = []

    def number(connection: sqlite3.Connection, statement: str) -> int:
        answer = ask(connection, statement)
        if not others:
            others.append(threading.Thread(target=list_runs))
            others[0].start()
            others[0].join(0.2)
        return answer

    def list_runs() -> None:
        with closing(RunStore(path)) as store:
            assert store.runs() == []

    monkeypatch.setattr(sqlite, "_number", number)
    list_runs()
    others[0].join(20)


async def test_task_cancelled_while_it_begins_or_takes_a_run_gives_the_run_up(path: Path) -> None:
    """asyncio cancels tasks behind anyio's shields, as ``asyncio.wait_for`` does."""

    class Slow(RunStore):
        def __init__(self) -> None:
            super().__init__(path)
            self.entered, self.go = threading.Event(), threading.Event()

        def begin(self, *arguments: Any) -> None:
            super().begin(*arguments)
            self.wait()

        def take(self, *arguments: Any) -> Any:
            taken = super().take(*arguments)
            self.wait()
            return taken

        def wait(self) -> None:
            self.entered.set()
            self.go.wait(20)

    workflow = workflow_of(Node.transform("loud", "uppercase"))
    plain = Executor(store=path)
    for call in ("run_async", "resume_async"):
        store = Slow()
        executor = Executor(store=store)
        arguments = (workflow, "x") if call == "run_async" else (workflow, "run")
        settings = {"run_id": "run"} if call == "run_async" else {}
        task = asyncio.create_task(getattr(executor, call)(*arguments, **settings))
        await anyio.to_thread.run_sync(store.entered.wait)
        task.cancel()
        await anyio.lowlevel.checkpoint()
        store.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        # At once: whoever has cancelled it may resume it.
        assert plain.runs()[0].state == "interrupted"
    assert (await plain.resume_async(workflow, "run")).result == "X"


async def test_tokens_of_a_run_that_was_cancelled_are_not_lost(path: Path) -> None:
    started, is_first = anyio.Event(), [True]

    async def work(text: str) -> str:
        if is_first:
            is_first.clear()
            started.set()
            await anyio.sleep_forever()
        return text

    def agents(*more: Node) -> Workflow:
        edges = "ask>work" if more else ""
        inner = workflow_of(Node.agent("ask"), *more, edges=edges)
        return workflow_of(Node.agent("first"), Node.flow(inner, "inner"), edges="first>inner")

    workflow, executor = agents(Node.function("work", work)), Executor(store=path)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(executor.run_async, workflow, "x", run_id="run"))
            await started.wait()
            group.cancel_scope.cancel()
        result = await executor.resume_async(workflow, "run")
    assert result.is_success()
    assert result.tokens == (await Executor().run_async(agents(), "x")).tokens is not None


def test_store_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a file"):
        Executor(store=":memory:")
