"""What each node is given in one run: its input, and what its references stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..workflow import templates
from ..workflow.node import Condition, Node
from ..workflow.plan import Plan
from ..workflow.templates import Reference, UnresolvedReferenceError
from ..workflow.validation import bad_reference, references_of
from .state import RunState

NOTHING: Any = object()


class Inputs:
    """The inputs of one run's nodes.

    Attributes:
        skipped: Ids of the nodes that a condition left out.
    """

    def __init__(self, plan: Plan, state: RunState) -> None:
        self.plan = plan
        self.skipped: set[str] = set()
        self._state = state
        self.parameters = {**plan.parameters, **state.parameters}
        self.message = state.message if state.message is not None else _asked(state.messages)

    def missing(self, node: Node) -> str | None:
        """Why ``node`` cannot get what it refers to, as far as can be told before the run."""
        view = View(self, node)
        for field, reference in references_of(node):
            problem = bad_reference(reference, node, field, self.plan.names)
            if problem is None and _is_known_before(reference, node):
                problem = _try(view, reference)
            if problem:
                return f"{field}: {problem}"
        return None

    def input_of(self, node: Node) -> Any:
        """The node's input.

        The message for a first node; the output of the one parent that has run; for more of them
        all their outputs by id, in the order of ``needs``. A condition passes on its own input.
        """
        override = self._state.input_overrides.get(node.id, NOTHING)
        if not node.needs:
            return self.message if override is NOTHING else override
        outputs = self._outputs(node)
        if isinstance(override, Mapping) and len(outputs) > 1:
            return {**outputs, **override}
        if len(outputs) == 1:
            return next(iter(outputs.values())) if override is NOTHING else override
        return outputs

    def _outputs(self, node: Node) -> dict[str, Any]:
        ran = [need for need in node.needs if need not in self.skipped]
        data = [need for need in ran if not self._is_condition(need)]
        if data:
            return {need: self._state.outputs[need] for need in data}
        return {need: self.input_of(self.plan.names.by_id[need]) for need in ran[:1]}

    def _is_condition(self, name: str) -> bool:
        return isinstance(self.plan.names.by_id[name].work, Condition)

    def output(self, name: str, node: Node) -> Any:
        """What ``{{node.name}}`` stands for in ``node``."""
        target = self.plan.names.get(name)
        assert target is not None  # missing() has looked
        if target.id in node.needs and node.id in self._state.input_overrides:
            given = self.input_of(node)
            several = len(self._outputs(node)) > 1
            return given.get(target.id) if several else given
        return self._state.outputs[target.id]

    def conversation(self, prompt: str) -> list[dict[str, Any]]:
        """The call's own turns with the prompt in the place of the message, and its attachments."""
        turns = self._state.messages or []
        place = _last_user(turns)
        parts = [*_other_parts(turns[place:]), *map(_part, self._state.attachments)]
        content: Any = [{"type": "text", "text": prompt}, *parts] if parts else prompt
        return [*turns[: max(place, 0)], {"role": "user", "content": content}, *turns[place + 1 :]]


@dataclass(frozen=True)
class View:
    """One node's view of the inputs; in a loop, that of one item."""

    inputs: Inputs
    node: Node
    item: Any = NOTHING
    index: int | None = None

    @property
    def input(self) -> Any:
        """The node's input; in a loop, the item."""
        return self.inputs.input_of(self.node) if self.item is NOTHING else self.item

    def resolve(self, reference: Reference) -> Any:
        """What the reference stands for.

        Raises:
            UnresolvedReferenceError: Nothing.
        """
        value, path = self._root(reference)
        if value is None and self._is_message(reference):
            raise UnresolvedReferenceError(f"{reference}: the call has no message")
        if value is None and reference.root == "node":
            return None  # skipped: there is no output, and no field of it
        return templates.field_of(value, path, reference)

    def text(self, text: str) -> str:
        """The text with its references replaced."""
        return templates.parse(text).render(self.resolve)

    def value(self, given: Any) -> Any:
        """As ``text``, in all texts of a value; one that is a single reference becomes its value."""
        if isinstance(given, str):
            alone = templates.parse(given).alone
            return self.text(given) if alone is None else self.resolve(alone)
        if isinstance(given, Mapping):
            return {key: self.value(item) for key, item in given.items()}
        if isinstance(given, list | tuple):
            return [self.value(item) for item in given]
        return given

    def messages(self, prompt: str, system: str | None) -> list[dict[str, Any]]:
        """The chat turns that ask a model."""
        roots = {reference.root for reference in templates.parse(prompt).references}
        text = self.text(prompt) if prompt else ""
        if roots.isdisjoint(self._own_roots()):
            text = _with_context(text, self.input)
        if "message" in roots or (not self.node.needs and self.item is NOTHING):
            turns = self.inputs.conversation(text)
        else:
            turns = [{"role": "user", "content": text}]
        return turns if system is None else [_system(self.text(system)), *turns]

    def _own_roots(self) -> set[str]:
        """The roots that mean the node's own input: a prompt with one of them has said all."""
        if self.item is not NOTHING:
            return {"item", "input"}
        return {"input", "node"} if self.node.needs else {"input", "message"}

    def _is_message(self, reference: Reference) -> bool:
        return reference.root == "message" or (reference.root == "input" and not self.node.needs)

    def _root(self, reference: Reference) -> tuple[Any, Sequence[str]]:
        if reference.root == "parameters":
            return self.inputs.parameters, reference.path
        if reference.root == "node":
            return self.inputs.output(reference.path[0], self.node), reference.path[1:]
        if reference.root == "index":
            return self.index, reference.path
        if reference.root == "message":
            is_first = not self.node.needs
            whole = self.inputs.input_of(self.node) if is_first else self.inputs.message
            return whole, reference.path
        return self.input, reference.path


def _is_known_before(reference: Reference, node: Node) -> bool:
    if reference.root in ("parameters", "message"):
        return True
    return reference.root == "input" and not node.needs and node.for_each is None


def _try(view: View, reference: Reference) -> str | None:
    try:
        view.resolve(reference)
    except UnresolvedReferenceError as error:
        return str(error)
    return None


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _with_context(text: str, value: Any) -> str:
    if value is None:
        return text
    if isinstance(value, Mapping):
        context = "\n\n".join(f"{name}:\n{templates.as_text(item)}" for name, item in value.items())
    else:
        context = templates.as_text(value)
    return f"{text}\n\n{context}"


def _last_user(turns: Sequence[Mapping[str, Any]]) -> int:
    users = [place for place, turn in enumerate(turns) if turn.get("role") == "user"]
    return users[-1] if users else len(turns) - 1


def _asked(turns: Sequence[Mapping[str, Any]] | None) -> Any:
    if not turns:
        return None
    content = turns[_last_user(turns)].get("content")
    if isinstance(content, list):
        return "\n".join(_texts(content))
    return content


def _texts(parts: Iterable[Any]) -> list[str]:
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return [text for text in texts if isinstance(text, str)]


def _other_parts(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the asking turn holds beside text: images, files."""
    content = turns[0].get("content") if turns else None
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and "text" not in part]


def _part(attachment: Mapping[str, Any]) -> dict[str, Any]:
    kind = attachment.get("mime_type") or attachment.get("mimeType") or ""
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": attachment["url"]}}
    return {"type": "text", "text": f"Attachment ({kind or 'unknown type'}): {attachment['url']}"}
