"""Show docstrings on the site: references such as :meth:`Noukai.close` become code, and so do examples.

mkdocstrings loads this extension by its path (mkdocs.yml).
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?(?:[\w.]*\.)?(\w+)`")
# Google's name of the section. griffe takes the singular for a paragraph, and ">>>" for quotations.
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class PlainReferences(Extension):
    """Replaces the references of docstrings by the names that they refer to, and marks examples as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            value = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub("Examples:", value)
