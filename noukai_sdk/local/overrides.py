"""A call's block overrides: settings that replace a step's own for one run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ..errors import FlowExecutionError
from .flow import Step

logger = logging.getLogger("noukai_sdk.local")


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


def overridden(steps: Sequence[Step], overrides: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """The steps with the overrides applied; those for no step of the flow are logged and ignored.

    Raises:
        FlowExecutionError: A value is of the wrong type or out of range; code
            ``BLOCK_OVERRIDE_INVALID``.
    """
    unknown = sorted(set(overrides) - {step.id for step in steps})
    if unknown:
        logger.warning("block overrides for no step of this flow are ignored: %s", unknown)
    return [_override(step, overrides[step.id]) if step.id in overrides else step for step in steps]


def _override(step: Step, values: Mapping[str, Any]) -> Step:
    try:
        given = StepOverride.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, (step.id, *first["loc"])))
        raise FlowExecutionError(
            f"block override {field}: {first['msg']}",
            status_code=400,
            code="BLOCK_OVERRIDE_INVALID",
        ) from error
    # Null takes away what can be absent, and means "leave it" for the rest.
    absent = {"system", "temperature", "max_tokens", "timeout"}
    kept = {k: v for k, v in given.items() if v is not None or k in absent}
    return replace(step, **kept)
