"""Align the messages of two requests: which were added, removed, truncated, changed or reordered.

Equal messages are paired first, in the order of both sides. Of the others, an equal message elsewhere was
reordered; a message whose text is a part of an old one was truncated; and what is left in the same place,
or has most words in common, was changed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any, Literal

from .model_messages import Message, count_characters

Kind = Literal["same", "added", "removed", "truncated", "changed", "reordered"]

# What applications write where they have cut a text.
_MARK = r"(?:…|\.\.\.|\[[^\[\]\n]{0,40}\]|\([^()\n]{0,40}truncated[^()\n]{0,20}\))"
_CUT_START = re.compile(rf"\A(?:{_MARK}\s*)+")
_CUT_END = re.compile(rf"(?:\s*{_MARK})+\Z")
# A shorter rest is found in any text.
_SHORTEST_REST = 8
# Lines that are shown around a change.
_AROUND = 2
# Words in common, of all words, that make two messages versions of one.
_SIMILAR = 0.5
# Longer texts are compared by their beginnings alone: that is enough to tell if they are similar.
_MOST_WORDS = 5_000
# Comparing more lines, or messages, with each other takes seconds.
_MOST_COMPARED = 1_000_000
_MOST_PAIRS = 10_000


@dataclass(frozen=True)
class TextLine:
    """A line of two texts, with its line break: in both, or in one of them."""

    kind: Literal["same", "added", "removed"]
    text: str


@dataclass(frozen=True)
class MessageChange:
    """What became of a message.

    Attributes:
        old, new: The message before and now, None if one side does not have it.
        old_number, new_number: Their numbers, from 1.
        is_moved: It also stands elsewhere.
        kept: Of a truncated message: where the rest begins and ends in the old text.
        rest: Of a truncated message: what is left, without the marks that say so.
    """

    kind: Kind
    old: Message | None = None
    new: Message | None = None
    old_number: int | None = None
    new_number: int | None = None
    is_moved: bool = False
    kept: tuple[int, int] = (0, 0)
    rest: str = ""

    @property
    def message(self) -> Message:
        """The message now, or what it was."""
        message = self.new or self.old
        assert message is not None
        return message

    @property
    def headline(self) -> str:
        """The change in one line: numbers, role, kind, size."""
        numbers = [each for each in (self.old_number, self.new_number) if each is not None]
        place = " → ".join(f"[{number}]" for number in dict.fromkeys(numbers))
        words = word_of(self.kind) + (", moved" if self.is_moved else "")
        size = count_characters(self.message.size)
        if self.old is not None and self.new is not None and self.old.size != self.new.size:
            size = f"{self.old.size:,} → {size}"
        return f"{place} {self.message.title}, {words}, {size}"

    def lines(self) -> list[TextLine]:
        """Return the text line by line, with what was removed and added."""
        old = "" if self.old is None else _text(self.old, self.new)
        new = "" if self.new is None else _text(self.new, self.old)
        return text_lines(old, new)

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain JSON values."""
        shown: dict[str, Any] = {
            "change": self.kind,
            "role": self.message.role,
            "from": self.old_number,
            "to": self.new_number,
        }
        if self.is_moved:
            shown["moved"] = True
        if self.kind in ("added", "truncated", "changed"):
            shown["message"] = dict(self.message.value)
        if self.kind == "truncated":
            shown["kept"] = list(self.kept)
        if self.kind == "changed":
            shown["diff"] = [[line.kind, line.text] for line in self.lines()]
        return shown


def word_of(kind: str) -> str:
    """Return a kind of change as a word."""
    return "unchanged" if kind == "same" else kind


def folded(lines: Sequence[TextLine]) -> list[TextLine]:
    """Return the lines that differ and those around them; the others as one line."""
    near: set[int] = set()
    for at, line in enumerate(lines):
        if line.kind != "same":
            near.update(range(at - _AROUND, at + _AROUND + 1))
    found: list[TextLine] = []
    for is_near, group in groupby(range(len(lines)), near.__contains__):
        numbers = list(group)
        if is_near or len(numbers) == 1:
            found += [lines[number] for number in numbers]
        else:
            found.append(TextLine("same", f"… {len(numbers):,} lines unchanged\n"))
    return found


def message_changes(old: Sequence[Message], new: Sequence[Message]) -> list[MessageChange]:
    """Return what became of each message, in the new order; removed ones after the message before them."""
    return _Aligner(old, new).changes()


class _Aligner:
    """Pairs messages, by rules that grow weaker."""

    def __init__(self, old: Sequence[Message], new: Sequence[Message]) -> None:
        self._old, self._new = old, new
        self._pairs: dict[int, int] = {}  # from new to old
        self._cuts: dict[int, tuple[tuple[int, int], str]] = {}
        keys = [[each.key for each in side] for side in (old, new)]
        self._anchors = _matches(*keys)
        self._pairs.update((at, index) for index, at in self._anchors)

    def changes(self) -> list[MessageChange]:
        self._pair_moved()
        self._pair_cut()
        self._pair_gaps()
        self._pair_similar()
        return list(self._in_order())

    def _free(self) -> tuple[list[int], list[int]]:
        taken = set(self._pairs.values())
        return (
            [at for at in range(len(self._old)) if at not in taken],
            [at for at in range(len(self._new)) if at not in self._pairs],
        )

    def _pair_moved(self) -> None:
        olds, news = self._free()
        places: dict[str, list[int]] = {}
        for index in reversed(olds):
            places.setdefault(self._old[index].key, []).append(index)
        for at in news:
            if places.get(self._new[at].key):
                self._pairs[at] = places[self._new[at].key].pop()

    def _pair_cut(self) -> None:
        olds, news = self._free()
        if len(olds) * len(news) > _MOST_PAIRS:
            return
        for at in news:
            found = [
                (len(self._old[index].text) - len(cut[1]), index, cut)
                for index in olds
                if (cut := _cut(self._old[index], self._new[at])) is not None
            ]
            if found:
                _, index, self._cuts[at] = min(found)
                self._pairs[at] = index
                olds.remove(index)

    def _pair_gaps(self) -> None:
        """Pair the messages between two equal ones, if they have the same roles."""
        olds, news = map(set, self._free())
        ends = [*self._anchors, (len(self._old), len(self._new))]
        start, first = 0, 0
        for stop, last in ends:
            before = [index for index in range(start, stop) if index in olds]
            after = [at for at in range(first, last) if at in news]
            roles = [
                [self._old[index].role for index in before],
                [self._new[at].role for at in after],
            ]
            if roles[0] == roles[1]:
                self._pairs.update(zip(after, before, strict=True))
            start, first = stop + 1, last + 1

    def _pair_similar(self) -> None:
        olds, news = self._free()
        if len(olds) * len(news) > _MOST_PAIRS:
            return
        before = {index: _words(self._old[index]) for index in olds}
        for at in news:
            words, role = _words(self._new[at]), self._new[at].role
            for index in before:
                if self._old[index].role == role and _are_similar(before[index], words):
                    self._pairs[at] = index
                    del before[index]
                    break

    def _in_order(self) -> Iterator[MessageChange]:
        taken = set(self._pairs.values())
        removed = [index for index in range(len(self._old)) if index not in taken]
        places = dict(self._anchors)
        anchors = iter([*self._anchors, (len(self._old), len(self._new))])
        stop, last = next(anchors)
        for at, message in enumerate(self._new):
            if at == last:
                yield from self._removed(removed, stop)
                stop, last = next(anchors)
            index = self._pairs.get(at)
            if index is None:
                yield MessageChange("added", new=message, new_number=at + 1)
                continue
            old, numbers = self._old[index], (index + 1, at + 1)
            if old.key == message.key:
                kind: Kind = "same" if places.get(index) == at else "reordered"
                yield MessageChange(kind, old, message, *numbers)
                continue
            is_moved = any((index < a) != (at < b) for a, b in self._anchors)
            kept, rest = self._cuts.get(at, ((0, 0), ""))
            kind = "truncated" if at in self._cuts else "changed"
            yield MessageChange(kind, old, message, *numbers, is_moved, kept, rest)
        yield from self._removed(removed, len(self._old))

    def _removed(self, removed: list[int], stop: int) -> Iterator[MessageChange]:
        """Yield the removed messages before ``stop``, once."""
        while removed and removed[0] < stop:
            index = removed.pop(0)
            yield MessageChange("removed", old=self._old[index], old_number=index + 1)


def _cut(old: Message, new: Message) -> tuple[tuple[int, int], str] | None:
    """Return where the new text is in the old one, and the text without marks; None if it is not a part."""
    if old.role != new.role or not new.text.strip():
        return None
    bare = _CUT_END.sub("", _CUT_START.sub("", new.text))
    for text in (new.text, bare if len(bare) >= _SHORTEST_REST else ""):
        if text and len(text) < len(old.text) and (start := old.text.find(text)) >= 0:
            return (start, start + len(text)), text
    return None


def _words(message: Message) -> Counter[str]:
    return Counter(message.text.split(None, _MOST_WORDS)[:_MOST_WORDS])


def _are_similar(old: Counter[str], new: Counter[str]) -> bool:
    total = old.total() + new.total()
    return total > 0 and 2 * (old & new).total() / total >= _SIMILAR


def _matches(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places of equal items, in the order of both sides."""
    length = min(len(old), len(new))
    head = next((at for at in range(length) if old[at] != new[at]), length)
    most = length - head
    tail = next((at for at in range(most) if old[-1 - at] != new[-1 - at]), most)
    pairs = [(at, at) for at in range(head)]
    left, right = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(left) * len(right) <= _MOST_COMPARED:
        for a, b, size in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
            pairs += [(head + a + at, head + b + at) for at in range(size)]
    pairs += [(len(old) - at, len(new) - at) for at in range(tail, 0, -1)]
    return pairs


def _text(message: Message, other: Message | None) -> str:
    """Return the text; of two messages with one text, the whole messages as JSON."""
    return message.key if other is not None and message.text == other.text else message.text


def text_lines(old: str, new: str) -> list[TextLine]:
    r"""Return two texts line by line.

    Example:
        >>> [(line.kind, line.text) for line in text_lines("a\nb", "a\nc")]
        [('same', 'a\n'), ('removed', 'b'), ('added', 'c')]
    """
    left, right = (_LINES.findall(text) for text in (old, new))
    found: list[TextLine] = []
    start, first = 0, 0
    for stop, last in [*_matches(left, right), (len(left), len(right))]:
        found += [TextLine("removed", line) for line in left[start:stop]]
        found += [TextLine("added", line) for line in right[first:last]]
        if stop < len(left):
            found.append(TextLine("same", left[stop]))
        start, first = stop + 1, last + 1
    return found


# str.splitlines breaks at characters that terminals and pages show within a line.
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
