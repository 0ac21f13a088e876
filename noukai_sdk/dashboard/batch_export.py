"""The results of many replays as one HTML file that opens without a server and without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from ..batch.causes import STATUSES, SessionResult, grouped
from .export import hash_of, text_of
from .rendering import render


def batch_html(results: Sequence[SessionResult], target: str, seconds: float) -> str:
    """Return a page with the causes, and all sessions that are not equal.

    Args:
        results: The sessions.
        target: The app, or its address.
        seconds: How long the replays took.
    """
    style = text_of("style.css", "session.css", "batch.css")
    counted = Counter(each.status for each in results)
    by_name = {each.name: each for each in results}
    return render(
        "batch.html",
        target=target,
        seconds=f"{seconds:.1f}",
        counts=[(status, counted[status]) for status in STATUSES if counted[status]],
        total=len(results),
        groups=[
            (group, str(group), [by_name[name] for name in group.sessions])
            for group in grouped(results)
        ],
        anchors={name: f"session-{number}" for number, name in enumerate(by_name)},
        failed=[each for each in results if each.status != "equal"],
        style=Markup(style),  # noqa: S704  # a file of this package
        policy=f"default-src 'none'; style-src '{hash_of(style)}'; base-uri 'none'; form-action 'none'",
    )
