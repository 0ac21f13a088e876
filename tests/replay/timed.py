"""Record and replay programs on a clock of the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noukai_sdk import NoukaiError
from noukai_sdk.protocol.call import FlowCall
from noukai_sdk.protocol.program import Program
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.cassette_file import as_json
from noukai_sdk.replay.player import Player, ReplayOptions
from noukai_sdk.replay.recorder import Recorder
from noukai_sdk.replay.recording import Recording, recording_adapter
from noukai_sdk.session.scope import Scope
from tests.support.stepping import Clock, Played, play


def live_program(call: FlowCall) -> Program[Any]:
    """The program that sends ``call`` to the service."""
    return Scope("normal", None).admit(call)


def timeline(
    clock: Clock, program: Program[Any], outcomes: Sequence[Any] = (), consumer: float = 0.0
) -> list[tuple[float, Any]]:
    """The events of a program with their times; its result, or the class of its error, comes last.

    The caller takes ``consumer`` seconds for each event.
    """
    played, began = Played(), clock.now

    def on_event(_: Any) -> None:
        clock.now += consumer

    try:
        play(program, outcomes, clock=clock, on_event=on_event, played=played)
    except NoukaiError as error:
        played.timeline.append((round(clock.now - began, 6), type(error)))
    return played.timeline


def record(
    clock: Clock, call: FlowCall, outcomes: Sequence[Any], consumer: float = 0.0
) -> tuple[list[tuple[float, Any]], Recording]:
    """The timeline of a live call, and its recording."""
    recorder = Recorder()
    program = recorder.listen(call, live_program(call))
    seen = timeline(clock, program, outcomes, consumer)
    (recording,) = recorder.recordings()
    assert recording_adapter().validate_python(as_json(recording)) == recording
    return seen, recording


def replay_program(call: FlowCall, recording: Recording, pace: Any) -> Program[Any]:
    """The program that serves ``call`` from ``recording``."""
    player = Player(Cassette(None, [recording]), ReplayOptions(pace=pace))
    return player.play(call, player.claim(call))


def replay(
    clock: Clock, call: FlowCall, recording: Recording, pace: Any, consumer: float = 0.0
) -> list[tuple[float, Any]]:
    """The timeline of a replay."""
    return timeline(clock, replay_program(call, recording, pace), (), consumer)
