"""The current scope: entering, leaving, and what a step in another context leaves alone."""

from __future__ import annotations

import contextvars
import uuid

import pytest

from noukai_sdk import current_session_id
from noukai_sdk.session.context import (
    SteppedScope,
    active,
    context_with,
    current_scope,
    enter,
    leave,
)
from noukai_sdk.session.scope import capture_scope


def test_outside_there_is_none() -> None:
    assert current_scope() is None
    assert current_session_id() is None


def test_active_restores_the_scope_around_it() -> None:
    outer, inner = capture_scope(), capture_scope()
    with active(outer):
        with active(inner):
            assert current_session_id() == inner.session_id
        assert current_scope() is outer
    assert current_scope() is None


@pytest.mark.anyio
async def test_active_is_an_async_block_too() -> None:
    scope = capture_scope()
    async with active(scope):
        assert current_scope() is scope
    assert current_scope() is None


def test_leaving_where_another_scope_is_current_changes_nothing() -> None:
    mine, other = capture_scope(), capture_scope()
    outer = enter(mine)
    with active(other):
        leave(mine, outer)
        assert current_scope() is other
    leave(mine, outer)
    assert current_scope() is None


def test_a_context_with_a_scope_is_apart_from_this_one() -> None:
    scope = capture_scope()
    context = context_with(scope)
    assert context.run(current_scope) is scope
    assert current_scope() is None


def test_a_seat_keeps_what_a_step_leaves_behind() -> None:
    scope, nested = capture_scope(), capture_scope()
    seat = SteppedScope(scope)
    with seat:
        enter(nested)
    assert current_scope() is None
    with active(capture_scope()), seat:
        assert current_scope() is nested


def test_a_step_dropped_in_another_context_leaves_that_one_alone() -> None:
    class Forever:
        def __await__(self):  # type: ignore[no-untyped-def]  # an awaitable by hand
            yield

    step = SteppedScope(capture_scope()).run(Forever())
    contextvars.copy_context().run(step.send, None)
    other = capture_scope()
    with active(other):
        step.close()
        assert current_scope() is other


def test_a_step_dropped_in_its_own_context_leaves_it_clean() -> None:
    class Forever:
        def __await__(self):  # type: ignore[no-untyped-def]  # an awaitable by hand
            yield

    step = SteppedScope(capture_scope()).run(Forever())
    step.send(None)
    step.close()
    assert current_scope() is None


def test_session_ids_are_random_uuids() -> None:
    ids = {capture_scope().session_id for _ in range(1000)}
    assert len(ids) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)
    assert {text[19] for text in ids if text} == set("89ab")
