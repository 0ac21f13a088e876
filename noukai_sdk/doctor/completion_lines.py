"""Name the lines through which the order of completion gets into the program."""

from __future__ import annotations

from collections.abc import Sequence

from .source_lines import function_of, text_of
from .source_reads import Reads


def lines_that_see_order(base: Sequence[Reads], others: Sequence[Sequence[Reads]]) -> list[Reads]:
    """Return the lines that ask which call is first, and those that change things in this order.

    Args:
        base: What was read when calls completed as recorded.
        others: What was read when they completed in other orders, and the result differed.
    """
    reads = [each for each in base if each.factor == "completion"]
    asking = [each for each in reads if each.name != "changes"]
    functions = {function_of(each.file, each.line) for each in asking}
    moved: list[Reads] = []
    changed: list[Reads] = []  # only the first call, say, gets to them
    for each in reads:
        if each.name != "changes":
            continue
        if function_of(each.file, each.line) in functions:
            continue  # it follows the line that asks
        if any(_is_reordered(each, other) for other in others):
            moved.append(each)
        elif any(_has_other_tokens(each, other) for other in others):
            changed.append(each)
    if any(each.name == "Queue.get" for each in asking):
        moved = [each for each in moved if ".put" not in text_of(each.file, each.line)]
    return asking + (moved or ([] if asking else changed))[:1]


def _is_reordered(one: Reads, others: Sequence[Reads]) -> bool:
    """Return whether the same tasks, or the same values, came through a line in another order."""
    for other in others:
        if other.factor == "completion" and other.key == one.key:
            for column in (0, 1):
                before, after = (
                    [token.split()[column] for token in each.tokens] for each in (one, other)
                )
                if before != after and sorted(before) == sorted(after):
                    return True
    return False


def _has_other_tokens(one: Reads, others: Sequence[Reads]) -> bool:
    """Return whether another task came through a line."""
    for other in others:
        if other.factor == "completion" and other.key == one.key:
            before, after = ([token.split()[0] for token in each.tokens] for each in (one, other))
            return before != after
    return False
