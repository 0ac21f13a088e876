"""The server that ``noukai session`` sends a request to."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

import click

from ..models.exchanges import Exchange
from ..replaying.controls import clean_lines
from .shared_options import CommandError


def server_of(exchange: Exchange) -> str:
    """Return the address of the server that received a captured request, without a final slash.

    Raises:
        CommandError: It may be a production server.
    """
    origin = exchange.request.origin
    # The client sent the host name, so it may be anything.
    try:
        parts = urlsplit(origin)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not _is_local(host):
        raise CommandError(
            f"the request was captured at {clean_lines(origin)}, which may be production: name the "
            "server to send it to, by --against http://localhost:8000 or NOUKAI_APP_URL"
        )
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (f":{port}" if port is not None else "")


def _is_local(host: str) -> bool:
    """Return whether a host is this machine, or one in a private network.

    Example:
        >>> [_is_local(host) for host in ("localhost", "10.0.0.7", "::1", "api.acme.com", "8.8.8.8")]
        [True, True, True, False, False]
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # Clouds serve the keys of a machine at a link-local address.
    return (address.is_private or address.is_loopback) and not address.is_link_local


def check_server(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """Check the address in ``--against``."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        is_server = False
    if not is_server or parts.query or parts.fragment or set(url) & set(" \r\n\t\\"):
        raise click.BadParameter(
            f"{url!r} is not the address of a server: write 'http://localhost:8000'"
        )
    return url
