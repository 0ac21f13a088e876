"""Functions that call flows, tested alone."""

from pathlib import Path

import pytest

from example_apps.cassette_tests.digest import digest, digests
from noukai_sdk import AsyncNoukai, FlowNotFoundError, Noukai, Scope
from noukai_sdk.testing import shuffle_replay

TEXTS = ["The cat sat.", "The dog sat.", "The cow sat."]


@pytest.mark.noukai_cassette
def test_a_digest_has_two_steps(noukai: Noukai) -> None:
    draft, polished = digest(noukai, "The cat sat on the mat.")
    assert "The cat sat" in draft
    assert polished != draft


@pytest.mark.noukai_cassette
@pytest.mark.parametrize("text", TEXTS, ids=["cat", "dog", "cow"])
def test_a_digest_speaks_of_its_text(noukai: Noukai, text: str) -> None:
    assert text in digest(noukai, text)[0]


def test_a_flow_that_is_not_there(noukai: Noukai, noukai_cassette: Scope) -> None:
    with pytest.raises(FlowNotFoundError) as caught:
        noukai.flow("no-such-flow").execute(message="Hello")
    assert caught.value.status_code == 404
    assert noukai_cassette.session_id is not None


@pytest.mark.anyio
@pytest.mark.noukai_cassette("digests")
@pytest.mark.filterwarnings("ignore::noukai_sdk.ReplayConcurrencyWarning")
async def test_digests_belong_to_their_texts() -> None:
    async with AsyncNoukai(org="acme", project="samples") as noukai:
        results = await digests(noukai, TEXTS)
    assert all(text in results[text] for text in TEXTS)


def test_digests_do_not_depend_on_which_comes_first() -> None:
    async def app() -> dict[str, str]:
        async with AsyncNoukai(org="acme", project="samples") as noukai:
            return await digests(noukai, TEXTS)

    cassette = Path(__file__).parent / "cassettes" / "test_digest" / "digests.jsonl"
    assert shuffle_replay(app, cassette, runs=20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
