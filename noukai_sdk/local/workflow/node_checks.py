"""Check the arguments of nodes, as ``runtime/checks.py`` checks settings.

None is always right: it stands for the default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_origin

from ..llm.config import LlmConfig
from ..llm.config_checks import check_request
from ..runtime import checks
from ..runtime.hidden_keys import shown, type_name
from .kinds import Decision, branch_text


def of_type(name: str, setting: str, value: object, kind: Any, expected: str) -> None:
    """Check that a value is of the type ``kind``, which ``expected`` describes."""
    if value is not None:
        checks.of_type(f"node {shown(name)}: {setting}", value, kind, expected)


def text(name: str, setting: str, value: object) -> None:
    """Check that a value is a str."""
    of_type(name, setting, value, str, "a str")


def mapping(name: str, setting: str, value: object) -> None:
    """Check that a value is a mapping."""
    of_type(name, setting, value, Mapping, "a mapping")


def whole(name: str, setting: str, value: int | None, least: int) -> None:
    """Check that a value is an int of ``least`` or more."""
    if value is not None:
        checks.whole(f"node {shown(name)}: {setting}", value, least)


def one_of(name: str, setting: str, value: object, known: tuple[str, ...]) -> None:
    """Check that a value is one of several texts."""
    checks.one_of(f"node {shown(name)}: {setting}", value, known)


def seconds(name: str, setting: str, value: float | None) -> None:
    """Check that a value is a number of more than 0."""
    if value is not None:
        checks.seconds(f"node {shown(name)}: {setting}", value)


def at_most_one(name: str, **settings: object) -> None:
    """Raise ValueError if more than one of ``settings``, which replace each other, is given."""
    if sum(value is not None for value in settings.values()) > 1:
        either = " or ".join(f"{setting}=" for setting in settings)
        raise ValueError(f"node {shown(name)}: pass {either}, not both")


def function(name: str, value: object) -> None:
    """Raise TypeError if ``value`` cannot be called."""
    if not callable(value):
        message = f"the function must be callable, not {type_name(value)}"
        raise TypeError(f"node {shown(name)}: {message}")


def function_or_text(name: str, setting: str, value: object) -> None:
    """Raise TypeError if ``value`` is neither a str nor a function, or is None."""
    required(name, setting, value)
    if not callable(value):
        text(name, setting, value)


def required(name: str, setting: str, value: object) -> None:
    """Raise TypeError if ``value`` is None, for settings without a default."""
    if value is None:
        raise TypeError(f"node {shown(name)}: {setting} is required, and must not be None")


def model(name: str, spec: object, config: object, temperature: float | None) -> None:
    """Check which model an agent asks, and how.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: The temperature is out of range, or both a spec and a configuration are given.
    """
    at_most_one(name, model=spec, llm_config=config)
    of_type(name, "model", spec, str | LlmConfig, "the name of a model, as a str")
    of_type(name, "llm_config", config, LlmConfig, "an LlmConfig, as in LlmConfig.openai()")
    if temperature is not None:
        checks.temperature(f"node {shown(name)}: temperature", temperature)


def request(name: str, **settings: object) -> None:
    """Check the settings of an agent's requests, as those of a model are checked."""
    try:
        check_request(**settings)
    except (TypeError, ValueError) as error:
        raise type(error)(f"node {shown(name)}: {error}") from None


def output(name: str, value: object) -> None:
    """Raise TypeError if ``value`` is neither a str nor a type that JSON can hold."""
    if isinstance(value, str):
        return  # whether it is a known one is for validate() to say
    expected = "'text', 'json' or a type, such as a pydantic model"
    if not isinstance(value, type) and get_origin(value) is None:
        message = f"output must be {expected}, not {type_name(value)}"
        raise TypeError(f"node {shown(name)}: {message}")
    from .output_types import output_type  # pydantic, for nodes with such outputs alone

    try:
        output_type(value)
    except TypeError as error:
        raise TypeError(f"node {shown(name)}: output must be {expected}: {error}") from None


def branches(name: str, values: Any, default: object) -> None:
    """Check the branches of a route.

    Raises:
        TypeError: They are not a list of texts, numbers, True and False.
        ValueError: There are none, or two read the same.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        message = f"branches must be a list of values, not {type_name(values)}"
        raise TypeError(f"node {shown(name)}: {message}")
    expected = "a str, a number, True or False"
    for value in values:
        if value is None:
            raise TypeError(f"node {shown(name)}: a branch must be {expected}, not None")
        of_type(name, "a branch", value, str | int | float, expected)
    of_type(name, "default", default, str | int | float, expected)
    if not values:
        raise ValueError(f"node {shown(name)}: a route needs at least one branch")
    for reads, times in Counter(map(branch_text, values)).items():
        if times > 1:
            raise ValueError(f"node {shown(name)}: two branches read {shown(reads)}")


def tools(name: str, value: Any) -> None:
    """Raise TypeError if ``value`` is neither a bool nor a list of functions."""
    if isinstance(value, str) or not isinstance(value, bool | Iterable):
        message = f"tools must be True or a list of functions, not {type_name(value)}"
        raise TypeError(f"node {shown(name)}: {message}")
    for tool in () if isinstance(value, bool) else value:
        if not callable(tool):
            message = f"a tool must be callable, not {type_name(tool)}"
            raise TypeError(f"node {shown(name)}: {message}")


def fallbacks(name: str, value: Any, kind: Any) -> tuple[Any, ...]:
    """Return the fallbacks of a node as a tuple.

    Raises:
        TypeError: One of them is not of the type ``kind``, or is a node that decides on branches.
        ValueError: One is a node with a loop.
    """
    values = (value,) if isinstance(value, kind) else value
    expected = "a Node" if isinstance(kind, type) else "a Node, or the name or LlmConfig of a model"
    if isinstance(values, str) or not isinstance(values, Sequence):
        message = f"fallback must be {expected}, or a list of them, not {type_name(value)}"
        raise TypeError(f"node {shown(name)}: {message}")
    for fallback in values:
        if not isinstance(fallback, kind):
            message = f"a fallback must be {expected}, not {type_name(fallback)}"
            raise TypeError(f"node {shown(name)}: {message}")
        if isinstance(getattr(fallback, "work", None), Decision):
            raise TypeError(f"node {shown(name)}: a fallback must have an output, not branches")
        if getattr(fallback, "for_each", None) is not None:
            message = "a fallback must not have for_each: it stands in for single items"
            raise ValueError(f"node {shown(name)}: {message}")
    return tuple(values)


def workflow(value: object, expected: str) -> None:
    """Raise TypeError if ``value`` is neither a Workflow nor a Flow; ``expected`` says what is."""
    from .plan import Flow  # these import nodes
    from .workflow import Workflow

    if not isinstance(value, Workflow | Flow):
        raise TypeError(f"{expected}, not {type_name(value)}")
