"""The page of ``noukai dev`` and ``noukai serve``: sessions, replays, flows and jobs in a browser.

The only source of data is the service's own HTTP API, called in this process with the visitor's key. So
the pages show what any client may see, and the API alone decides about keys, limits and organisations. What
a page needs and the API lacks is added to the API (docs/wire.md), not here.

A page is four small parts::

    pages/NAME.py          routes: read the request, ask the API, build a view, render
    views/NAME.py          plain functions without I/O: from models to what the template shows
    templates/NAME.html    extends base.html; recorded texts are escaped, and never marked as safe
    static/                style.css and page.js, shared by all pages

To add one, write a function with ``@page`` (GET) or ``@action`` (POST) of ``pages/visit.py``, and import
its module in ``pages/__init__.py``::

    @page("/flows/{org}/{project}/{slug}")
    async def flow(visit: Visit) -> Response:
        found = await visit.api.flow(visit.path["org"], visit.path["project"], visit.path["slug"])
        return visit.render("flow.html", flow=found)

``@page`` asks for a key if the visitor has none, and shows errors of the API. ``@action`` checks where the
POST comes from: its form needs ``{{ csrf_field(visit) }}``. Without scripts, every page must be readable.
"""
