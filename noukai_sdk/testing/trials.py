"""Try a test of a captured request before it is written: whether it passes, now and on another day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from ..errors import CassetteError, ReplayError
from ..models.exchanges import Header
from ..replay.cassette_file import read_cassette, redacted_file, write_redacted
from ..replay.recording import Recording
from ..replay.redaction import Redactor
from ..replaying.apps import AppError
from .captured_requests import replay_of, replay_request
from .freezing import FreezeError

# Another year, month, weekday, hour, minute and second.
_ANOTHER_TIME = timedelta(days=500, hours=5, minutes=7, seconds=11)


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Attributes:
        problems: Why the test does not pass.
        drift: How the inputs of calls differ from the captured ones.
        freeze: The test is to hold clock, uuids and random numbers.
        inputs_held: The cassette has the inputs of such a replay, in place of the captured ones.
    """

    problems: list[str]
    drift: list[str]
    freeze: bool = False
    inputs_held: bool = False


def try_test(
    app_name: str,
    cassette: Path,
    headers: Sequence[Header] = (),
    body: str | None = None,
    ignore: Sequence[str] = (),
) -> Trial:
    """Do what the test would do, at the time of now, at another time, and at the captured time.

    If inputs hold a random number, they differ from the captured ones even if the clock is held. Then those
    of a held replay are written to the cassette: from now on, they must not change.

    Args:
        app_name: The app.
        cassette: The cassette of the test.
        headers: Headers to add to the request.
        body: The body to send, None for the captured one.
        ignore: What may differ in the response.

    Raises:
        CassetteError: The cassette cannot be read or written.
    """

    def attempt(held: timedelta | None) -> tuple[list[str], list[str], list[Recording]]:
        drift: list[str] = []
        made: list[Recording] = []
        file = read_cassette(cassette)
        try:
            with replay_of(file) as scope:
                replayed = replay_request(
                    app_name, cassette, headers=dict(headers), body=body, ignore=ignore, held=held
                )
                sent = {
                    id(claim.recording): dict(claim.redacted_request())
                    for claim in scope.player.made
                    if isinstance(claim.recording, Recording)
                }
                made = [
                    replace(each, request=sent.get(id(each), each.request), message_only=False)
                    for each in file.recordings
                ]
            drift = replayed.report.lines() if replayed.report.drift else []
            replayed.assert_unchanged()
        except CassetteError:
            raise
        except (ReplayError, AppError, AssertionError) as error:
            cause = error.__cause__
            reason = [] if cause is None else [f"the app raised {type(cause).__name__}: {cause}"]
            return [str(error), *reason], drift, made
        return [], drift, made

    problems, drift, _ = attempt(None)
    real = Trial(problems, drift)
    try:
        # What passes today may fail tomorrow: a date in a prompt.
        problems_later, drift_later, _ = attempt(_ANOTHER_TIME)
        if not (problems or drift or problems_later or drift_later):
            return real
        problems_held, drift_held, recordings = attempt(timedelta())
        if problems_held:
            return real
        if not drift_held:
            return Trial([], [], freeze=True)
        helps = bool(problems or problems_later)
        if drift_held == drift_later and not helps:
            return real  # the code has changed, or reads something else
        captured = read_cassette(cassette)
        redactor = Redactor(captured.redacted, pii=captured.redacted_pii)
        held = replace(captured, recordings=recordings)
        write_redacted(cassette, redacted_file(held, redactor, cassette))
        if attempt(timedelta())[:2] == ([], []):
            return Trial([], drift_held, freeze=True, inputs_held=True)
        write_redacted(cassette, captured)
        if helps:
            return Trial([], drift_held, freeze=True)
    except FreezeError:  # time-machine is not installed
        pass
    return real
