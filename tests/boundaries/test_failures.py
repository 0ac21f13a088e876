"""Errors of recorded functions: what production raised is raised again, and no constructor runs."""

from __future__ import annotations

import enum
import json
import sys
import threading
from typing import Any

import httpx
import pytest
import requests
import sqlalchemy
from fastapi import HTTPException
from pydantic import BaseModel, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from noukai_sdk.boundaries.failures import decode_error, encode_error, error_text
from noukai_sdk.boundaries.rebuilding import NotKept
from noukai_sdk.boundaries.values import decode, encode
from noukai_sdk.errors import FlowExecutionError, NoukaiError, RecordedFunctionError


class Reason(enum.Enum):
    GONE = "gone"


class ShelfError(LookupError):
    def __init__(self, shelf: int, reason: Reason, lock: Any = None) -> None:
        constructed.append(shelf)
        super().__init__(f"shelf {shelf} is {reason.value}")
        self.shelf = shelf
        self.reason = reason
        self.lock = lock


class Peculiar(Exception):
    def __str__(self) -> str:
        return f"held by {self.holder.name}"


constructed: list[int] = []


def round_trip(error: Exception) -> Any:
    return decode_error(json.loads(json.dumps(encode_error(error)).encode()))


def raised(function: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each has its own type
        function()
    return caught.value


def http_status_error() -> None:
    request = httpx.Request("GET", "https://shop.example/books")
    headers = [("Set-Cookie", "session=1"), ("Set-Cookie", "b=2"), ("Content-Encoding", "identity")]
    response = httpx.Response(503, headers=headers, json={"error": "busy"}, request=request)
    response.raise_for_status()


def requests_error() -> None:
    response = requests.Response()
    response.status_code, response._content, response.url = 404, b'{"a": 1}', "https://a.example/"
    response.request = requests.Request("GET", "https://a.example/").prepare()
    response.raise_for_status()


def integrity_error() -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.StaticPool)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("create table t (a integer primary key)"))
            for _ in range(2):
                connection.execute(sqlalchemy.text("insert into t values (:a)"), {"a": 1})
    finally:
        engine.dispose()


class Order(BaseModel):
    count: int
    code: str

    @field_validator("code")
    @classmethod
    def _check(cls, code: str) -> str:
        if code == "custom":
            raise PydanticCustomError("shop_code", "no such code {code}", {"code": code})
        raise ValueError("not a code")


def test_errors_of_the_standard_library_come_back_equal() -> None:
    for function in [
        lambda: {}["isbn"],
        lambda: open("/nonexistent/file"),  # noqa: SIM115, PTH123  # its error is wanted
        lambda: int("x"),
        lambda: b"\xff".decode(),
        lambda: json.loads("{"),
        lambda: __import__("no_such_module"),
        lambda: next(iter([])),
        lambda: compile("1 +", "f.py", "eval"),
        lambda: (_ for _ in ()).throw(TimeoutError("too slow")),
        lambda: (_ for _ in ()).throw(HTTPException(409, {"why": "taken"})),
        lambda: (_ for _ in ()).throw(FlowExecutionError("no", code="X", status_code=500)),
    ]:
        error = raised(function)
        back = round_trip(error)
        assert (type(back), back.args, str(back)) == (type(error), error.args, str(error))
        for name in (
            "errno",
            "filename",
            "start",
            "reason",
            "pos",
            "name",
            "lineno",
            "code",
            "detail",
        ):
            assert getattr(back, name, None) == getattr(error, name, None)


def test_errors_of_http_libraries_and_databases_keep_what_programs_read() -> None:
    error = round_trip(raised(http_status_error))
    assert isinstance(error, httpx.HTTPStatusError)
    assert error.response.status_code == 503
    assert error.response.json() == {"error": "busy"}
    assert error.response.headers.get_list("set-cookie") == ["session=1", "b=2"]
    assert str(error.request.url) == "https://shop.example/books"
    error = round_trip(raised(requests_error))
    assert isinstance(error, requests.HTTPError)
    assert (error.response.status_code, error.response.json()) == (404, {"a": 1})
    error = round_trip(raised(integrity_error))
    assert isinstance(error, sqlalchemy.exc.IntegrityError)
    assert type(error.orig).__name__ == "IntegrityError"
    assert (error.statement, error.params) == ("insert into t values (?)", (1,))
    assert str(error) == str(raised(integrity_error))


def test_http_responses_are_values_without_annotation() -> None:
    response = httpx.Response(200, headers={"x-a": "1"}, content=b"\xff", default_encoding="utf-8")
    back = decode(encode([response]))[0]
    assert (back.status_code, back.content, back.headers["x-a"]) == (200, b"\xff", "1")
    unread = httpx.Response(200, stream=httpx.ByteStream(b"x"))
    with pytest.raises(NoukaiError, match=r"result .*ResponseNotRead"):
        encode(unread)


def test_validation_errors_come_back_with_their_problems() -> None:
    for code in ("plain", "custom"):
        error = raised(lambda code=code: Order.model_validate({"count": "x", "code": code}))
        back = round_trip(error)
        assert type(back) is ValidationError
        assert str(back) == str(error)
        assert [e["loc"] for e in back.errors()] == [("count",), ("code",)]


def test_errors_of_the_program_come_back_without_their_constructor() -> None:
    error = ShelfError(3, Reason.GONE, threading.Lock())
    error.__cause__ = KeyError("inner")
    if hasattr(error, "add_note"):
        error.add_note("on the second try")
    constructed.clear()
    back = round_trip(error)
    assert constructed == []
    assert isinstance(back, ShelfError)
    assert (back.shelf, back.reason, str(back)) == (3, Reason.GONE, "shelf 3 is gone")
    assert isinstance(back.lock, NotKept)
    assert repr(back.lock) == "<lock: not kept in the recording>"
    with pytest.raises(AttributeError, match="not kept in the recording"):
        back.lock.acquire()
    assert repr(back.__cause__) == "KeyError('inner')"
    assert getattr(back, "__notes__", None) == getattr(error, "__notes__", None)
    assert error_text(encode_error(error)) == "ShelfError: shelf 3 is gone"


def test_error_that_holds_itself_or_many_others_comes_back() -> None:
    error = ValueError("outer")
    error.nothing, error.me, error.__cause__ = None, error, error  # type: ignore[attr-defined]  # attributes of its own
    back = round_trip(error)
    assert (type(back), back.nothing, back.__cause__) == (ValueError, None, None)
    assert isinstance(back.me, NotKept)
    for number in range(3_000):
        outer = ValueError(number)
        outer.inner = error  # type: ignore[attr-defined]  # an attribute of its own
        error = outer
    assert str(round_trip(error)) == "2999"
    assert str(round_trip(ValueError("\ud800"))) == "\ud800"


def test_error_whose_message_needs_what_is_gone_keeps_its_message() -> None:
    error = Peculiar()
    error.holder = threading.current_thread()
    back = round_trip(error)
    assert isinstance(back, Peculiar)
    assert str(back) == f"held by {threading.current_thread().name}"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no exception groups")
def test_groups_come_back_with_their_errors() -> None:
    group = ExceptionGroup("two", [KeyError("a"), ExceptionGroup("inner", [OSError(2, "no")])])  # noqa: F821  # built in since Python 3.11
    back = round_trip(group)
    assert type(back) is type(group)
    assert back.message == "two"
    assert [type(error) for error in back.exceptions] == [KeyError, type(group)]
    assert back.exceptions[1].exceptions[0].errno == 2


def test_class_that_is_not_loaded_becomes_error_that_tells_what_was_raised() -> None:
    data = encode_error(ValueError("no shelf"))
    for module, name in [
        ("app.errors", "NotFound"),  # not imported here
        ("os", "system"),
        ("builtins", "SystemExit"),
        ("noukai_sdk", "errors"),
        ("sys", "modules"),
    ]:
        error = decode_error({**data, "module": module, "name": name}, name="load")
        assert type(error) is RecordedFunctionError
        assert (error.error_type, error.error_message) == (f"{module}.{name}", "no shelf")
        assert f"load: the recorded call raised {module}.{name}: no shelf" in str(error)
    for damaged in [None, {}, {"$type": "builtins.Exception"}, {**data, "args": 5}]:
        assert isinstance(decode_error(damaged), RecordedFunctionError)


def test_local_class_of_an_error_is_found_among_loaded_classes() -> None:
    class Local(Exception):
        pass

    assert type(round_trip(Local("x"))) is Local
