"""The results of ``noukai sessions replay`` as JSON, as JUnit XML and as one HTML page."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

from ..batch.causes import STATUSES, SessionResult, grouped
from . import missing_modules, packages_to_install
from .shared_options import CommandError

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class BatchRun:
    """What came of a run.

    Attributes:
        results: Those that are there, and the sessions that were skipped.
        target: The app, or its address.
        problem: Why the run has ended early, None if it has not.
    """

    results: tuple[SessionResult, ...]
    target: str
    seconds: float
    problem: str | None


def counts_of(results: Sequence[SessionResult]) -> dict[str, int]:
    """Return how many sessions have each result."""
    counted = Counter(each.status for each in results)
    return {status: counted[status] for status in STATUSES}


def batch_json(run: BatchRun) -> dict[str, Any]:
    """Return the results as plain JSON values."""
    results = run.results
    return {
        "target": run.target,
        "seconds": round(run.seconds, 3),
        "problem": run.problem,
        "counts": counts_of(results),
        "causes": [
            {
                "status": group.cause.status,
                "text": str(group),
                "flow": group.cause.flow,
                "place": group.cause.place,
                "example": group.cause.example,
                "count": len(group.sessions),
                "sessions": group.sessions,
            }
            for group in grouped(results)
        ],
        "sessions": [
            {
                "session": each.name,
                "source": each.source,
                "request": each.request,
                "result": each.status,
                "headline": each.headline,
                "lines": each.lines,
                "seconds": round(each.seconds, 4),
            }
            for each in results
        ],
    }


def write_json(run: BatchRun, path: Path) -> None:
    """Write the results to a file, or print them if ``path`` is ``-``."""
    text = json.dumps(batch_json(run), ensure_ascii=False, indent=None if str(path) == "-" else 2)
    if str(path) == "-":
        click.echo(text)
    else:
        _write(path, f"{text}\n")


def write_junit(run: BatchRun, path: Path) -> None:
    """Write a test case for each session, as GitHub, GitLab and Jenkins read them."""
    results = run.results
    counts = counts_of(results)
    totals = {
        "tests": str(len(results)),
        "failures": str(counts["changed"] + counts["drifted"] + counts["missed"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
        "time": f"{run.seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "noukai sessions replay", **totals})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "sessions", **totals})
    for each in results:
        attributes = {
            "classname": _xml(each.request or "session"),
            "name": _xml(each.name),
            "time": f"{each.seconds:.3f}",
        }
        case = ElementTree.SubElement(suite, "testcase", attributes)
        if each.status == "equal":
            continue
        tag = {"skipped": "skipped", "error": "error"}.get(each.status, "failure")
        texts = "; ".join(str(group) for group in grouped([each])) or each.headline
        element = ElementTree.SubElement(case, tag, {"message": _xml(texts)})
        if tag != "skipped":
            element.set("type", each.status)
            element.text = _xml("\n".join([each.headline, *each.lines]))
    ElementTree.indent(root)
    _write(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")


def write_html(run: BatchRun, path: Path) -> None:
    """Write one page, which opens without a server and without a network."""
    missing = missing_modules("jinja2")
    if missing:
        raise CommandError(f"--html needs jinja2: pip install {packages_to_install(*missing)}")
    from ..dashboard.batch_export import batch_html

    _write(path, batch_html(run.results, run.target, run.seconds))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "replace"))


def _xml(text: str) -> str:
    """Return a text without the characters that XML does not allow."""
    return _NOT_XML.sub("?", text)
