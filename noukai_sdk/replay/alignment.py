"""Align recorded inputs with those that were made, as a diff aligns lines.

Equal inputs pair first. An input that was edited pairs with the one that it resembles. Long lists take no
more than about a second: 4,000 edited prompts are paired by the words that only one of them has.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .recording import INPUT_FIELDS

# A call that resembles no recording but stands in the place of one still counts as that one, changed:
# this costs a little less than one call removed and one added.
_DIFFERENT = 1.9
_ALIKE = 0.4
_APART = 2.1
# So many pairs of calls are compared by their words; the rest of a longer list by exact inputs, by words
# that occur only once, and by position.
_MOST_PAIRS = 40_000
# So many characters of all inputs are read for their words.
_MOST_TEXT = 2_000_000
_SHORT = 80

Pair = tuple[int | None, int | None]


@dataclass
class Input:
    """One element of the lists to align.

    Attributes:
        key: Equal for equal inputs; None if the input is not known.
        text: The input as text.
        words: The words of the text, once it was read.
    """

    key: Hashable
    text: str = ""
    words: frozenset[str] = field(default_factory=frozenset)

    def read(self, most: int) -> None:
        """Find the words of the text, in its first and last ``most`` characters."""
        text = self.text
        if len(text) > 2 * most:
            text = f"{text[:most]} {text[-most:]}"
        words = set(re.findall(r"\w+", text))
        if len(text) <= _SHORT:  # one letter in a short text is a different word
            words |= {text[at : at + 3] for at in range(len(text) - 2)}
        self.words = frozenset(words)


def align(recorded: Sequence[Input], made: Sequence[Input]) -> list[Pair]:
    """Pair recorded and made inputs, in order.

    Returns:
        Pairs of indexes; None for the other side of an input that was removed or added.

    Example:
        >>> align([Input("a"), Input("b"), Input("c")], [Input("a"), Input("c")])
        [(0, 0), (1, None), (2, 1)]
    """
    return list(_Alignment(recorded, made).pairs(0, len(recorded), 0, len(made)))


class _Alignment:
    def __init__(self, recorded: Sequence[Input], made: Sequence[Input]) -> None:
        self._recorded = recorded
        self._made = made
        self._weights: dict[str, float] = {}
        self._sums: dict[int, float] = {}
        self._budget = _MOST_PAIRS
        # Inputs that all have an equal one on the other side: such a call moved, and did not change.
        there, here = Counter(each.key for each in recorded), Counter(each.key for each in made)
        self._moved_from = {key for key, count in there.items() if here[key] >= count}
        self._moved_to = {key for key, count in here.items() if there[key] >= count}

    def _read(self, inputs: Sequence[Input]) -> None:
        """Weigh the words of the inputs that have to be compared: the rarer, the heavier."""
        most = max(50, _MOST_TEXT // (2 * len(inputs)))
        for each in inputs:
            each.read(most)
        frequency = Counter(word for each in inputs for word in each.words)
        self._weights = {
            word: math.log(1 + len(inputs) / count) for word, count in frequency.items()
        }
        for each in inputs:
            self._sums[id(each)] = sum(self._weights[word] for word in each.words)

    def pairs(self, first: int, last: int, start: int, stop: int, depth: int = 0) -> Iterator[Pair]:
        """Yield the pairs of ``recorded[first:last]`` and ``made[start:stop]``."""
        recorded, made = self._recorded, self._made
        while first < last and start < stop and same_input(recorded[first], made[start]):
            yield first, start
            first, start = first + 1, start + 1
        same = 0
        while first < last and start < stop and same_input(recorded[last - 1], made[stop - 1]):
            last, stop, same = last - 1, stop - 1, same + 1
        yield from self._middle(first, last, start, stop, depth)
        yield from ((last + number, stop + number) for number in range(same))

    def _middle(self, first: int, last: int, start: int, stop: int, depth: int) -> Iterator[Pair]:
        cells = (last - first) * (stop - start)
        if cells == 0:
            yield from ((index, None) for index in range(first, last))
            yield from ((None, index) for index in range(start, stop))
            return
        if not self._sums:
            self._read([*self._recorded[first:last], *self._made[start:stop]])
        if cells <= self._budget:
            self._budget -= cells
            yield from self._cheapest(first, last, start, stop)
            return
        anchors = self._anchors(first, last, start, stop) if depth < 8 else []
        if not anchors:
            both = min(last - first, stop - start)
            yield from ((first + number, start + number) for number in range(both))
            yield from ((index, None) for index in range(first + both, last))
            yield from ((None, index) for index in range(start + both, stop))
            return
        for index, other in anchors:
            yield from self.pairs(first, index, start, other, depth + 1)
            yield index, other
            first, start = index + 1, other + 1
        yield from self.pairs(first, last, start, stop, depth + 1)

    def _cheapest(self, first: int, last: int, start: int, stop: int) -> Iterator[Pair]:
        """Yield the pairs with the least cost: 1 for each input that is removed or added."""
        recorded, made = self._recorded[first:last], self._made[start:stop]
        rows, columns = len(recorded), len(made)
        # Each row from its end, so that the first of two equally good ways is taken from the front.
        cost = [[0.0] * (columns + 1) for _ in range(rows + 1)]
        paired = [[0.0] * columns for _ in range(rows)]
        cost[rows] = [float(columns - column) for column in range(columns + 1)]
        for row in range(rows - 1, -1, -1):
            here, below = cost[row], cost[row + 1]
            here[columns] = below[columns] + 1
            for column in range(columns - 1, -1, -1):
                pair = self._difference(recorded[row], made[column])
                paired[row][column] = pair
                here[column] = min(
                    pair + below[column + 1], 1 + below[column], 1 + here[column + 1]
                )
        row = column = 0
        while row < rows or column < columns:
            if row == rows or column == columns:
                both = False
            else:
                both = cost[row][column] == paired[row][column] + cost[row + 1][column + 1]
            if both:
                yield first + row, start + column
                row, column = row + 1, column + 1
            elif row < rows and cost[row][column] == 1 + cost[row + 1][column]:
                yield first + row, None
                row += 1
            else:
                yield None, start + column
                column += 1

    def _difference(self, recorded: Input, made: Input) -> float:
        if recorded.key is None or made.key is None:
            return _ALIKE
        if recorded.key == made.key:
            return 0.0
        if recorded.key in self._moved_from or made.key in self._moved_to:
            return _APART
        return _ALIKE + (_DIFFERENT - _ALIKE) * (1 - self.similarity(recorded, made))

    def similarity(self, one: Input, other: Input) -> float:
        """Return how much of the words of both inputs they share, 0 to 1. Rare words count more."""
        total = self._sums[id(one)] + self._sums[id(other)]
        if not total:
            return 0.0
        return 2 * sum(map(self._weights.__getitem__, one.words & other.words)) / total

    def _anchors(self, first: int, last: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Return pairs that certainly belong together, in order on both sides."""
        places: dict[tuple[Hashable, int], int] = {}
        count: Counter[Hashable] = Counter()
        for index in range(first, last):
            key = self._recorded[index].key
            count[key] += 1
            places[key, count[key]] = index
        count.clear()
        same = []
        for index in range(start, stop):
            key = self._made[index].key
            count[key] += 1
            if key is not None and (key, count[key]) in places:
                same.append((places[key, count[key]], index))
        return _increasing(same or self._by_words(first, last, start, stop))

    def _by_words(self, first: int, last: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Return pairs that share the most words of those that occur once on each side."""
        once = [
            _occurring_once(self._recorded, first, last),
            _occurring_once(self._made, start, stop),
        ]
        votes = Counter(
            (index, once[1][word]) for word, index in once[0].items() if word in once[1]
        )
        taken: set[int] = set()
        pairs = {}
        for (index, other), _ in votes.most_common():
            if index not in pairs and other not in taken:
                pairs[index] = other
                taken.add(other)
        return sorted(pairs.items(), key=lambda pair: pair[1])


def _occurring_once(inputs: Sequence[Input], first: int, last: int) -> dict[str, int]:
    counts = Counter(word for each in inputs[first:last] for word in each.words)
    return {
        word: index
        for index in range(first, last)
        for word in inputs[index].words
        if counts[word] == 1
    }


def _increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest part of ``pairs`` whose first indexes increase. The second ones do already."""
    ends: list[int] = []  # the smallest last index of each length
    at: list[int] = []  # the place of that pair
    before: list[int | None] = []
    for number, (index, _) in enumerate(pairs):
        length = bisect_left(ends, index)
        before.append(at[length - 1] if length else None)
        if length == len(ends):
            ends.append(index)
            at.append(number)
        else:
            ends[length], at[length] = index, number
    chain = []
    current = at[-1] if at else None
    while current is not None:
        chain.append(pairs[current])
        current = before[current]
    return chain[::-1]


def same_input(one: Input, other: Input) -> bool:
    """Return whether both inputs are known, and equal."""
    return one.key is not None and one.key == other.key


def input_text(request: Mapping[str, Any]) -> str:
    """Return the text of a request's input, to compare it by its words."""
    inputs = [request[name] for name in INPUT_FIELDS if request.get(name) is not None]
    return "\n".join(
        each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in inputs
    )
