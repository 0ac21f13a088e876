"""Print errors of other people's code."""

from __future__ import annotations

from .hidden_keys import hide_keys

_MOST = 2000


def error_text(error: BaseException) -> str:
    """Return the class and the message of an error, cut if it is long. Never fails.

    Example:
        >>> error_text(ValueError("too small"))
        'ValueError: too small'
    """
    name = type(error).__name__
    try:
        # Half of a surrogate pair cannot be sent or printed.
        message = str.__str__(str(error)).encode("utf-8", "backslashreplace").decode()
    except (Exception, SystemExit):  # noqa: BLE001 - the method may be anyone's
        return f"{name} (its message cannot be printed)"
    message = hide_keys(message[: _MOST + 1]) + message[_MOST + 1 :]
    if len(message) > _MOST:
        message = f"{message[:_MOST]}... ({len(message)} characters)"
    return f"{name}: {message}".removesuffix(": ")
