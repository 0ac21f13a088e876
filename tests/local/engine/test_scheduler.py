"""Scheduling through ``run_async``: order, conditions, functions, loops, failures, limits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, Node, Workflow, WorkflowResult
from noukai_sdk.local.engine.failures import delay_before
from noukai_sdk.local.llm.errors import LlmAuthenticationError, LlmRateLimitError
from noukai_sdk.local.workflow.templates import UnresolvedReferenceError
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio


def failing(error: Exception, times: int) -> Callable[[Any], Any]:
    """Return a function that raises ``error`` so many times and then returns its argument."""
    remaining = [error] * times

    async def fail(value: Any) -> Any:
        if remaining:
            raise remaining.pop()
        return value

    return fail


class Forever:
    """Node functions that never end, and count how many have been stopped."""

    def __init__(self) -> None:
        self.stopped = 0

    async def __call__(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.stopped += 1


class Concurrency:
    """Node functions that count how many of them run at once. Higher numbers end sooner."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def __call__(self, value: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(10 - value if isinstance(value, int) else 10):
            await anyio.lowlevel.checkpoint()
        self.running -= 1
        return value


async def run(workflow: Workflow | Node, inputs: Any = None, **settings: Any) -> WorkflowResult:
    workflow = workflow_of(workflow) if isinstance(workflow, Node) else workflow
    with anyio.fail_after(20):
        return await Executor(**settings).run_async(workflow, inputs)


def codes(result: WorkflowResult) -> list[str]:
    return [error.code for error in result.errors]


async def test_node_starts_when_its_own_parents_are_done() -> None:
    """A barrier per level would wait for ``slow`` before ``after``, and never end here."""
    after_ran = anyio.Event()

    async def slow() -> str:
        await after_ran.wait()
        return "slow"

    async def after(value: str) -> str:
        after_ran.set()
        return value

    workflow = workflow_of(
        Node.function("slow", slow),
        Node.function("quick", lambda: "quick"),
        Node.function("after", after),
        Node.function("end", lambda outputs: list(outputs.items())),
        edges="quick>after slow>end after>end",
    )
    # Outputs of parents come in connect order.
    assert (await run(workflow)).result == [("slow", "slow"), ("after", "quick")]


@pytest.mark.parametrize(("max_concurrency", "most"), [(None, 10), (3, 3), (1, 1)])
async def test_max_concurrency_limits_nodes_at_once(max_concurrency: int, most: int) -> None:
    work = Concurrency()
    workflow = workflow_of(*(Node.function(f"n{i}", work) for i in range(10)))
    assert (await run(workflow, "x", max_concurrency=max_concurrency)).is_success()
    assert work.most == most


async def test_values_keep_their_types() -> None:
    marker = object()
    workflow = workflow_of(
        Node.function("make", lambda message: {"set": {1}, "marker": marker, "input": message}),
        Node.function("take", lambda value: value["marker"]),
        Node.transform("field", "{{node.make.set}}"),
        edges="make>take make>field",
    )
    result = await run(workflow, {"message": b"bytes"})
    assert result.get_node_output("make")["input"] == b"bytes"
    assert result.get_node_output("take") is marker
    assert result.get_node_output("field") == {1}


@pytest.mark.parametrize(
    ("message", "taken", "skipped", "text"),
    [
        ("a long one", "shorten", "keep", "[short: a long one]"),
        ("short", "keep", "shorten", "[kept: short]"),
    ],
)
async def test_condition_chooses_branch_and_branches_join(
    message: str, taken: str, skipped: str, text: str
) -> None:
    workflow = workflow_of(
        Node.condition("is long", "len(input) > 5"),
        Node.transform("shorten", "short: {{input}}"),
        Node.transform("keep", "kept: {{input}}"),
        Node.transform("end", "[{{input}}]"),
        edges="is-long>shorten is-long!keep shorten>end keep>end",
    )
    result = await run(workflow, message)
    assert result.result == text
    assert result.skipped == [skipped]
    assert result.get_node_output(skipped) is None
    assert list(result.get_all_node_outputs()) == ["is long", taken, "end"]
    assert result.get_node_output("is long") is (taken == "shorten")


async def test_node_with_skipped_parents_only_is_skipped() -> None:
    workflow = workflow_of(
        Node.condition("no", lambda value: 0),
        Node.transform("a", "uppercase"),
        Node.transform("b", "uppercase"),
        Node.condition("c", "True"),
        Node.transform("d", "uppercase"),
        Node.transform("other", "{{node.a}}|{{message}}"),
        edges="no>a a>b b>c c>d a>other no!other",
    )
    result = await run(workflow, "hi")
    assert result.is_success()
    assert result.skipped == ["a", "b", "c", "d"]
    assert result.result == "|hi"


async def test_condition_beside_data_parent_skips_node() -> None:
    workflow = workflow_of(
        Node.transform("data", "trim"),
        Node.condition("yes", "input == 'x'"),
        Node.function("end", lambda value: value),
        edges="data>yes yes>end data>end",
    )
    assert (await run(workflow, " x ")).result == "x"
    skipped = await run(workflow, "y")
    assert (skipped.result, skipped.skipped) == (None, ["end"])


async def test_functions_of_every_kind_are_called() -> None:
    class Shouter:
        async def __call__(self, value: str) -> str:
            return value + "!"

    async def upper(value: str) -> str:
        return value.upper()

    workflow = workflow_of(
        Node.function("none", lambda: threading.get_ident()),
        Node.function("object", Shouter()),
        Node.function("partial", functools.partial(upper)),
        Node.function("lambda", lambda value: upper(value)),
        Node.function("builtin", len),
        Node.function("class", list),
    )
    outputs = (await run(workflow, "hi")).get_all_node_outputs()
    assert outputs.pop("none") != threading.get_ident()
    expected = {"object": "hi!", "partial": "HI", "lambda": "HI", "builtin": 2, "class": ["h", "i"]}
    assert outputs == expected


async def test_function_arguments_are_resolved_at_any_depth() -> None:
    arguments = {
        "whole": "{{node.data}}",
        "text": "{{node.data.0}} and {{parameters.n}}",
        "deep": {"list": ["{{message}}", 3]},
    }
    workflow = workflow_of(
        Node.function("data", lambda: [1, 2]),
        Node.function("take", dict, arguments=arguments),
        edges="data>take",
    )
    result = await run(workflow, {"message": "hi", "n": 7})
    assert result.result == {"whole": [1, 2], "text": "1 and 7", "deep": {"list": ["hi", 3]}}


@pytest.mark.parametrize(
    ("name", "value", "output"),
    [
        ("uppercase", "aB", "AB"),
        ("lowercase", "aB", "ab"),
        ("trim", " a ", "a"),
        ("text", {"a": 1}, '{"a": 1}'),
        ("length", [1, 2], 2),
        ("lines", "a\n\n b \n", ["a", "b"]),
        ("words", "a  b", ["a", "b"]),
        ("join", ["a", 1], "a\n1"),
        ("join", {"x": "a", "y": "b"}, "a\nb"),
        ("values", {"x": 1}, [1]),
        ("first", [1, 2], 1),
        ("last", (1, 2), 2),
        ("json", '{"a": [1]}', {"a": [1]}),
        ("json", [1], [1]),
    ],
)
async def test_transform_by_name_returns_output(name: str, value: Any, output: Any) -> None:
    assert (await run(Node.transform("t", name), {"message": value})).result == output


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_loop_returns_outputs_in_order(concurrency: int) -> None:
    work = Concurrency()
    workflow = workflow_of(
        Node.function("items", lambda: [1, 8, 2]),
        Node.function("each", work, for_each="{{input}}", concurrency=concurrency),
        Node.transform("shout", "{{index}}:{{item}}/{{parameters.x}}", for_each="{{node.each}}"),
        Node.function("none", work, for_each="{{parameters.empty}}", concurrency=3),
        edges="items>each each>shout shout>none",
    )
    result = await run(workflow, {"x": "y", "empty": []})
    assert result.get_node_output("each") == [1, 8, 2]
    assert result.get_node_output("shout") == ["0:1/y", "1:8/y", "2:2/y"]
    assert result.get_node_output("none") == []
    assert work.most == concurrency


async def test_loop_over_long_list_starts_few_tasks() -> None:
    most_tasks, before = 0, len(anyio.get_running_tasks())

    async def work(item: int) -> int:
        nonlocal most_tasks
        most_tasks = max(most_tasks, len(anyio.get_running_tasks()))
        await anyio.lowlevel.checkpoint()
        return -item

    node = Node.function("each", work, for_each="{{message}}", concurrency=5)
    result = await run(node, {"message": list(range(2000))})
    assert result.result == [-item for item in range(2000)]
    # A task for each item would take a kilobyte for each.
    assert most_tasks < before + 50


@pytest.mark.parametrize("kind", ["loop", "concurrent loop", "chain"])
async def test_work_that_never_waits_can_be_cancelled(kind: str) -> None:
    done = 0

    async def work(value: Any) -> None:
        nonlocal done
        done += 1
        if done == 10:
            scope.cancel()

    if kind == "chain":
        names = [f"n{place}" for place in range(100)]
        edges = " ".join(f"{one}>{other}" for one, other in pairwise(names))
        workflow = workflow_of(*(Node.function(name, work) for name in names), edges=edges)
    else:
        concurrency = 1 if kind == "loop" else 3
        node = Node.function("each", work, for_each="{{message}}", concurrency=concurrency)
        workflow = workflow_of(node)
    with anyio.CancelScope() as scope:
        await run(workflow, {"message": list(range(100))})
    assert scope.cancelled_caught
    assert done < 20


async def test_loop_timeout_counts_while_listener_takes_time() -> None:
    async def work(item: int) -> int:
        if item == 2:
            await anyio.sleep_forever()
        return item

    node = Node.function("each", work, for_each="{{message}}", concurrency=3, timeout=0.2)
    stream = Executor().execute_streaming(workflow_of(node), {"message": [1, 2, 3]})
    with anyio.fail_after(20):
        async for _ in stream:
            # The events of several items wait at once.
            await anyio.sleep(0.01)
    assert stream.result is not None
    assert codes(stream.result) == ["STEP_TIMEOUT"]


async def test_failed_node_fails_run_and_stops_other_nodes() -> None:
    forever = Forever()

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise RuntimeError("broken")

    workflow = workflow_of(
        Node.transform("done", "text"),
        Node.function("forever", forever),
        Node.function("fail", fail),
        Node.transform("never", "text"),
        Node.transform("end", "text"),
        edges="done>fail fail>never forever>end",
    )
    result = await run(workflow, "hi")
    assert (result.is_failed(), result.is_success(), result.state()) == (True, False, "failed")
    messages = [str(error) for error in result.errors]
    assert messages == ["fail: STEP_FAILED: step 'fail' failed: RuntimeError: broken"]
    assert result.get_all_node_outputs() == {"done": "hi"}
    assert result.result is None
    assert forever.stopped == 1
    with pytest.raises(RuntimeError, match="broken"):
        result.raise_for_failure()


@pytest.mark.parametrize(
    ("error", "times", "of_node", "of_executor", "succeeds"),
    [
        (OSError("x"), 2, 2, 0, True),
        (OSError("x"), 2, 1, 0, False),
        (OSError("x"), 1, None, 0, False),
        (OSError("x"), 1, None, 1, True),
        (OSError("x"), 1, 0, 1, False),
        (LlmAuthenticationError("no", code="BYOK_KEY_REJECTED"), 1, 5, 0, False),
        (UnresolvedReferenceError("no"), 1, 5, 0, False),
    ],
)
async def test_failed_node_is_retried_as_often_as_set(
    error: Exception, times: int, of_node: int | None, of_executor: int, succeeds: bool
) -> None:
    node = Node.function("f", failing(error, times), retry=of_node)
    result = await run(node, {"message": 1}, retry=of_executor)
    assert result.is_success() is succeeds


async def test_retry_waits_as_long_as_provider_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("noukai_sdk.local.engine.scheduler.anyio.sleep", sleep)
    error = LlmRateLimitError("slow down", retry_after=7)
    for node in (
        Node.function("f", failing(error, 1), retry=1),
        Node.function("f", failing(OSError(), 2), retry=2),
    ):
        assert (await run(node, {"message": 1})).is_success()
    assert waits == [7, 0.1, 0.2]
    error.retry_after = float("nan")
    assert delay_before(1, error) == 0.1
    assert delay_before(5000, OSError()) == 30


async def test_node_timeout_ends_attempt() -> None:
    calls: list[Any] = []

    async def hang_once(value: Any) -> Any:
        calls.append(value)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return value

    result = await run(Node.function("f", hang_once, timeout=0.05), "x")
    assert codes(result) == ["STEP_TIMEOUT"]
    assert "0.05 seconds" in result.errors[0].message
    calls.clear()
    assert (await run(Node.function("f", hang_once, timeout=0.05, retry=1), "x")).result == "x"
    # A TimeoutError of the function's own is not the node's timeout.
    own = Node.function("f", failing(TimeoutError("own"), 1), timeout=60)
    assert codes(await run(own, "x")) == ["STEP_FAILED"]
    # A thread that goes on does not hold it up.
    release = threading.Event()
    try:
        in_thread = Node.function("f", lambda: release.wait(20), timeout=0.05)
        assert codes(await run(in_thread)) == ["STEP_TIMEOUT"]
    finally:
        release.set()


async def test_run_timeout_fails_run_and_keeps_outputs() -> None:
    workflow = workflow_of(
        Node.transform("first", "text"),
        Node.function("hang", anyio.sleep_forever),
        edges="first>hang",
    )
    result = await run(workflow, "hi", timeout=0.05)
    assert [(error.node, error.code) for error in result.errors] == [("hang", "RUN_TIMEOUT")]
    assert result.get_all_node_outputs() == {"first": "hi"}


async def test_run_timeout_keeps_what_the_nodes_have_used() -> None:
    workflow = workflow_of(
        Node.agent("ask", "hi"), Node.function("hang", anyio.sleep_forever), edges="ask>hang"
    )
    result = await run(workflow, timeout=0.5)
    assert codes(result) == ["RUN_TIMEOUT"]
    assert result.run_state.usages == {name: use.as_dict for name, use in result.usages.items()}


async def test_run_cancelled_stops_all_nodes() -> None:
    forever = Forever()
    workflow = workflow_of(*(Node.function(f"n{i}", forever) for i in range(3)))
    with anyio.move_on_after(0.1):
        await Executor().run_async(workflow)
    assert forever.stopped == 3


async def test_missing_input_is_an_error_before_any_node_runs() -> None:
    calls: list[int] = []
    workflow = workflow_of(
        Node.function("first", lambda: calls.append(1)),
        Node.agent("second", "{{parameters.topic}}"),
        edges="first>second",
    )
    with pytest.raises(FlowExecutionError, match="topic") as caught:
        await run(workflow)
    assert caught.value.code == "TEMPLATE_UNRESOLVED"
    assert calls == []


@pytest.mark.parametrize(
    ("node", "code", "message"),
    [
        (Node.transform("take", "{{node.make.b}}"), "TEMPLATE_UNRESOLVED", "there is no 'b'"),
        (Node.transform("take", "text", for_each="{{node.make.a}}"), "NOT_A_LIST", "of type int"),
    ],
)
async def test_output_of_other_shape_than_needed_fails_node(
    node: Node, code: str, message: str
) -> None:
    workflow = workflow_of(Node.function("make", lambda: {"a": 1}), node, edges="make>take")
    result = await run(workflow)
    assert codes(result) == [code]
    assert message in result.errors[0].message


async def test_chain_of_ten_thousand_nodes_runs() -> None:
    async def plus_one(value: int) -> int:
        return value + 1

    workflow = Workflow("long")
    for place in range(10_000):
        workflow.add_node(Node.function(f"n{place}", plus_one))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    with anyio.fail_after(120):
        assert (await Executor().run_async(workflow, {"message": 0})).result == 10_000
