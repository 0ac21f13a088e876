"""Where ``noukai session`` reads from: a cassette file, or the service."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, cast

import click

from ..client import Noukai
from ..errors import NoukaiError
from ..protocol.reading import fetch_session
from ..replay.files import read_cassette
from ..replay.recording import Recording
from ..replay.sources import recordings_of

P = ParamSpec("P")
T = TypeVar("T")

Env = Literal["production", "dev"]


def load(source: str, env: str | None) -> tuple[str | None, list[Recording]]:
    """The session id and the recordings of ``source``, a file's path or a session's id.

    Raises:
        NoukaiError: It cannot be read.
    """
    if Path(source).is_file():
        file = read_cassette(source)
        return file.session_id, file.recordings
    with Noukai(env=cast("Env | None", env)) as client:
        transport = client._transport
        session = transport.run(fetch_session(transport.service, source))
    return session.session_id, recordings_of(session)


def told(command: Callable[P, T]) -> Callable[P, T]:
    """``command``, whose SDK errors are said in one line and end it with exit code 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except (NoukaiError, OSError) as error:
            click.echo(f"noukai: {error}", err=True)
            sys.exit(2)

    return run
