"""Models by provider. A provider's own library is imported when its first model is opened.

``openai.py`` and ``anthropic.py`` call the official clients; ``sdk_model.py`` and ``sdk_errors.py`` are
what they share, and the ``..._requests`` and ``..._responses`` modules convert bodies without I/O.
``smollm2.py`` runs a small model in this process, ``offline.py`` and ``hashing_embedder.py`` need no model.
"""

from __future__ import annotations

from ..chat import ChatModel
from ..config import LlmConfig

__all__ = ["open_config", "open_model"]


def open_model(spec: str) -> ChatModel:
    """Open the model that the ``model:`` of a flow file names.

    Args:
        spec: As for :meth:`LlmConfig.from_spec`; keys come from the environment.

    Returns:
        The model; call its ``aclose`` when done.

    Raises:
        LlmConfigError: The model is unknown, or its key is missing.
        MissingExtraError: The provider's library is not installed; the message has the pip line.

    Example:
        >>> open_model("offline").name
        'offline'
    """
    return open_config(LlmConfig.from_spec(spec))


def open_config(config: LlmConfig) -> ChatModel:
    """Open the model of a configuration; otherwise as :func:`open_model`."""
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
