"""Flows and their versions. An extension of our backend (docs/wire.md, "Flows")."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .base import WireModel


class FlowVersion(WireModel):
    """One version of a flow. ``published_at`` is None for a version in a file."""

    version: int
    content_hash: str | None = None
    published_at: str | None = None


class PublishedVersion(FlowVersion):
    """The response of publish. ``is_new`` is False if a version had the same content already."""

    is_new: bool = True


class FlowProblem(WireModel):
    """One thing that is wrong with a file of a flow. ``line`` counts from 1."""

    file: str
    line: int | None = None
    field: str | None = None
    message: str


class FlowSummary(WireModel):
    """A flow as ``GET /flows`` lists it.

    Attributes:
        flow_id, description, block_count, trace_capture_mode, content_hash: Of the working copy; None
            if none was ever valid.
        versions: The published versions, and those in files, by number.
        problems: What is wrong with its files now.
    """

    org: str
    project: str
    slug: str
    flow_id: str | None = None
    description: str | None = None
    block_count: int | None = None
    trace_capture_mode: str | None = None
    content_hash: str | None = None
    versions: tuple[FlowVersion, ...] = ()
    problems: tuple[FlowProblem, ...] = ()

    @property
    def address(self) -> str:
        """``org/project/slug``."""
        return f"{self.org}/{self.project}/{self.slug}"


class FlowPage(WireModel):
    """The body of ``GET /flows``. ``next_cursor`` is None on the last page."""

    flows: tuple[FlowSummary, ...] = ()
    next_cursor: str | None = None


Branch = str | int | float | bool


class FlowStep(WireModel):
    """One step of a flow.

    Attributes:
        kind: ``agent``, ``function``, ``condition``, ``route``, ``transform``, ``flow``, ``repeat`` or
            another one.
        model, prompt, system: Of an agent.
        needs: The steps that must be done before.
        unless: The conditions among them that must be false.
        when: The branches of conditions and routes that lead to the step, by the id of the condition or
            route. A condition without an entry must be true; a route may take any branch.
        branches: The branches of a route.
        for_each: A reference to a list: the step runs for each item.
        tools: True if the step may ask for the tools of the call.
        functions: The names of Python functions that it may call as tools.
        code: The expression, the transformation or the function's name of another step.
        at_most: How many rounds a step that repeats may have. ``code`` says when it is done.
        steps: The steps of a flow within the flow, and of a step that repeats.
    """

    id: str
    name: str
    kind: str
    model: str | None = None
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    when: dict[str, tuple[Branch, ...]] = Field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    for_each: str | None = None
    prompt: str | None = None
    system: str | None = None
    tools: bool = False
    functions: tuple[str, ...] = ()
    code: str | None = None
    at_most: int | None = None
    steps: tuple[FlowStep, ...] = ()


class FlowDescription(FlowSummary):
    """A flow as ``GET /flows/{org}/{project}/{slug}`` returns it.

    Attributes:
        takes_step_outputs: Calls may give outputs of steps that are not to run, as ``stepOutputs``.
    """

    parameters: dict[str, Any] = Field(default_factory=dict)
    steps: tuple[FlowStep, ...] = ()
    takes_step_outputs: bool = False
