"""Fixtures of the tests in this folder."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from noukai_sdk import Noukai

# The clients need a key. Cassettes need none and hold none.
os.environ.setdefault("NOUKAI_API_KEY", "nk_dev")


@pytest.fixture(scope="session")
def noukai_cassette_options() -> dict[str, Any]:
    """Options for all cassettes here: an input that has changed is an error, not only drift."""
    return {"strict_inputs": True}


@pytest.fixture
def noukai() -> Iterator[Noukai]:
    with Noukai(org="acme", project="samples") as client:
        yield client
