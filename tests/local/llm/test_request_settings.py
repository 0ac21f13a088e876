"""Presets by name; headers, sampling and other settings of requests; cached tokens."""

from __future__ import annotations

import json
import logging
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.local import (
    EmbeddingClient,
    EmbeddingConfig,
    Executor,
    LlmClient,
    LlmConfig,
    LlmConfigError,
    LlmRequestError,
    Workflow,
)
from noukai_sdk.local.flow_files.flow_file import FlowFile
from noukai_sdk.local.llm.config import PRESETS
from noukai_sdk.local.llm.providers import open_model
from noukai_sdk.local.llm.sent_requests import model_input
from noukai_sdk.local.workflow.node import Node
from tests.local.llm.calls import call_model, config_of, opened, request_of
from tests.support.llm_servers import fault_server, ok, raw, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_thread_stopped")]

SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
DOCUMENTED = {
    "openrouter": "https://openrouter.ai/api/v1/",
    "mistral": "https://api.mistral.ai/v1/",
    "deepseek": "https://api.deepseek.com/",
    "xai": "https://api.x.ai/v1/",
    "together": "https://api.together.ai/v1/",
    "fireworks": "https://api.fireworks.ai/inference/v1/",
    "groq": "https://api.groq.com/openai/v1/",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai/",
}


async def test_preset_by_name_has_the_documented_address_and_its_own_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert DOCUMENTED.keys() == PRESETS.keys()
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    for name, url in DOCUMENTED.items():
        monkeypatch.delenv(PRESETS[name].key_variable, raising=False)
        with pytest.raises(LlmConfigError, match=f"or set {PRESETS[name].key_variable}"):
            open_model(f"{name}:maker/model")
        monkeypatch.setenv(PRESETS[name].key_variable, f"key-of-{name}")
        model: Any = open_model(f"{name}:maker/model")
        assert (model.name, f"{model._client.base_url}".rstrip("/")) == (
            f"{name}:maker/model",
            url.rstrip("/"),
        )
        assert model._client.api_key == f"key-of-{name}"
        await model.aclose()
        assert getattr(LlmConfig, name)("k", "m").with_model("maker/model").name == model.name
        with pytest.raises(LlmConfigError, match="name the model"):
            getattr(LlmConfig, name)("k")


async def test_preset_calls_its_server_from_a_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_server(ok("from groq")) as server:
        preset = PRESETS["groq"]._replace(base_url=f"{server.url}/openai/v1")
        monkeypatch.setitem(PRESETS, "groq", preset)
        monkeypatch.setenv("GROQ_API_KEY", "key-of-groq")
        workflow = Workflow("one")
        workflow.add_node(Node.agent("a", "Hi", model="groq:llama-3.3-70b-versatile"))
        result = await Executor().run_async(workflow)
    assert (result.errors, result.result) == ([], "from groq")
    (request,) = server.requests
    assert request.path == "/openai/v1/chat/completions"
    assert request.body["model"] == "llama-3.3-70b-versatile"
    assert request.headers["authorization"] == "Bearer key-of-groq"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://localhost:11434/v1"),
        ("gpu", "http://gpu:11434/v1"),
        ("gpu:8000", "http://gpu:8000/v1"),
        (":8000", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("http://gpu", "http://gpu:80/v1"),
        ("https://gpu/llm/", "https://gpu:443/llm/v1"),
    ],
)
def test_ollama_reads_its_host_from_the_environment(
    host: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert LlmConfig.ollama().base_url == LlmConfig.from_spec("ollama:m").base_url == url
    assert LlmConfig.ollama(base_url="http://mine:1").base_url == "http://mine:1/v1"


@pytest.mark.parametrize("host", ["gpu:port", "ftp://gpu", "u:sk-secret@gpu"])
def test_ollama_host_that_is_no_address_raises(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(LlmConfigError) as caught:
        LlmConfig.ollama()
    assert "sk-secret" not in str(caught.value)


async def test_settings_of_a_configuration_are_sent_and_a_request_overrides_them(call: str) -> None:
    settings: dict[str, Any] = {
        "headers": {"X-Title": "tests"},
        "top_p": 0.5,
        "seed": 7,
        "response_format": {"type": "json_object"},
        "extra_body": {"service_tier": "flex", "user": "one"},
    }
    with fault_server(ok(), ok()) as server:
        async with opened("openai_compatible", server.url, **settings) as model:
            await call_model(model, call)
            own = request_of(
                top_p=0.9, seed=0, response_format=SCHEMA, extra_body={"user": "two", "top_k": 3}
            )
            await call_model(model, call, own)
        config = config_of("openai_compatible", server.url, headers={"X-Key": "sk-secret"})
    assert "sk-secret" not in repr(config)
    first, second = server.requests
    assert first.headers["x-title"] == second.headers["x-title"] == "tests"
    names = ("top_p", "seed", "response_format", "service_tier", "user", "top_k")
    assert [first.body.get(name) for name in names] == [
        *(0.5, 7, {"type": "json_object"}, "flex", "one", None)
    ]
    assert [second.body.get(name) for name in names] == [0.9, 0, SCHEMA, "flex", "two", 3]


async def test_anthropic_gets_what_it_has_and_refuses_the_rest(call: str) -> None:
    with fault_server(ok()) as server:
        settings: dict[str, Any] = {"top_p": 0.5, "headers": {"anthropic-beta": "b"}}
        async with opened("anthropic", server.url, extra_body={"top_k": 3}, **settings) as model:
            await call_model(model, call, request_of(top_p=0.25))
            with pytest.raises(LlmRequestError, match="has no seed"):
                await call_model(model, call, request_of(seed=1))
    (request,) = server.requests
    assert (request.body["top_p"], request.body["top_k"]) == (0.25, 3)
    assert request.headers["anthropic-beta"] == "b"
    for setting in ({"seed": 1}, {"response_format": SCHEMA}):
        with pytest.raises(LlmConfigError, match="no seed and no response_format"):
            LlmConfig.anthropic("k", **setting)


def test_client_takes_settings_for_one_call() -> None:
    with LlmClient(LlmConfig.offline()) as client:
        first, again = (client.complete_full("Write about cats", seed=1).text for _ in range(2))
        others = {client.complete_full("Write about cats", seed=seed).text for seed in range(9)}
        assert first == again
        assert len(others) > 1
        json.loads(client.complete_full("Say hi", response_format=SCHEMA).text)
        with pytest.raises(ValueError, match="top_p must be more than 0"):
            client.complete_full("Say hi", top_p=2)


@pytest.mark.parametrize(
    ("provider", "usage"),
    [
        ("openai", {"prompt_tokens_details": {"cached_tokens": 800}}),
        ("deepseek", {"prompt_cache_hit_tokens": 800}),
        ("anthropic", {"cache_read_input_tokens": 800}),
    ],
)
def test_cached_tokens_are_counted_and_cost_less(provider: str, usage: dict[str, Any]) -> None:
    model = {"openai": "gpt-4o-mini", "deepseek": "deepseek-chat", "anthropic": "claude-haiku-4-5"}
    costs = []
    for extra in ({}, usage):
        if provider == "anthropic":
            new = 1000 - sum(extra.values())
            tokens = {"input_tokens": new, "output_tokens": 10, **extra}
            text = [{"type": "text", "text": "Hi"}]
            body: dict[str, Any] = {"content": text, "stop_reason": "end_turn", "usage": tokens}
        else:
            tokens = {"prompt_tokens": 1000, "completion_tokens": 10, **extra}
            body = {"choices": [{"message": {"content": "Hi"}}], "usage": tokens}
        with fault_server(raw(json.dumps(body).encode())) as server:
            url = server.url if provider == "anthropic" else f"{server.url}/v1"
            config = getattr(LlmConfig, provider)("k", model[provider], base_url=url)
            with LlmClient(config) as client:
                response = client.complete_full("Hi")
                stats = client.get_stats()
        assert response.tokens is not None
        assert response.tokens.prompt == 1000
        assert response.cost_usd is not None
        assert stats["cached_tokens"] == (response.tokens.cached or 0) == (800 if extra else 0)
        costs.append(float(response.cost_usd))
    assert costs[1] < costs[0]


def test_embedding_config_has_models_of_its_own_and_sends_dimensions() -> None:
    body = {"data": [{"index": 0, "embedding": [1, 2]}]}
    with fault_server(raw(json.dumps(body).encode())) as server:
        config = EmbeddingConfig.openai(
            "k", base_url=f"{server.url}/v1", dimensions=2, headers={"X-Team": "t"}
        )
        with EmbeddingClient(config) as client:
            assert client.embed("cat") == [1.0, 2.0]
    (request,) = server.requests
    assert (request.path, request.headers["x-team"]) == ("/v1/embeddings", "t")
    assert (request.body["model"], request.body["dimensions"]) == ("text-embedding-3-small", 2)
    with EmbeddingClient(EmbeddingConfig.offline(dimensions=9)) as client:
        assert len(client.embed("cat")) == 9
    assert EmbeddingConfig.ollama(base_url="http://gpu:1").llm.base_url == "http://gpu:1/v1"
    assert EmbeddingConfig.mistral("k").llm.name == "mistral:mistral-embed"
    assert EmbeddingConfig.gemini("k").llm.name == "gemini:gemini-embedding-001"
    assert EmbeddingConfig.azure("k", "d", "http://h").llm.name == "azure:d"
    assert EmbeddingConfig.openai_compatible("http://h/v1", "m").llm.model == "m"
    for wrong in (0, True, 1.5, "sk-secret"):
        with pytest.raises(
            LlmConfigError, match=r"dimensions must be .*1 or more, not (?!.*secret)"
        ):
            EmbeddingConfig.openai("k", dimensions=wrong)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="not a str"):
        EmbeddingClient("sk-secret")  # type: ignore[arg-type]  # wrong on purpose


def test_debug_client_logs_each_call_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("noukai_sdk.local.llm")
    level = logger.level
    try:
        with fault_server(ok("the answer"), status(400)) as server:
            config = config_of("openai", server.url)
            with LlmClient(config, debug=True) as client, LlmClient(LlmConfig.offline()) as quiet:
                client.complete("a question")
                quiet.complete("a question")
                with pytest.raises(LlmRequestError):
                    client.complete("a question")
    finally:
        logger.setLevel(level)
    lines = [record.getMessage() for record in caplog.records if record.name == logger.name]
    assert len(lines) == 2
    assert lines[0].startswith("openai:smollm2: completed after ")
    assert lines[1].endswith(" ms: LlmRequestError")
    assert "question" not in caplog.text
    assert "answer" not in caplog.text


AGENT_FILE = """
model: openrouter:maker/model
steps:
  - id: answer
    prompt: "{{message}}"
    system: Be brief.
    context: {team: "{{parameters.team}}", sizes: [1, 2]}
    top_p: 0.5
    seed: 7
    response_format: {type: json_object}
    extra_body: {service_tier: flex}
"""


@pytest.mark.parametrize("kind", ["code", "file"])
async def test_agent_sends_its_settings_and_context(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "context": {"team": "{{parameters.team}}", "sizes": [1, 2]},
        "top_p": 0.5,
        "seed": 7,
        "response_format": {"type": "json_object"},
        "extra_body": {"service_tier": "flex"},
    }
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    with fault_server(ok("fine")) as server:
        preset = PRESETS["openrouter"]._replace(base_url=f"{server.url}/v1")
        monkeypatch.setitem(PRESETS, "openrouter", preset)
        path = tmp_path / "one.yaml"
        path.write_text(AGENT_FILE)
        flow: Any = FlowFile(path, "one.yaml", "o", "p", "one", check_model=open_model).read()
        if kind == "code":
            flow = Workflow("one")
            model = "openrouter:maker/model"
            answer = Node.agent(
                "Ask", "{{message}}", model=model, system_prompt="Be brief.", **settings
            )
            flow.add_node(answer)
        result = await Executor().run_async(flow, {"message": "Hi", "team": "red"})
    assert (result.errors, result.result) == ([], "fine")
    (request,) = server.requests
    system = "Be brief.\n\nContext:\nteam: red\nsizes: [1, 2]"
    assert request.body["messages"][0] == {"role": "system", "content": system}
    names = ("top_p", "seed", "response_format", "service_tier")
    assert [request.body[name] for name in names] == [0.5, 7, {"type": "json_object"}, "flex"]


def test_agent_output_name_and_max_iterations() -> None:
    workflow = Workflow("two")
    draft = workflow.add_node(Node.agent("First draft", "Hi", output_name="draft"))
    copy = workflow.add_node(Node.transform("Copy", "{{node.draft}}"))
    workflow.connect(draft, copy)
    result = Executor().execute(workflow)
    assert result.get_variable("draft") == result.get_node_output("Copy") is not None
    agent: Any = Node.agent("a", max_iterations=2).work
    assert agent.max_tool_iterations == 2
    wrong: list[dict[str, Any]] = [
        {"max_iterations": 0},
        {"max_iterations": 2, "max_tool_iterations": 3},
        {"agent_id": "a", "output_name": "b"},
        {"top_p": 2},
    ]
    for settings in wrong:
        with pytest.raises(ValueError, match="node 'a': "):
            Node.agent("a", **settings)
    with pytest.raises(TypeError, match="context must be a str or a mapping"):
        Node.agent("a", context=5)  # type: ignore[arg-type]  # wrong on purpose


async def test_model_input_has_the_body_as_sent_without_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = request_of("Hello", json_schema={"type": "object", "title": "T"}, max_tokens=5)
    extra = {"api_key": "sk-1", "n": 1}
    async with opened("openai", "http://localhost:9", extra_body=extra) as model:
        sent = model_input(model, request)["request"]
    assert sent["api_key"] == "[redacted]"
    assert (sent["n"], sent["max_completion_tokens"]) == (1, 5)
    assert sent["response_format"]["json_schema"]["schema"] == request.json_schema
    assert not {"messages", "tools", "stream", "stream_options"} & sent.keys()
    # A provider without schemas gets one in the system turn: only that turn is stored twice.
    monkeypatch.setenv(PRESETS["deepseek"].key_variable, "k")
    async with aclosing(open_model("deepseek:m")) as other:
        added, number = model_input(other, request)["request"]["messages"]
    assert (added["role"], number) == ("system", 0)
