"""The WSGI middleware in capture mode, step by step."""

from __future__ import annotations

import contextvars
import gc
import io
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from noukai_sdk import Noukai, current_session_id, trace_scope_sync
from noukai_sdk.adapters.wsgi import NoukaiTraceMiddleware
from noukai_sdk.session.scope import current_scope
from tests.support.wsgi_driver import Exchange, FileWrapper

CLIENT = Noukai(api_key="nk_test")


def session() -> bytes:
    return str(current_session_id()).encode()


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("A", "b")])
    return [session()]


def traced(app: Any) -> NoukaiTraceMiddleware:
    return NoukaiTraceMiddleware(app, client=CLIENT)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    gc.collect()
    assert current_scope() is None


class Streamed:
    """A body that says in which session each of its steps runs."""

    def __init__(self, log: list[bytes]) -> None:
        self.log = log

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(3):
            yield session()

    def close(self) -> None:
        self.log.append(session())


def streaming(log: list[bytes]) -> Any:
    def app(environ: Any, start_response: Any) -> Streamed:
        start_response("200 OK", [])
        return Streamed(log)

    return traced(app)


def test_the_answer_carries_the_session_of_the_request() -> None:
    answer = Exchange(traced(hello)).run()
    assert answer.body.decode() == answer.headers["x-noukai-session"]
    assert uuid.UUID(answer.body.decode()).version == 4
    assert answer.headers["a"] == "b"
    assert "x-noukai-replay-report" not in answer.headers


def test_each_request_has_a_session_of_its_own() -> None:
    app = traced(hello)
    assert len({Exchange(app).run().body for _ in range(10)}) == 10


def test_a_list_stays_a_list() -> None:
    assert type(Exchange(traced(hello)).call().result) is list


def test_installed_twice_it_acts_once() -> None:
    answer = Exchange(traced(traced(hello))).run()
    assert answer.headers["x-noukai-session"] == answer.body.decode()


def test_an_environ_that_is_used_again_is_a_new_request() -> None:
    exchange = Exchange(traced(hello))
    first = exchange.run().body
    exchange.starts.clear()
    exchange.written.clear()
    assert exchange.run().body != first
    assert exchange.headers["x-noukai-session"] == exchange.body.decode()


def test_inside_a_scope_it_joins() -> None:
    with trace_scope_sync() as scope:
        answer = Exchange(traced(hello)).run()
    assert answer.headers["x-noukai-session"] == answer.body.decode() == scope.session_id


def test_inside_an_untagged_scope_there_is_no_session_to_name() -> None:
    with trace_scope_sync(capture=False):
        answer = Exchange(traced(hello)).run()
    assert answer.body == b"None"
    assert "x-noukai-session" not in answer.headers


def test_another_applications_header_is_replaced() -> None:
    def gateway(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-NOUKAI-SESSION", "theirs"), ("X-Noukai-Replay-Report", "x")])
        return []

    answer = Exchange(traced(gateway)).run()
    assert list(answer.headers) == ["x-noukai-session"]
    assert answer.headers["x-noukai-session"] != "theirs"


def test_every_step_of_the_body_and_its_close_are_in_the_session() -> None:
    log: list[bytes] = []
    answer = Exchange(streaming(log)).call()
    assert current_scope() is None
    for part in answer.result:
        assert current_scope() is None
        answer.written.append(part)
    answer.close()
    answer.close()
    expected = answer.headers["x-noukai-session"].encode()
    assert answer.written == [expected] * 3
    assert log == [expected]


def test_bodies_that_are_read_in_turn_do_not_mix() -> None:
    exchanges = [Exchange(streaming([])).call() for _ in range(20)]
    bodies = [iter(exchange.result) for exchange in exchanges]
    for _ in range(3):
        for exchange, body in zip(exchanges, bodies, strict=True):
            exchange.written.append(next(body))
    for exchange in exchanges:
        assert set(exchange.written) == {exchange.headers["x-noukai-session"].encode()}


def test_an_abandoned_stream_leaves_the_thread_clean() -> None:
    log: list[bytes] = []
    exchange = Exchange(streaming(log)).call()
    first = next(iter(exchange.result))
    assert current_scope() is None
    exchange.result = ()
    assert log == [first]
    assert current_scope() is None


def test_a_body_that_cannot_be_read_is_closed() -> None:
    class Broken(Streamed):
        def __iter__(self) -> Any:
            raise KeyError("mine")

    log: list[bytes] = []
    with pytest.raises(KeyError, match="mine"):
        Exchange(traced(lambda environ, start_response: Broken(log))).call()
    gc.collect()
    assert len(log) == 1


def test_a_scope_that_a_stream_holds_open_does_not_reach_the_thread() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield session()
        with trace_scope_sync():
            yield session()
            yield session()

    app = traced(app)
    exchange = Exchange(app).call()
    body = iter(exchange.result)
    parts = [next(body) for _ in range(3)]
    assert parts[0] != parts[1] == parts[2]
    assert current_scope() is None
    assert Exchange(app).run().written[0] not in parts


def test_other_context_variables_stay_with_the_request() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    class Body:
        def __init__(self) -> None:
            self.token = variable.set(1)

        def __iter__(self) -> Iterator[bytes]:
            yield str(variable.get()).encode()

        def close(self) -> None:
            variable.reset(self.token)

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [])
        return Body()

    exchange = Exchange(traced(app)).run()
    assert exchange.body == b"1"
    assert variable.get() == 0


def test_a_generator_that_starts_its_answer_late() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield session()

    answer = Exchange(traced(app)).run()
    assert answer.headers["x-noukai-session"] == answer.body.decode()


def test_a_file_passes_as_it_is() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"content"))

    exchange = Exchange(traced(app)).call()
    assert type(exchange.result) is FileWrapper
    assert exchange.headers["x-noukai-session"]


@pytest.mark.parametrize("wrapper", [None, lambda file: [file.read()]])
def test_a_server_without_a_wrapper_class(wrapper: Any) -> None:
    exchange = Exchange(traced(hello))
    exchange.environ["wsgi.file_wrapper"] = wrapper
    assert exchange.run().body


def test_write_and_exc_info_still_work() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("A", "b")])
        try:
            raise KeyError("mine")
        except KeyError:
            write = start_response("500 Oops", [], sys.exc_info())
        write(session())
        return [b"!"]

    answer = Exchange(traced(app)).run()
    assert [start[0] for start in answer.starts] == ["200 OK", "500 Oops"]
    assert answer.starts[1][2][0] is KeyError
    assert answer.headers.keys() == {"x-noukai-session"}
    assert answer.body == answer.headers["x-noukai-session"].encode() + b"!"


def test_errors_pass_through_and_leave_the_thread_clean() -> None:
    def fails(environ: Any, start_response: Any) -> Any:
        raise KeyError("call")

    def breaks(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a"
        raise KeyError("stream")

    with pytest.raises(KeyError, match="call"):
        Exchange(traced(fails)).run()
    with pytest.raises(KeyError, match="stream"):
        Exchange(traced(breaks)).run()


def test_1000_requests_in_threads_do_not_mix() -> None:
    app = streaming([])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: Exchange(app).run(), range(1000)))
    assert len({answer.body for answer in answers}) == 1000
    for answer in answers:
        assert set(answer.written) == {answer.headers["x-noukai-session"].encode()}


@pytest.mark.parametrize("client", [None, "nk_key", Noukai])
def test_it_needs_a_client(client: Any) -> None:
    with pytest.raises(TypeError, match="client="):
        NoukaiTraceMiddleware(hello, client=client)
