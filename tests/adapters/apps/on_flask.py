"""The Flask example of the README, with more routes. Served by flask and gunicorn in the tests."""

from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request

import noukai_sdk
from noukai_sdk import ContextThreadPoolExecutor, Noukai
from noukai_sdk.adapters.flask import init_noukai_trace

noukai = Noukai(org="acme", project="spelling")
closed = 0

app = Flask(__name__)
init_noukai_trace(app, client=noukai)


@app.post("/grade")
@noukai_sdk.trace
def grade() -> dict[str, Any]:
    result = noukai.flow("grade-3").execute(message=request.get_json()["text"])
    return {"output": result.result}


@app.post("/stream")
@noukai_sdk.trace
def stream() -> Response:
    return Response(grading(request.get_json()["text"]), mimetype="text/plain")


def grading(text: str) -> Iterator[str]:
    for step in noukai.flow("grade-3").steps(message=text):
        yield f"{step.step_id}: {step.output}\n"


@app.post("/gather")
@noukai_sdk.trace
def gather() -> Response:
    text = request.get_json()["text"]

    def one(slug: str) -> Any:
        return noukai.flow(slug).execute(message=f"{text} {slug}").result

    with ContextThreadPoolExecutor() as pool:
        return jsonify(list(pool.map(one, ["grade-1", "grade-2", "grade-3"])))


@app.get("/calls/<int:count>")
def calls(count: int) -> Response:
    flow = noukai.flow("grade-3")
    results = [flow.execute(message=f"text {number}").result for number in range(count)]
    return jsonify(results)


@app.get("/fails")
def fails() -> None:
    raise KeyError("mine")


@app.get("/endless")
def endless() -> Response:
    return Response(endless_parts(), mimetype="text/plain")


@noukai_sdk.trace
def endless_parts() -> Iterator[str]:
    global closed
    result = noukai.flow("grade-3").execute(message="endless")
    try:
        while True:
            yield f"{result.result}\n" * 100
    finally:
        closed += 1


@app.get("/closed")
def count_closed() -> Response:
    return jsonify(closed)
