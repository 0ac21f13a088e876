"""Which servers the page may send requests to, and connections to no other address than was checked.

The captured origin is what a client wrote into its Host header, so it may name anything: a machine inside
the network, or the address at which clouds serve a machine's keys. Only addresses of this machine are
allowed, and servers that the operator names.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import httpx

_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z"
)
_PORTS = {"http": 80, "https": 443}
_RESOLVE_SECONDS = 5.0


class TargetError(ValueError):
    """No request may be sent to this server. The message is for the user."""


@dataclass(frozen=True)
class Origin:
    """A scheme, a host and a port.

    Attributes:
        host: In lower case; an IPv6 address without brackets.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin that ``url`` consists of; it may have a final slash.

        Raises:
            TargetError: It is no URL of a server, or has more: a user, a path, a query.

        Example:
            >>> Origin.parse("http://LocalHost:8000/")
            Origin(scheme='http', host='localhost', port=8000)
        """
        error = TargetError(
            f"{url[:200]!r} is not the address of a server: write 'http://localhost:8000', without user, "
            "path and query"
        )
        if not url.isascii() or not url.isprintable() or set(url) & set(" \\@?#%"):
            raise error
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            if ":" in host:
                host = str(IPv6Address(host))
        except ValueError:
            raise error from None
        is_host = ":" in host or _NAME.match(host)
        if parts.scheme not in _PORTS or not is_host or port == 0 or parts.path not in ("", "/"):
            raise error
        return cls(parts.scheme, host, port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True)
class Target:
    """A server that was checked.

    Attributes:
        addresses: Its IP addresses. Names are not resolved again.
    """

    origin: Origin
    addresses: Sequence[str]

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport that connects to these addresses alone."""
        return _PinnedTransport(self)


@dataclass(frozen=True)
class AllowedTargets:
    """The servers that requests may be sent to.

    Attributes:
        origins: Servers that the operator names.
        loopback: Whether all ports of this machine are allowed as well.
    """

    origins: Sequence[Origin] = ()
    loopback: bool = True

    async def check(self, url: str) -> Target:
        """Resolve the name of a server and return its checked addresses.

        Raises:
            TargetError: It is not allowed, or its name is unknown.
        """
        origin = Origin.parse(url)
        is_named = origin in self.origins
        if not is_named and not self.loopback:
            raise TargetError(self._refusal(origin))
        addresses = await _resolve(origin)
        if not is_named and not all(map(_is_loopback, addresses)):
            raise TargetError(self._refusal(origin))
        return Target(origin, addresses)

    def _refusal(self, origin: Origin) -> str:
        named = ", ".join(map(str, self.origins))
        allowed = [*(["this machine"] if self.loopback else []), *([named] if named else [])]
        only = f"only to {' and '.join(allowed)}" if allowed else "nowhere"
        return (
            f"requests to {origin} are not allowed: this service sends them {only}. Start it with "
            f"--replay-to {origin} to allow it"
        )


async def _resolve(origin: Origin) -> list[str]:
    host = origin.host
    if host == "localhost" or host.endswith(".localhost"):
        # By definition (RFC 6761), whatever a name server says.
        return ["127.0.0.1", "::1"]
    try:
        found = await asyncio.wait_for(
            asyncio.get_running_loop().getaddrinfo(host, origin.port), _RESOLVE_SECONDS
        )
    except (OSError, UnicodeError, asyncio.TimeoutError):
        raise TargetError(f"the name {host} is unknown on this machine") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _is_loopback(address: str) -> bool:
    """Return whether an address is of this machine.

    Example:
        >>> [_is_loopback(each) for each in ("127.0.0.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "10.0.0.1")]
        [True, True, True, False, False]
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


class _PinnedTransport(httpx.AsyncBaseTransport):
    def __init__(self, target: Target) -> None:
        self._target = target
        # Certificates are loaded only if they are needed: that takes a while.
        self._inner = httpx.AsyncHTTPTransport(
            verify=target.origin.scheme == "https", trust_env=False
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin, url = self._target.origin, request.url
        if (url.scheme, url.host, url.port or _PORTS.get(url.scheme)) != (
            origin.scheme,
            origin.host,
            origin.port,
        ):
            raise httpx.UnsupportedProtocol(f"{url} is not at {origin}")
        error: httpx.ConnectError | None = None
        for address in self._target.addresses:
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # with the name in Host
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": origin.host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except httpx.ConnectError as failure:
                error = failure
        raise error or httpx.ConnectError(f"{origin} has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()
