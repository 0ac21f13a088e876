"""Whether something has changed that a page shows."""

from __future__ import annotations

import hashlib

from ...models.base import WireModel


def version_of(*models: WireModel) -> str:
    """Return a text that is another one if one of the models has changed."""
    content = "".join(model.model_dump_json() for model in models)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
