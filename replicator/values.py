"""Own the canonical bytes of values: what a row, an argument, a reply and a TSD entry may be, and how it is packed.

A *plain* value is None, bool, int (64 bits), float (no NaN), str, bytes or a tuple of plain values. A *codec* is made from
a type annotation and turns a declared type (plain types, unions, frozen record classes) into a plain value and back,
refusing what does not fit. One value has exactly one packed form (msgpack: shortest integers, 64-bit floats, arrays for
tuples and records), so equal values have equal bytes on every node: digests, isolation and shipping rest on that.

Never does: look at the clock, the network, or anything but its arguments.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Union, cast

import msgpack

from replicator.errors import UsageError

#: Makes a named tuple without its own constructor, at half the price: `new_tuple(Facts, (1, 2, 3, 4, 5))`. For hot places.
new_tuple = tuple.__new__

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1  # msgpack also knows unsigned 64 bits; one signed range is simpler to state

_packer_pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_unpackb = msgpack.unpackb

type_names = {type(None): "None", tuple: "tuple", list: "list", dict: "dict", set: "set"}


#: Tuples within tuples. A bound of our own: how deep Python or msgpack can go depends on who calls, so it would differ by node.
NESTED_MAX = 100
#: What was packed may be deeper: records and tuples of an annotation come on top. msgpack packs no more than this.
PACKED_NESTED_MAX = 512
SHOWN_MAX = 80


def shown(value: object) -> str:
    """Return the beginning of `repr(value)` for an error; never fails, however deep what a peer has sent is nested."""
    try:
        return repr(value)[:SHOWN_MAX]
    except RecursionError:
        return f"a {type(value).__name__} nested very deep"


def check_plain(value: object, where: str = "value", levels: int = NESTED_MAX) -> None:
    """Raise UsageError, naming *where*, unless *value* is plain and has at most *levels* of tuples. O(size)."""
    kind = type(value)
    if kind is str or kind is bool or kind is bytes or value is None:
        return
    if kind is int:
        if not INT_MIN <= cast(int, value) <= INT_MAX:
            raise UsageError(f"{where}: the integer {value} is beyond 64 bits; store it as str or bytes")
    elif kind is float:
        if value != value:
            raise UsageError(f"{where}: NaN cannot be stored, as it is unequal to itself in a digest")
    elif kind is tuple:
        if not levels:
            raise UsageError(f"{where[:SHOWN_MAX]}: tuples are nested more than {NESTED_MAX} deep")
        for index, item in enumerate(cast(tuple[object, ...], value)):
            check_plain(item, f"{where}[{index}]", levels - 1)
    elif kind is list:
        raise UsageError(f"{where}: a list cannot be stored, as it could change unseen; use a tuple")
    else:
        raise UsageError(
            f"{where}: a {kind.__name__} cannot be stored; use None, bool, int, float, str, bytes, a tuple of these, "
            "or a frozen record class named in the annotation"
        )


def pack(value: object, where: str = "value") -> bytes:
    """Pack a plain value into its one canonical form. Raises UsageError naming *where*. O(size)."""
    check_plain(value, where)
    return pack_checked(value)


def pack_checked(value: object) -> bytes:
    """Pack a value already known to be plain; costs half of `pack`."""
    try:
        return _packer_pack(value)
    except UnicodeEncodeError as error:
        raise UsageError(f"text that is not valid Unicode cannot be stored: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a value cannot be packed: {error}") from error


def unpack(data: bytes) -> Any:
    """Unpack what `pack` packed. Raises UsageError on anything else."""
    try:
        value = _unpackb(data, use_list=False, object_hook=_refuse_map, ext_hook=_refuse_ext)
        check_plain(value, levels=PACKED_NESTED_MAX)
        return value
    except _UNPACK_ERRORS as error:
        raise _garbage(error) from error


def pack_wire(value: object) -> bytes:
    """Pack a frame: plain values, lists, and maps with text keys. Not for rows: maps have no canonical order."""
    return _packer_pack(value)


def unpack_wire(data: bytes) -> Any:
    """Unpack a frame; arrays come back as tuples. Raises UsageError on garbage."""
    try:
        return _unpackb(data, use_list=False, ext_hook=_refuse_ext)
    except _UNPACK_ERRORS as error:
        raise _garbage(error) from error


def _refuse_map(value: object) -> object:
    raise UsageError("a map is not a plain value")


def _refuse_ext(code: int, data: bytes) -> object:
    raise UsageError(f"msgpack extension type {code} is not accepted")


_UNPACK_ERRORS = (ValueError, TypeError, msgpack.UnpackException, RecursionError)


def _garbage(error: BaseException) -> UsageError:
    if isinstance(error, UsageError):
        return error
    return UsageError(f"bytes that are not a packed value: {type(error).__name__}: {error}")


class Codec:
    """Turn values of one annotated type into plain values and back.

    `to_plain(value, where)` raises UsageError naming *where* when the value does not fit the annotation;
    `from_plain(plain)` trusts its input to come from `to_plain` of the same annotation, except that it checks
    the shape of records. `is_plain` is True when both are the identity for values that fit. Every value of `exact_type`
    fits as it is; None where that takes a closer look.
    """

    __slots__ = ("exact_type", "from_plain", "is_plain", "name", "to_plain")

    def __init__(
        self,
        name: str,
        to_plain: Callable[[Any, str], Any],
        from_plain: Callable[[Any], Any],
        is_plain: bool,
        exact_type: type | None = None,
    ) -> None:
        self.name = name
        self.exact_type = exact_type
        self.to_plain = to_plain
        self.from_plain = from_plain
        self.is_plain = is_plain

    def encode(self, value: object, where: str) -> bytes:
        """Check *value* and pack it."""
        return pack_checked(self.to_plain(value, where))

    def decode(self, data: bytes) -> Any:
        """Unpack a value packed by `encode`."""
        return self.from_plain(_unpackb(data, use_list=False))

    def decode_all(self, packed: Iterable[bytes]) -> list[Any]:
        """Unpack many values packed by `encode`, at a third of the cost of one after the other."""
        plain = [_unpackb(data, use_list=False) for data in packed]
        return plain if self.is_plain else [self.from_plain(each) for each in plain]


def _identity(value: Any) -> Any:
    return value


def _mismatch(value: object, expected: str, where: str) -> UsageError:
    if isinstance(value, list):
        return UsageError(f"{where}: a list cannot be stored, as it could change unseen; use a tuple ({expected})")
    kind = type_names.get(type(value), type(value).__name__)
    return UsageError(f"{where}: expected {expected}, got {kind} {shown(value)}")


def _scalar(kind: type, name: str) -> Codec:
    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise _mismatch(value, name, where)
        return value

    return Codec(name, to_plain, _identity, True, kind)


def _int_to_plain(value: Any, where: str) -> Any:
    if type(value) is not int:
        raise _mismatch(value, "int", where)
    if not INT_MIN <= value <= INT_MAX:
        raise UsageError(f"{where}: the integer {value} is beyond 64 bits; store it as str or bytes")
    return value


def _float_to_plain(value: Any, where: str) -> Any:
    if type(value) is int and -(2**53) <= value <= 2**53:
        return float(value)
    if type(value) is not float:
        raise _mismatch(value, "float", where)
    if value != value:
        raise UsageError(f"{where}: NaN cannot be stored, as it is unequal to itself in a digest")
    return value


def _none_to_plain(value: Any, where: str) -> Any:
    if value is not None:
        raise _mismatch(value, "None", where)
    return None


def _any_to_plain(value: Any, where: str) -> Any:
    check_plain(value, where)
    return value


_SCALARS: dict[object, Codec] = {
    str: _scalar(str, "str"),
    bool: _scalar(bool, "bool"),
    bytes: _scalar(bytes, "bytes"),
    int: Codec("int", _int_to_plain, _identity, True),
    float: Codec("float", _float_to_plain, _identity, True),
    type(None): Codec("None", _none_to_plain, _identity, True),
    None: Codec("None", _none_to_plain, _identity, True),
    object: Codec("any plain value", _any_to_plain, _identity, True),
    tuple: Codec("tuple", _any_to_plain, _identity, True),
}


def codec_for(annotation: Any, where: str) -> Codec:
    """Make the codec of an annotation.

    Raises UsageError naming *where* for a type that cannot be stored: lists, dicts, sets, mutable classes, Any.
    """
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return _tuple_codec(annotation, where)
    if origin in (Union, types.UnionType):
        return _union_codec(annotation, where)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _record_codec(annotation, where)
    if isinstance(annotation, typing.NewType):
        return codec_for(annotation.__supertype__, where)
    raise UsageError(
        f"{where}: {annotation!r} cannot be stored; use None, bool, int, float, str, bytes, tuple[...], a union of these "
        "with None, or a class marked @dataclass(frozen=True)"
    )


def _tuple_codec(annotation: Any, where: str) -> Codec:
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence_codec(codec_for(arguments[0], where))
    codecs = tuple(codec_for(argument, where) for argument in arguments if argument != ())
    name = f"tuple[{', '.join(codec.name for codec in codecs)}]"
    count = len(codecs)

    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not tuple or len(value) != count:
            raise _mismatch(value, name, where)
        return tuple(
            codec.to_plain(item, f"{where}[{index}]")
            for index, (codec, item) in enumerate(zip(codecs, value, strict=True))
        )

    if all(codec.is_plain for codec in codecs):
        return Codec(name, to_plain, _identity, True)

    def from_plain(plain: Any) -> Any:
        return tuple(codec.from_plain(item) for codec, item in zip(codecs, plain, strict=True))

    return Codec(name, to_plain, from_plain, False)


def _sequence_codec(item_codec: Codec) -> Codec:
    name = f"tuple[{item_codec.name}, ...]"

    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not tuple:
            raise _mismatch(value, name, where)
        return tuple(item_codec.to_plain(item, f"{where}[{index}]") for index, item in enumerate(value))

    if item_codec.is_plain:
        return Codec(name, to_plain, _identity, True)
    return Codec(name, to_plain, lambda plain: tuple(map(item_codec.from_plain, plain)), False)


def _union_codec(annotation: Any, where: str) -> Codec:
    members = typing.get_args(annotation)
    records = [member for member in members if dataclasses.is_dataclass(member)]
    codecs = [codec_for(member, where) for member in members]
    structured = [codec for codec in codecs if codec.name.startswith("tuple") or not codec.is_plain]
    if len(structured) > 1:
        raise UsageError(
            f"{where}: {annotation!r} is ambiguous once packed: a union may hold at most one record or tuple type"
        )
    name = " | ".join(codec.name for codec in codecs)

    def to_plain(value: Any, where: str) -> Any:
        for codec in codecs:
            try:
                return codec.to_plain(value, where)
            except UsageError:
                continue
        raise _mismatch(value, name, where)

    if not records and all(codec.is_plain for codec in codecs):
        return Codec(name, to_plain, _identity, True)
    inner = structured[0]

    def from_plain(plain: Any) -> Any:
        return inner.from_plain(plain) if type(plain) is tuple else plain

    return Codec(name, to_plain, from_plain, False)


#: Records whose codecs are under way, the outermost first.
_being_made: list[type[Any]] = []


def _record_codec(record: type[Any], where: str) -> Codec:
    if not record.__dataclass_params__.frozen:
        raise UsageError(f"{where}: {record.__name__} must be @dataclass(frozen=True), as a row must not change unseen")
    if record in _being_made:
        raise UsageError(f"{where}: {record.__name__} holds itself; keep the key of another row instead")
    hints = typing.get_type_hints(record)
    names = tuple(field.name for field in dataclasses.fields(record))
    if any(not field.init for field in dataclasses.fields(record)):
        raise UsageError(f"{where}: {record.__name__} has a field with init=False, which cannot be restored")
    _being_made.append(record)
    try:
        codecs = tuple(codec_for(hints[name], f"{where}: {record.__name__}.{name}") for name in names)
    finally:
        _being_made.pop()
    pairs = tuple(zip(names, codecs, strict=True))
    record_name = record.__name__

    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not record:
            raise _mismatch(value, record_name, where)
        return tuple([codec.to_plain(getattr(value, name), name) for name, codec in pairs])

    if all(codec.is_plain for codec in codecs):
        return Codec(record_name, to_plain, lambda plain: record(*plain), False)

    def from_plain(plain: Any) -> Any:
        return record(*[codec.from_plain(item) for codec, item in zip(codecs, plain, strict=True)])

    return Codec(record_name, to_plain, from_plain, False)
