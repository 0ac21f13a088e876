"""Sessions with a captured request, made by hand: no service is needed."""

from __future__ import annotations

import json
from typing import Any

from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.replay.cassette_file import CassetteFile
from noukai_sdk.replay.recording import recording_adapter

CALLS = 4


def captured(number: int, path: str = "/all", answer: Any = None) -> CassetteFile:
    """Return a session of one request, whose overlapping calls differ in nothing but their input."""
    texts = [f"{number}-{call}" for call in range(CALLS)]
    recordings = [
        recording_adapter().validate_python(
            {
                "slug": "upper",
                "kind": "execute",
                "request": {"message": text},
                "started_at": call,
                "completed_at": call + 10,
                "result": {"status": "completed", "result": f"R{text}"},
            }
        )
        for call, text in enumerate(texts)
    ]
    expected = {"results": [f"R{text}" for text in texts]} if answer is None else answer
    headers = (("content-type", "application/json"),)
    request = CapturedRequest(
        method="POST",
        origin="http://shop.example",
        path=path,
        headers=headers,
        body=CapturedBody(text=json.dumps({"texts": texts}), size=1),
    )
    response = CapturedResponse(
        status=200, headers=headers, body=CapturedBody(text=json.dumps(expected))
    )
    return CassetteFile(
        f"s-{number}", recordings, exchange=Exchange(request=request, response=response)
    )
