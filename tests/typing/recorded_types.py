"""The types of ``@recorded``, checked by type checkers and never run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from typing_extensions import assert_type

from noukai_sdk import now, random, recorded, uuid4


@recorded
def plain(text: str, *, times: int = 1) -> list[str]:
    return [text] * times


@recorded(key=["text"], redact=False)
async def coroutine(text: str) -> dict[str, Any]:
    return {"text": text}


@recorded()
def rows(count: int) -> Iterator[int]:
    yield from range(count)


@recorded(name="async rows", live=True)
async def async_rows(count: int) -> AsyncIterator[int]:
    yield count


class Shelf:
    @recorded
    def book(self, isbn: str) -> str:
        return isbn

    @recorded
    @classmethod
    def open(cls, name: str) -> int:
        return len(name)

    @staticmethod
    @recorded(redact=lambda stored: stored)
    def count(*names: str) -> int:
        return len(names)


async def use(shelf: Shelf) -> None:
    assert_type(plain("a", times=2), list[str])
    assert_type(await coroutine("a"), dict[str, Any])
    assert_type(list(rows(2)), list[int])
    assert_type([row async for row in async_rows(2)], list[int])
    assert_type(shelf.book("1"), str)
    assert_type(Shelf.open("a"), int)
    assert_type(Shelf.count("a"), int)
    assert_type(recorded.value("plain", plain, "a", times=2), list[str])
    assert_type(await recorded.value("coroutine", coroutine, "a"), dict[str, Any])
    assert_type(now(), datetime)
    assert_type(uuid4(), uuid.UUID)
    assert_type(random(), float)
    plain(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
