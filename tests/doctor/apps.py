"""Apps for the doctor, and the sessions that they were captured in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.recording import Recording, recording_adapter

HEADERS = (("content-type", "application/json"),)

PLANTED = """
import asyncio, json, logging, os, random, secrets, socket, time, uuid
from datetime import date, datetime

from fastapi import FastAPI
from pydantic import BaseModel, Field

from helpers import Obj, stamp
from noukai_sdk import AsyncNoukai

noukai = AsyncNoukai(org="acme", project="p")
app = FastAPI()
flow = noukai.flow("grade")
STARTED = date.today().isoformat()  # time
REGION = os.getenv("DOCTOR_REGION", "eu")  # environment
log = logging.getLogger(__name__)


class Job(BaseModel):
    texts: list[str]
    id: uuid.UUID = Field(default_factory=uuid.uuid4)  # uuid


@app.post("/grade")
async def grade(job: Job) -> dict:
    log.info("%s %s %s", datetime.now(), uuid.uuid4(), random.random())
    texts = job.texts
    began = time.perf_counter()  # time
    await flow.execute(message=f"{stamp()} {STARTED} {job.id}")
    await flow.execute(
        message="headers",
        extra_headers={"X-Job": uuid.uuid4().hex, "X-Correlation-ID": uuid.uuid4().hex},  # uuid
    )
    await flow.execute(message=random.choice(["one", "two"]))  # random
    random.shuffle(texts)  # random
    await flow.execute(message=" ".join(texts) + secrets.token_hex(4))  # random
    await flow.execute(message=", ".join(set(texts)))  # order of a set
    sizes = {text: len(text) for text in frozenset(texts)}  # order of a set
    await flow.execute(message=json.dumps(sizes), parameters={"host": socket.gethostname()})  # environment
    first = max({"aa", "bb"}, key=len)  # order of a set
    objects = {Obj("x"), Obj("y")}
    await flow.execute(message=first + "".join(each.name for each in objects))  # order of a set
    await flow.execute(message=f"{REGION} {os.environ.get('DOCTOR_TEAM')}")  # environment
    await flow.execute(message=str(hash("a text")))  # random
    done = []
    for each in asyncio.as_completed([flow.execute(message=text) for text in "abc"]):  # order of completion
        done.append((await each).result)
    return {
        "done": done,
        "order": await in_order(),
        "ms": round((time.perf_counter() - began) * 1000),  # time
    }


async def in_order() -> list[str]:
    results = []

    async def ask(text: str) -> None:
        result = await flow.execute(message=text)
        results.append(result.result)  # order of completion

    await asyncio.gather(*(ask(text) for text in "def"))
    return results
"""

HELPERS = """
from datetime import datetime


class Obj:
    def __init__(self, name):
        self.name = name


def stamp(now=None):
    return f"{now or datetime.utcnow():%H:%M}"  # time
"""

CLEAN = """
import asyncio, logging, os, random, time, uuid
from datetime import datetime

from fastapi import FastAPI
from noukai_sdk import AsyncNoukai

noukai = AsyncNoukai(org=os.environ.get("DOCTOR_ORG", "acme"), project="p")
app = FastAPI()
flow = noukai.flow(os.getenv("DOCTOR_FLOW", "grade"))
TIMEOUT = float(os.environ.get("DOCTOR_TIMEOUT", "30"))
STARTED = time.time()
log = logging.getLogger(__name__)


@app.middleware("http")
async def with_ids(request, call_next):
    began = time.perf_counter()
    response = await call_next(request)
    response.headers["X-Request-ID"] = uuid.uuid4().hex
    response.headers["X-Process-Time"] = str(time.perf_counter() - began)
    return response


@app.post("/grade")
async def grade(texts: list[str]) -> dict:
    log.info("%s %s pid %s", datetime.now(), uuid.uuid4(), os.getpid())
    deadline = time.monotonic() + TIMEOUT
    seeded = random.Random(42)
    tags = set(texts) | {"always"}
    total = sum(len(tag) for tag in tags)
    results = {}

    async def ask(text):
        await asyncio.sleep(random.random() / 100)
        results[text] = (await flow.execute(message=text)).result
        if time.monotonic() > deadline:
            raise TimeoutError

    await asyncio.gather(*(ask(text) for text in texts))
    best = ""
    for each in asyncio.as_completed([flow.execute(message=text) for text in "def"]):
        best = max(best, (await each).result)
    await flow.execute(message=", ".join(sorted(tags)) + str(seeded.random()))
    return {"grades": [results[text] for text in texts], "total": total, "best": best}
"""

FLASK = """
import time

from concurrent.futures import as_completed
from flask import Flask, request

from noukai_sdk import ContextThreadPoolExecutor, Noukai

app = Flask(__name__)
flow = Noukai(org="acme", project="p").flow("grade")


@app.post("/grade")
def grade():
    with ContextThreadPoolExecutor(3) as pool:
        calls = [pool.submit(flow.execute, message=text) for text in request.get_json()]
        results = [each.result().result for each in as_completed(calls)]  # order of completion
    ignored = time.time()
    return {"results": results, "ignored": ignored, "at": time.ctime()}  # time
"""


def write_app(folder: Path, source: str, calls: list[tuple[str, float, float]], body: Any) -> Path:
    """Write an app, and the session of a request to it; return the file of the session."""
    folder.mkdir(exist_ok=True)
    (folder / "doctored.py").write_text(source)
    (folder / "helpers.py").write_text(HELPERS)
    text = json.dumps(body)
    request = CapturedRequest(
        method="POST",
        origin="http://app",
        path="/grade",
        headers=HEADERS,
        body=CapturedBody(text=text, size=len(text)),
    )
    response = CapturedResponse(status=200, headers=HEADERS, body=CapturedBody(text="{}", size=2))
    exchange = Exchange(request=request, response=response, started_at="2026-03-04T05:06:07Z")
    recordings = [recording(*each) for each in calls]
    write_cassette(folder / "session.jsonl", "s", recordings, exchange=exchange)
    return folder / "session.jsonl"


def recording(text: str, started_at: float, completed_at: float) -> Recording:
    return recording_adapter().validate_python(
        {
            "slug": "grade",
            "org": "acme",
            "project": "p",
            "kind": "execute",
            "request": {"message": text},
            "started_at": started_at,
            "completed_at": completed_at,
            "result": {"status": "completed", "result": text.upper()},
        }
    )


def sequence(count: int) -> list[tuple[str, float, float]]:
    """Return calls one after the other."""
    return [(f"call {number}", 2.0 * number, 2.0 * number + 1) for number in range(count)]


def overlapping(texts: str, start: float) -> list[tuple[str, float, float]]:
    """Return calls that overlap, and complete in reverse."""
    return [(text, start + n / 10, start + 5 - n / 10) for n, text in enumerate(texts)]


def marked_lines(source: str) -> set[tuple[int, str]]:
    """Return the lines that name a kind in a comment."""
    lines = enumerate(source.splitlines(), 1)
    return {(number, line.rpartition("  # ")[2]) for number, line in lines if "  # " in line}
