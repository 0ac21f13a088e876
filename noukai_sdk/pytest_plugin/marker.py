"""Read the marker of a test: the name of its cassette and the options of its scope."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

MARKER = "noukai_cassette"
OPTIONS = frozenset(
    {
        "record_mode",
        "redact",
        "redact_paths",
        "redact_pii",
        "strict_inputs",
        "drift",
        "freeze",
        "pacing",
        "on_miss",
        "live_from",
    }
)


def has_cassette(item: pytest.Item) -> bool:
    """Return whether a test uses a cassette."""
    marked = item.get_closest_marker(MARKER) is not None
    return marked or "noukai_cassette" in getattr(item, "fixturenames", ())


def options_of(item: pytest.Item) -> dict[str, Any]:
    """Return the options of the marker; the command line overrides the record mode."""
    marker = item.get_closest_marker(MARKER)
    options = dict(marker.kwargs) if marker is not None else {}
    options.pop("name", None)
    mode = item.config.getoption("--noukai-record")
    return options if mode is None else {**options, "record_mode": mode}


def check_marker(item: pytest.Item, options: Mapping[str, Any]) -> None:
    """Raise TypeError if the marker of a test is malformed."""
    names = _names(item.get_closest_marker(MARKER))
    if len(names) > 1 or not all(isinstance(name, str) and name for name in names):
        raise TypeError(
            f"{MARKER} takes one name, a non-empty string, not {', '.join(map(repr, names))}"
        )
    if unknown := options.keys() - OPTIONS:
        raise TypeError(
            f"{MARKER} got unknown options {', '.join(sorted(unknown))}: "
            f"its options are {', '.join(sorted(OPTIONS))}"
        )


def freezes(config: pytest.Config, options: Mapping[str, Any]) -> bool:
    """Return whether a test holds the clock: the command line comes first, then its marker, then the file.

    Raises:
        ValueError: The marker's value is not a boolean.
    """
    value = config.getoption("--noukai-freeze") or options.get("freeze")
    if value is None:
        value = config.getini("noukai_freeze")
    if not isinstance(value, bool):
        raise ValueError(f"bad freeze {value!r}: use True or False")
    return value


def cassette_of(item: pytest.Item) -> Path:
    """Return the cassette file of a test."""
    from .folders import cassette_path

    owners = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    name = ".".join([*owners, item.name])
    names = _names(item.get_closest_marker(MARKER))
    if names:
        _, bracket, parameters = item.name.partition("[")
        name = f"{names[0]}{bracket}{parameters}"
    return cassette_path(item.path, name)


def _names(marker: pytest.Mark | None) -> list[Any]:
    """Return the names in a marker; more than one is an error."""
    if marker is None:
        return []
    return [name for name in (*marker.args, marker.kwargs.get("name")) if name is not None]
