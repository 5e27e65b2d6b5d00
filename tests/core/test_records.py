"""Records, keys, rows, arguments and results: what is accepted comes back equal; what would not is refused, with advice."""

from __future__ import annotations

import datetime
import enum
import typing
from collections.abc import Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field, make_dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, Literal, NamedTuple, NewType, TypeVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from replicator import Context, Service, Table, Tables, UsageError, handler
from replicator.core.frames import Fetch
from replicator.core.views import Member
from replicator.testing import Local
from replicator.transport import pyro_frames
from replicator.values import NESTED_MAX, codec_for, pack, pack_wire, unpack, unpack_wire
from replicator.wire import decode_frame, encode_frame

T = TypeVar("T")
Cents = NewType("Cents", int)


@dataclass(frozen=True, kw_only=True)
class Named:
    """All by name."""

    a: int
    b: str = ""


@dataclass(frozen=True)
class Mixed:
    """Some by name, in between."""

    a: int
    _: KW_ONLY
    b: str = "x"
    c: tuple[Cents, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """Inherited from, with what is no field beside."""

    kind: ClassVar[str] = "base"
    a: int = 1
    rate: float = 0.5


@dataclass(frozen=True, slots=True)
class Derived(Base):
    """A field in the place of another, and one more."""

    a: int = field(default=2, compare=False)
    more: Named | None = None


@dataclass(frozen=True)
class Watchful:
    """Looks at its values, and leaves what is clean as it is."""

    name: str
    cents: int = 0

    def __post_init__(self) -> None:
        if self.cents < 0:
            raise ValueError("below zero")
        object.__setattr__(self, "name", self.name.strip())


@dataclass(frozen=True)
class OtherEquality:
    """Equal whatever the case."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OtherEquality) and self.name.lower() == other.name.lower()

    def __hash__(self) -> int:
        return hash(self.name.lower())


@dataclass(frozen=True)
class OwnConstructor:
    """Takes the fields in another order."""

    a: int
    b: int

    def __init__(self, b: int, a: int) -> None:
        object.__setattr__(self, "a", a)
        object.__setattr__(self, "b", b)


@dataclass(frozen=True)
class Nothing:
    """Without a field."""


def alias_of(value: Any) -> Any:
    """What `type X = value` makes, on every Python."""
    return TypeAliasType("Alias", value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
named = st.builds(Named, a=ints, b=texts)
CASES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "named": (Named, named),
    "mixed": (Mixed, st.builds(Mixed, ints, b=texts, c=st.lists(ints).map(tuple))),
    "derived": (Derived, st.builds(Derived, ints, floats, st.none() | named)),
    "watchful": (Watchful, st.builds(Watchful, texts, st.integers(0, 9))),
    "equality": (OtherEquality, st.builds(OtherEquality, texts)),
    "constructor": (OwnConstructor, st.builds(OwnConstructor, ints, ints)),
    "nothing": (Nothing, st.just(Nothing())),
    "newtype": (Cents, ints),
    "alias": (alias_of(tuple[Named, ...]), st.lists(named).map(tuple)),
    "annotated": (typing.Annotated[int, "cents"], ints),
    "union": (None | str | Named | bool | bytes, st.none() | texts | named | st.booleans() | st.binary(max_size=9)),
    "numbers": (float | int, ints | floats),
    "nested union": (
        tuple[int | None, tuple[Named | None, ...]],
        st.tuples(ints | st.none(), st.lists(named).map(tuple)),
    ),
    "empty tuple": (tuple[()], st.just(())),
    "any tuple": (tuple, st.lists(ints | texts).map(tuple)),
    "anything": (object, st.recursive(ints | texts | floats | st.none(), lambda inner: st.lists(inner).map(tuple))),
}
KEYS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, ints), "text": (str, texts), "bytes": (bytes, st.binary(max_size=9)), "newtype": (Cents, ints),
    "pair": (tuple[str, tuple[int, ...]], st.tuples(texts, st.lists(ints).map(tuple))),
    "alias": (alias_of(tuple[Cents, str]), st.tuples(ints, texts)),
}  # fmt: skip


def echo_service(key: Any, row: Any) -> Any:
    """A service of one table that gives back what it is given, from its table."""

    class Rows(Tables):
        __annotations__ = {"rows": Table[key, row]}

    class Echo(Service[Rows]):
        def put(self, ctx: Any, key: Any, row: Any) -> Any:
            ctx.tables.rows[key] = row
            return ctx.tables.rows[key]

        def get(self, ctx: Any, key: Any) -> Any:
            return ctx.tables.rows[key]

        def only(self, ctx: Any) -> Any:
            [(key, row)] = ctx.tables.rows.items()
            return key, row

        put.__annotations__ = {"ctx": Context[Rows], "key": key, "row": row, "return": row}
        get.__annotations__ = {"ctx": Context[Rows], "key": key, "return": row}
        only.__annotations__ = {"ctx": Context[Rows], "return": tuple[key, row]}
        put, get, only = handler(put), handler(get), handler(only)  # type: ignore[assignment]

    return Echo


def same(one: object, other: object) -> bool:
    """Equal, and of equal types within: 1, 1.0 and True are not the same."""
    return one == other and repr(one) == repr(other)


@pytest.mark.parametrize("kind", CASES)
@settings(max_examples=20)
@given(st.data())
def test_whatever_is_accepted_comes_back_equal(kind: str, data: st.DataObject) -> None:
    """As a row, an argument, a result; from both copies of `Local`, and from packed bytes. Keys of each kind take turns."""
    row_type, rows = CASES[kind]
    key_type, keys = KEYS[data.draw(st.sampled_from(sorted(KEYS)))]
    row, key = data.draw(rows), data.draw(keys)
    codec = codec_for(row_type, "row")
    packed = codec.encode(row, "row")
    assert same(codec.decode(packed), row)
    assert codec.encode(codec.decode(packed), "row") == packed
    with Local(echo_service(key_type, row_type)) as echo:
        assert same(echo.put(key, row), row)
        assert same(echo.get(key=key), row)
        assert same(echo.only(), (key, row))


FIELD_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, ints), (str, texts), (float, floats), (bool, st.booleans()), (bytes, st.binary(max_size=5)),
    (int | None, ints | st.none()), (Named, named), (tuple[str, ...], st.lists(texts).map(tuple)), (Cents, ints),
]  # fmt: skip


@st.composite
def records(draw: st.DrawFn, depth: int = 2) -> Any:
    """A frozen record class of any shape, and a record of it."""
    fields: list[Any] = []
    values: dict[str, Any] = {}
    for number in range(draw(st.integers(0, 4))):
        name = f"f{number}"
        if depth and draw(st.booleans()):
            kind, value = draw(records(depth=depth - 1))
        else:
            kind, strategy = draw(st.sampled_from(FIELD_TYPES))
            value = draw(strategy)
        is_last = draw(st.booleans())
        fields.append((name, kind, field(default=value, kw_only=True) if is_last else field()))
        values[name] = value
    name = draw(st.sampled_from(["One", "Two"]))
    made = make_dataclass(
        name, fields, frozen=True, kw_only=draw(st.booleans()), slots=draw(st.booleans()), order=draw(st.booleans())
    )
    return made, made(**values)


@settings(max_examples=150)
@given(records())
def test_a_record_of_any_shape_comes_back_equal(made: tuple[Any, Any]) -> None:
    """Nested, with defaults, by position or by name, with slots or without."""
    kind, value = made
    codec = codec_for(kind, "row")
    back = codec.decode(codec.encode(value, "row"))
    assert same(back, value)
    assert type(back) is kind


@dataclass(frozen=True)
class Scaled:
    """Changes its value each time that it is made."""

    cents: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "cents", self.cents * 100)


@dataclass(frozen=True)
class Picky:
    """Refuses what it has made itself."""

    cents: int

    def __post_init__(self) -> None:
        if self.cents > 9:
            raise ValueError("too much")
        object.__setattr__(self, "cents", self.cents + 5)


@pytest.mark.parametrize(("record", "word"), [(Scaled(5), "changes its own values"), (Picky(9), "too much")])
def test_a_record_that_would_come_back_changed_is_refused_when_it_is_written(record: Any, word: str) -> None:
    """`__post_init__` is looked at by its effect, before anything is stored: nothing is written that cannot be read."""
    codec = codec_for(type(record), "row")
    with pytest.raises(UsageError, match=word):
        codec.encode(record, "row")
    with Local(echo_service(int, type(record))) as echo, pytest.raises(UsageError, match=word):
        echo.put(1, record)


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    a: int
    b: int


class Typed(typing.TypedDict):
    a: int


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T


@dataclass(frozen=True)
class Ring:
    inner: Ring | None


@dataclass(frozen=True)
class WithInitVar:
    a: int
    scale: InitVar[int] = 1


@dataclass(frozen=True)
class NotInit:
    a: int
    b: int = field(init=False, default=3)


@dataclass(frozen=True, eq=False)
class Unequal:
    a: int


@dataclass(frozen=True, init=False)
class OddConstructor:
    a: int

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "a", int(text))


class Undecorated(Named):
    more: int = 0


@dataclass(frozen=True)
class BadDefault:
    a: int = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Unresolved:
    a: Missing  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("annotation", "advice"),
    [
        (Any, "write object"),
        (list[int], "tuple"),
        (dict[str, int], "a table of its own"),
        (frozenset[int], "order of a set"),
        (Colour, "store its value"),
        (Literal["a"], "check them in the handler"),
        (Pair, "frozen=True"),
        (Typed, "frozen=True"),
        (Box[int], "without parameters"),
        (Box, "type variable"),
        (T, "type variable"),
        (datetime.datetime, "milliseconds"),
        (Decimal, "smallest unit"),
        (Ring, "holds itself"),
        (alias_of(list[int]), "tuple"),
        (WithInitVar, "InitVar"),
        (NotInit, "init=False"),
        (Unequal, "eq=False"),
        (OddConstructor, "class method"),
        (Undecorated, "frozen=True"),
        (BadDefault, "default of a"),
        (Unresolved, "TYPE_CHECKING"),
        (tuple[Named, list[int]], "tuple"),
        (object | Named, "ambiguous"),
        (Named | tuple[int, ...], "ambiguous"),
        (NewType("Maybe", tuple[int] | None) | Named, "ambiguous"),
        ("Named", "without quotes"),
    ],
    ids=str,
)
def test_what_cannot_come_back_is_refused_at_class_creation_with_advice(annotation: Any, advice: str) -> None:
    """As a row, an argument, and a result."""
    with pytest.raises(UsageError, match=advice) as caught:
        codec_for(annotation, "Rows.rows")
    assert "Rows.rows" in str(caught.value)
    if not isinstance(annotation, str):
        with pytest.raises(UsageError, match=advice):
            echo_service(int, annotation)


def test_an_alias_that_stands_for_itself_is_refused() -> None:
    """`type Json = None | tuple[Json, ...]` has no bound; one that is its own value is no type."""
    box: list[Any] = []

    class Lazy:
        __name__ = "Json"

        @property
        def __value__(self) -> Any:
            return box[0]

    Lazy.__name__ = "TypeAliasType"
    lazy = Lazy()
    box.append(tuple[int, lazy])  # type: ignore[valid-type]
    with pytest.raises(UsageError, match="holds itself"):
        codec_for(lazy, "row")
    box[0] = lazy
    with pytest.raises(UsageError, match="stands for itself"):
        codec_for(lazy, "row")


@pytest.mark.parametrize("plain", ["ab", b"ab", ("a",), ("a", "b", "c"), None, 5])
def test_what_only_looks_like_a_record_is_none(plain: Any) -> None:
    """A text of two letters is no record of two texts, and a shorter tuple is not filled up with defaults."""
    two = make_dataclass("Two", [("a", str), ("b", str, field(default="x"))], frozen=True)
    for annotation in (two, tuple[two, ...], tuple[two]):  # type: ignore[valid-type]
        with pytest.raises(UsageError, match="packed value"):
            codec_for(annotation, "row").from_plain(plain if annotation is two else (plain,))
    spec = echo_service(int, two).handlers()["put"]
    with pytest.raises(UsageError, match="row"):
        spec.arguments_from_plain({"key": 1, "row": plain})


TIMESTAMPS = [
    msgpack.packb([msgpack.Timestamp(5)]), msgpack.packb({"a": msgpack.Timestamp(2**33, 7)}),
    msgpack.packb(msgpack.Timestamp(2**40)), b"\x91\xc8\x00\x0c\xff" + bytes(12), b"\xc7\x04\xff" + bytes(4),
    b"\xc9\x00\x00\x00\x08\xff" + bytes(8), b"\xc7\x00\xff", b"\xc7\x00\x05", b"\xd4\x05\x00",
]  # fmt: skip


@pytest.mark.parametrize("data", TIMESTAMPS)
@pytest.mark.parametrize("decode", [unpack, unpack_wire])
def test_no_extension_type_comes_in(data: bytes, decode: Callable[[bytes], Any]) -> None:
    """msgpack makes a Timestamp of type -1 without asking: every form of it is refused, and so is every other type."""
    with pytest.raises(UsageError, match=r"extension type|timestamp"):
        decode(data)
    with pytest.raises(pyro_frames.UNPACK_ERRORS, match=r"extension type|timestamp"):
        pyro_frames.unpack(data)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_that_msgpack_cannot_hold_is_an_error_of_ours(number: int) -> None:
    """Its OverflowError is no ValueError. The packer is whole afterwards."""
    with pytest.raises(UsageError, match="cannot be packed"):
        pack_wire({"facts": [number]})
    with pytest.raises(UsageError, match="64 bits"):
        pack(number)
    assert unpack_wire(pack_wire([1])) == (1,)


def test_values_nested_to_the_limit_come_back() -> None:
    """One deeper is refused, whatever depth the caller's own stack has."""
    value: Any = 0
    for _ in range(NESTED_MAX):
        value = (value,)
    codec = codec_for(object, "row")
    assert codec.decode(codec.encode(value, "row")) == value
    with pytest.raises(UsageError, match="nested"):
        codec.encode((value,), "row")


def test_frames_hold_no_number_that_cannot_be_counted_on() -> None:
    """A number near 2**63 would overflow with the next step."""
    blob = encode_frame("d1", Fetch(1, 1, Member("a", "1"), 1, 2**64 - 2, b"", b""))
    with pytest.raises(UsageError, match="after_seq"):
        decode_frame("d1", blob)
