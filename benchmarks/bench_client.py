"""What the client adds to a call and to an event, without a network: over mock transports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
from pydantic import TypeAdapter

from benchmarks.measure import PROCESSOR, Row, best_of_each
from noukai_sdk import AsyncNoukai, Noukai, StepOutput

CALLS = 20
EVENTS = 2_000
ROUNDS = 200

URL = "http://localhost:8080/api/v1/seq/acme/spelling/grade-3/execute"
CALL = {"message": "The cat sat on the mat.", "parameters": {"difficulty": "hard"}}
RESULT = {"grade": 3, "mistakes": [], "text": "The cat sat on the mat. " * 4}
ANSWER = json.dumps(
    {"status": "completed", "result": RESULT, "flowId": "f", "blockCount": 2, "executionId": "e"}
).encode()
DELTA = json.dumps(
    {"eventType": "step_output", "stepId": "step-1", "outputData": " the cat sat on"}
).encode()
END = b'event: flow_completed\ndata: {"eventType": "flow_completed", "result": 1}\n\n'
# A packet of Ethernet: what a read from the network gives while a service streams quickly.
PACKET = 1_400


def run() -> list[Row]:
    return [*calls(), *streams()]


def calls() -> list[Row]:
    """``execute`` beside httpx's own ``post`` and ``json``, over the same transport."""
    best = best_of_each(
        {
            "bare": bare_calls(),
            "ours": our_calls(),
            "bare async": bare_async_calls(),
            "ours async": our_async_calls(),
        },
        ROUNDS,
        PROCESSOR,
    )
    micro = {name: seconds / CALLS * 1e6 for name, seconds in best.items()}
    return [
        Row("httpx's post and json", micro["bare"], None, "µs"),
        Row("execute", micro["ours"], None, "µs"),
        Row("execute / httpx's post and json", micro["ours"] / micro["bare"], 1.25, "times"),
        Row("the same, async", micro["ours async"] / micro["bare async"], 1.25, "times"),
    ]


def respond(request: httpx.Request) -> httpx.Response:
    headers = {"content-type": "application/json", "x-request-id": "r"}
    return httpx.Response(200, content=ANSWER, headers=headers)


MOCK = httpx.MockTransport(respond)


def bare_calls() -> Callable[[], None]:
    client = httpx.Client(transport=MOCK)

    def run() -> None:
        for _ in range(CALLS):
            client.post(URL, json=CALL).json()

    return run


def our_calls() -> Callable[[], None]:
    client = Noukai(api_key="nk_bench", env="dev", http_client=httpx.Client(transport=MOCK))
    flow = client.flow("acme/spelling/grade-3")

    def run() -> None:
        for _ in range(CALLS):
            flow.execute(message=CALL["message"], parameters=CALL["parameters"])  # type: ignore[arg-type]  # CALL is a plain dict

    return run


def bare_async_calls() -> Callable[[], None]:
    client = httpx.AsyncClient(transport=MOCK)

    async def run() -> None:
        for _ in range(CALLS):
            (await client.post(URL, json=CALL)).json()

    return lambda: LOOP.run_until_complete(run())


def our_async_calls() -> Callable[[], None]:
    mine = httpx.AsyncClient(transport=MOCK)
    client = AsyncNoukai(api_key="nk_bench", env="dev", http_client=mine)
    flow = client.flow("acme/spelling/grade-3")

    async def run() -> None:
        for _ in range(CALLS):
            await flow.execute(message=CALL["message"], parameters=CALL["parameters"])  # type: ignore[arg-type]  # CALL is a plain dict

    return lambda: LOOP.run_until_complete(run())


def streams() -> list[Row]:
    """Time an event of ``events()``, from the network's bytes to the caller's loop."""
    named = b"event: step_output\ndata: " + DELTA + b"\n\n"
    unnamed = b"data: " + DELTA + b"\n\n"
    best = best_of_each(
        {
            "pydantic": validations,
            "named": our_stream(packets(named)),
            "unnamed": our_stream(packets(unnamed)),
            "named async": our_async_stream(packets(named)),
            "unnamed async": our_async_stream(packets(unnamed)),
            "frame by frame": our_stream([named] * EVENTS + [END]),
        },
        ROUNDS,
        PROCESSOR,
    )
    micro = {name: seconds / EVENTS * 1e6 for name, seconds in best.items()}
    pydantic = micro.pop("pydantic")
    rows = [Row("pydantic's validate_json of an event", pydantic, None, "µs")]
    for name, value in micro.items():
        limit = None if name == "frame by frame" else 2.5
        rows.append(
            Row(f"an event, {name} / pydantic's validate_json", value / pydantic, limit, "times")
        )
    return rows


validate = TypeAdapter(StepOutput).validate_json


def validations() -> None:
    for _ in range(EVENTS):
        validate(DELTA)


def packets(frame: bytes) -> list[bytes]:
    stream = frame * EVENTS + END
    return [stream[start : start + PACKET] for start in range(0, len(stream), PACKET)]


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that has arrived in these chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def mock_of(chunks: list[bytes]) -> httpx.MockTransport:
    headers = {"content-type": "text/event-stream"}
    return httpx.MockTransport(
        lambda request: httpx.Response(200, stream=Chunks(chunks), headers=headers)
    )


def our_stream(chunks: list[bytes]) -> Callable[[], None]:
    mine = httpx.Client(transport=mock_of(chunks))
    flow = Noukai(api_key="nk_bench", env="dev", http_client=mine).flow("acme/spelling/grade-3")

    def run() -> None:
        for event in flow.events(message="hi"):
            last = event
        assert last.type == "flow_completed"

    return run


def our_async_stream(chunks: list[bytes]) -> Callable[[], None]:
    mine = httpx.AsyncClient(transport=mock_of(chunks))
    flow = AsyncNoukai(api_key="nk_bench", env="dev", http_client=mine).flow(
        "acme/spelling/grade-3"
    )

    async def run() -> None:
        async for event in flow.events(message="hi"):
            last = event
        assert last.type == "flow_completed"

    return lambda: LOOP.run_until_complete(run())


LOOP = asyncio.new_event_loop()
