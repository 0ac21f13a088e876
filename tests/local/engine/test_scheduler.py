"""The engine through run_async: scheduling, conditions, functions, loops, failures."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from noukai_sdk.local.engine.executor import Executor
from noukai_sdk.local.engine.failures import delay_before
from noukai_sdk.local.engine.result import WorkflowResult
from noukai_sdk.local.llm.errors import LlmAuthenticationError, LlmRateLimitError
from noukai_sdk.local.workflow.node import Node
from noukai_sdk.local.workflow.workflow import Workflow
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio

ONE = {"message": 1}


def failing(error: Exception, times: int) -> Callable[[Any], Any]:
    left = [error] * times

    async def fail(value: Any) -> Any:
        if left:
            raise left.pop()
        return value

    return fail


async def run(workflow: Workflow, inputs: Any = None, **settings: Any) -> WorkflowResult:
    with anyio.fail_after(20):
        return await Executor(**settings).run_async(workflow, inputs)


async def test_a_node_starts_when_its_own_parents_are_done() -> None:
    """A level barrier would wait for ``slow`` before ``after``, and never end here."""
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
        Node.function("end", lambda both: both),
        edges="quick>after slow>end after>end",
    )
    result = await run(workflow)
    assert result.result == {"slow": "slow", "after": "quick"}


async def test_parents_outputs_come_in_connect_order() -> None:
    nodes = [Node.transform(name, name + "{{parameters.x}}") for name in "abc"]
    end = Node.function("end", lambda outputs: list(outputs.items()))
    workflow = workflow_of(*nodes, end, edges="c>end a>end b>end")
    result = await run(workflow, {"x": 1})
    assert result.result == [("c", "c1"), ("a", "a1"), ("b", "b1")]


async def test_ten_at_once_and_no_more_than_the_setting() -> None:
    running, most = 0, 0
    everybody = anyio.Event()

    def workers(wait_for: int) -> Workflow:
        async def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == wait_for:
                everybody.set()
            await everybody.wait()
            running -= 1

        return workflow_of(*(Node.function(f"n{i}", work) for i in range(10)))

    assert (await run(workers(10))).is_success()
    assert most == 10
    most, everybody = 0, anyio.Event()
    assert (await run(workers(3), max_concurrency=3)).is_success()
    assert most == 3


async def test_values_keep_their_types() -> None:
    marker = object()
    workflow = workflow_of(
        Node.function("make", lambda message: {"set": {1}, "marker": marker, "given": message}),
        Node.function("take", lambda value: value["marker"]),
        Node.transform("field", "{{node.make.set}}"),
        edges="make>take make>field",
    )
    result = await run(workflow, {"message": b"bytes"})
    assert result.get_node_output("make")["given"] == b"bytes"
    assert result.get_node_output("take") is marker
    assert result.get_node_output("field") == {1}


@pytest.mark.parametrize(("message", "taken"), [("a long one", "shorten"), ("short", "keep")])
async def test_a_condition_chooses_and_both_ways_meet_again(message: str, taken: str) -> None:
    workflow = workflow_of(
        Node.condition("is long", "len(input) > 5"),
        Node.transform("shorten", "short: {{input}}"),
        Node.transform("keep", "kept: {{input}}"),
        Node.transform("end", "[{{input}}]"),
        edges="is-long>shorten is-long!keep shorten>end keep>end",
    )
    result = await run(workflow, message)
    other = {"shorten": "keep", "keep": "shorten"}[taken]
    how = {"shorten": "short", "keep": "kept"}[taken]
    assert result.result == f"[{how}: {message}]"
    assert result.skipped == [other]
    assert result.get_node_output(other) is None
    assert other not in result.get_all_node_outputs()
    assert result.get_node_output("is long") is (taken == "shorten")


async def test_what_follows_only_skipped_nodes_is_skipped() -> None:
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


async def test_a_condition_beside_data_shuts_a_node() -> None:
    workflow = workflow_of(
        Node.transform("data", "trim"),
        Node.condition("yes", "input == 'x'"),
        Node.function("end", lambda value: value),
        edges="data>yes yes>end data>end",
    )
    assert (await run(workflow, " x ")).result == "x"
    skipped = await run(workflow, "y")
    assert (skipped.result, skipped.skipped) == (None, ["end"])


async def test_functions_of_every_kind() -> None:
    class Shouter:
        async def __call__(self, value: str) -> str:
            return value + "!"

    async def plain(value: str) -> str:
        return value.upper()

    main = threading.get_ident()
    workflow = workflow_of(
        Node.function("none", lambda: threading.get_ident()),
        Node.function("object", Shouter()),
        Node.function("partial", functools.partial(plain)),
        Node.function("lambda", lambda value: plain(value)),
        Node.function("builtin", len),
        Node.function("class", list),
    )
    outputs = (await run(workflow, "hi")).get_all_node_outputs()
    assert outputs.pop("none") != main
    assert outputs == {
        "object": "hi!",
        "partial": "HI",
        "lambda": "HI",
        "builtin": 2,
        "class": ["h", "i"],
    }


async def test_arguments_are_resolved_all_the_way_down() -> None:
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
    ("name", "given", "made"),
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
async def test_transforms(name: str, given: Any, made: Any) -> None:
    result = await run(workflow_of(Node.transform("t", name)), {"message": given})
    assert result.result == made


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_loop_gives_its_outputs_in_order(concurrency: int) -> None:
    running, most = 0, 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - item):
            await anyio.lowlevel.checkpoint()
        running -= 1
        return item * 10

    workflow = workflow_of(
        Node.function("items", lambda: [3, 1, 2]),
        Node.function("each", work, for_each="{{input}}", concurrency=concurrency),
        Node.transform("shout", "{{index}}:{{item}}/{{parameters.x}}", for_each="{{node.each}}"),
        edges="items>each each>shout",
    )
    result = await run(workflow, {"x": "y"})
    assert result.get_node_output("each") == [30, 10, 20]
    assert result.result == ["0:30/y", "1:10/y", "2:20/y"]
    assert most == concurrency


async def test_a_loop_over_no_list_fails() -> None:
    result = await run(workflow_of(Node.transform("t", "text", for_each="{{message}}")), "text")
    assert [error.code for error in result.errors] == ["NOT_A_LIST"]
    assert "of type str" in result.errors[0].message


async def test_a_failed_item_fails_the_loop_and_stops_the_others() -> None:
    stopped = []
    begun = anyio.Event()

    async def work(item: int) -> None:
        if item == 1:
            await begun.wait()
            raise ValueError("item 1")
        try:
            if item == 0:
                begun.set()
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            stopped.append(item)
            raise

    node = Node.function("each", work, for_each="{{message}}", concurrency=3)
    result = await run(workflow_of(node), {"message": [0, 1, 2]})
    assert [error.code for error in result.errors] == ["STEP_FAILED"]
    assert "ValueError: item 1" in result.errors[0].message
    assert 0 in stopped


async def test_a_failed_node_makes_a_failed_result_and_stops_the_rest() -> None:
    stopped = anyio.Event()

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

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
    assert [str(error) for error in result.errors] == [
        "fail: STEP_FAILED: step 'fail' failed: RuntimeError: broken"
    ]
    assert result.get_all_node_outputs() == {"done": "hi"}
    assert result.result is None
    assert stopped.is_set()
    with pytest.raises(RuntimeError, match="broken"):
        result.raise_for_failure()


async def test_a_failure_is_tried_again_as_often_as_the_node_says() -> None:
    flaky = Node.function("flaky", failing(OSError("x"), 2), retry=2)
    assert (await run(workflow_of(flaky), "hi")).result == "hi"
    flaky = Node.function("flaky", failing(OSError("x"), 2), retry=1)
    assert (await run(workflow_of(flaky), "hi")).is_failed()


async def test_the_executor_says_it_for_nodes_that_do_not() -> None:
    assert (await run(workflow_of(Node.function("f", failing(OSError(), 1))), ONE)).is_failed()
    flaky = Node.function("f", failing(OSError(), 1))
    assert (await run(workflow_of(flaky), ONE, retry=1)).is_success()
    never = Node.function("f", failing(OSError(), 1), retry=0)
    assert (await run(workflow_of(never), ONE, retry=1)).is_failed()


async def test_what_a_provider_asks_to_wait_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("noukai_sdk.local.engine.scheduler.anyio.sleep", sleep)
    error = LlmRateLimitError("slow down", retry_after=7)
    node = Node.function("f", failing(error, 1), retry=1)
    assert (await run(workflow_of(node), ONE)).is_success()
    node = Node.function("f", failing(OSError(), 2), retry=2)
    assert (await run(workflow_of(node), ONE)).is_success()
    assert waited == [7, 0.1, 0.2]
    error.retry_after = float("nan")
    assert delay_before(1, error) == 0.1
    assert delay_before(5000, OSError()) == 30


async def test_a_refused_key_is_never_tried_again() -> None:
    error = LlmAuthenticationError("no", code="BYOK_KEY_REJECTED")
    node = Node.function("f", failing(error, 1), retry=5)
    result = await run(workflow_of(node), ONE)
    assert [(error.node, error.code) for error in result.errors] == [("f", "BYOK_KEY_REJECTED")]


async def test_a_timeout_ends_an_attempt() -> None:
    calls = []

    async def hang(value: Any) -> Any:
        calls.append(value)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return value

    result = await run(workflow_of(Node.function("f", hang, timeout=0.05)), ONE)
    assert [error.code for error in result.errors] == ["STEP_TIMEOUT"]
    assert "0.05 seconds" in result.errors[0].message
    calls.clear()
    node = Node.function("f", hang, timeout=0.05, retry=1)
    assert (await run(workflow_of(node), ONE)).result == 1


async def test_a_timeout_of_its_own_is_a_plain_failure() -> None:
    node = Node.function("f", failing(TimeoutError("theirs"), 1), timeout=60)
    result = await run(workflow_of(node), ONE)
    assert [error.code for error in result.errors] == ["STEP_FAILED"]


async def test_a_thread_cannot_hold_up_a_timeout() -> None:
    go_on = threading.Event()
    try:
        node = Node.function("f", lambda: go_on.wait(20), timeout=0.05)
        result = await run(workflow_of(node))
        assert [error.code for error in result.errors] == ["STEP_TIMEOUT"]
    finally:
        go_on.set()


async def test_the_whole_run_has_a_timeout() -> None:
    workflow = workflow_of(
        Node.transform("first", "text"),
        Node.function("hang", anyio.sleep_forever),
        edges="first>hang",
    )
    result = await run(workflow, "hi", timeout=0.05)
    assert [(error.node, error.code) for error in result.errors] == [("hang", "RUN_TIMEOUT")]
    assert result.get_all_node_outputs() == {"first": "hi"}


async def test_cancelling_a_run_cancels_all_that_is_under_way() -> None:
    stopped: list[int] = []

    async def forever(place: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(place)

    nodes = [Node.function(f"n{i}", functools.partial(forever, i)) for i in range(3)]
    with anyio.move_on_after(0.1):
        await Executor().run_async(workflow_of(*nodes))
    assert sorted(stopped) == [0, 1, 2]


async def test_a_missing_input_is_an_error_before_anything_runs() -> None:
    from noukai_sdk.errors import FlowExecutionError

    ran = []
    workflow = workflow_of(
        Node.function("first", lambda: ran.append(1)),
        Node.agent("second", "{{parameters.topic}}"),
        edges="first>second",
    )
    with pytest.raises(FlowExecutionError, match="topic") as caught:
        await run(workflow)
    assert caught.value.code == "TEMPLATE_UNRESOLVED"
    assert ran == []


async def test_a_field_that_turns_out_missing_fails_the_node() -> None:
    workflow = workflow_of(
        Node.function("make", lambda: {"a": 1}),
        Node.transform("take", "{{node.make.b}}"),
        edges="make>take",
    )
    result = await run(workflow, retry=3)
    assert [error.code for error in result.errors] == ["TEMPLATE_UNRESOLVED"]


async def test_ten_thousand_nodes_run_one_after_the_other() -> None:
    async def plus_one(value: int) -> int:
        return value + 1

    workflow = Workflow("long")
    for place in range(10_000):
        workflow.add_node(Node.function(f"n{place}", plus_one))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    with anyio.fail_after(120):
        assert (await Executor().run_async(workflow, {"message": 0})).result == 10_000
