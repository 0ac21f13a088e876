"""A call's block overrides: settings that replace a step's own for one run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ...errors import FlowExecutionError
from ..workflow.node import Agent, Node

logger = logging.getLogger("noukai_sdk.local")

_ABSENT = {"system", "temperature", "max_tokens", "timeout"}


class StepOverride(BaseModel):
    """What a call may change about a step. Unknown names are ignored, as everywhere on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    model: str | None = Field(None, min_length=1)
    prompt: str | None = None
    system: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, gt=0)
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)
    retry: int | None = Field(None, ge=0, le=10)


def overridden(nodes: Sequence[Node], overrides: Mapping[str, Mapping[str, Any]]) -> list[Node]:
    """The nodes with the overrides applied; those for no node of the flow are logged and ignored.

    Raises:
        FlowExecutionError: A value is of the wrong type or out of range; code
            ``BLOCK_OVERRIDE_INVALID``.
    """
    unknown = sorted(set(overrides) - {node.id for node in nodes})
    if unknown:
        logger.warning("block overrides for no step of this flow are ignored: %s", unknown)
    return [_override(node, overrides[node.id]) if node.id in overrides else node for node in nodes]


def _override(node: Node, values: Mapping[str, Any]) -> Node:
    try:
        given = StepOverride.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, (node.id, *first["loc"])))
        raise FlowExecutionError(
            f"block override {field}: {first['msg']}",
            status_code=400,
            code="BLOCK_OVERRIDE_INVALID",
        ) from error
    # Null takes away what can be absent, and means "leave it" for the rest.
    kept = {name: value for name, value in given.items() if value is not None or name in _ABSENT}
    of_node = {name: value for name, value in kept.items() if name in ("timeout", "retry")}
    of_agent = {name: value for name, value in kept.items() if name not in of_node}
    work = replace(node.work, **of_agent) if isinstance(node.work, Agent) else node.work
    return replace(node, work=work, **of_node)
