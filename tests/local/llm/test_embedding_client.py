"""EmbeddingClient: hashed words by default, and the embeddings API."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.embeddings import EmbeddingClient
from noukai_sdk.local.llm.errors import (
    LlmAuthenticationError,
    LlmClosedError,
    LlmConfigError,
    LlmResponseError,
)
from noukai_sdk.local.llm.providers.hashing_embedder import HashingEmbedder
from noukai_sdk.local.runtime.runtime import shutdown
from tests.support.llm_servers import (
    KEY,
    FaultServer,
    fault_server,
    llama_server,
    ok,
    raw,
    silent,
    status,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def the_loop_thread_ends() -> Iterator[None]:
    """So that tests which count threads find none of ours."""
    yield
    shutdown()


similarity = EmbeddingClient.similarity


@pytest.fixture(params=["embed_many", "embed_many_async"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def hashing() -> Iterator[EmbeddingClient]:
    with EmbeddingClient() as client:
        yield client


def client_of(server: FaultServer, **options: Any) -> EmbeddingClient:
    settings = {"api_key": KEY, "max_retries": 0, **options}
    return EmbeddingClient(LlmConfig.openai_compatible(f"{server.url}/v1", "m", **settings))


async def embed(client: EmbeddingClient, how: str, texts: list[str]) -> list[list[float]]:
    if how == "embed_many":
        return await anyio.to_thread.run_sync(client.embed_many, texts)
    return await client.embed_many_async(texts)


async def test_one_and_many_sync_and_async_agree(hashing: EmbeddingClient) -> None:
    first, second = await hashing.embed_many_async(["one text", "another"])
    assert [first, second] == hashing.embed_many(["one text", "another"])
    assert first == hashing.embed("one text") == await hashing.embed_async("one text")
    assert second == hashing.embed("another")
    assert hashing.embed_many([]) == []


def test_the_same_in_another_process(hashing: EmbeddingClient) -> None:
    code = (
        "import json; from noukai_sdk.local.llm.embeddings import EmbeddingClient\n"
        "print(json.dumps(EmbeddingClient().embed('Grüße, Welt')))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == hashing.embed("Grüße, Welt")


def test_texts_that_share_words_are_nearer(hashing: EmbeddingClient) -> None:
    asked, near, far = hashing.embed_many(
        ["How do I reset my password?", "resetting passwords", "the cat sat on the mat"]
    )
    assert similarity(asked, near) > 0.3 > similarity(asked, far)


def test_case_and_forms_of_letters_do_not_matter(hashing: EmbeddingClient) -> None:
    first, second = hashing.embed_many(["STRASSE, ﬁle", "straße file!"])
    assert similarity(first, second) == pytest.approx(1)


@given(st.text())
def test_any_text_has_a_vector_of_length_one_or_zero(text: str) -> None:
    length = math.hypot(*HashingEmbedder(16)._vector(text))
    assert length == pytest.approx(1) or length == 0


@pytest.mark.parametrize("text", ["", "?!", "\n"])
def test_a_text_without_words_is_all_zeros(text: str, hashing: EmbeddingClient) -> None:
    vector = hashing.embed(text)
    assert set(vector) == {0.0}
    assert similarity(vector, hashing.embed("word")) == 0


@pytest.mark.parametrize("dimensions", [1, 7, 1024])
def test_the_number_of_dimensions_can_be_set(dimensions: int) -> None:
    with EmbeddingClient(dimensions=dimensions) as client:
        assert len(client.embed("some text")) == dimensions


def test_dimensions_must_be_positive() -> None:
    with pytest.raises(LlmConfigError, match="dimensions must be at least 1"):
        EmbeddingClient(dimensions=0)


@pytest.mark.parametrize("texts", ["one text", [1], [None], ["a", b"b"]])
async def test_what_is_no_list_of_texts_is_a_type_error(
    texts: Any, how: str, hashing: EmbeddingClient
) -> None:
    with pytest.raises(TypeError, match="list of str"):
        await embed(hashing, how, texts)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 0], [0, 2], 0),
        ([1, 1], [2, 2], 1),
        ([1, 0], [-3, 0], -1),
        ([0, 0], [1, 0], 0),
        ([], [], 0),
        ([1e200, 1e200], [1e-200, 1e-200], 1),
    ],
)
def test_similarity_is_the_cosine(first: Any, second: Any, expected: float) -> None:
    assert similarity(first, second) == pytest.approx(expected)


def test_what_is_no_number_is_near_to_nothing() -> None:
    assert math.isnan(similarity([math.nan], [1.0]))
    assert similarity([1e308, 1e308], [1e308, 1e308]) == pytest.approx(1)


def test_vectors_of_different_lengths_do_not_compare() -> None:
    with pytest.raises(ValueError, match="vectors of 1 and 2 dimensions"):
        similarity([1], [1, 2])


vectors = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@given(vectors, vectors)
def test_similarity_stays_in_its_bounds(first: list[float], second: list[float]) -> None:
    assert -1 <= similarity(first, second) <= 1
    assert similarity(first, second) == pytest.approx(similarity(second, first))


async def test_a_real_server_embeds() -> None:
    with llama_server(embeddings=True) as url:
        config = LlmConfig.openai_compatible(f"{url}/v1", "smollm2", api_key=KEY)
        async with EmbeddingClient(config) as client:
            one, same, other = client.embed_many(["a cat", "a cat", "quarterly tax report"])
    assert len(one) > 100
    assert similarity(one, same) > similarity(one, other)


async def test_vectors_come_in_the_order_of_the_texts_however_many(how: str) -> None:
    texts = ["x" * (number % 50) for number in range(600)]
    with fault_server(ok()) as server, client_of(server) as client:
        vectors = await embed(client, how, texts)
        assert await embed(client, how, []) == []
    assert [int(vector[0]) for vector in vectors] == [len(text) for text in texts]
    assert [len(asked.body["input"]) for asked in server.asked] == [256, 256, 88]


async def test_azure_has_its_own_path() -> None:
    with fault_server(ok()) as server:
        async with EmbeddingClient(LlmConfig.azure(KEY, "d", server.url)) as client:
            await client.embed_async("text")
    assert server.asked[0].path == "/openai/deployments/d/embeddings"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"data": [{"index": 0}]}',
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": 1}]}',
    ],
)
async def test_an_answer_without_vectors(body: bytes, how: str) -> None:
    with fault_server(raw(body)) as server:
        async with client_of(server) as client:
            with pytest.raises(LlmResponseError):
                await embed(client, how, ["text"])


async def test_errors_are_those_of_the_models(how: str) -> None:
    with fault_server(status(401)) as server:
        async with client_of(server) as client:
            with pytest.raises(LlmAuthenticationError):
                await embed(client, how, ["text"])
    with pytest.raises(LlmClosedError):
        await embed(client, how, ["text"])


async def test_a_cancelled_call_stops_the_request() -> None:
    with fault_server(silent()) as server, client_of(server) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.embed_async, "text")
            assert await anyio.to_thread.run_sync(server.waiting.wait, 10)
            tasks.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(server.hung_up.wait, 10)


@pytest.mark.parametrize("config", [LlmConfig.anthropic("k"), LlmConfig.smollm2()])
def test_providers_without_embeddings_say_so(config: LlmConfig) -> None:
    with pytest.raises(LlmConfigError, match="makes no embeddings"):
        EmbeddingClient(config)
