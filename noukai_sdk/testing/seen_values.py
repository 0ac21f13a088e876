"""Find the uuids and the times that production read, in what it sent. Nothing else records them.

In a replay with a held clock, any uuid is as good as another, and so is any time between two calls. So
the app gets those of production, as far as the input of a call or the response has them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from ..replay.cassette_file import CassetteFile, as_json
from ..replay.recording import moment_of

_UUID4 = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}(?P<dash>-?)[0-9a-f]{4}(?P=dash)4[0-9a-f]{3}"
    r"(?P=dash)[89ab][0-9a-f]{3}(?P=dash)[0-9a-f]{12}(?![0-9a-f])",
    re.IGNORECASE,
)
# With a part of a second: a time to the second needs no exact clock.
_ISO = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.(?:\d{6}|\d{3})(?:Z|[+-]\d\d:\d\d)?(?!\d)")
_SECONDS = re.compile(r"(?<![\d.])\d{10}\.\d{1,9}(?!\d)")


def uuids_of_production(file: CassetteFile) -> list[UUID]:
    """Return the uuids that the app made, in the order in which they were sent.

    Those that it was given are left out: by the request, by a flow or by a recorded function.
    """
    exchange = file.exchange
    given = "" if exchange is None else exchange.request.model_dump_json()
    given += "".join(each.model_dump_json() for each in file.boundaries)
    known = set(_uuids(given))
    found: dict[UUID, None] = {}
    for recording in file.recordings:
        found |= dict.fromkeys(
            each for each in _uuids(_text(recording.request)) if each not in known
        )
        known |= set(_uuids(_text({**as_json(recording), "request": None}))) - found.keys()
    if exchange is not None and exchange.response.body is not None:
        found |= dict.fromkeys(
            each for each in _uuids(exchange.response.body.text) if each not in known
        )
    return list(found)


class SeenTime(NamedTuple):
    """A time that production read, and the end of the first call that it was sent with, in nanoseconds."""

    time: int
    until: float


def times_of_production(file: CassetteFile) -> list[SeenTime]:
    """Return the times between begin and end of the request that the app sent, in order."""
    exchange = file.exchange
    begun = None if exchange is None else moment_of(exchange.started_at)
    if exchange is None or begun is None:
        return []
    end = moment_of(exchange.completed_at)
    latest = math.inf if end is None else nanoseconds(end)
    body = exchange.response.body
    sent = [(_text(each.request), each.completed_at) for each in file.recordings]
    sent.append(("" if body is None else body.text, None))
    found: dict[int, float] = {}
    for text, ended in sent:
        until = math.inf if ended is None else to_nanoseconds(ended)
        for each in _times(text, (begun.tzinfo, timezone.utc)):
            if nanoseconds(begun) <= each <= latest:
                found.setdefault(each, until)
    return sorted(SeenTime(*each) for each in found.items())


def to_nanoseconds(seconds: float) -> int:
    """Return seconds as nanoseconds: a float holds a time of today to a microsecond."""
    return round(seconds * 1e6) * 1000


def nanoseconds(moment: datetime) -> int:
    """Return a time in nanoseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1) * 1000


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _uuids(text: str) -> Iterator[UUID]:
    return (UUID(match[0]) for match in _UUID4.finditer(text))


def _times(text: str, zones: tuple[tzinfo | None, ...]) -> Iterator[int]:
    for match in _SECONDS.finditer(text):
        yield int(Decimal(match[0]) * 1_000_000_000)
    for match in _ISO.finditer(text):
        moment = moment_of(match[0])
        if moment is None:
            continue
        # Without an offset it is local, or of datetime.utcnow().
        naive = moment.replace(tzinfo=None)
        has_zone = match[0][-1] == "Z" or match[0][-6] in "+-"
        for zone in (moment.tzinfo,) if has_zone else zones:
            yield nanoseconds(naive.replace(tzinfo=zone))
