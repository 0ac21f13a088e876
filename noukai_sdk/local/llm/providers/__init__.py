"""From a model's name to a model. A provider's own library is imported when it is first opened."""

from __future__ import annotations

from ..chat import ChatModel
from ..config import LlmConfig

__all__ = ["open_config", "open_model"]


def open_model(spec: str) -> ChatModel:
    """The model that a flow file's ``model:`` names.

    Args:
        spec: ``offline``, ``smollm2``, ``openai:NAME``, ``anthropic:NAME`` or ``ollama:NAME``; keys
            come from the environment.

    Returns:
        The model; ``aclose`` it when done.

    Raises:
        LlmConfigError: No such model, or its key is missing.
        MissingExtraError: The provider's library is not installed; the message has the pip line.

    Example:
        >>> open_model("offline").name
        'offline'
    """
    return open_config(LlmConfig.from_spec(spec))


def open_config(config: LlmConfig) -> ChatModel:
    """The model of a configuration; otherwise as :func:`open_model`."""
    if config.provider == "offline":
        from .offline import OfflineModel

        return OfflineModel()
    if config.provider == "smollm2":
        from .smollm2 import SmolLm2Model

        return SmolLm2Model(config.timeout)
    if config.provider == "anthropic":
        from .anthropic import AnthropicModel

        return AnthropicModel(config)
    from .openai import OpenAiModel

    return OpenAiModel(config)
