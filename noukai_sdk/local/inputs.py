"""What a step is asked: its references resolved, and the chat turns for its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import templates
from .checks import Names
from .flow import Flow, Step
from .run_state import RunState
from .templates import Reference, UnresolvedReferenceError


class Inputs:
    """Resolves references for the steps of one run."""

    def __init__(self, flow: Flow, steps: Sequence[Step], state: RunState) -> None:
        self._state = state
        self._parameters = {**flow.parameters, **state.parameters}
        self._names = Names(steps)
        self._message = state.message if state.message is not None else _asked(state.messages)

    def missing(self, step: Step) -> UnresolvedReferenceError | None:
        """The first reference of ``step`` that can be told now to stand for nothing."""
        for reference in (*_references(step.prompt), *_references(step.system)):
            if reference.root == "parameters" or self._is_message(reference, step):
                error = self._try(reference, step)
            else:
                error = UnresolvedReferenceError(reference.problem) if reference.problem else None
            if error:
                return error
        return None

    def _try(self, reference: Reference, step: Step) -> UnresolvedReferenceError | None:
        try:
            self._resolve(reference, step)
        except UnresolvedReferenceError as error:
            return error
        return None

    def input_of(self, step: Step) -> Any:
        """The step's input.

        The message for a first step, its parent's output for a step with one, and for others all of
        their parents' outputs by id, in the order of ``needs``.
        """
        override = self._state.input_overrides.get(step.id)
        if len(step.needs) < 2:
            if override is not None:
                return override
            return self._state.outputs[step.needs[0]] if step.needs else self._message
        outputs = {need: self._state.outputs[need] for need in step.needs}
        return {**outputs, **override} if isinstance(override, Mapping) else outputs

    def messages_for(self, step: Step) -> list[dict[str, Any]]:
        """The chat turns that ask ``step``'s model.

        Raises:
            UnresolvedReferenceError: An output lacks a field that the step refers to.
        """
        asked = {"role": "user", "content": self._prompt(step)}
        turns = self._with_conversation(asked) if self._takes_message(step) else [asked]
        if step.system is None:
            return turns
        return [{"role": "system", "content": self._render(step.system, step)}, *turns]

    def _prompt(self, step: Step) -> str:
        text = self._render(step.prompt, step)
        if _names_input(step):
            return text
        value = self.input_of(step)
        return text if value is None else f"{text}\n\n{_as_context(value)}"

    def _with_conversation(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        turns = self._state.messages or []
        place = _last_user(turns)
        parts = [*_other_parts(turns[place:]), *map(_part, self._state.attachments)]
        if parts:
            asked = {**asked, "content": [{"type": "text", "text": asked["content"]}, *parts]}
        return [*turns[: max(place, 0)], asked, *turns[place + 1 :]]

    def _takes_message(self, step: Step) -> bool:
        return not step.needs or any(r.root == "message" for r in _references(step.prompt))

    def _is_message(self, reference: Reference, step: Step) -> bool:
        return reference.root == "message" or (reference.root == "input" and not step.needs)

    def _render(self, text: str, step: Step) -> str:
        return templates.parse(text).render(lambda reference: self._resolve(reference, step))

    def _resolve(self, reference: Reference, step: Step) -> Any:
        value, path = self._root(reference, step)
        if value is None and self._is_message(reference, step):
            raise UnresolvedReferenceError(f"{reference}: the call has no message")
        return templates.field_of(value, path, reference)

    def _root(self, reference: Reference, step: Step) -> tuple[Any, Sequence[str]]:
        if reference.root == "parameters":
            return self._parameters, reference.path
        if reference.root == "node":
            return self._output(reference.path[0], step), reference.path[1:]
        if reference.root == "message" and step.needs:
            return self._message, reference.path
        return self.input_of(step), reference.path

    def _output(self, name: str, step: Step) -> Any:
        target = self._names.get(name)
        if target is None or target.id not in self._state.outputs:
            raise UnresolvedReferenceError(f"{{{{node.{name}}}}}: there is no output of that name")
        if target.id in step.needs:
            given = self.input_of(step)
            return given if len(step.needs) == 1 else given[target.id]
        return self._state.outputs[target.id]


def _references(text: str | None) -> tuple[Reference, ...]:
    return templates.parse(text).references if text else ()


def _names_input(step: Step) -> bool:
    roots = {reference.root for reference in _references(step.prompt)}
    return not roots.isdisjoint({"input", "node"} if step.needs else {"input", "message"})


def _as_context(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n\n".join(f"{name}:\n{templates.as_text(item)}" for name, item in value.items())
    return templates.as_text(value)


def _last_user(turns: Sequence[Mapping[str, Any]]) -> int:
    users = [place for place, turn in enumerate(turns) if turn.get("role") == "user"]
    return users[-1] if users else len(turns) - 1


def _asked(turns: Sequence[Mapping[str, Any]] | None) -> Any:
    if not turns:
        return None
    content = turns[_last_user(turns)].get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content


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
