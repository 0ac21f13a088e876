"""A flow and its steps, as a file or a program describes them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CaptureMode = Literal["full", "redacted", "metadata_only", "off"]


@dataclass(frozen=True)
class Step:
    """One step: a model and what it is asked.

    Attributes:
        id: Names the step in outputs, overrides and references; unique in its flow.
        name: What people see; the id where none was given.
        model: ``offline``, ``smollm2``, ``openai:...``, ``anthropic:...`` or ``ollama:...``.
        prompt: The user turn, with references. One that refers to none of the step's inputs gets
            them below it.
        system: The system turn, with references, None for none.
        temperature: 0 to 2; None leaves it to the model.
        max_tokens: Most tokens to produce; None leaves it to the model.
        tools: The step may ask for the tools that the call brings.
        max_tool_iterations: How often it may ask before the run fails.
        needs: Ids of the steps whose outputs this one takes, in that order.
        retry: How often a failed step is tried again.
        timeout: Seconds for one attempt, None for no limit.
        output: ``"json"``: the model's text is JSON, and the output is its value.
    """

    id: str
    name: str
    model: str = "offline"
    prompt: str = "{{input}}"
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    tools: bool = False
    max_tool_iterations: int = 25
    needs: tuple[str, ...] = ()
    retry: int = 0
    timeout: float | None = None
    output: Literal["text", "json"] = "text"


@dataclass(frozen=True)
class Flow:
    """A flow: steps in an order in which they can run.

    Attributes:
        version: None for the working copy, else the published version.
        capture_mode: How much of a run is stored.
        parameters: Defaults for ``{{parameters.x}}``; a call's own values win.
    """

    org: str
    project: str
    slug: str
    steps: list[Step]
    version: int | None = None
    capture_mode: CaptureMode = "full"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    def __str__(self) -> str:
        return f"{self.org}/{self.project}/{self.slug}"

    @property
    def flow_id(self) -> str:
        """The same for every version of the flow, in every process."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"noukai:{self}"))

    @property
    def sinks(self) -> list[Step]:
        """The steps that no other step needs: their outputs are the flow's result."""
        needed = {need for step in self.steps for need in step.needs}
        return [step for step in self.steps if step.id not in needed]
