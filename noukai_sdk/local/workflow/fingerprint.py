"""Describe a workflow, so that a run can tell whether it was edited since the run began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..llm.config import LlmConfig

if TYPE_CHECKING:
    from .plan import Plan

Shape = dict[str, Any]

_ENCODER = json.JSONEncoder(sort_keys=True)
# Settings that change how a node is run, not what it does.
_OF_RUNS = {"id", "retry", "timeout", "concurrency", "on_error"}


def shape_of(plan: Plan) -> Shape:
    """Return the shape of a plan: JSON, with a digest for each setting that makes its outputs.

    The code of functions does not count, only their names: a run goes on with a mended function. Retries,
    timeouts and concurrency do not count either.
    """
    nodes = {}
    for node in plan.nodes:
        settings = _settings(node)
        work = settings.pop("work")
        settings = {"kind": node.kind, **settings, **(work if isinstance(work, dict) else {})}
        nodes[node.id] = {name: _digest(value) for name, value in settings.items()}
    return {"nodes": nodes, "parameters": _digest(_plain(plan.parameters))}


def changes(before: Shape, now: Shape) -> list[str]:
    """Say what has changed between two shapes; empty if nothing has."""
    found = []
    old, new = before["nodes"], now["nodes"]
    for node_id, settings in old.items():
        if node_id not in new:
            found.append(f"node {node_id!r} is missing")
            continue
        names = [name for name in {**settings, **new[node_id]} if name != "kind"]
        differ = [name for name in names if settings.get(name) != new[node_id].get(name)]
        if settings["kind"] != new[node_id]["kind"]:
            found.append(f"node {node_id!r} is of another kind")
        elif differ:
            found.append(f"node {node_id!r} has another {', '.join(differ)}")
    found += [f"node {node_id!r} is new" for node_id in new if node_id not in old]
    if before["parameters"] != now["parameters"]:
        found.append("the workflow has other parameters")
    return found


def still_fitting(before: Shape, now: Shape, plan: Plan) -> set[str]:
    """Return the ids of the nodes that have not changed, and neither has any node before them."""
    old, new = before["nodes"], now["nodes"]
    fitting: set[str] = set()
    for node in plan.nodes:
        if old.get(node.id) == new[node.id] and fitting.issuperset(node.needs):
            fitting.add(node.id)
    return fitting


def _settings(value: Any) -> dict[str, Any]:
    """Return the settings of a dataclass that are not the defaults."""
    kind: Any = type(value)
    found = {}
    for name, default in _fields_of(kind):
        setting = getattr(value, name)
        if default is MISSING or setting != default:
            found[name] = _plain(setting)
    return found


@lru_cache(maxsize=64)
def _fields_of(kind: Any) -> list[tuple[str, Any]]:
    return [(field.name, field.default) for field in fields(kind) if field.name not in _OF_RUNS]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, LlmConfig):
        return value.name  # not its key
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if hasattr(value, "nodes") and hasattr(value, "parameters"):
        return value.shape  # the plan of a sub-flow
    if is_dataclass(value) and not isinstance(value, type):
        return _settings(value)
    # Without the module: a script is "__main__" for itself alone, and another program may resume its runs.
    return str((value if hasattr(value, "__qualname__") else type(value)).__qualname__)


def _digest(value: Any) -> str:
    return _digest_of_text(_ENCODER.encode(value))


@lru_cache(maxsize=1024)
def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
