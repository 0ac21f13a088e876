"""Find what a SESSION argument names: a cassette file, or a session of the service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem

from ..arguments import require_base_url
from ..client import Noukai
from ..errors import CassetteError, NoukaiError, ReplayError
from ..models.exchanges import Exchange
from ..models.session_lists import StoredReport
from ..models.sessions import ForkParent, StepSnapshot
from ..protocol.fetching import fetch_session
from ..protocol.requests import require_session_id
from ..protocol.session_extensions import fetch_exchange, fetch_reports
from ..replay.cassette_file import CassetteFile, file_of, read_cassette
from ..replay.sources import MOST_ANCESTORS, load_session
from ..replaying.controls import clean_lines
from ..session.options import find_cassette
from .shared_options import CommandError

Env = Literal["production", "dev"]


def complete_file(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a file name: the ids of sessions are not known."""
    return [CompletionItem(incomplete, type="file")]


def _check_base_url(_context: Any, _option: Any, url: str | None) -> str | None:
    try:
        return None if url is None else require_base_url("URL", url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _find_named_file(_context: Any, _argument: Any, source: str) -> str:
    """Return the path of the cassette that ``file:<name>`` names, as in the header of a replay."""
    if not source.startswith("file:") or is_file(source):
        return source
    try:
        return find_cassette(source.removeprefix("file:"))
    except ReplayError as error:
        raise click.BadParameter(error.message) from error


source_argument = click.argument(
    "source", metavar="SESSION", callback=_find_named_file, shell_complete=complete_file
)
env_option = click.option(
    "--env",
    type=click.Choice(["production", "dev"]),
    help="The service.  [default: NOUKAI_ENV]",
)
base_url_option = click.option(
    "--base-url",
    metavar="URL",
    envvar="NOUKAI_BASE_URL",
    show_envvar=True,
    callback=_check_base_url,
    help="The address of the service, instead of --env.",
)


def open_client(env: Env | None, base_url: str | None, **options: Any) -> Noukai:
    """Return a client of the service that the options name."""
    try:
        return Noukai(env=env, base_url=base_url, **options)
    except ValueError as error:  # NOUKAI_ENV
        raise CommandError(str(error)) from error


def load(
    source: str, env: Env | None, base_url: str | None, *, as_made: bool = False
) -> CassetteFile:
    """Return the recordings of a session, and its request if that was captured.

    Args:
        source: The session, or a cassette file.
        env: The service.
        base_url: Its address.
        as_made: For a replay: as for :func:`~noukai_sdk.replay.sources.recordings_of_fork`.
    """
    return load_with_parent(source, env, base_url, as_made=as_made)[0]


def load_with_parent(
    source: str, env: Env | None, base_url: str | None, *, as_made: bool = False
) -> tuple[CassetteFile, ForkParent | None]:
    """Return a session and the session that it was forked from; a file does not name that."""
    if is_file(source):
        return read_cassette(source), None
    session_id = require_id(source)
    with open_client(env, base_url) as client:
        transport = client._transport
        session = transport.run(load_session(transport.service, session_id, as_made=as_made))
        exchange = None
        with suppress(NoukaiError):  # a service that has no exchanges may say so in its own way
            exchange = transport.run(fetch_exchange(transport.service, session_id))
    return file_of(session, exchange), session.parent


def load_steps(
    source: str, execution_id: str, env: Env | None, base_url: str | None
) -> list[StepSnapshot]:
    """Return the steps of a call, as the service has them; none if it does not have the call.

    A call of a fork can be one that its parent served.
    """
    session_id, seen = require_id(source), set[str]()
    with open_client(env, base_url) as client:
        transport = client._transport
        while session_id not in seen and len(seen) <= MOST_ANCESTORS:
            seen.add(session_id)
            session = transport.run(fetch_session(transport.service, session_id))
            for execution in session.executions:
                if execution["executionId"] == execution_id:
                    return execution.get("steps", [])
            if session.parent is None:
                break
            session_id = session.parent.session_id
    return []


def find_exchange(
    source: str, env: Env | None, base_url: str | None, *, required: bool
) -> Exchange | None:
    """Return the captured request and response of a session, None if there is none.

    Raises:
        NoukaiError: It is ``required``, and the session cannot be read.
    """
    if is_file(source):
        return read_cassette(source).exchange
    session_id = require_id(source)
    if not required:
        try:
            with open_client(env, base_url, max_retries=0, timeout=5.0) as client:
                transport = client._transport
                return transport.run(fetch_exchange(transport.service, session_id))
        except NoukaiError:
            return None
    with open_client(env, base_url) as client:
        transport = client._transport
        exchange = transport.run(fetch_exchange(transport.service, session_id))
        if exchange is None:
            transport.run(fetch_session(transport.service, session_id))  # it may not exist at all
        return exchange


def replay_name(source: str) -> str:
    """Return what names a session in the header of a request that replays it.

    A cassette file in the folder NOUKAI_CASSETTES has a name; another stands for the session in it.
    """
    folder = os.environ.get("NOUKAI_CASSETTES")
    if folder and is_file(source):
        path, root = Path(source).resolve(), Path(folder).resolve()
        if path.is_relative_to(root):
            read_cassette(source)  # an error here says more than the app's
            return f"file:{path.relative_to(root).as_posix()}"
    session_id = replayed_session_id(source)
    if session_id is None:
        message = (
            "this file has no session id, so the app cannot fetch its session: put the file into the "
            "folder that NOUKAI_CASSETTES names for the app"
        )
        raise CassetteError(f"{source}: {message}", path=source)
    return session_id


def name_of(file: CassetteFile, source: str) -> str:
    """Return the name of the session for messages; recordings made by hand may have no id."""
    return f"session {clean_lines(file.session_id)}" if file.session_id else source


def replayed_session_id(source: str) -> str | None:
    """Return the id of the session, None for a cassette file without one."""
    if not is_file(source):
        return require_id(source)
    session_id = read_cassette(source).session_id
    return None if session_id is None else require_session_id(session_id)


def is_file(source: str) -> bool:
    """Return whether ``source`` is the path of a file."""
    return os.path.isfile(source)  # noqa: PTH113  # Path.is_file() raises if the name is too long


def require_id(source: str) -> str:
    """Return ``source`` if it is a valid session id."""
    if "/" in source or os.sep in source or source.endswith(".jsonl"):
        raise CassetteError(f"{source}: no such file, and not a valid session id")
    return require_session_id(source)


def stored_reports(
    session_id: str | None, env: Env | None, base_url: str | None
) -> Callable[[], Awaitable[Sequence[StoredReport]]]:
    """Return what reads the reports of a session's replays; none if the service cannot be asked."""

    def read() -> Sequence[StoredReport]:
        if session_id is None:
            return ()
        try:
            with open_client(env, base_url, max_retries=0, timeout=5.0) as client:
                transport = client._transport
                return transport.run(fetch_reports(transport.service, session_id)).replays
        except NoukaiError:
            return ()

    return partial(asyncio.to_thread, read)
