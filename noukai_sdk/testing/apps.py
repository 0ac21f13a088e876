"""Find an ASGI or WSGI app by its name, and send requests through it in this process."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import httpx

from ..session.threads import detached
from .shuffling import run_in_loop

Message = MutableMapping[str, Any]

_FORM = "write 'module:attribute', such as main:app, or 'module:create_app()'"
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class AppError(Exception):
    """An app cannot be imported, does not start, or is neither an ASGI nor a WSGI app."""


@dataclass(frozen=True)
class AppResponse:
    """The response of an app, and the exception that it raised, if it did."""

    response: httpx.Response
    failure: Exception | None


def load_app(name: str, *, beside: Path | None = None) -> Any:
    """Import an app.

    Args:
        name: ``module:attribute``. The attribute may be a function that makes the app, called with
            literal arguments: ``main:create_app("test")``.
        beside: A file of the project. A module that is not installed is searched for in the current
            folder, in the file's folder, in all folders above that, and in ``src`` of each.

    Raises:
        AppError: There is no such app, or its module cannot be imported.
    """
    module_name, _, expression = name.partition(":")
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        is_called = isinstance(tree, ast.Call)
        if isinstance(tree, ast.Call):
            arguments = [ast.literal_eval(each) for each in tree.args]
            keywords = {str(each.arg): ast.literal_eval(each.value) for each in tree.keywords}
            tree = tree.func
        attributes = ast.unparse(tree).split(".")
        if not all(part.isidentifier() for part in (*module_name.split("."), *attributes)):
            raise ValueError(name)
    except (SyntaxError, ValueError, TypeError) as error:
        raise AppError(f"{name!r} does not name an app: {_FORM}") from error
    # Neither the import nor the start of an app is a part of the request.
    with detached():
        app: Any = _import(module_name, beside)
        for attribute in attributes:
            if not hasattr(app, attribute):
                raise AppError(f"{name!r}: module {module_name} has no {'.'.join(attributes)}")
            app = getattr(app, attribute)
        if is_called:
            try:
                app = app(*arguments, **keywords)
            except Exception as error:
                raise AppError(f"{name} raised {type(error).__name__}: {error}") from error
    return app


def _import(module_name: str, beside: Path | None) -> ModuleType:
    folder = _folder_of(module_name, beside)
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return import_module(module_name)
    except (Exception, SystemExit) as error:
        raise AppError(
            f"module {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _folder_of(module_name: str, beside: Path | None) -> Path | None:
    """Return the folder that holds a module, None if Python finds the module by itself."""
    if module_name in sys.modules:
        return None
    with suppress(ImportError, ValueError):
        if find_spec(module_name) is not None:
            return None
    folders = [Path.cwd(), *(beside.resolve().parents if beside is not None else ())]
    path = module_name.replace(".", "/")
    for folder in (each / sub for each in folders for sub in ("", "src")):
        if (folder / f"{path}.py").is_file() or (folder / path / "__init__.py").is_file():
            return folder
    return None


def interface_of(app: Any) -> Literal["asgi", "wsgi"]:
    """Return the interface of an app.

    Raises:
        AppError: It has neither.
    """
    call = app.func if isinstance(app, partial) else app
    if not inspect.isroutine(call):
        call = getattr(call, "__call__", None)  # noqa: B004  # the method itself is looked at
    if not inspect.isclass(app) and callable(app):
        if inspect.iscoroutinefunction(call):
            return "asgi"
        with suppress(ValueError, TypeError):
            positional = (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
            required = [
                each
                for each in inspect.signature(app).parameters.values()
                if each.kind in positional and each.default is inspect.Parameter.empty
            ]
            if len(required) == 3:
                return "asgi"
            if len(required) == 2:
                return "wsgi"
    raise AppError(
        f"{app!r} is neither an ASGI nor a WSGI app. For a function that makes the app, write its call: "
        "'module:create_app()'"
    )


def send(app: Any, request: httpx.Request, enough: int | None) -> AppResponse:
    """Send a request through an app of either interface, in this process.

    An ASGI app is started before, and stopped afterwards. Background tasks have ended on return.

    Args:
        app: The app.
        request: The request.
        enough: Leave as a client does that disconnects, after so many bytes of the body; None to read
            all of it.

    Raises:
        AppError: The app has neither interface, or does not start.
    """
    if interface_of(app) == "asgi":
        return run_in_loop(_send_to_asgi(app, request, enough))
    return _send_to_wsgi(app, request, enough)


class _ClientLeft(OSError):
    """The client has disconnected."""


class _Connection:
    """One request to an ASGI app, and its response."""

    def __init__(self, request: httpx.Request, enough: int | None) -> None:
        self._unread = [request.read()]
        self._enough = enough
        self._finished = asyncio.Event()
        self._left = False
        self.start: Message = {"status": 500, "headers": []}
        self.body = b""

    async def receive(self) -> Message:
        """Return the request's body, and then wait for the end."""
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await self._finished.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the app."""
        if self._left:
            raise _ClientLeft("the client has disconnected")
        if message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self._left = self._enough is not None and len(self.body) >= self._enough
            if self._left or not message.get("more_body", False):
                self._finished.set()


async def _send_to_asgi(app: Any, request: httpx.Request, enough: int | None) -> AppResponse:
    url = request.url
    connection = _Connection(request, enough)
    failure: Exception | None = None
    async with _lifespan(app) as state:
        scope = {
            "type": "http",
            "asgi": dict(_ASGI),
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 50000),
            "server": (url.host, url.port or (443 if url.scheme == "https" else 80)),
            "state": dict(state),
            "extensions": {},
        }
        try:
            await app(scope, connection.receive, connection.send)
        except _ClientLeft:
            pass
        except Exception as error:  # noqa: BLE001  # a server responds with 500
            failure = error
    response = httpx.Response(
        connection.start["status"],
        headers=list(connection.start.get("headers", ())),
        content=connection.body,
        request=request,
    )
    return AppResponse(response, failure)


@asynccontextmanager
async def _lifespan(app: Any) -> AsyncIterator[Message]:
    """Start an ASGI app, if it has a lifespan, and stop it at the end."""
    state: Message = {}
    phases: asyncio.Queue[Message] = asyncio.Queue()
    started, stopped = asyncio.Event(), asyncio.Event()
    replies: dict[str, str] = {}

    async def send(message: Message) -> None:
        _, phase, result = message["type"].split(".")
        replies[phase] = f"{result} {message.get('message', '')}"
        (started if phase == "startup" else stopped).set()

    async def run() -> None:
        # An app without a lifespan raises. One that failed to start has said so, and raises too.
        with suppress(Exception):
            await app({"type": "lifespan", "asgi": dict(_ASGI), "state": state}, phases.get, send)
        started.set()
        stopped.set()

    with detached():  # a worker that the app starts does not belong to the request
        task = asyncio.create_task(run())
    try:
        phases.put_nowait({"type": "lifespan.startup"})
        await started.wait()
        if replies.get("startup", "").startswith("failed"):
            problem = replies["startup"].removeprefix("failed").strip()
            raise AppError(f"the app does not start: {problem}")
        yield state
        if "startup" in replies:
            phases.put_nowait({"type": "lifespan.shutdown"})
            await stopped.wait()
    finally:
        task.cancel()
        await asyncio.wait([task])


def _send_to_wsgi(app: Any, request: httpx.Request, enough: int | None) -> AppResponse:
    def with_encoded_path(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # Bytes as Latin-1 characters, as in every server; httpx passes characters.
        path = unquote_to_bytes(request.url.raw_path.split(b"?")[0])
        environ["PATH_INFO"] = path.decode("latin-1")
        result: Iterable[bytes] = app(environ, start_response)
        return result

    failure: Exception | None = None
    response: httpx.Response | None = None
    content = b""
    transport = httpx.WSGITransport(with_encoded_path, raise_app_exceptions=False)
    request.read()
    try:
        response = transport.handle_request(request)
        try:
            for part in response.stream:  # type: ignore[union-attr]  # a plain transport's is sync
                content += part
                if enough is not None and len(content) >= enough:
                    break
        finally:
            response.close()
    except Exception as error:  # noqa: BLE001  # a server responds with 500, or cuts the response
        failure = error
    return AppResponse(
        httpx.Response(
            response.status_code if response is not None else 500,
            headers=response.headers if response is not None else None,
            content=content,
            request=request,
        ),
        failure,
    )
