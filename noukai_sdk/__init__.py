"""Call Noukai flows, and run a production request again with no model call.

``__init__.pyi`` lists the public names. Each is loaded when it is first used, so ``import noukai_sdk``
takes no time and loads no framework.
"""

from __future__ import annotations

from . import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    __file__,
    renamed={"FlowRun": "RunSummary", "RunTrace": "Trace", "Tokens": "TokenBreakdown"},
)
