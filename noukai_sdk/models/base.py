"""The base of everything that crosses the wire: camelCase there, snake_case here."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from typing_extensions import Self


class WireModel(BaseModel):
    """A wire object. Unknown fields are ignored, so that the service may grow (docs/wire.md)."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        # Building a validator takes about a millisecond for each class: done at first use, not at import.
        defer_build=True,
        # ``model_used`` is a field of the wire, not a clash with pydantic's own names.
        protected_namespaces=(),
    )

    def __eq__(self, other: object) -> bool:
        # The private attributes of a client (how to resume) are not part of the value.
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __getstate__(self) -> dict[Any, Any]:
        # They cannot be pickled either: the copy is data.
        state = super().__getstate__()
        private = state["__pydantic_private__"]
        return {**state, "__pydantic_private__": private and dict.fromkeys(private)}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # A deep copy uses the same client: connections cannot be copied.
        memo = {} if memo is None else memo
        memo.update((id(value), value) for value in (self.__pydantic_private__ or {}).values())
        return super().__deepcopy__(memo)

    __hash__ = None  # type: ignore[assignment]  # models can change, as pydantic's own


def _without_exponent(value: Any) -> Any:
    return f"{Decimal(repr(value)):f}" if type(value) in (int, float) else value


DecimalText = Annotated[str, BeforeValidator(_without_exponent)]
"""A decimal string. A number is converted to one."""


def dump(model: WireModel) -> dict[str, Any]:
    """Return ``model`` with the fields and names that it had on the wire."""
    return model.model_dump(by_alias=True, exclude_unset=True)
