"""Where ``noukai session`` reads from: a cassette file, or the service."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec, TypeVar, cast

import click

from ..client import Noukai
from ..errors import CassetteError, NoukaiError
from ..protocol.fetching import fetch_session
from ..protocol.paths import require_session_id
from ..replay.cassette_file import read_cassette
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
    if _is_file(source):
        file = read_cassette(source)
        return file.session_id, file.recordings
    session_id = _checked(source)
    with Noukai(env=cast("Env | None", env)) as client:
        transport = client._transport
        session = transport.run(fetch_session(transport.service, session_id))
    return session.session_id, recordings_of(session)


def session_id_of(source: str) -> str:
    """The id that an app can fetch ``source`` by, a session's own or a file's.

    Raises:
        NoukaiError: There is none.
    """
    if not _is_file(source):
        return _checked(source)
    session_id = read_cassette(source).session_id
    if session_id is None:
        raise CassetteError(f"{source}: this file names no session to replay", path=source)
    return _checked(session_id)


def _is_file(source: str) -> bool:
    return os.path.isfile(source)  # noqa: PTH113  # a Path raises where the name is too long


def _checked(source: str) -> str:
    if "/" in source or os.sep in source or source.endswith(".jsonl"):
        raise CassetteError(f"{source}: there is no such file, and no session has such an id")
    return require_session_id(source)


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
