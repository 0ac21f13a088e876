"""Refuse requests that were sent to another host.

In DNS rebinding, a web page that the user opens resolves its own name to this machine, and its script then
reads the backend's responses. The browser still sends the page's name in the Host header.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import error_response

_ALL_ADDRESSES = {"0.0.0.0", "::"}  # noqa: S104 - only compared
# Probes ask by the address of a machine. These paths tell nothing.
_OPEN_PATHS = {"/healthz", "/readyz"}


def loopback_hosts(host: str) -> tuple[str, ...]:
    """Return the hosts that a service on this address trusts: the address, and those of loopback."""
    return ("localhost", "127.0.0.1", "::1", host)


class TrustedHosts:
    """ASGI middleware: respond 421 to requests whose Host header has another name than these.

    Args:
        app: The app that responds.
        hosts: Names and addresses. ``"localhost"`` includes its subdomains and every loopback address.
            ``"0.0.0.0"`` and ``"::"`` include every address, but no name: a page has a name.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = {_name_of(host) for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app if the host is trusted."""
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            header = next((value for name, value in scope["headers"] if name == b"host"), b"")
            host = header.decode("latin-1")
            if not self.trusts(host):
                message = (
                    f"this service does not answer for the host {_name_of(host)[:100]!r}: use an "
                    "address of this machine, or start it with --trusted-host"
                )
                await error_response(421, "HOST_NOT_ALLOWED", message)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def trusts(self, header: str) -> bool:
        """Return whether a Host header has one of the names."""
        host = _name_of(header)
        if host in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return "localhost" in self._hosts and host.endswith(".localhost")
        return bool(self._hosts & _ALL_ADDRESSES) or (
            "localhost" in self._hosts and address.is_loopback
        )


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port.

    Example:
        >>> _name_of("Example.com:80"), _name_of("[::1]:80"), _name_of("::1")
        ('example.com', '::1', '::1')
    """
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return (host if host.count(":") > 1 else host.partition(":")[0]).rstrip(".")
