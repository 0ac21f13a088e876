"""``output:`` of a step: a JSON schema, or a type of a Python file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.local import Executor
from noukai_sdk.local.engine.state import RunState
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.llm.chat import ChatRequest
from tests.support.engine import FakeModel, FakeModels, run_steps

pytestmark = pytest.mark.anyio

SCHEMAS = """
steps:
  - id: grade
    prompt: "Grade {{message}}"
    output:
      title: Grade
      type: object
      properties: {score: {type: integer, maximum: 10}}
      required: [score]
  - id: words
    prompt: "{{node.grade.score}} words"
    output: {type: array, items: {type: string}}
  - id: typed
    prompt: "Again"
    repairs: 0
    output: "_types.py:Grade"
"""
TYPES = "from pydantic import BaseModel\n\nclass Grade(BaseModel):\n    score: int\n"


def catalog_of(folder: Path, text: str) -> FlowCatalog:
    (folder / "a" / "p").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "p" / "_types.py").write_text(TYPES)
    (folder / "a" / "p" / "f.yaml").write_text(text)
    return FlowCatalog(folder, bundled=False)


async def run(catalog: FlowCatalog, *replies: str) -> tuple[list[Any], list[ChatRequest]]:
    waiting = list(replies)
    model = FakeModel(lambda request: waiting.pop(0))
    state = RunState("e", message="x")
    flow = catalog.get("a", "p", "f")
    events = [event async for event in run_steps(flow, state, models=FakeModels(model))]
    return events, model.requests


async def test_output_of_step_fits_its_schema_or_is_repaired(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, SCHEMAS)
    replies = ['{"score": 11}', '{"score": 9}', '```json\n{"result": ["a"]}\n```', '{"score": "7"}']
    events, requests = await run(catalog, *replies)
    outputs = {e.step_id: e.output for e in events if e.type == "step_completed"}
    assert outputs == {"grade": {"score": 9}, "words": ["a"], "typed": {"score": 7}}
    assert "score: 11 is greater than the maximum of 10" in requests[1].messages[-1]["content"]
    assert requests[0].json_schema == catalog.get("a", "p", "f").steps[0].work.output.given  # type: ignore[union-attr]  # its type is known here
    assert requests[2].json_schema is not None
    assert requests[2].json_schema["properties"]["result"]["items"] == {"type": "string"}
    events, _ = await run(catalog, '{"score": 9}', '{"r": 1}', "no")
    assert events[-1].error.code == "OUTPUT_INVALID"
    assert "Invalid JSON" in events[-1].error.message


async def test_offline_model_responds_in_the_schema_of_a_flow_file(tmp_path: Path) -> None:
    result = await Executor().run_async(catalog_of(tmp_path, SCHEMAS).get("a", "p", "f"), "cats")
    result.raise_for_failure()
    assert isinstance(result.outputs["grade"]["score"], int)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (
            "{type: strin}",
            ":4: steps[0].output.type: not a JSON schema: 'strin' is not valid under any",
        ),
        ("xml", ":4: steps[0].output: 'xml' is not one of 'text', 'json'"),
        ("'_types.py:Nonesuch'", ":4: steps[0].output: noukai_flow_"),
        ("'_types.py:Grade.x'", ":4: steps[0].output: "),
        ("'os:PathLike'", "steps[0].output: os is not a module of this project"),
        ("3", ":4: steps[0].output: Input should be a valid string"),
    ],
)
def test_output_that_is_no_type_is_a_problem_with_line_and_field(
    tmp_path: Path, output: str, problem: str
) -> None:
    text = f"steps:\n  - id: a\n    prompt: x\n    output: {output}\n"
    (listed,) = catalog_of(tmp_path, text).problems()
    assert problem in str(listed)
