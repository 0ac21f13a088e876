"""Flows and their versions. An extension of our backend (docs/wire.md, "Flows")."""

from __future__ import annotations

from typing import Any

from .base import WireModel


class FlowVersion(WireModel):
    """One version of a flow. ``published_at`` is None for a version in a file."""

    version: int
    content_hash: str | None = None
    published_at: str | None = None


class PublishedVersion(FlowVersion):
    """The response of publish. ``is_new`` is False if a version had the same content already."""

    is_new: bool = True


class FlowDescription(WireModel):
    """A flow as ``GET /flows/{org}/{project}/{slug}`` returns it."""

    org: str
    project: str
    slug: str
    description: str | None = None
    content_hash: str | None = None
    versions: tuple[FlowVersion, ...] = ()
    problems: tuple[dict[str, Any], ...] = ()
