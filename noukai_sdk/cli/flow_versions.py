"""``noukai flows publish`` and ``versions``: the versions of a flow that a service has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import FlowExecutionError, FlowNotFoundError
from ..models.base import WireModel
from ..protocol.call import FlowRef, Service
from ..protocol.flow_extensions import describe_flow, publish_flow
from ..protocol.program import Program
from ..protocol.requests import resolve_flow
from .session_source import Env, base_url_option, env_option, open_client
from .session_views import print_json
from .shared_options import CommandError, json_option

M = TypeVar("M", bound=WireModel)

# The command names a flow of the service, so the folder of flow files cannot complete it.
_address = click.argument("address", metavar="ORG/PROJECT/SLUG")


@click.command()
@_address
@env_option
@base_url_option
@json_option
def publish(address: str, env: Env | None, base_url: str | None, as_json: bool) -> None:
    """Freeze a flow as its next version.

    The service reads its own copy of the flow files. A version with the same content is used again.
    """
    published = _ask(publish_flow, address, env, base_url)
    if as_json:
        print_json(published.model_dump(by_alias=True))
        return
    note = "" if published.is_new else ", which has the same content"
    click.echo(f"{address} is version {published.version}{note}: call it at /v{published.version}")


@click.command()
@_address
@env_option
@base_url_option
@json_option
def versions(address: str, env: Env | None, base_url: str | None, as_json: bool) -> None:
    """List the versions of a flow."""
    flow = _ask(describe_flow, address, env, base_url)
    if as_json:
        print_json(flow.model_dump(by_alias=True))
        return
    for version in flow.versions:
        since = "in a file" if version.published_at is None else version.published_at[:19]
        same = "  (the working copy)" if version.content_hash == flow.content_hash else ""
        click.echo(f"v{version.version}  {since}  {(version.content_hash or '')[:12]}{same}")
    if not flow.versions:
        click.echo("no versions")


def _ask(
    program: Callable[[Service, FlowRef], Program[M]],
    address: str,
    env: Env | None,
    base_url: str | None,
) -> M:
    try:
        flow = resolve_flow(address, None, None, None)
    except ValueError as error:
        raise click.UsageError(f"an address is ORG/PROJECT/SLUG, not {address!r}") from error
    with open_client(env, base_url) as client:
        transport: Any = client._transport
        try:
            result: M = transport.run(program(transport.service, flow))
        except (FlowNotFoundError, FlowExecutionError) as error:
            if error.code == "FLOW_NOT_FOUND" or error.status_code not in (404, 405, 501):
                raise
            raise CommandError(
                f"{transport.service.base_url} does not publish flows: only `noukai dev` and "
                "`noukai serve` do"
            ) from error
    return result
