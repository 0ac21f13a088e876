"""Jinja2: the environment of all templates, and the static files that they name.

Whatever a template prints is escaped, and characters that cannot be seen are shown as marks: a recording is
hostile input.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .security import TOKEN_FIELD
from .views import numbers, texts, times

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class StaticFile:
    """A file of ``static/``. ``version`` changes with its content."""

    content: bytes
    media_type: str
    version: str


def _read_static() -> dict[str, StaticFile]:
    files = {}
    for path in sorted((_HERE / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            version = hashlib.sha256(content).hexdigest()[:12]
            files[path.name] = StaticFile(content, _TYPES[path.suffix], version)
    return files


STATIC = _read_static()
"""The static files by name."""


def render(template: str, **values: Any) -> str:
    """Return a template of ``templates/`` with these values."""
    return _ENVIRONMENT.get_template(template).render(**values)


def _static_url(name: str) -> str:
    return f"/static/{name}?v={STATIC[name].version}"


def _csrf_field(visit: Any) -> Markup:
    return Markup('<input type="hidden" name="{}" value="{}">').format(TOKEN_FIELD, visit.token)


def _finalize(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return texts.visible(value)
    return value


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals.update(static=_static_url, csrf_field=_csrf_field)
_ENVIRONMENT.filters.update(
    ago=times.ago,
    iso=times.iso,
    duration=times.duration,
    count=texts.count,
    thousands=numbers.thousands,
    dollars=numbers.dollars,
)
