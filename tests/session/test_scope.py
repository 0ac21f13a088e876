"""The current scope: entering, leaving, and steps that end in another context."""

from __future__ import annotations

import contextvars
import uuid

import pytest

from noukai_sdk import current_session_id
from noukai_sdk.session.scope import (
    SteppedScope,
    active,
    capture_scope,
    context_with,
    current_scope,
)


class Forever:
    """An awaitable that never ends."""

    def __await__(self):  # type: ignore[no-untyped-def]  # an awaitable by hand
        yield


@pytest.mark.anyio
async def test_active_scope_is_current_inside_block_and_restored_after() -> None:
    assert current_scope() is None
    assert current_session_id() is None
    outer, inner = capture_scope(), capture_scope()
    with active(outer):
        with active(inner):
            assert current_session_id() == inner.session_id
        async with active(inner):
            assert current_scope() is inner
        assert current_scope() is outer
    assert current_scope() is None


def test_active_scope_left_while_another_is_current_changes_nothing() -> None:
    mine, other = active(capture_scope()), capture_scope()
    mine.__enter__()
    with active(other):
        mine.__exit__()
        assert current_scope() is other
    mine.__exit__()
    assert current_scope() is None


def test_context_with_scope_is_separate_from_this_context() -> None:
    scope = capture_scope()
    assert context_with(scope).run(current_scope) is scope
    assert current_scope() is None


def test_stepped_scope_keeps_scope_that_step_leaves_open() -> None:
    nested, stepped = capture_scope(), SteppedScope(capture_scope())
    with stepped:
        active(nested).__enter__()
    assert current_scope() is None
    with active(capture_scope()), stepped:
        assert current_scope() is nested


def test_stepped_scope_dropped_in_another_context_leaves_that_one_alone() -> None:
    step = SteppedScope(capture_scope()).run(Forever())
    contextvars.copy_context().run(step.send, None)
    other = capture_scope()
    with active(other):
        step.close()
        assert current_scope() is other


def test_stepped_scope_dropped_in_its_own_context_restores_scope() -> None:
    step = SteppedScope(capture_scope()).run(Forever())
    step.send(None)
    step.close()
    assert current_scope() is None


def test_session_id_is_a_random_uuid4() -> None:
    ids = {capture_scope().session_id for _ in range(100)}
    assert len(ids) == 100
    assert all(uuid.UUID(text).version == 4 for text in ids)
