"""Show docstrings on the site: references such as :meth:`Noukai.close` become code, and so do examples.

mkdocstrings loads this extension by its path (mkdocs.yml).
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?(?:[\w.]*\.)?(\w+)`")
# An item "a, b: What both are.", with its further lines.
_SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
# Google's name of the section. griffe takes the singular for a paragraph, and ">>>" for quotations.
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class PlainDocstrings(Extension):
    """Rewrites docstrings for griffe: references, items that share a description, and examples."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            value = _ROLE.sub(r"`\1`", obj.docstring.value)
            value = _SEVERAL.sub(_one_each, value)
            obj.docstring.value = _EXAMPLE.sub("Examples:", value)


def _one_each(item: re.Match[str]) -> str:
    indent, names, text = item.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
