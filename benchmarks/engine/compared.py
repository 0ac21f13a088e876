"""One measurement beside the others, and all of them in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.measure import Row


@dataclass(frozen=True)
class Compared:
    """A line of the table.

    Attributes:
        ours: In ``unit``; judged against ``limit`` as it is, or divided by ``base`` where there is one.
        base: What ours is measured against, such as the bare client.
        others: The same on other engines, by their names.
        note: What the base is.
    """

    name: str
    unit: str
    ours: float
    limit: float | None = None
    base: float | None = None
    note: str = ""
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """The number that the limit is for."""
        return self.ours if self.base is None else self.ours / self.base

    @property
    def holds(self) -> bool:
        return self.limit is None or self.judged <= self.limit

    def as_rows(self) -> list[Row]:
        """For the table of all benchmarks."""
        base, unit = (1.0, self.unit) if self.base is None else (self.base, "times")
        others = [
            Row(f"    {name}", value / base, None, unit) for name, value in self.others.items()
        ]
        name = f"{self.name} / {self.note}" if self.note else self.name
        return [Row(name, self.judged, self.limit, unit), *others]


def measured_rows() -> Iterator[Compared]:
    """Every measurement, as it is done."""
    from benchmarks.engine import alone, clients, http, size
    from benchmarks.engine.server import serving

    with serving() as url:
        yield from asyncio.run(http.chains(url))
        yield asyncio.run(http.official_chain(url))
        yield asyncio.run(http.fan_out(url))
        yield asyncio.run(clients.batch(url))
    yield asyncio.run(alone.per_node())
    yield from asyncio.run(size.growth())
    yield asyncio.run(size.memory())
