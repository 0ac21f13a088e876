"""Python functions as tools of a model: their schema, and calls with validated arguments.

Shared by the client (``@noukai_sdk.tool``) and the local engine (``Agent(tools=...)``).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any, Generic, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, to_json
from typing_extensions import ParamSpec, TypeIs

Function = Callable[..., Any]
P = ParamSpec("P")
R = TypeVar("R")


class Tool(Generic[P, R]):
    """A function that a model can call. Made by :func:`tool`; it can be called like the function.

    Attributes:
        function: The function itself.
    """

    def __init__(
        self, function: Callable[P, R], name: str | None = None, description: str | None = None
    ) -> None:
        self.function = function
        self.__name__: str = name or name_of(function)
        self.__doc__ = description if description is not None else inspect.getdoc(function)
        self.__module__ = function.__module__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.__name__}>"

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The tool in OpenAI's form: name, description and the JSON schema of its arguments.

        Raises:
            ValueError: The function cannot be a tool, see :func:`tool`.
        """
        return schema_of(self)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Any = None, /, *, name: str | None = None, description: str | None = None
) -> Any:
    """Turn a function into a tool, for ``tools=[...]`` of a call and for agents of the local engine.

    The schema comes from the annotations and defaults, the description from the docstring, and the
    descriptions of arguments from its section ``Args:``.

    The arguments of a model are validated by pydantic before the function is called. If they are not valid,
    or the function raises an exception, the result of the call is ``{"error": "..."}``, which the model
    reads.

    On the async client, the function may be async; other functions run in worker threads. Arguments
    need names, and types that have a JSON form. A method must be bound: ``tool(service.search)``.

    Args:
        function: The function.
        name: The tool's name, by default that of the function.
        description: The tool's description, by default the docstring.

    Example:
        >>> @tool
        ... def get_weather(city: str, days: int = 1) -> str:
        ...     "Return the weather in a city."
        ...     return f"sunny in {city}"
        >>> get_weather.definition["function"]["parameters"]["required"]
        ['city']
        >>> get_weather("Paris")
        'sunny in Paris'
    """
    if function is None:
        return partial(Tool, name=name, description=description)
    if not callable(function):
        raise TypeError(f"@tool needs a function, not {type(function).__name__}")
    return Tool(function)


def schema_of(
    function: Function, *, name: str | None = None, description: str | None = None
) -> dict[str, Any]:
    """Return the function as a tool in OpenAI's format, from its name, docstring and annotations.

    Raises:
        ValueError: It has positional-only arguments, or arguments of a type that JSON does not have, it is
            a method that is not bound, or its name is not valid.

    Example:
        >>> def get_weather(city: str) -> str:
        ...     "Return the weather in a city."
        >>> schema_of(get_weather)["function"]["description"]
        'Return the weather in a city.'
    """
    name = name or name_of(function)
    try:
        parameters = _adapter(function).json_schema()
    # Reading annotations runs the code in them.
    except Exception as error:
        raise ValueError(f"{name!r} cannot be a tool: {error}") from error
    if parameters.get("type") != "object":
        raise ValueError(f"{name!r} cannot be a tool: its arguments need names")
    if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise ValueError(
            f"{name!r} cannot be a tool: pass tool(name=...), of letters, digits, _ and -"
        )
    if "self" in parameters["properties"]:
        raise ValueError(f"{name!r} cannot be a tool: it is not bound, pass tool(service.{name})")
    if description is None:
        description, of_arguments = _described(inspect.getdoc(function) or "")
        for argument, text in of_arguments.items():
            if argument in parameters["properties"]:
                parameters["properties"][argument].setdefault("description", text)
    tool = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": tool}


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into what it says of the function, and of each argument (Google's style)."""
    before, header, section = docstring.partition("\nArgs:\n")
    listed = re.match(r"(?:[ \t]+.*\n?|\n)*", section)
    if not header or listed is None:
        return docstring, {}
    # An argument begins at the indentation of the first one; lines further in continue it.
    indentation = re.match(r"[ \t]*", section)
    first = re.escape(indentation[0]) if indentation else ""
    begins = re.compile(rf"^{first}\*{{0,2}}(\w+)(?: *\([^)\n]*\))?:", re.MULTILINE)
    _, *parts = begins.split(listed[0])
    texts = [" ".join(text.split()) for text in parts[1::2]]
    after = section[listed.end() :]
    return f"{before.rstrip()}\n\n{after}".strip(), dict(zip(parts[::2], texts, strict=True))


def name_of(function: Function) -> str:
    """Return the name by which a model calls the function."""
    return str(getattr(function, "__name__", type(function).__name__))


def bind(function: Function, arguments: str) -> Callable[[], Any]:
    """Return the call of ``function`` with a model's arguments, which are validated when it is made.

    Raises:
        ValueError, TypeError: The arguments are not JSON, or not an object.
    """
    values = json.loads(arguments or "{}")
    if not isinstance(values, dict):
        raise TypeError("the arguments must be a JSON object")
    return partial(_adapter(function).validate_python, ArgsKwargs((), values))


def failure(error: Exception, describe: Callable[[BaseException], str]) -> dict[str, str]:
    """Return what the model reads of a call that failed. ``describe`` returns the text of an error."""
    if not is_about_arguments(error):
        return {"error": describe(error)}
    # Not str(error): it names the version of pydantic, and a replay by another one would drift.
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    each = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems]
    return {"error": f"wrong arguments: {'; '.join(each)}"}


def is_about_arguments(error: Exception) -> TypeIs[ValidationError]:
    """Return whether a model's arguments do not fit. The function may raise ValidationError, too."""
    return isinstance(error, ValidationError) and error.title.startswith("call[")


def unknown(name: str, names: list[str]) -> dict[str, str]:
    """Return what the model reads of a call of a tool that does not exist."""
    return {"error": f"there is no tool {name!r}; there are {', '.join(names)}"}


def as_content(value: Any) -> str:
    """Convert the result of a tool to the text that the model reads."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()


@lru_cache(maxsize=256)
def _adapter(function: Function) -> TypeAdapter[Any]:
    # The class is a wrapper, without annotations of its own.
    return TypeAdapter(function.function if isinstance(function, Tool) else function)  # type: ignore[arg-type]  # pydantic takes functions too
