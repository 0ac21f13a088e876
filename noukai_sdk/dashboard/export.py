"""A session as one HTML file that opens without a server and without a network."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from ..replay.cassette_file import CassetteFile
from .rendering import STATIC, render
from .views.boundary_rows import boundary_view
from .views.call_view import call_view
from .views.recorded_values import MOST_CHARACTERS
from .views.session_view import file_session


def session_html(file: CassetteFile, source: str = "") -> str:
    """Return a page with a session and all of its calls.

    Args:
        file: The recordings. What the page must not show has been removed from them.
        source: The name of the file that they come from.
    """
    style = text_of("style.css", "session.css")
    script = text_of("page.js", "session.js")
    policy = (
        f"default-src 'none'; style-src '{hash_of(style)}'; script-src '{hash_of(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return render(
        "export.html",
        view=file_session(file, source, limit=MOST_CHARACTERS),
        calls=[call_view(each, limit=MOST_CHARACTERS) for each in file.recordings],
        recorded=[
            boundary_view(each, index, limit=MOST_CHARACTERS)
            for index, each in enumerate(file.boundaries)
        ],
        style=Markup(style),  # noqa: S704  # a file of this package
        script=Markup(script),  # noqa: S704  # a file of this package
        policy=policy,
    )


def text_of(*names: str) -> str:
    """Return static files, one after the other."""
    return "".join(STATIC[name].content.decode() for name in names)


def hash_of(text: str) -> str:
    """Return the hash by which a content security policy names a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
