"""A spelling grader on Django, as an ASGI and as a WSGI app. All of the project is in this file.

Reads NOUKAI_API_KEY and NOUKAI_ENV; NOUKAI_REPLAY_ENABLED=true lets it replay.
"""

import os
from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example"),
)
django.setup()

# Django reads its settings when these are imported.
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from noukai_sdk import AsyncNoukai, Noukai  # noqa: E402
from noukai_sdk.adapters import asgi, wsgi  # noqa: E402

# A view uses the client of its kind, whichever server runs it.
noukai = Noukai(org="acme", project="spelling")
async_noukai = AsyncNoukai(org="acme", project="spelling")


def grade(request: HttpRequest) -> JsonResponse:
    result = noukai.flow("grade-3").execute(request.GET["text"])
    return JsonResponse({"grade": result.result})


async def grade_async(request: HttpRequest) -> JsonResponse:
    result = await async_noukai.flow("grade-3").execute(request.GET["text"])
    return JsonResponse({"grade": result.result})


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def steps() -> AsyncIterator[str]:
        async for step in async_noukai.flow("grade-3").steps(request.GET["text"]):
            yield f"data: {step.step_id}\n\n"

    return StreamingHttpResponse(steps(), content_type="text/event-stream")


urlpatterns: list[Any] = [
    path("grade", grade),
    path("grade-async", grade_async),
    path("stream", stream),
]

# Around Django and all of its middleware. In a project, this is in asgi.py and wsgi.py.
asgi_app = asgi.NoukaiTraceMiddleware(
    get_asgi_application(), client=async_noukai, capture_requests=True
)
wsgi_app = wsgi.NoukaiTraceMiddleware(get_wsgi_application(), client=noukai, capture_requests=True)
