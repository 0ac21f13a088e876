"""A flow: a plan with an address, as a file or a program describes it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from .mermaid import mermaid
from .node import Node
from .plan import Plan

CaptureMode = Literal["full", "redacted", "metadata_only", "off"]

Step = Node
"""On the wire and in flow files, a node is called a step."""


@dataclass(frozen=True)
class Flow:
    """A flow.

    Attributes:
        steps: In an order in which they can run.
        version: None for the working copy, else the published version.
        capture_mode: How much of a run is stored.
        parameters: Defaults for ``{{parameters.x}}``; a call's own values win.
        sources: Files beside the flow's own that it was made from.
    """

    org: str
    project: str
    slug: str
    steps: list[Step]
    version: int | None = None
    capture_mode: CaptureMode = "full"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    sources: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.org}/{self.project}/{self.slug}"

    @property
    def flow_id(self) -> str:
        """The same for every version of the flow, in every process."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"noukai:{self}"))

    def to_mermaid(self) -> str:
        """A picture of the flow, as the text of a Mermaid flowchart."""
        return mermaid(self.steps)

    @cached_property
    def plan(self) -> Plan:
        """The steps, ready to run."""
        return Plan(self.steps, self.parameters)
