"""Resolve what each node of a run gets: its input, and the values of its references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import FlowExecutionError
from ..workflow import templates
from ..workflow.kinds import Decision
from ..workflow.node import Node
from ..workflow.plan import OpenReference, Plan
from ..workflow.templates import Reference, UnresolvedReferenceError
from .state import RunState

NOTHING: Any = object()


class Inputs:
    """The inputs of one run's nodes.

    Attributes:
        skipped: Ids of the nodes that a condition skipped.
        max_text: How long a rendered text may be, None for no limit.
    """

    def __init__(self, plan: Plan, state: RunState, *, max_text: int | None = None) -> None:
        self.max_text = max_text
        self.plan = plan
        self.skipped: set[str] = set()
        self.parameters = {**plan.parameters, **state.parameters}
        self.message = state.message
        if self.message is None and state.messages:
            content = state.messages[_last_user(state.messages)].get("content")
            if isinstance(content, list):
                texts = (part.get("text") for part in content if isinstance(part, Mapping))
                content = "\n".join(text for text in texts if isinstance(text, str))
            self.message = content
        self._state = state

    def missing(self, open_reference: OpenReference) -> str | None:
        """Return why a reference cannot be resolved, as far as known before the run."""
        problem = open_reference.problem
        if problem is None:
            try:
                View(self, open_reference.node).resolve(open_reference.reference)
            except UnresolvedReferenceError as error:
                problem = str(error)
        return f"{open_reference.field}: {problem}" if problem else None

    def input_of(self, node: Node) -> Any:
        """Return the node's input.

        The message for a first node; the parent's output if one parent has run; the outputs of
        several parents by id, in the order of ``needs``. A node that decides passes on its own input.
        """
        override = self._state.input_overrides.get(node.id, NOTHING)
        if not node.needs:
            return self.message if override is NOTHING else override
        outputs = self._parent_outputs(node)
        if isinstance(override, Mapping) and len(outputs) > 1:
            return {**outputs, **override}
        if len(outputs) == 1:
            return next(iter(outputs.values())) if override is NOTHING else override
        return outputs

    def is_overridden(self, node: Node) -> bool:
        """Return whether the call replaces the node's input."""
        return node.id in self._state.input_overrides

    def _parent_outputs(self, node: Node) -> dict[str, Any]:
        by_id = self.plan.names.by_id
        ran = [need for need in node.needs if need not in self.skipped]
        data = [need for need in ran if not isinstance(by_id[need].work, Decision)]
        if data:
            return {need: self._state.outputs[need] for need in data}
        return {need: self._passed_on(by_id[need]) for need in ran[:1]}

    def _passed_on(self, node: Node) -> Any:
        """Return what a node that decides passes on."""
        assert isinstance(node.work, Decision)  # _parent_outputs has checked it
        return node.work.passes_on(self.input_of(node), self._state.outputs[node.id])

    def output(self, name: str, node: Node) -> Any:
        """Return the value of ``{{node.name}}`` in ``node``; an input override replaces a parent's."""
        target = self.plan.names.get(name)
        assert target is not None  # missing() has checked it
        if target.id in node.needs and node.id in self._state.input_overrides:
            value = self.input_of(node)
            return value.get(target.id) if len(self._parent_outputs(node)) > 1 else value
        return self._state.outputs[target.id]

    def conversation(self, prompt: str) -> list[dict[str, Any]]:
        """Return the call's turns, with the prompt instead of the message, and its attachments."""
        turns = self._state.messages or []
        place = _last_user(turns)
        content = turns[place].get("content") if turns else None
        # Images and files of the turn that the prompt replaces.
        parts = [
            part
            for part in (content if isinstance(content, list) else ())
            if isinstance(part, dict) and "text" not in part
        ]
        for attachment in self._state.attachments:
            kind = attachment.get("mime_type") or attachment.get("mimeType") or ""
            url = attachment["url"]
            if kind.startswith("image/"):
                parts.append({"type": "image_url", "image_url": {"url": url}})
            else:
                text = f"Attachment ({kind or 'unknown type'}): {url}"
                parts.append({"type": "text", "text": text})
        turn = {
            "role": "user",
            "content": [{"type": "text", "text": prompt}, *parts] if parts else prompt,
        }
        return [*turns[: max(place, 0)], turn, *turns[place + 1 :]]


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

    @property
    def has_message(self) -> bool:
        """Whether the node's input is the message of the call."""
        return (
            not self.node.needs
            and self.item is NOTHING
            and not self.inputs.is_overridden(self.node)
        )

    def resolve(self, reference: Reference) -> Any:
        """Return the value of a reference.

        Raises:
            UnresolvedReferenceError: It has no value.
        """
        root, path, is_first = reference.root, reference.path, not self.node.needs
        value: Any
        if root == "parameters":
            value = self.inputs.parameters
        elif root == "node":
            value, path = self.inputs.output(path[0], self.node), path[1:]
            if value is None:
                return None  # skipped: no output, and so no field of it
        elif root == "index":
            value = self.index
        elif root == "message":
            value = self.inputs.input_of(self.node) if is_first else self.inputs.message
        else:
            value = self.input
        if value is None and (root == "message" or (root == "input" and is_first)):
            raise UnresolvedReferenceError(f"{reference}: the call has no message")
        return templates.field_of(value, path, reference)

    def text(self, text: str) -> str:
        """Replace the references in a text.

        Raises:
            FlowExecutionError: The text becomes too long; code ``PROMPT_TOO_LARGE``.
        """
        try:
            return templates.parse(text).render(self.resolve, self.inputs.max_text)
        except templates.TextTooLongError as error:
            message = f"a text of step {self.node.id!r} is too long: {error}"
            raise FlowExecutionError(message, code="PROMPT_TOO_LARGE") from error

    def value(self, value: Any) -> Any:
        """Replace the references in all texts of a value; a lone reference becomes its value."""
        if isinstance(value, str):
            alone = templates.parse(value).alone
            return self.text(value) if alone is None else self.resolve(alone)
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def messages(self, prompt: str, system: str | None) -> list[dict[str, Any]]:
        """Build the chat turns that ask a model.

        A prompt that does not refer to the node's input gets the input below it.
        """
        is_item, is_first = self.item is not NOTHING, not self.node.needs
        roots = {reference.root for reference in templates.parse(prompt).references}
        text = self.text(prompt) if prompt else ""
        own_roots = {"input", "item" if is_item else "message" if is_first else "node"}
        value = self.input if roots.isdisjoint(own_roots) else None
        if isinstance(value, Mapping):
            outputs = [f"{name}:\n{templates.as_text(item)}" for name, item in value.items()]
            text += "\n\n" + "\n\n".join(outputs)
        elif value is not None:
            text += "\n\n" + templates.as_text(value)
        if "message" in roots or (is_first and not is_item):
            turns = self.inputs.conversation(text)
        else:
            turns = [{"role": "user", "content": text}]
        if system is None:
            return turns
        return [{"role": "system", "content": self.text(system)}, *turns]


def _last_user(turns: Sequence[Mapping[str, Any]]) -> int:
    users = [place for place, turn in enumerate(turns) if turn.get("role") == "user"]
    return users[-1] if users else len(turns) - 1
