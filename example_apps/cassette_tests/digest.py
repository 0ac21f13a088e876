"""A plain function over flow calls, and an async one that makes them together."""

import asyncio

from noukai_sdk import AsyncNoukai, Noukai


def digest(noukai: Noukai, text: str) -> list[str]:
    """What each step of the flow made of the text."""
    return [str(step.output) for step in noukai.flow("two-step").steps(message=text)]


async def digests(noukai: AsyncNoukai, texts: list[str]) -> dict[str, str]:
    """The digest of each text, all made together."""
    flow = noukai.flow("hello-world")
    results = await asyncio.gather(*(flow.execute(message=text) for text in texts))
    return {text: str(result.result) for text, result in zip(texts, results, strict=True)}
