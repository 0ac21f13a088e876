"""What the pages know of the service that they belong to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DashboardOptions:
    """What the pages know of the service.

    Attributes:
        api_path: The path of the API.
        open_key: A key that everybody knows, for visitors without one: ``nk_dev`` on loopback. None lets
            nobody in without a key.
        trusts_host: Whether a Host header has a name of this service; None accepts any. Without a login,
            it is all that keeps pages of other sites out (DNS rebinding).
        look_seconds: The time between two looks at what a live page shows.
        max_streams: How many live pages may be open at once.
        replay_to: Servers that the page may send captured requests to, such as ``http://app:8000``.
        replay_to_loopback: Whether it may send them to all ports of this machine as well.
        process_id: Returns the id of this process in the service: a replay ends with its process.
        secret: What the tokens of forms are made from, for visitors without a key of their own. A page
            that is open while the service is started again can send its forms if the secret is the same.
    """

    api_path: str = "/api/v1"
    open_key: str | None = None
    trusts_host: Callable[[str], bool] | None = None
    look_seconds: float = 1.0
    max_streams: int = 32
    replay_to: tuple[str, ...] = ()
    replay_to_loopback: bool = True
    process_id: Callable[[], str | None] = lambda: None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)


@dataclass
class LiveStreams:
    """The streams of live pages: how many are open, and whether they are to end."""

    open: int = 0
    closing: asyncio.Event = field(default_factory=asyncio.Event)
