"""``/flows``: the flows and the problems of their files. ``/flows/{org}/{project}/{slug}``: one flow."""

from __future__ import annotations

from starlette.responses import Response

from ...models.session_lists import SessionSummary
from ..api import ApiError
from ..rendering import render
from ..views.flow_details import FlowDetails, FormError, RunForm
from ..views.flow_rows import FlowList
from .live import Look, stream_changes
from .running import begin_run
from .visit import PageError, Visit, action, page

FLOW = "/flows/{org}/{project}/{slug}"

_PAGE_SIZE = 100
_SESSIONS = 10


@page("/flows")
async def flows(visit: Visit) -> Response:
    """Show the flows that the filters in the URL choose, and the problems of all flow files."""
    return visit.render("flows.html", list=await _read(visit))


@page("/live/flows")
async def live_flows(visit: Visit) -> Response:
    """Send the list of flows whenever a file has changed."""

    async def look() -> Look:
        listed = await _read(visit)
        return Look(listed.version, lambda: render("flow_list.html", list=listed))

    return stream_changes(visit, look)


@page(FLOW)
async def flow(visit: Visit) -> Response:
    """Show one flow. ``again`` fills the form as for an earlier run."""
    version = _version(visit.query.get("version"))
    details = await _details(visit, version)
    form = RunForm.empty(details.flow, version)
    earlier = visit.query.get("again")
    if earlier is not None:
        form = await _form_of(visit, earlier) or form
    return await _render(visit, details, form)


@page(f"/live{FLOW}")
async def live_flow(visit: Visit) -> Response:
    """Send what changes with the file of a flow."""

    async def look() -> Look:
        try:
            shown = await _details(visit, None)
        except ApiError as error:
            if error.status != 404:
                raise
            return Look("gone", lambda: render("flow_gone.html"))
        return Look(shown.seen, lambda: render("flow_content.html", shown=shown))

    return stream_changes(visit, look)


@action(f"{FLOW}/publish")
async def publish(visit: Visit) -> Response:
    """Freeze the working copy as the next version."""
    published = await visit.api.publish(address_of(visit))
    same = "" if published.is_new else "same"
    query = f"published={published.version}" + (f"&content={same}" if same else "")
    return visit.to(f"/flows/{address_of(visit)}?{query}")


@page(f"{FLOW}/run")
async def run_form(visit: Visit) -> Response:
    """Show the form again: its address stays in the browser when something was wrong with it."""
    return visit.to(f"/flows/{address_of(visit)}")


@action(f"{FLOW}/run")
async def run(visit: Visit) -> Response:
    """Run the flow with the values of the form; show the run, or what is wrong with the form."""
    form = RunForm.of(visit.form)
    try:
        version = form.version_number()
        execution_id = await begin_run(visit, address_of(visit), version, form.body())
    except FormError as error:
        form.error, form.field = str(error), error.field
    except ApiError as error:
        if error.status in (401, 403, 404) or error.status >= 500:
            raise
        form.error = error.message
    else:
        return visit.to(f"/flows/{address_of(visit)}/runs/{execution_id}")
    # Status 200: for a 400 the browser would write an error into its console.
    return await _render(visit, await _details(visit, None), form)


def address_of(visit: Visit) -> str:
    """Return the address of the flow in the path."""
    return "/".join(visit.path[name] for name in ("org", "project", "slug"))


async def _read(visit: Visit) -> FlowList:
    query = visit.query
    chosen = {name: query[name] for name in ("q", "problems", "cursor") if name in query}
    shown = await visit.api.flows(limit=_PAGE_SIZE, **chosen)
    is_all = not chosen and shown.next_cursor is None
    return FlowList(chosen, shown, shown if is_all else await visit.api.flows(problems="true"))


async def _details(visit: Visit, version: int | None) -> FlowDetails:
    described = await visit.api.flow(address_of(visit), version)
    if version is None and described.flow_id is None and described.versions:
        # There is no working copy: show what can be run.
        version = described.versions[-1].version
        described = await visit.api.flow(address_of(visit), version)
    return FlowDetails(described, version)


async def _render(visit: Visit, details: FlowDetails, form: RunForm) -> Response:
    return visit.render(
        "flow.html",
        shown=details,
        form=form,
        notice=_notice(visit),
        sessions=await _recent(visit, details.flow.address),
    )


async def _form_of(visit: Visit, execution_id: str) -> RunForm | None:
    """Return the form as for an earlier run, None if its input was not kept."""
    session_id = (await visit.api.trace(address_of(visit), execution_id)).flow_run.session_id
    if session_id is None:
        return None
    [execution] = (await visit.api.call(session_id, execution_id)).executions
    call = execution.get("call")
    return None if call is None else RunForm.again(call)


async def _recent(visit: Visit, address: str) -> tuple[SessionSummary, ...]:
    return (await visit.api.sessions({"flow": address, "limit": _SESSIONS})).sessions


def _notice(visit: Visit) -> str:
    published = visit.query.get("published", "")
    if not published.isdecimal():
        return ""
    if visit.query.get("content") == "same":
        return f"Version {published} has the content of the working copy already."
    return f"The working copy is published as version {published}."


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise PageError(400, "A version is a number, such as 1.")
    return int(text)
