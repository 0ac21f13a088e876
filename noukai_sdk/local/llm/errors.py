"""The errors of model providers, the same for every provider.

::

    NoukaiError
    └── LlmError
        ├── LlmConfigError             unknown model, invalid or missing setting
        │   ├── LlmConfigTypeError     a setting of the wrong type; a TypeError too
        │   ├── LlmConfigValueError    a setting that is unknown or out of range; a ValueError too
        │   └── MissingExtraError      the provider's own library is not installed
        ├── LlmConnectionError         no response, or one that was cut off
        │   └── LlmTimeoutError        longer than the timeout
        ├── LlmAuthenticationError     401 or 403: the key
        ├── LlmRateLimitError          429 (``retry_after``)
        ├── LlmRequestError            any other 4xx: the request
        ├── LlmServerError             5xx: the provider
        ├── LlmResponseError           a response that does not follow the protocol
        ├── LlmCircuitOpenError        too many calls in a row failed; nothing was sent
        └── LlmClosedError             the client was closed

The provider library's own error is the ``__cause__``.
"""

from __future__ import annotations

from typing import Any

from ...errors import NoukaiError
from ..runtime.hidden_keys import hide_keys

__all__ = [
    "LlmAuthenticationError",
    "LlmCircuitOpenError",
    "LlmClosedError",
    "LlmConfigError",
    "LlmConfigTypeError",
    "LlmConfigValueError",
    "LlmConnectionError",
    "LlmError",
    "LlmRateLimitError",
    "LlmRequestError",
    "LlmResponseError",
    "LlmServerError",
    "LlmTimeoutError",
    "MissingExtraError",
]


class LlmError(NoukaiError):
    """Base of all errors of model providers.

    Keys passed by mistake, such as in the name of a model, appear as ``...`` in the message.

    Attributes:
        is_retryable: Another attempt can help.
        attempts: How many requests the client sent, its own retries included.
    """

    is_retryable = False
    attempts = 1

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(hide_keys(message), **details)


class LlmConfigError(LlmError):
    """The model's name or a setting is invalid or missing; the message says which and how to fix it."""


class LlmConfigTypeError(LlmConfigError, TypeError):
    """A setting has the wrong type; the message says which type is right."""


class LlmConfigValueError(LlmConfigError, ValueError):
    """A setting is unknown or out of range; the message says what is right."""


class MissingExtraError(LlmConfigError):
    """The provider's own library is not installed; the message has the pip line."""


class LlmConnectionError(LlmError):
    """The provider could not be reached, or the response was cut off."""

    is_retryable = True


class LlmTimeoutError(LlmConnectionError):
    """The provider took longer than the configured timeout."""


class LlmAuthenticationError(LlmError):
    """The provider does not accept the key (401), or not for this model (403)."""


class LlmRateLimitError(LlmError):
    """Too many requests (429). ``retry_after`` is in seconds, None if the provider sent none."""

    is_retryable = True

    def __init__(
        self, message: str = "", *, retry_after: float | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class LlmRequestError(LlmError):
    """The provider rejects the request: unknown model, too long, invalid tools."""


class LlmServerError(LlmError):
    """The provider failed (5xx)."""

    is_retryable = True


class LlmResponseError(LlmError):
    """The provider's response does not follow its protocol: check the base URL."""


class LlmCircuitOpenError(LlmError):
    """Too many calls in a row failed, so this one was not sent.

    ``retry_after`` is the number of seconds until the client tries the provider again.
    """

    is_retryable = True

    def __init__(self, message: str = "", *, retry_after: float = 0.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class LlmClosedError(LlmError):
    """The client or model was closed; make a new one."""
