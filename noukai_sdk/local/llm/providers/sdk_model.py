"""A model behind one of the official clients: what OpenAI's and Anthropic's have in common.

Requests go through the clients' ``post``, which has their retries, timeouts and keys, but takes and
gives plain JSON: building their typed objects costs three times the request itself in a stream, and a
field that is new or missing would be an error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ..chat import ChatDelta, ChatRequest
from ..config import LlmConfig
from ..errors import LlmClosedError, LlmRequestError
from .json_post import JsonPost
from .sdk_errors import translated


class Reader(Protocol):
    """Takes a stream's JSON objects in order."""

    def read(self, chunk: Any) -> str:
        """The text in one object, often none."""
        ...

    def end(self) -> ChatDelta:
        """The last piece, after the stream has ended."""
        ...


class SdkModel(ABC):
    """Subclasses say how a request and an answer look.

    Args:
        config: The model and how to reach it.
        sdk: The official client's module.
        client: Its async client. Retries are its own: connection errors, timeouts, 408, 409, 429
            and 5xx, with Retry-After, never 401.
        http: The HTTP client that it was made with.
        key: The API key, which must not get into an error.
    """

    _path: str

    def __init__(self, config: LlmConfig, sdk: Any, client: Any, http: Any, key: str) -> None:
        self.name = config.name
        self._config = config
        self._sdk = sdk
        self._client = client
        self._post = JsonPost(sdk, client, http, self._path)
        self._key = key
        self._closed = False

    @abstractmethod
    def _body(self, request: ChatRequest) -> dict[str, Any]:
        """The request in the provider's form, without the streaming switch."""

    @abstractmethod
    def _stream_options(self) -> dict[str, Any]:
        """What makes a request stream."""

    @abstractmethod
    def _read(self, body: Any) -> ChatDelta:
        """The answer in a body that did not stream."""

    @abstractmethod
    def _reader(self) -> Reader:
        """Reads one stream."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """The answer as it comes. Closing the generator closes the connection."""
        reader = self._reader()
        with self._translated():
            stream = await self._client.post(
                self._path,
                body={**self._checked_body(request), **self._stream_options()},
                cast_to=object,
                stream=True,
                stream_cls=self._sdk.AsyncStream[object],
            )
            async with stream:
                async for chunk in stream:
                    text = reader.read(chunk)
                    if text:
                        yield ChatDelta(text)
        yield reader.end()

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """The whole answer, in one exchange that does not stream."""
        with self._translated():
            return self._read(await self._post.send(self._checked_body(request)))

    async def warmup(self) -> None:
        """Open a connection and check the key, by asking for the list of models."""
        try:
            with self._translated():
                await self._post.warm_up(self._models_path)
        except LlmRequestError:
            # Some compatible servers list no models: the connection is open all the same.
            return

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._post.aclose()
        await self._client.close()

    def _checked_body(self, request: ChatRequest) -> dict[str, Any]:
        try:
            return self._body(request)
        except (AttributeError, KeyError, TypeError) as error:
            raise LlmRequestError(
                f"{self.name}: messages or tools are not in OpenAI's form: {error!r}"
            ) from error

    @property
    def _models_path(self) -> str:
        return "/models"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise LlmClosedError(f"{self.name}: the model was closed: open a new one")
        try:
            with translated(self._sdk, self.name, self._key):
                yield
        except Exception as error:
            if self._closed:
                raise LlmClosedError(f"{self.name}: the model was closed meanwhile") from error
            raise
