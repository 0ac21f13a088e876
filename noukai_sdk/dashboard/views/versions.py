"""Whether something has changed that a page shows."""

from __future__ import annotations

import hashlib

from ...models.base import WireModel


def version_of(*models: WireModel) -> str:
    """Return a text that is another one if one of the models has changed."""
    # Not their JSON, which a text with half of a surrogate pair has not.
    content = "".join(map(repr, models))
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
