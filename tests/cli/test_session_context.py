"""``noukai session show --context`` shows what a provider received, over HTTP and byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import Noukai, tool, trace_scope_sync
from noukai_sdk.contexts.model_messages import message_of
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.recording import Recording
from tests.cli.commands import run, run_json
from tests.support.llm_servers import FaultServer, fault_server, ok, partial_stream, stream_of
from tests.support.servers import Server, serve_app, serve_backend
from tests.support.service import Reply, Service

FLOWS = {
    "acme/chat/weather.yaml": """
        steps:
          - id: shout
            transform: "{{message}}!"
          - {id: answer, model: "openai:m", temperature: 0.2, max_tokens: 300, tools: true, retry: 1,
             system: 'You know the weather: "so" <b>', prompt: "Answer {{message}}"}
    """,
    "acme/chat/talk.yaml": "steps: [{id: reply, model: 'openai:m', system: Be brief.}]",
    "acme/chat/masked.yaml": "{capture: redacted, steps: [{id: reply, model: 'openai:m'}]}",
    "acme/chat/unseen.yaml": "{capture: metadata_only, steps: [{id: reply, model: 'openai:m'}]}",
    "acme/chat/inner.yaml": "steps: [{id: draft, model: 'openai:m', prompt: 'Draft {{message}}'}]",
    "acme/chat/outer.yaml": """
        steps:
          - {id: each, for_each: "{{parameters.words}}", flow: inner}
          - id: polish
            repeat: {model: "openai:m", prompt: "Shorten {{input}}"}
            until: "round == 2"
            at_most: 2
    """,
    "acme/chat/claude.yaml": """
        steps:
          - {id: write, model: "anthropic:c", system: Be kind., prompt: "Say {{message}}", output: json}
    """,
}
CALL = {
    "id": "call_1",
    "index": 0,
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
ASKS = stream_of(
    {"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [CALL]}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
)


@pytest.fixture(scope="module")
def provider() -> Iterator[FaultServer]:
    with fault_server(ok()) as server:
        yield server


@pytest.fixture(scope="module")
def server(provider: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("context")
    for name, text in FLOWS.items():
        path = folder / "flows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = {
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "ANTHROPIC_BASE_URL": provider.url,
        "OPENAI_API_KEY": "sk-of-the-test",
        "ANTHROPIC_API_KEY": "sk-of-the-test",
    }
    with serve_backend(folder, flows=folder / "flows", env=env) as started:
        yield started


@pytest.fixture
def model(server: Server, provider: FaultServer, use_service: Callable[[str], None]) -> FaultServer:
    use_service(server.api)
    provider.requests.clear()
    provider.script[:] = [ok("Sunny there")]
    return provider


@tool
def weather(city: str) -> str:
    """Look up the weather in a city."""
    return f"It is sunny in {city}.\n\tÄ 𝄞"


def call(flow: str, *calls: dict[str, Any]) -> str:
    """Run a flow once for each of the calls, and return the id of the session."""
    with Noukai(org="acme", project="chat") as client, trace_scope_sync() as scope:
        for each in calls:
            client.flow(flow).execute(**each)
    return scope.session_id


def requests_of(session_id: str, number: str = "1") -> list[dict[str, Any]]:
    """Return all requests to models that ``--context`` shows of a call."""
    steps = run_json("show", session_id, "--context", number)["call"]["steps"]
    return [request for step in steps for request in step["requests"]]


def test_context_of_agent_with_tools_and_retry_equals_what_provider_received(
    model: FaultServer,
) -> None:
    model.script[:] = [ASKS, partial_stream("end"), ok("Sunny there")]
    session_id = call("weather", {"message": "Paris, 𝄞?", "tools": [weather]})
    received = [request.body for request in model.requests]
    assert len(received) == 3
    shown = requests_of(session_id)
    # The settings of the delivery are left out: how a response is streamed is nothing a model sees.
    for body in received:
        del body["stream"], body["stream_options"]
    named = {"messages", "tools"}
    assert [
        {"model": "m", **request["settings"], **{name: request[name] for name in named}}
        for request in shown
    ] == received
    steps = run_json("show", session_id, "--context", "1")["call"]["steps"]
    assert [(step["step"], step["attempt"], len(step["requests"])) for step in steps] == [
        ("shout", 1, 0),
        ("answer", 1, 2),
        ("answer", 2, 1),
    ]
    text = run("show", session_id, "--context", "1", "--full").stdout
    assert "sk-of-the-test" not in text
    for message in received[-1]["messages"]:
        assert f":\n{message_of(message).text}\n" in text
    assert "step shout\nthis step calls no model\n" in text
    assert "max_completion_tokens=300" in text
    assert "as in the request before" in run("show", session_id, "--context", "1/answer").stdout


def test_context_of_anthropic_has_system_and_blocks_as_sent(model: FaultServer) -> None:
    model.script[:] = [ok('{"a": 1}')]
    session_id = call("claude", {"message": "hello"})
    (body,) = [request.body for request in model.requests]
    (shown,) = requests_of(session_id)
    system, *messages = shown["messages"]
    assert system == {"role": "system", "content": body["system"]}
    assert messages == body["messages"]
    assert shown["settings"]["max_tokens"] == body["max_tokens"]


def test_context_has_agents_of_flows_in_flows_and_of_each_round(model: FaultServer) -> None:
    session_id = call("outer", {"message": "hello", "parameters": {"words": ["one", "two"]}})
    steps = run_json("show", session_id, "--context", "1")["call"]["steps"]
    agents = {step["step"]: step["requests"] for step in steps if step["requests"]}
    assert sorted(agents) == [
        "each[0]/draft", "each[1]/draft", "polish[0]/polish", "polish[1]/polish",
    ]  # fmt: skip
    shown = [request["messages"] for requests in agents.values() for request in requests]
    received = [request.body["messages"] for request in model.requests]
    assert sorted(shown, key=str) == sorted(received, key=str)
    text = run("show", session_id, "--context", "1/polish").stdout
    assert "step polish[0]\nthis step runs a workflow, whose agents follow\n" in text
    assert "step polish[1]/polish\n" in text
    assert "each" not in text


def test_context_compares_calls_of_a_growing_conversation(model: FaultServer) -> None:
    asked = "Tell me about rain. " * 20
    first = [{"role": "user", "content": asked}]
    second = [
        *first,
        {"role": "assistant", "content": "It is wet."},
        {"role": "user", "content": "Why?"},
    ]
    third = [
        second[1],
        {"role": "user", "content": f"{asked[:39]}…"},
        {"role": "user", "content": "And snow?"},
    ]
    calls = [{"messages": turns} for turns in (first, second, third)]
    calls[2]["block_overrides"] = {"reply": {"temperature": 0.5}}  # type: ignore[assignment]  # of another type
    session_id = call("talk", *calls)
    sent = [request.body["messages"] for request in model.requests]

    def changes(choice: str) -> dict[str, Any]:
        (step,) = run_json("show", session_id, "--context", choice)["change"]["steps"]
        (request,) = step["requests"]
        return request

    grown, cut = changes("1..2"), changes("2..3")
    assert [each["change"] for each in grown["messages"]] == ["same", "same", "added", "added"]
    assert grown["changed"] == []
    assert cut["changed"] == [{"name": "temperature", "from": None, "to": 0.5}]
    assert [(each["change"], each["from"], each["to"]) for each in cut["messages"]] == [
        ("same", 1, 1),
        ("same", 3, 2),
        ("truncated", 2, 3),
        ("changed", 4, 4),
    ]
    assert cut["messages"][2]["kept"] == [0, 39]
    assert cut["messages"][2]["message"] == sent[2][2]
    text = run("show", session_id, "--context", "2..3").stdout
    assert "temperature: (not set) → 0.5\n" in text
    assert f"~ [2] → [3] user, truncated, moved, {len(asked)} → 40 characters\n" in text
    assert "  - Why?\n  + And snow?\n" in text
    assert "the models received the same" in run("show", session_id, "--context", "2..2").stdout


def test_context_keeps_no_more_than_the_capture_mode(model: FaultServer) -> None:
    session_id = call("masked", {"message": "password=hunter2"})
    assert "hunter2" in str(model.requests[0].body)
    assert requests_of(session_id)[0]["messages"][0]["content"] == "password=[redacted]"
    unseen = call("unseen", {"message": "hello"})
    assert "captured without snapshots" in run("show", unseen, "--context", "1").stdout


def test_context_of_unknown_call_or_step_says_what_there_is(
    model: FaultServer, tmp_path: Path
) -> None:
    session_id = call("weather", {"message": "hello"})
    for choice, words in (
        ("2", "there is no call 2: session"),
        ("1/score", "call 1 has no step 'score': its steps are shout, answer"),
        ("0", "'0' is not N, N/STEP"),
        ("1..2..3", "is not N, N/STEP"),
    ):
        assert words in run("show", session_id, "--context", choice, exit_code=2).stderr
    both = run("show", session_id, "--context", "1", "--call", "1", exit_code=2).stderr
    assert "exclude each other" in both
    # A file that was pulled has it all; one that an application has recorded has its calls alone.
    pulled = str(tmp_path / "pulled.jsonl")
    run("pull", session_id, "-o", pulled)
    assert requests_of(pulled) == requests_of(session_id)
    made = str(tmp_path / "made.jsonl")
    write_cassette(made, "s", [Recording("talk", "execute", result={"result": "x"})])
    assert (
        "was not kept: this recording has the request" in run("show", made, "--context", "1").stdout
    )


def test_context_of_hosted_service_shows_the_rendered_prompt(
    use_service: Callable[[str], None],
) -> None:
    steps = [
        {
            "stepId": "score",
            "status": "completed",
            "inputSnapshot": {"message": "hello"},
            "outputSnapshot": {"__rendered_prompt__": "Grade \x1b[31mthis: hello", "output": 3},
        }
    ]
    execution = {
        "executionId": "e1",
        "slug": "grade",
        "triggerType": "execute",
        "status": "completed",
        "traceCaptureMode": "full",
        "steps": steps,
    }
    service = Service()
    session = Reply({"sessionId": "s1", "executions": [execution]})
    service.reply(lambda request: Reply(status=404) if "exchange" in request.path else session)
    with serve_app(service) as url:
        use_service(f"{url}/api/v1")
        text = run("show", "s1", "--context", "1/score").stdout
    assert "note: the service keeps only the rendered prompt" in text
    # A recorded text cannot control the terminal.
    assert "Grade  [31mthis: hello" in text
