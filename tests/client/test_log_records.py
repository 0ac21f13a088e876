"""The fields of log records: the session of the running code, and those of the SDK's own records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from noukai_sdk import SessionFilter, log_context, trace_scope
from noukai_sdk.transport import background
from tests.support.replays import SessionService, SyncSide, execution
from tests.support.service import STARTED, Service, stream
from tests.support.sides import Side


class Records(logging.Handler):
    """Keeps the attributes of records."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(SessionFilter())
        self.kept: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(vars(record))


@pytest.fixture
def records() -> Iterator[list[dict[str, Any]]]:
    """The records of all loggers, as a handler with our filter gets them."""
    handler = Records()
    root, ours = logging.getLogger(), logging.getLogger("noukai_sdk")
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield handler.kept
    root.removeHandler(handler)
    ours.setLevel(logging.NOTSET)


def seen(record: dict[str, Any]) -> tuple[str, bool]:
    return record["noukai_session"], record["noukai_replay"]


async def test_filter_adds_session_and_whether_it_is_replayed(
    records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("my-app.orders")
    logger.warning("outside")
    async with trace_scope() as scope:
        logger.warning("captured")
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "1")
    service = SessionService()
    service.record(execution())
    side = SyncSide(service, "s-1")
    async with side.scope():
        await side.execute()
        logger.warning("replayed")
        assert log_context() == {"noukai_session": "s-1", "noukai_replay": True}
    side.client.close()
    mine = [seen(record) for record in records if record["name"] == "my-app.orders"]
    assert mine == [("-", False), (scope.session_id, False), ("s-1", True)]


async def test_own_records_have_fields(
    side: Side, service: Service, records: list[dict[str, Any]]
) -> None:
    background.flush(60)  # what another test sends later is logged, too
    records.clear()
    async with side.flow() as flow:
        async with trace_scope() as scope:
            await side.call(flow.execute, "hi")
        service.reply(stream(STARTED))
        await side.collect(flow.events("hi"))
    ours = [record for record in records if record["name"] == "noukai_sdk"]
    phases = [record["noukai_phase"] for record in ours if "noukai_phase" in record]
    assert phases == ["scope_open", "request", "response", "scope_close", "request", "response"]
    response = ours[2]
    assert response["noukai_status_code"] == 200
    assert response["noukai_request_id"] == "req-1"
    assert [record["noukai_session"] for record in ours[:4]] == [scope.session_id] * 4
    assert ours[-1]["noukai_execution_id"] == "e"
    assert "nk_test" not in repr(records)
