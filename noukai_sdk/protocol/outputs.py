"""From the result of a run to a value of the call's ``response_model``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ..errors import OutputError
from ..models.results import ExecuteResult, JobStatus
from .decoding import first_problem
from .program import PausedRun, Program

T = TypeVar("T")
Ended = ExecuteResult[Any] | JobStatus[Any]
Parse = Callable[[Ended], Any]

# What models write around JSON.
_FENCE = r"```[\w-]*[ \t]*\n(.*?)```"


def output_parser(response_model: Any) -> Parse:
    """Return the function that sets the ``output`` of a result.

    Raises:
        TypeError: pydantic cannot validate values of this type.
    """
    try:
        adapter = _adapter(response_model)
    except TypeError:  # not hashable, such as Annotated with a list
        adapter = _new_adapter(response_model)
    name = getattr(response_model, "__name__", None) or str(response_model)

    def parse(ended: Ended) -> Any:
        if ended.status == "completed":
            return ended.with_output(_validated(adapter, name, ended))
        if ended.status == "failed":
            problem = f"the run failed, so it has no output of the type {name}"
        else:
            problem = f"the run is {ended.status}: it has no output yet"
        return ended.with_output(_error(problem, ended))

    return parse


def with_output(program: Program[Any], parse: Parse) -> Program[Any]:
    """Run ``program``, and set the ``output`` of its result. A pause is passed on, for its resumption."""
    value = yield from program
    if isinstance(value, PausedRun):
        resume = value.resume
        value.pause._is_typed = True
        return PausedRun(value.pause, lambda results: with_output(resume(results), parse))
    return parse(value)


def _validated(adapter: TypeAdapter[Any], name: str, ended: Ended) -> Any:
    """Return the result as a value of the model: of its JSON, or else of the text itself.

    Raises:
        OutputError: It does not fit.
    """
    problem: ValidationError | None = None
    for content in _readings(ended.result):
        try:
            # By its JSON: a strict model then takes a date as a text, and a tuple as a list.
            return adapter.validate_json(content)
        except ValidationError as error:  # noqa: PERF203 - three readings at most
            problem = problem or error
    assert problem is not None  # there is one reading at least
    reason = first_problem(problem)
    raise _error(f"the run's result is not a valid {name}: {reason}", ended) from problem


def _readings(result: Any) -> list[bytes]:
    """Return the JSON that a result can stand for, the likeliest first."""
    readings: list[bytes] = []
    quoted: list[bytes] = []
    if isinstance(result, str):
        for text in (result, *re.findall(_FENCE, result, re.DOTALL)):
            try:
                value = from_json(text, allow_inf_nan=False)
            except ValueError:
                continue
            # A text in quotes is meant as it is, if it fits so.
            (quoted if isinstance(value, str) else readings).append(text.encode())
    return [*readings, to_json(result), *quoted]


def _error(problem: str, ended: Ended) -> OutputError:
    result = ended.result
    text = result if isinstance(result, str) else to_json(result, fallback=str).decode()
    return OutputError(problem, text=text, result=result, execution_id=ended.execution_id)


@lru_cache(maxsize=256)
def _adapter(response_model: Any) -> TypeAdapter[Any]:
    return _new_adapter(response_model)


def _new_adapter(response_model: Any) -> TypeAdapter[Any]:
    try:
        adapter = TypeAdapter(response_model)
        if not getattr(
            adapter, "pydantic_complete", True
        ):  # pydantic 2.10 puts it off to the first use
            adapter.rebuild(raise_errors=True)
        return adapter
    except Exception as error:
        # PydanticSchemaGenerationError and others, or what the model's own annotations raise.
        raise TypeError(
            f"response_model must be a type that pydantic validates: {error}"
        ) from error
