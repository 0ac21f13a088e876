"""What a test says of its cassette: its name, and how it is used. Part of the pytest plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

MARKER = "noukai_cassette"
OPTIONS = frozenset(
    {"record_mode", "redact", "redact_paths", "strict_inputs", "pacing", "on_miss", "live_from"}
)


def has_cassette(item: pytest.Item) -> bool:
    """Whether a test has a cassette, or would have."""
    marked = item.get_closest_marker(MARKER) is not None
    return marked or "noukai_cassette" in getattr(item, "fixturenames", ())


def options_of(item: pytest.Item) -> dict[str, Any]:
    """What the marker and the command line say; the command line has the last word on the mode."""
    marker = item.get_closest_marker(MARKER)
    options = dict(marker.kwargs) if marker is not None else {}
    options.pop("name", None)
    asked = item.config.getoption("--noukai-record")
    return options if asked is None else {**options, "record_mode": asked}


def check_marker(item: pytest.Item, options: Mapping[str, Any]) -> None:
    """Raise TypeError where a test's marker is none that a test can have."""
    names = _names(item.get_closest_marker(MARKER))
    if len(names) > 1 or not all(isinstance(name, str) and name for name in names):
        said = ", ".join(map(repr, names))
        raise TypeError(f"{MARKER} takes one name, a text that is not empty; it was given {said}")
    if unknown := options.keys() - OPTIONS:
        raise TypeError(
            f"{MARKER} takes no {', '.join(sorted(unknown))}: "
            f"its options are {', '.join(sorted(OPTIONS))}"
        )


def cassette_of(item: pytest.Item) -> Path:
    """Where the cassette of a test is."""
    from .folders import cassette_path

    marker = item.get_closest_marker(MARKER)
    owners = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    name = ".".join([*owners, item.name])
    given = next(iter(_names(marker)), None)
    if given is not None:
        _, bracket, parameters = item.name.partition("[")
        name = f"{given}{bracket}{parameters}"
    return cassette_path(item.path, name)


def _names(marker: pytest.Mark | None) -> list[Any]:
    """The names that a marker gives; more than one where it is wrong."""
    if marker is None:
        return []
    given = (*marker.args, marker.kwargs.get("name"))
    return [name for name in given if name is not None]
