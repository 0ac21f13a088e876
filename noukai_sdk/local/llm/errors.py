"""Every error of a model provider, whichever provider it is.

::

    NoukaiError
    └── LlmError
        ├── LlmConfigError             unknown model, bad or missing setting
        │   └── MissingExtraError      the provider's own library is not installed
        ├── LlmConnectionError         no answer, or an answer that was cut
        │   └── LlmTimeoutError        longer than the timeout
        ├── LlmAuthenticationError     401 or 403: the key
        ├── LlmRateLimitError          429 (``retry_after``)
        ├── LlmRequestError            every other 4xx: the request
        ├── LlmServerError             5xx: the provider
        ├── LlmResponseError           an answer that is none of the protocol
        ├── LlmCircuitOpenError        too many calls in a row failed; nothing was sent
        └── LlmClosedError             a call on a client that was closed

The provider library's own error is the ``__cause__``.
"""

from __future__ import annotations

from typing import Any

from ...errors import NoukaiError

__all__ = [
    "LlmAuthenticationError",
    "LlmCircuitOpenError",
    "LlmClosedError",
    "LlmConfigError",
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
    """Base of all errors of model providers. ``is_retryable``: a second try can help."""

    is_retryable = False


class LlmConfigError(LlmError):
    """The model's name or a setting is wrong or missing; the message says which and what to do."""


class MissingExtraError(LlmConfigError):
    """The provider's own library is not installed; the message has the pip line."""


class LlmConnectionError(LlmError):
    """The provider could not be reached, or the answer broke off."""

    is_retryable = True


class LlmTimeoutError(LlmConnectionError):
    """The provider took longer than the configured timeout."""


class LlmAuthenticationError(LlmError):
    """The provider does not accept the key (401), or not for this model (403)."""


class LlmRateLimitError(LlmError):
    """Too many requests (429). ``retry_after`` is in seconds, None where the provider gave none."""

    is_retryable = True

    def __init__(
        self, message: str = "", *, retry_after: float | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class LlmRequestError(LlmError):
    """The provider refuses the request as it is: unknown model, too long, bad tools."""


class LlmServerError(LlmError):
    """The provider failed (5xx)."""

    is_retryable = True


class LlmResponseError(LlmError):
    """The provider's answer is none of its protocol: is the base URL right?"""


class LlmCircuitOpenError(LlmError):
    """Too many calls in a row failed, so this one was not sent.

    ``retry_after`` is how many seconds from now the client will try the provider again.
    """

    is_retryable = True

    def __init__(self, message: str = "", *, retry_after: float = 0.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class LlmClosedError(LlmError):
    """The client or model was closed; make a new one."""
