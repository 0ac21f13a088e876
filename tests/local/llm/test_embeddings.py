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
from tests.support.llm_servers import (
    KEY,
    FaultServer,
    fault_server,
    llama_server,
    ok,
    raw,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_thread_stopped")]

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


async def test_embed_one_or_many_sync_or_async_agrees(hashing: EmbeddingClient) -> None:
    first, second = await hashing.embed_many_async(["one text", "another"])
    assert [first, second] == hashing.embed_many(["one text", "another"])
    assert first == hashing.embed("one text") == await hashing.embed_async("one text")
    assert hashing.embed_many([]) == []


def test_hashed_vectors_in_another_process_are_the_same(hashing: EmbeddingClient) -> None:
    code = (
        "import json; from noukai_sdk.local.llm.embeddings import EmbeddingClient\n"
        "print(json.dumps(EmbeddingClient().embed('Grüße, Welt')))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == hashing.embed("Grüße, Welt")


def test_hashed_vectors_of_similar_texts_are_near(hashing: EmbeddingClient) -> None:
    question, near, far, upper, lower, empty = hashing.embed_many(
        [
            *("How do I reset my password?", "resetting passwords", "the cat sat on the mat"),
            *("STRASSE, ﬁle", "straße file!", "?!\n"),
        ]
    )
    assert similarity(question, near) > 0.3 > similarity(question, far)
    assert similarity(upper, lower) == pytest.approx(1)
    assert set(empty) == {0.0}
    assert similarity(empty, near) == 0


@given(st.text(), st.sampled_from([1, 7, 1024]))
def test_hashed_vector_of_any_text_has_length_one_or_zero(text: str, dimensions: int) -> None:
    with EmbeddingClient(dimensions=dimensions) as client:
        vector = client.embed(text)
    length = math.hypot(*vector)
    assert len(vector) == dimensions
    assert length == pytest.approx(1) or length == 0


async def test_embed_with_invalid_arguments_raises(hashing: EmbeddingClient, how: str) -> None:
    texts: Any
    for texts in ("one text", [1], [None], ["a", b"b"]):
        with pytest.raises(TypeError, match="list of str"):
            await embed(hashing, how, texts)
    with pytest.raises(LlmConfigError, match="dimensions must be 1 or more"):
        EmbeddingClient(dimensions=0)
    for config in (LlmConfig.anthropic("k"), LlmConfig.smollm2()):
        with pytest.raises(LlmConfigError, match="has no embeddings"):
            EmbeddingClient(config)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 0], [0, 2], 0),
        ([1, 1], [2, 2], 1),
        ([1, 0], [-3, 0], -1),
        ([0, 0], [1, 0], 0),
        ([], [], 0),
        ([1e200, 1e200], [1e-200, 1e-200], 1),
        ([1e308, 1e308], [1e308, 1e308], 1),
        ([math.nan], [1.0], math.nan),
    ],
)
def test_similarity_is_the_cosine(first: Any, second: Any, expected: float) -> None:
    assert similarity(first, second) == pytest.approx(expected, nan_ok=True)


vectors = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@given(vectors, vectors)
def test_similarity_of_any_vectors_is_symmetric_and_bounded(
    first: list[float], second: list[float]
) -> None:
    assert -1 <= similarity(first, second) <= 1
    assert similarity(first, second) == pytest.approx(similarity(second, first))
    with pytest.raises(ValueError, match="vectors of 3 and 2 dimensions"):
        similarity(first, second[:2])


async def test_real_server_embeds() -> None:
    with llama_server(embeddings=True) as url:
        config = LlmConfig.openai_compatible(f"{url}/v1", "smollm2", api_key=KEY)
        async with EmbeddingClient(config) as client:
            one, same, other = client.embed_many(["a cat", "a cat", "quarterly tax report"])
    assert len(one) > 100
    assert similarity(one, same) > similarity(one, other)


async def test_many_texts_are_sent_in_batches_and_keep_their_order(how: str) -> None:
    texts = ["x" * (number % 50) for number in range(600)]
    with fault_server(ok()) as server, client_of(server) as client:
        vectors = await embed(client, how, texts)
        assert await embed(client, how, []) == []
        async with EmbeddingClient(LlmConfig.azure(KEY, "d", server.url)) as azure:
            await azure.embed_async("text")
    assert [int(vector[0]) for vector in vectors] == [len(text) for text in texts]
    *batches, azure_request = server.requests
    assert [len(request.body["input"]) for request in batches] == [256, 256, 88]
    assert azure_request.path == "/openai/deployments/d/embeddings"


async def test_response_without_vectors_raises(how: str) -> None:
    bodies = [b"[]", b'{"data": [{"index": 0}]}', b'{"data": []}']
    for body in [*bodies, b'{"data": [{"index": 0, "embedding": 1}]}']:
        with fault_server(raw(body)) as server:
            async with client_of(server) as client:
                with pytest.raises(LlmResponseError):
                    await embed(client, how, ["text"])


async def test_rejected_key_and_closed_client_raise_as_for_models(how: str) -> None:
    with fault_server(status(401)) as server:
        async with client_of(server) as client:
            with pytest.raises(LlmAuthenticationError):
                await embed(client, how, ["text"])
    with pytest.raises(LlmClosedError):
        await embed(client, how, ["text"])
