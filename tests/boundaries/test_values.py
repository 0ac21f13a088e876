"""Values of recorded functions: what goes in comes back, and what cannot is an error that names it."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import math
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    field_validator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from noukai_sdk.boundaries.annotations import return_annotation
from noukai_sdk.boundaries.failures import decode_error
from noukai_sdk.boundaries.values import decode, encode, encode_arguments
from noukai_sdk.errors import RecordedValueError
from noukai_sdk.masking.values import Masker

T = TypeVar("T")


class Color(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Author:
    name: str
    born: date | None = None
    length: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.name))
        object.__setattr__(self, "not_a_field", (1, 2))


@dataclasses.dataclass
class Page(Generic[T]):
    __slots__ = ("items", "permission")
    items: list[T]
    permission: Permission


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Book(BaseModel):
    title: str = Field(alias="Title")
    author: Author
    color: Color | str = Color.RED
    data: Any = None
    url: AnyUrl | None = None
    sequels: list[Book] = []
    _read: int = PrivateAttr(0)

    @field_validator("title")
    @classmethod
    def _louder(cls, title: str) -> str:
        return title + "!"  # not the same if it runs again


class Envelope(BaseModel, Generic[T]):
    content: T


class Tags(RootModel[set[str]]):
    pass


class Point(NamedTuple):
    x: int
    level: Level = Level.LOW


class Row(TypedDict, total=False):
    point: Point
    author: Author | None


Key = NewType("Key", UUID)
AUTHOR = Author("Herbert", date(1920, 10, 8))
BOOK = Book(Title="Dune", author=AUTHOR, data={7: (1, {"$type": b"\xff"})})
BOOK._read = 3


def round_trip(value: Any, annotation: Any = None) -> Any:
    """Through JSON text, as a cassette file or the service stores it."""
    text = json.dumps(encode(value, annotation), ensure_ascii=False).encode()
    return decode(json.loads(text), annotation)


def test_classes_named_by_annotation_come_back_whole() -> None:
    for value, annotation in [
        (BOOK, Book),
        ([BOOK, None], list[Book | None]),
        ({1: [AUTHOR], 2: []}, dict[int, list[Author]]),
        (Page([Point(1)], Permission.READ | Permission.WRITE), Page[Point]),
        (Envelope[Book](content=BOOK), Envelope[Book]),
        (Envelope[Any](content=BOOK), Envelope[Any] | Book),
        (Envelope(content=BOOK), Envelope[Book]),
        (Loose(shelf=Decimal("1.50"), **{"$type": 1}), Loose),
        (Tags({"a", "b"}), Tags),
        ({"point": Point(2), "author": AUTHOR}, Row),
        ({Color.RED: Level.LOW}, dict[Color, Level]),
        ((AUTHOR, UUID(int=1)), tuple[Author, Key]),
        (AUTHOR, Annotated[Author, AfterValidator(lambda value: value), []]),
        (BOOK, Iterator[Book]),
        (BOOK, AsyncIterator[Book]),
        (BOOK, Awaitable[Book]),
        (AUTHOR, TypeVar("A", bound=Author)),
        (AnyUrl("https://a.example/b"), AnyUrl),
    ]:
        back = round_trip(value, annotation)
        assert (back, type(back)) == (value, type(value))
    book = round_trip(BOOK, Book)
    assert (book._read, book.model_fields_set) == (3, BOOK.model_fields_set)
    assert round_trip(AUTHOR, Author).not_a_field == (1, 2)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=False)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.complex_numbers(allow_nan=False)
    | st.ip_addresses()
)
KEYS = SCALARS | st.tuples(SCALARS, st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEYS | st.sampled_from(["$type", "$items", "$$", "$1"]), inner)
        | st.tuples(inner, inner)
        | st.frozensets(KEYS)
        | st.sets(KEYS)
        | st.builds(deque, st.lists(inner), st.none() | st.just(50))
        | st.builds(OrderedDict, st.dictionaries(st.text(), inner))
        | st.builds(lambda items: defaultdict(list, items), st.dictionaries(st.text(), inner))
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(deadline=None)
def test_standard_types_without_annotation_come_back_equal(value: Any) -> None:
    back = round_trip(value)
    assert back == value
    assert encode(back) == encode(value)  # types too: 1 is not True, and a tuple is no list


def test_numbers_times_and_texts_at_the_edges_come_back_equal() -> None:
    berlin = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    for value in [
        -0.0,
        math.inf,
        "\ud83d\ude00 lone \ud800",
        {"\ud800": 1},
        berlin,
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-3, seconds=7))),
        time(12, tzinfo=ZoneInfo("Europe/Berlin")),
        timedelta(-1, 5, 7),
        Counter("abba"),
        bytearray(b"\x00\xff"),
        PurePosixPath("a/b"),
        Path("/tmp/\udcff"),
    ]:
        back = round_trip(value)
        assert (back, type(back), str(back)) == (value, type(value), str(value))
    assert round_trip(10**5000) == 10**5000
    back = round_trip(berlin)
    assert (back.tzinfo, back.fold) == (berlin.tzinfo, 1)
    assert math.isnan(round_trip([math.nan])[0])
    assert str(round_trip(Decimal("sNaN"))) == "sNaN"


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Special(Author):
    extra = "lost if it came back as an Author"


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append({"self": value})
    return value


def test_value_that_cannot_be_kept_raises_error_that_names_place_and_fix() -> None:
    books = {"books": [1, BOOK]}
    annotate = "annotate the return type as"
    unnamed = "which the return annotation does not name; "
    connection = sqlite3.connect(":memory:")
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value, annotation, message in [
        (BOOK, None, f"result is an instance of Book, {unnamed}{annotate} -> Book"),
        ([AUTHOR], Any, f"[0] is an instance of Author, {unnamed}{annotate} -> list[Author]"),
        ({1: AUTHOR}, None, f"{annotate} -> dict[int, Author]"),
        (books, dict, f"['books'][1] is an instance of Book, {unnamed}name Book in the return annotation"),
        (Special("x"), Author, f"is an instance of Special, {unnamed}{annotate} -> Author | Special"),
        (Envelope[Any](content=io.StringIO()), Envelope[Any], "result.content is of the type _io.S"),
        ({"db": connection}, sqlite3.Connection, "result['db'] is of the type sqlite3.Connection"),
        ((threading.Lock(),), None, "result[0] is of the type _thread.lock"),
        ((item for item in "ab"), None, "result is of the type generator"),
        (User(id=1), User, "is a User, an ORM object that belongs to its database session; return"),
        (cyclic(), None, "result[0]['self'] contains itself"),
        (deep, None, "is nested deeper than 120 levels"),
        ({math.nan: 1, float("nan"): 2}, None, "has keys that read alike"),
    ]:  # fmt: skip
        with pytest.raises(RecordedValueError) as caught:
            encode(value, annotation, name="load")
        assert str(caught.value).startswith("load: result")
        assert message in str(caught.value)
        assert len(str(caught.value)) < 500
        assert caught.value.function == "load"
    connection.close()


def test_annotation_for_type_checkers_alone_is_named_only_if_it_is_needed() -> None:
    def load(number: OnlyForTypeCheckers) -> list[OnlyForTypeCheckers]:  # type: ignore[name-defined]  # noqa: F821
        ...

    annotation = return_annotation(load)
    assert round_trip([1], annotation) == [1]
    with pytest.raises(
        RecordedValueError, match=r"'OnlyForTypeCheckers' is not defined.*import its names"
    ):
        encode([AUTHOR], annotation)


def test_annotation_of_local_class_is_found_in_closure_or_given_names() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    def inside() -> Local:
        return Local(1)

    def outside() -> list[Local]:  # its own closure holds no Local
        ...

    assert round_trip(inside(), return_annotation(inside)) == Local(1)
    names = {"Local": Local}
    assert round_trip([Local(1)], return_annotation(outside, names)) == [Local(1)]


def test_class_that_has_changed_since_takes_new_defaults_and_names_missing_fields() -> None:
    name = f"{__name__}.Author"
    assert decode({"$type": name, "name": "x", "length": 1, "gone": 2}, Author) == Author("x")
    with pytest.raises(RecordedValueError, match="Author now needs name, which the recording"):
        decode({"$type": name}, Author)
    with pytest.raises(
        RecordedValueError, match=r"holds a app\.Other, which the return annotation"
    ):
        decode({"$type": "app.Other"}, Author)
    moved = {"$type": "__main__.Author", "name": "x", "length": 1}
    assert decode(moved, Author) == Author("x")
    for damaged in [{"$type": "date", "$value": "x"}, {"$type": "os.system"}, {"$type": "tuple"}]:
        with pytest.raises(RecordedValueError, match="cannot be read"):
            decode(damaged, Author, name="load")


def test_masked_value_comes_back_with_mask_in_its_place() -> None:
    class Account(BaseModel):
        id: int
        api_key: UUID
        password: SecretStr
        note: bytes

    account = Account(id=1, api_key=UUID(int=5), password="hunter2", note=b"password=hunter2")
    masked = Masker().value(encode({7: account}, dict[int, Account]))
    assert decode({"$[redacted]": {"$type": "bytes", "$base64": "[redacted]"}}) == {
        "[redacted]": b"[redacted]"
    }
    assert "hunter2" not in json.dumps(masked)
    back = decode(masked, dict[int, Account])[7]
    assert (back.id, back.api_key, back.note) == (1, "[redacted]", b"password=[redacted]")
    assert back.password.get_secret_value() == "[redacted]"


TAGS = st.sampled_from(
    ["$type", "$items", "$value", "$zone", "$name", "$object", "$factory", "$1", "${", "name", "x"]
)
KINDS = st.sampled_from(
    ["tuple", "set", "date", "timedelta", "Path", "deque", "str", "builtins.Exception", "os.system"]
    + [f"{__name__}.{name}" for name in ("Author", "Book", "Color", "Point", "Permission")]
)
HOSTILE = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | KINDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TAGS, inner, max_size=4)
        | st.builds(
            lambda kind, fields: {**fields, "$type": kind},
            KINDS,
            st.dictionaries(TAGS, inner, max_size=4),
        )
    ),
    max_leaves=15,
)


@given(HOSTILE)
def test_damaged_recording_raises_no_other_error(data: Any) -> None:
    with suppress(RecordedValueError):
        decode(data, Book | Point | Permission)
    assert isinstance(decode_error(data), Exception)
    error = {"$type": "builtins.Exception", "module": "builtins", "name": "OSError"}
    damaged = {**error, "message": "", "args": data, "attributes": data, "cause": data}
    assert isinstance(decode_error(damaged), Exception)


def test_arguments_that_cannot_be_kept_count_by_name_of_type() -> None:
    class Broken:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("no context")

    assert encode_arguments(
        {
            "connection": threading.local(),
            "ids": {3, 1, 2},
            "options": {"lock": threading.Lock(), 7: date(2026, 1, 1)},
            "model": Book,
            "user": User(id=1),
            "broken": Broken(),
            "cycle": cyclic(),
        }
    ) == {
        "connection": {"$object": "_local"},
        "ids": {"$type": "set", "$items": [1, 2, 3]},
        "options": {"lock": {"$object": "lock"}, "$7": {"$type": "date", "$value": "2026-01-01"}},
        "model": {"$object": "class Book"},
        "user": {"$object": "User"},
        "broken": {"$object": Broken.__qualname__},
        "cycle": [{"self": {"$object": "list"}}],
    }
    assert encode_arguments({"book": BOOK})["book"]["author"]["name"] == "Herbert"


def test_sets_have_the_same_json_under_every_hash_seed() -> None:
    code = (
        "from noukai_sdk.boundaries.values import encode_arguments;"
        "print(encode_arguments({'x': {'a', 'b', 'c', ('d', 1), None}}))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True, check=True,
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert len(texts) == 1
