"""The tree of a YAML file: plain data and no more, and where each part of it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

_MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


class TreeError(ValueError):
    """A text that is no YAML, or stands for no plain data; ``line`` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def read_tree(text: str) -> yaml.Node | None:
    """The text's tree, None for an empty text.

    Raises:
        TreeError: It is no YAML; it holds a key twice, or itself, or more than a file should.
    """
    import yaml

    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        size = 0 if tree is None else _Sizes().of(tree)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise TreeError(f"no YAML: {error.reason}: {error.character!r}", line) from error
    except yaml.YAMLError as error:
        raise _no_yaml(error) from error
    except RecursionError as error:
        raise TreeError("it is nested too deeply") from error
    if size > _MOST_VALUES:
        raise TreeError(f"it stands for more than {_MOST_VALUES} values, with its aliases")
    return tree


def value_of(tree: yaml.Node) -> Any:
    """What the tree stands for.

    Raises:
        TreeError: A part of it stands for nothing, such as the date 2026-02-30.
    """
    import yaml

    loader = _loader()("")
    try:
        return loader.construct_document(tree)
    except yaml.YAMLError as error:
        raise _no_yaml(error) from error
    finally:
        loader.dispose()


def line_of(tree: yaml.Node, loc: Sequence[str | int]) -> int:
    """The line of the deepest part of ``loc`` that the file has, counted from 1."""
    line = tree.start_mark.line
    node: Any = tree
    for part in loc:
        found = _child(node, part)
        if found is None:
            break
        mark, node = found
        line = mark.start_mark.line
    return int(line) + 1


class _Sizes:
    """How many values nodes stand for, aliases written out: few lines can stand for billions."""

    def __init__(self) -> None:
        self._known: dict[yaml.Node, int] = {}
        self._above: set[yaml.Node] = set()

    def of(self, node: yaml.Node) -> int:
        if node in self._above:
            raise TreeError("it holds itself, by an alias", node.start_mark.line + 1)
        if node not in self._known:
            _check_keys(node)
            self._above.add(node)
            self._known[node] = 1 + sum(map(self.of, _below(node)))
            self._above.remove(node)
        return self._known[node]


def _below(node: Any) -> Iterator[yaml.Node]:
    if node.id == "mapping":
        for pair in node.value:
            yield from pair
    elif node.id == "sequence":
        yield from node.value


def _check_keys(node: Any) -> None:
    # YAML's own readers let the last of them win, and say nothing.
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value if node.id == "mapping" else ():
        name = (key.tag, key.value) if key.id == "scalar" and key.tag != _MERGE else None
        if name in seen:
            raise TreeError(f"the key {key.value!r} stands here twice", key.start_mark.line + 1)
        if name is not None:
            seen.add(name)


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Says where a value stands that cannot be read; PyYAML's errors are of all kinds."""

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (AttributeError, LookupError, ValueError) as error:
                kind = node.tag.rpartition(":")[2]
                message = f"{str(node.value)[:50]!r} is no {kind}: {error}"
                raise yaml.MarkedYAMLError(None, None, message, node.start_mark) from error

    return Loader


def _no_yaml(error: Exception) -> TreeError:
    mark = getattr(error, "problem_mark", None)
    message = f"no YAML: {getattr(error, 'problem', None) or error}"
    return TreeError(message, mark.line + 1 if mark else None)


def _child(node: Any, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node to point at (a mapping's key, a sequence's item) and the one to go on from."""
    if node.id == "sequence":
        item = node.value[part] if isinstance(part, int) and part < len(node.value) else None
        return None if item is None else (item, item)
    pairs = node.value if node.id == "mapping" else []
    return next(((key, value) for key, value in pairs if key.value == str(part)), None)
