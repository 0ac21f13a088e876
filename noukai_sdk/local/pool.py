"""Open models by their spec, each opened once."""

from __future__ import annotations

from collections.abc import Callable

from .chat import ChatModel


class ModelPool:
    """Gives the model of a spec string, opened at first use and kept until ``aclose``.

    Args:
        open_model: Opens a model; by default ``noukai_sdk.local.providers.open_model``.

    Example:
        >>> ModelPool().get("offline").name
        'offline'
    """

    def __init__(self, open_model: Callable[[str], ChatModel] | None = None) -> None:
        self._open = open_model
        self._models: dict[str, ChatModel] = {}

    def get(self, spec: str) -> ChatModel:
        """The model of this spec.

        Raises:
            LlmConfigError: The spec names no model, or its key or library is missing.
        """
        model = self._models.get(spec)
        if model is None:
            model = self._models[spec] = self._opener()(spec)
        return model

    async def aclose(self) -> None:
        """Close every model. The pool opens them again where it is used again."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.aclose()

    def _opener(self) -> Callable[[str], ChatModel]:
        if self._open is None:
            from .providers import open_model

            self._open = open_model
        return self._open
