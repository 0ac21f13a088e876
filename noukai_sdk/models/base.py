"""The base of everything that crosses the wire: camelCase there, snake_case here."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """A wire object. Unknown fields are ignored, so that the service may grow (docs/wire.md)."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        # Building a validator costs about a millisecond a class: pay at first use, not at import.
        defer_build=True,
        # ``model_used`` is a field of the wire, not a clash with pydantic's own names.
        protected_namespaces=(),
    )

    def __eq__(self, other: object) -> bool:
        # What a client hangs on a model (how to resume it) does not make it another value.
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # models can change, as pydantic's own


def dump(model: WireModel) -> dict[str, Any]:
    """``model`` with the fields and names that it had on the wire."""
    return model.model_dump(by_alias=True, exclude_unset=True)
