"""A chat model over a vendor's official client: the parts that OpenAI's and Anthropic's share.

Requests go through the client's ``post``, which retries, times out and sends the key, but exchange
plain JSON: building the typed objects costs three times the request itself in a stream, and a new or
missing field would be an error.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import math
import os
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol

from anyio import from_thread

from ....masking.names import is_secret_name
from ...runtime.hidden_keys import hide_keys
from ..chat import ChatDelta, ChatRequest
from ..config import LlmConfig
from ..errors import LlmClosedError, LlmConfigError, LlmRequestError, MissingExtraError
from ..rate_limit import RateLimit
from .sdk_errors import leave_rate_limit_to_us, raise_translated, seconds_to_wait

_OFF = frozenset({"0", "false", "no", "off"})
_END: Any = object()
_CLOSED = "the model was closed"


class StreamReader(Protocol):
    """Reads the JSON objects of one stream, in order."""

    def read(self, chunk: Any) -> str:
        """Return the text in one object, often none."""
        ...

    def end(self) -> ChatDelta:
        """Return the last delta, after the stream has ended."""
        ...


class SdkModel(ABC):
    """Send requests through an official client; subclasses define the requests and responses.

    Args:
        config: The model and how to reach it.
        sdk: The official client's module.
        client: Its async client. It retries connection errors, timeouts, 408, 409 and 5xx, obeys
            Retry-After, and never retries 401. We retry 429, for all calls of the client together.
        key: The API key, which must not get into an error; nor must the keys in ``config.headers``.
    """

    _path: str
    _models_path: str

    def __init__(self, config: LlmConfig, sdk: Any, client: Any, key: str) -> None:
        self.name = config.name
        self._config = config
        self._sdk = sdk
        self._client = client
        self._keys = [key, *secret_headers(config)]
        self._closed = False
        self._limit = RateLimit(seconds_to_wait, config.max_retries)
        self._tasks: set[asyncio.Task[Any]] = set()

    @abstractmethod
    def _body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        """Return the request in the provider's format."""

    @abstractmethod
    def _read(self, body: Any) -> ChatDelta:
        """Read a response that was not streamed."""

    @abstractmethod
    def _reader(self) -> StreamReader:
        """Return a reader for one stream."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Yield the response as it arrives. Closing the generator closes the connection."""
        reader = self._reader()
        body = self._checked_body(request, stream=True)
        with _Call(self):
            stream = await self._limit.send(
                lambda: self._client.post(
                    self._path,
                    body=body,
                    cast_to=object,
                    stream=True,
                    stream_cls=self._sdk.AsyncStream[object],
                )
            )
        async with stream:
            while True:
                # One call per chunk: the consumer's errors and cancellations are not the client's.
                with _Call(self):
                    chunk = await anext(stream, _END)
                    if chunk is _END:
                        break
                    text = reader.read(chunk)
                if text:
                    yield ChatDelta(text)
        yield reader.end()

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """Return the whole response, in one exchange that does not stream."""
        body = self._checked_body(request, stream=False)
        with _Call(self):
            return self._read(
                await self._limit.send(
                    lambda: self._client.post(self._path, body=body, cast_to=object)
                )
            )

    async def warmup(self) -> None:
        """Open a connection and check the key by requesting the list of models."""
        try:
            with _Call(self):
                await self._limit.send(lambda: self._client.get(self._models_path, cast_to=object))
        except LlmRequestError:
            # Some compatible servers have no list of models; the connection is open all the same.
            return

    async def aclose(self) -> None:
        """Cancel the calls in progress and close the connections."""
        self._closed = True
        # aiohttp does not wake the readers of a closed session: they would wait forever.
        for task in self._tasks:
            task.cancel(_CLOSED)
        await self._client.close()

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the body that :meth:`stream` sends.

        Raises:
            LlmRequestError: There is none: the request is not in OpenAI's format.
        """
        return self._checked_body(request, stream=True)

    def _checked_body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        try:
            return self._body(request, stream=stream)
        except (AttributeError, KeyError, TypeError) as error:
            raise LlmRequestError(
                f"{self.name}: messages or tools are not in OpenAI's format: {error!r}"
            ) from error


class _Call:
    """Translate the client's errors inside the block, and let ``aclose`` of the model cancel it.

    A cancel scope of anyio would do the latter on trio too, where httpx needs no help, but it doubles
    the time that we add to a call.
    """

    def __init__(self, model: SdkModel) -> None:
        self._model = model
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        if self._model._closed:
            raise LlmClosedError(f"{self._model.name}: the model was closed: open a new one")
        with suppress(RuntimeError):  # on trio
            self._task = asyncio.current_task()
        if self._task is not None:
            self._model._tasks.add(self._task)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        model = self._model
        if self._task is not None:
            model._tasks.discard(self._task)
        if error is None:
            return
        is_cancelled = isinstance(error, asyncio.CancelledError) and error.args == (_CLOSED,)
        if is_cancelled and self._task is not None and sys.version_info >= (3, 11):
            self._task.uncancel()
        if is_cancelled or (model._closed and isinstance(error, Exception)):
            raise LlmClosedError(f"{model.name}: the model was closed meanwhile") from error
        if isinstance(error, Exception):
            raise_translated(model._sdk, model.name, model._keys, error)


def import_sdk(name: str) -> Any:
    """Import an official client's module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"this model needs the {name} client: pip install '{name}[aiohttp]' genai-prices"
        ) from error


def api_key(config: LlmConfig, variable: str | None) -> str:
    """Return the configured key, else the one in the environment variable.

    Args:
        config: The model's configuration.
        variable: None for servers that need no key: they get a placeholder.

    Raises:
        LlmConfigError: The key is missing, or cannot be sent in a header.
    """
    key = config.api_key or (os.environ.get(variable) if variable else "none")
    if not key:
        raise LlmConfigError(f"{config.name} needs a key: pass api_key= or set {variable}")
    # The HTTP library would raise an error of its own for such a key, and print the key in it.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LlmConfigError(
            f"{config.name}: the API key has a space, a line break or a letter that no key has"
        )
    return key


def merged(body: dict[str, Any], *extras: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the body of a request with the extra fields, of which the later ones win."""
    for extra in extras:
        if extra:
            body = {**body, **extra}
    return body


def secret_headers(config: LlmConfig) -> list[str]:
    """Return the values of the configured headers that are secrets, by their names."""
    headers = config.headers or {}
    return [value for name, value in headers.items() if is_secret_name(name)]


@contextmanager
def client_settings(config: LlmConfig, sdk: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings that both official clients take; create the client inside the block.

    Raises:
        LlmConfigError: The client cannot be created with these settings or in this environment, for
            example because ``SSL_CERT_FILE`` names a missing file.
    """
    try:
        yield {
            "timeout": config.timeout if math.isfinite(config.timeout) else None,
            "max_retries": config.max_retries,
            "default_headers": config.headers,
            "http_client": _http_client(sdk),
        }
    # Bad addresses, certificates and proxies each raise a different error.
    except Exception as error:
        message = f"{config.name}: the client cannot be created: {error!r}"
        if hide_keys(message) != message:
            raise LlmConfigError(message) from None
        raise LlmConfigError(message) from error


def _on_trio() -> bool:
    """Return whether this thread runs trio, or works for a task on trio."""
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        return bool(from_thread.run_sync(trio.lowlevel.in_trio_run))
    except RuntimeError:  # not a worker thread
        return bool(trio.lowlevel.in_trio_run())


def _http_client(sdk: Any) -> Any:
    """Return the vendor's HTTP client over aiohttp if it can be used here, else over httpx.

    aiohttp takes half the time of httpx when many requests are sent at once. It runs on asyncio only,
    and it does not support every kind of proxy that httpx does.
    """
    hooks = {"response": [leave_rate_limit_to_us]}
    if (
        os.environ.get("NOUKAI_FAST", "").strip().lower() not in _OFF
        and importlib.util.find_spec("aiohttp") is not None
        and not urllib.request.getproxies().keys() - {"no"}
        and not _on_trio()
    ):
        try:
            return sdk.DefaultAioHttpClient(event_hooks=hooks)
        # Releases before mid-2025 lack it; others need httpx-aiohttp besides aiohttp.
        except (AttributeError, RuntimeError):
            pass
    return sdk.DefaultAsyncHttpxClient(event_hooks=hooks)
