"""The functions of this folder's flows. No two live calls get the same answer."""

import asyncio
import itertools

_numbers = itertools.count(1)
_last = 0
_failed: set[str] = set()


async def answer(message: str) -> str:
    """Return the message with the number of this run, after the seconds behind its ``@``."""
    number = _number()
    await asyncio.sleep(float(message.partition("@")[2].partition(" ")[0] or 0))
    return f"{message} #{number}"


async def shaky(message: str) -> str:
    """Fail for the first time that a message comes."""
    number = _number()
    if message not in _failed:
        _failed.add(message)
        raise RuntimeError(f"not yet #{number}")
    _failed.discard(message)
    return f"{message} #{number}"


async def count(message: str) -> int:
    """Return how many functions have run."""
    return _last


def _number() -> int:
    global _last
    _last = next(_numbers)
    return _last
