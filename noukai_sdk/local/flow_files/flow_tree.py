"""YAML texts as plain data, with the line of each part.

PyYAML parses. This module adds what it lacks for files that people write: a line for every error, and
errors for keys that appear twice and for aliases that stand for billions of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

_MAX_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


class TreeError(ValueError):
    """A text is not valid YAML, or not plain data; ``line`` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class FlowTree:
    """A parsed YAML text.

    Attributes:
        value: The plain data of the text, None if it is empty.

    Raises:
        TreeError: The text is not valid YAML, has a key twice, contains itself, or is too large.
    """

    def __init__(self, text: str) -> None:
        loader = None
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            if self._root is None:
                self.value = None
                return
            if _size(self._root, {}, set()) > _MAX_VALUES:
                raise TreeError(f"it has more than {_MAX_VALUES} values, counting those of aliases")
            loader = _Loader("")
            self.value = loader.construct_document(self._root)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            message = f"invalid YAML: {error.reason}: {error.character!r}"
            raise TreeError(message, line) from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            message = f"invalid YAML: {getattr(error, 'problem', None) or error}"
            raise TreeError(message, mark.line + 1 if mark else None) from error
        except RecursionError as error:
            raise TreeError("it is nested too deeply") from error
        finally:
            if loader is not None:
                loader.dispose()

    def line_of(self, loc: Sequence[str | int]) -> int:
        """Return the line of the deepest part of ``loc`` that the text has, counted from 1."""
        node: Any = self._root
        line = 0 if node is None else node.start_mark.line
        for part in loc:
            items: list[Any] = node.value if node.id in ("mapping", "sequence") else []
            if node.id == "mapping":
                # A key that is there twice is an error, so the first match is the only one.
                pair = next((pair for pair in items if pair[0].value == str(part)), None)
                if pair is None:
                    break
                mark, node = pair
            elif isinstance(part, int) and part < len(items):
                mark = node = items[part]
            else:
                break
            line = mark.start_mark.line
        return int(line) + 1


class _Loader(yaml.SafeLoader):
    """Raises errors of one type, with a line. Those of PyYAML for invalid values are of many types."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (AttributeError, LookupError, ValueError) as error:
            kind = node.tag.rpartition(":")[2]
            message = f"{str(node.value)[:50]!r} is not a valid {kind}: {error}"
            raise yaml.MarkedYAMLError(None, None, message, node.start_mark) from error


def _size(node: yaml.Node, sizes: dict[yaml.Node, int], above: set[yaml.Node]) -> int:
    """Count the values in ``node`` with aliases written out, and check its keys.

    Nine lines of aliases to aliases can stand for billions of values, so each node is counted once.

    Args:
        node: The node to count.
        sizes: The nodes that are counted already.
        above: The nodes that contain this one.
    """
    if node in above:
        raise TreeError("it contains itself, through an alias", node.start_mark.line + 1)
    if node not in sizes:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                inner += (key, value)
                # PyYAML keeps the last of two equal keys.
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if (key.tag, key.value) in keys:
                        message = f"the key {key.value!r} appears twice"
                        raise TreeError(message, key.start_mark.line + 1)
                    keys.add((key.tag, key.value))
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        above.add(node)
        sizes[node] = 1 + sum(_size(child, sizes, above) for child in inner)
        above.remove(node)
    return sizes[node]
