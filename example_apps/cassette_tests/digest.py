"""A plain function that calls a flow, and an async one that makes concurrent calls."""

import asyncio

from noukai_sdk import AsyncNoukai, Noukai


def digest(noukai: Noukai, text: str) -> list[str]:
    """Return the output of each step of the flow."""
    return [str(step.output) for step in noukai.flow("two-step").steps(message=text)]


async def digests(noukai: AsyncNoukai, texts: list[str]) -> dict[str, str]:
    """Return the digest of each text. The calls are concurrent."""
    flow = noukai.flow("hello-world")
    results = await asyncio.gather(*(flow.execute(message=text) for text in texts))
    return {text: str(result.result) for text, result in zip(texts, results, strict=True)}
