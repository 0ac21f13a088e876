from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.errors import NoukaiError
from noukai_sdk.local import (
    EmbeddingClient,
    Executor,
    LlmClient,
    LlmConfig,
    Node,
    RunStore,
    Workflow,
    WorkflowError,
    configure_runtime,
    init,
)
from noukai_sdk.local.llm.errors import LlmConfigError, LlmError
from noukai_sdk.local.runtime.error_text import error_text
from noukai_sdk.local.runtime.hidden_keys import hide_keys, shown
from tests.support.engine import workflow_of
from tests.support.llm_servers import fault_server, status

KEY = "sk-proj-never-to-be-seen"
PLAIN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"  # as Azure's: it shows by no form

CASES: dict[str, Callable[[str], Any]] = {
    "model": lambda key: LlmConfig.openai(None, key),
    "model of a spec": lambda key: LlmConfig.from_spec(f"openai:{key}"),
    "spec": LlmConfig.from_spec,
    "model and key": lambda key: LlmConfig.openai(key, key),
    "provider": lambda key: LlmConfig(key, "m"),  # type: ignore[arg-type]  # wrong on purpose
    "address": lambda key: LlmConfig.openai_compatible(key, "m"),
    "host": lambda key: LlmConfig.openai(base_url=f"http://{key} /v1"),
    "port": lambda key: LlmConfig.openai(base_url=f"http://user:{key}"),
    "user": lambda key: LlmConfig.openai(base_url=f"http://{key}@host/v1"),
    "password": lambda key: LlmConfig.openai(base_url=f"http://user:{key}@host/v1"),
    "query": lambda key: LlmConfig.openai(base_url=f"http://host/v1?key={key}"),
    "header": lambda key: LlmConfig.openai(headers={"X-Key": f"{key}\n"}),
    "headers": lambda key: LlmConfig.openai(headers=key),  # type: ignore[arg-type]  # wrong on purpose
    "timeout": lambda key: LlmConfig.openai(timeout=key),  # type: ignore[arg-type]  # wrong on purpose
    "retries": lambda key: LlmConfig.openai(max_retries=key),  # type: ignore[arg-type]  # wrong on purpose
    "key as bytes": lambda key: LlmConfig.openai(key.encode()),  # type: ignore[arg-type]  # wrong on purpose
    "client": LlmClient,  # type: ignore[dict-item]  # wrong on purpose
    "embeddings": EmbeddingClient,  # type: ignore[dict-item]  # wrong on purpose
    "executor": Executor,  # type: ignore[dict-item]  # wrong on purpose
    "turn": lambda key: LlmClient(LlmConfig.offline()).complete([key]),  # type: ignore[list-item]  # wrong on purpose
    "name of a node": lambda key: Node.agent(key, prompt=3),  # type: ignore[arg-type]  # wrong on purpose
    "temperature": lambda key: Node.agent("a", temperature=key),  # type: ignore[arg-type]  # wrong on purpose
    "tools": lambda key: Node.agent("a", tools=[key]),  # type: ignore[list-item]  # wrong on purpose
    "function": lambda key: Node.function("a", key),  # type: ignore[arg-type]  # wrong on purpose
    "transform": lambda key: workflow_of(Node.transform("a", key)).validate(),
    "loop": lambda key: workflow_of(Node.agent("a", for_each=key)).validate(),
    "log level": init,
    "threads": lambda key: configure_runtime(worker_threads=key),  # type: ignore[arg-type]  # wrong on purpose
}


@pytest.mark.parametrize("place", CASES)
def test_key_passed_by_mistake_is_not_in_the_error(place: str) -> None:
    # A plain one may be the name of a model.
    for key in (KEY,) if place.startswith("model of") or place == "model" else (KEY, PLAIN):
        check_error(place, key)


def check_error(place: str, key: str) -> None:
    with pytest.raises((LlmError, TypeError, ValueError)) as caught:
        CASES[place](key)
    assert key not in "".join(traceback.format_exception_only(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        assert key not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_key_as_model_of_a_node_is_not_in_the_result() -> None:
    workflow = Workflow("w")
    workflow.add_node(Node.agent("a", model=KEY))
    try:
        shown_errors = repr(Executor().execute(workflow, "hi").errors)
    except Exception as error:  # noqa: BLE001 - reported before the run, or by it
        shown_errors = repr(error)
    assert "unknown model" in shown_errors
    assert KEY not in shown_errors


def test_key_in_a_header_that_the_server_quotes_is_hidden() -> None:
    body = {"error": {"message": f"no tenant {PLAIN}", "type": "invalid"}}
    with fault_server(status(403, body)) as server:
        config = LlmConfig.openai_compatible(
            f"{server.url}/v1", "m", headers={"X-Api-Key": PLAIN}, max_retries=0
        )
        with (
            LlmClient(config) as client,
            pytest.raises(LlmError, match=r"no tenant \.\.\.") as caught,
        ):
            client.complete("hi")
    assert PLAIN not in "".join(traceback.format_exception(caught.value))
    assert PLAIN not in repr(vars(caught.value))
    assert caught.value.__context__ is None


def test_key_as_run_or_store_or_reference_is_hidden(tmp_path: Path) -> None:
    workflow = workflow_of(Node.agent("a", f"{{{{node.{KEY}}}}}"))
    with pytest.raises(WorkflowError) as invalid:
        workflow.validate()
    assert KEY not in repr(invalid.value.problems)
    with (
        closing(RunStore(tmp_path / "runs.db")) as store,
        pytest.raises(NoukaiError) as unknown,
    ):
        Executor(store=store).resume(workflow_of(Node.transform("a", "trim")), KEY)
    with pytest.raises(NoukaiError) as unopened:
        Executor(store=tmp_path / KEY / "runs.db").runs()
    assert KEY not in f"{unknown.value!r} {unopened.value!r} {unopened.value.__cause__!r}"


def test_hide_keys_keeps_what_is_no_key() -> None:
    for text in ("gpt-4o-mini-search-preview-2025-03-11", "task-force-1 risk-based", "sk-***abc"):
        assert hide_keys(text) == text
        assert shown(text) == repr(text)
    assert error_text(LlmConfigError(f"tried {KEY}")) == "LlmConfigError: tried ..."
    assert KEY not in error_text(ValueError(KEY))
