"""A backend with flows of every kind of step, on a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.backend.backends import Backend, serving
from tests.contract.clients import StrictClient

FLOWS = {
    "kinds.yaml": """
        steps:
          - {id: split, function: "_functions.py:split"}
          - {id: shout, function: "_functions.py:shout", for_each: "{{node.split}}"}
          - {id: count, function: "_functions.py:count", arguments: {model: 5, words: "{{node.split}}"}}
          - {id: text, transform: "{{node.count}} words"}
          - {id: few, condition: "node.count < 100"}
          - parallel: [{id: left, function: "_functions.py:nothing"}, {id: right, prompt: "Hello"}]
            needs: [few]
          - {id: many, needs: [not few]}
          - {id: end, function: "_functions.py:length", needs: [left]}
    """,
    "_functions.py": """
def split(text):
    return text.split()

def shout(word):
    return word.upper()

def count(model, words):
    return len(words)

def fail(value):
    raise ValueError("never works")

def nothing(value):
    return None

def length(value):
    return {"length": len(str(value))}
""",
    "flaky.yaml": """
        steps:
          - {id: shaky, model: shaky, retry: 2}
          - {id: end, function: "_functions.py:length"}
    """,
    "raises.yaml": "steps: [{id: good}, {id: bad, function: '_functions.py:fail'}]",
}


# Not for the session: its jobs run in threads that use the module random, which hypothesis does not allow.
@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("contract")
    flows = folder / "flows/acme/contract"
    flows.mkdir(parents=True)
    for name, text in FLOWS.items():
        (flows / name).write_text(text)
    with serving(folder) as started:
        yield started


@pytest.fixture
def client(backend: Backend) -> StrictClient:
    """A strict client with a session of its own."""
    return StrictClient(f"{backend.url}/api/v1", f"contract-{uuid.uuid4()}")
