"""``scope.whatif``: its signature and its documentation, and the error of scopes that replay nothing.

:class:`~.replay_scope.ReplayScope` has the method that does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ReplayDisabledError

if TYPE_CHECKING:
    from ..whatif.compared_calls import WhatIf
    from .scope import Scope


def whatif(
    _scope: Scope,
    *live: str,
    model: str | None = None,
    settings: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    message: str | None = None,
) -> WhatIf:
    """Run the named calls of this replay live, with a change. All others are served as before.

    Call it before these calls are made. They belong to a new session, which remembers the replayed one.

    Args:
        *live: A flow (``"grade-3"`` or ``"acme/spelling/grade-3"``), a call of it (``"grade-3#2"``), or
            a step (``"grade-3/score"``).
        model: The model of the steps that call one.
        settings: Other settings of these steps: ``temperature``, ``max_tokens``, ``prompt``, ``system``,
            ``timeout``, ``retry``.
        parameters: Parameters of the call; the others stay as they are.
        message: The input text, in place of that of the call.

    Returns:
        The live calls, each beside its recording; it fills as they are made.

    Raises:
        ReplayDisabledError: Replay is not enabled.
        TypeError: This scope replays nothing, or a value has the wrong type.
        ValueError: There is no such call or setting.

    Example:
        >>> with trace_scope_sync(replay_session_id=s, client=noukai) as scope:  # doctest: +SKIP
        ...     what_if = scope.whatif("grade-3", settings={"temperature": 0})
        ...     handle(request)
        >>> what_if.calls[0].live.output                                         # doctest: +SKIP
    """
    from .options import GATE, replay_enabled  # which most programs do not need

    if not replay_enabled():
        raise ReplayDisabledError(f"replay is off: set {GATE}=true to allow it here")
    raise TypeError("whatif() needs a scope that replays: pass replay_session_id= or cassette=")
