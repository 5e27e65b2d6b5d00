"""Own the canonical bytes of values: what a row, an argument, a reply and a TSD entry may be, and how it is packed.

A *plain* value is None, bool, int (64 bits), float (no NaN), str, bytes or a tuple of plain values. A *codec* is made from
a type annotation and turns a declared type (plain types, unions, frozen record classes: records.py) into a plain value and
back, refusing what does not fit. One value has exactly one packed form (msgpack: shortest integers, 64-bit floats, arrays for
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
from replicator.records import (
    RecordShape,
    advice_for,
    fields_of,
    hints_of,
    is_alias,
    is_transparent,
    shown_default,
    takes_positions,
    value_of_alias,
)

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
    except (ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"a value cannot be packed: {error}") from error


def unpack(data: bytes) -> Any:
    """Unpack what `pack` packed. Raises UsageError on anything else."""
    try:
        value = _unpackb(data, use_list=False, object_hook=_refuse_map, ext_hook=_refuse_ext, max_ext_len=0)
        check_plain(value, levels=PACKED_NESTED_MAX)
        return value
    except _UNPACK_ERRORS as error:
        raise _garbage(error) from error


def pack_wire(value: object) -> bytes:
    """Pack a frame: plain values, lists, and maps with text keys. Not for rows: maps have no canonical order.

    Raises UsageError for what msgpack cannot hold: integers beyond 64 bits, text that is not valid Unicode.
    """
    try:
        return _packer_pack(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"a frame cannot be packed: {error}") from error


def unpack_wire(data: bytes) -> Any:
    """Unpack a frame; arrays come back as tuples. Raises UsageError on garbage."""
    try:
        return _unpackb(data, use_list=False, ext_hook=_refuse_ext, max_ext_len=0)
    except _UNPACK_ERRORS as error:
        raise _garbage(error) from error


def _refuse_map(value: object) -> object:
    raise UsageError("a map is not a plain value")


def _refuse_ext(code: int, data: bytes) -> object:
    """Refuse an extension without data. One with data is beyond `max_ext_len`: msgpack never asks the hook about its type -1."""
    raise UsageError(f"msgpack extension type {code} is not accepted")


_UNPACK_ERRORS = (ValueError, TypeError, msgpack.UnpackException, RecursionError)


def _garbage(error: BaseException) -> UsageError:
    if isinstance(error, UsageError):
        return error
    if "max_ext_len" in str(error):
        return UsageError("a msgpack extension type is not accepted")
    return UsageError(f"bytes that are not a packed value: {type(error).__name__}: {error}")


class Codec:
    """Turn values of one annotated type into plain values and back.

    `to_plain(value, where)` raises UsageError naming *where* when the value does not fit the annotation;
    `from_plain(plain)` trusts its input to come from `to_plain` of the same annotation, except that it checks
    the shape of records. `is_plain` is True when both are the identity for values that fit. Every value of `exact_type`
    fits as it is; None where that takes a closer look. `is_tuple`: its plain value may be a tuple. `records`: the shapes of
    all record classes in it, the inner ones first.
    """

    __slots__ = ("exact_type", "from_plain", "is_plain", "is_tuple", "name", "records", "to_plain")

    def __init__(
        self,
        name: str,
        to_plain: Callable[[Any, str], Any],
        from_plain: Callable[[Any], Any],
        is_plain: bool,
        exact_type: type | None = None,
        *,
        is_tuple: bool = False,
        records: tuple[RecordShape, ...] = (),
    ) -> None:
        self.name = name
        self.is_tuple = is_tuple
        self.records = records
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


def _any_tuple_to_plain(value: Any, where: str) -> Any:
    if type(value) is not tuple:
        raise _mismatch(value, "tuple", where)
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
    object: Codec("any plain value", _any_to_plain, _identity, True, is_tuple=True),
    tuple: Codec("tuple", _any_tuple_to_plain, _identity, True, is_tuple=True),
}

#: Records and aliases whose codecs are under way, the outermost first.
_being_made: list[Any] = []


def without_alias(annotation: Any, where: str) -> Any:
    """Return the type that a NewType, Annotated, or alias without parameters stands for. Raises UsageError."""
    for _ in range(NESTED_MAX):
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif is_alias(annotation):
            annotation = value_of_alias(annotation, where)
        elif typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        else:
            return tuple if annotation is typing.Tuple else annotation  # noqa: UP006
    raise UsageError(f"{where}: {annotation!r} stands for itself")


def codec_for(annotation: Any, where: str) -> Codec:
    """Make the codec of an annotation.

    Raises UsageError naming *where*, with advice, for a type that cannot be stored: lists, dicts, sets, mutable classes, Any.
    """
    alias = annotation
    annotation = without_alias(annotation, where)
    if annotation is None or (isinstance(annotation, type) and annotation in _SCALARS):
        return _SCALARS[annotation]
    if any(alias is each for each in _being_made):
        raise UsageError(f"{where}: {_name_of(alias)} holds itself; keep the key of another row instead")
    _being_made.append(alias)
    try:
        return _codec_of(annotation, where)
    finally:
        _being_made.pop()


def _codec_of(annotation: Any, where: str) -> Codec:
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return _tuple_codec(annotation, where)
    if origin in (Union, types.UnionType):
        return _union_codec(annotation, where)
    if origin is None and isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _record_codec(annotation, where)
    raise UsageError(f"{where}: {_name_of(annotation)} cannot be stored: {advice_for(annotation)}")


def _name_of(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else repr(annotation)


def _records_of(codecs: Iterable[Codec]) -> tuple[RecordShape, ...]:
    """Return the shapes of all records in *codecs*, each once."""
    found: dict[RecordShape, None] = {}
    for codec in codecs:
        found.update(dict.fromkeys(codec.records))
    return tuple(found)


def _tuple_codec(annotation: Any, where: str) -> Codec:
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence_codec(codec_for(arguments[0], where))
    codecs = tuple(codec_for(argument, where) for argument in arguments if argument != ())
    name = f"tuple[{', '.join(codec.name for codec in codecs) or '()'}]"
    count = len(codecs)

    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not tuple or len(value) != count:
            raise _mismatch(value, name, where)
        return tuple(
            codec.to_plain(item, f"{where}[{index}]")
            for index, (codec, item) in enumerate(zip(codecs, value, strict=True))
        )

    if all(codec.is_plain for codec in codecs):
        return Codec(name, to_plain, _identity, True, is_tuple=True)

    def from_plain(plain: Any) -> Any:
        return tuple(codec.from_plain(item) for codec, item in zip(codecs, _tuple_of(plain, name), strict=True))

    return Codec(name, to_plain, from_plain, False, is_tuple=True, records=_records_of(codecs))


def _sequence_codec(item_codec: Codec) -> Codec:
    name = f"tuple[{item_codec.name}, ...]"

    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not tuple:
            raise _mismatch(value, name, where)
        return tuple(item_codec.to_plain(item, f"{where}[{index}]") for index, item in enumerate(value))

    if item_codec.is_plain:
        return Codec(name, to_plain, _identity, True, is_tuple=True)

    def from_plain(plain: Any) -> Any:
        return tuple(map(item_codec.from_plain, _tuple_of(plain, name)))

    return Codec(name, to_plain, from_plain, False, is_tuple=True, records=item_codec.records)


def _tuple_of(plain: Any, name: str) -> tuple[Any, ...]:
    """Refuse what has items but is no tuple: a text is no record of as many texts. Raises UsageError."""
    if type(plain) is not tuple:
        raise _mismatch(plain, name, "packed value")
    return plain


def _union_codec(annotation: Any, where: str) -> Codec:
    codecs = [codec_for(member, where) for member in typing.get_args(annotation)]
    tuples = [codec for codec in codecs if codec.is_tuple]
    if len(tuples) > 1:
        raise UsageError(
            f"{where}: {annotation!r} is ambiguous once packed: a union may hold at most one record, tuple or object type"
        )
    name = " | ".join(codec.name for codec in codecs)
    tried = sorted(codecs, key=_takes_others)

    def to_plain(value: Any, where: str) -> Any:
        for codec in tried:
            try:
                return codec.to_plain(value, where)
            except UsageError:
                continue
        raise _mismatch(value, name, where)

    if all(codec.is_plain for codec in codecs):
        return Codec(name, to_plain, _identity, True, is_tuple=bool(tuples))
    inner = next(codec for codec in codecs if not codec.is_plain)

    def from_plain(plain: Any) -> Any:
        return inner.from_plain(plain) if type(plain) is tuple else plain

    return Codec(name, to_plain, from_plain, False, is_tuple=True, records=_records_of(codecs))


def _takes_others(codec: Codec) -> bool:
    """Whether it takes values of another type, too: tried last, so that an int of `float | int` stays one."""
    return codec.name == "float"


def _record_codec(record: type[Any], where: str) -> Codec:
    fields = fields_of(record, where)
    hints = hints_of(record, f"{where}: {record.__name__}")
    names = tuple(field.name for field in fields)
    codecs = tuple(codec_for(hints[name], f"{where}: {record.__name__}.{name}") for name in names)
    defaults = [_default_of(field, codec, where) for field, codec in zip(fields, codecs, strict=True)]
    kinds = [codec.name for codec in codecs]
    shape = RecordShape(record, tuple(zip(names, kinds, defaults, strict=True)))
    pairs = tuple(zip(names, codecs, strict=True))
    make = _maker(record, codecs, names if not takes_positions(record, names, where) else ())
    record_name = record.__name__

    def to_plain(value: Any, where: str) -> Any:
        if type(value) is not record:
            raise _mismatch(value, record_name, where)
        return tuple([codec.to_plain(getattr(value, name), name) for name, codec in pairs])

    def to_plain_again(value: Any, where: str) -> Any:
        plain = to_plain(value, where)
        again = to_plain(_made_again(make, plain, record_name, where), where)
        if pack_checked(again) != pack_checked(plain):
            raise UsageError(
                f"{where}: {record_name} changes its own values when it is made again (__post_init__ or __init__): "
                f"{shown(plain)} would come back as {shown(again)}; change them in a class method instead"
            )
        return plain

    checked = to_plain if is_transparent(record, names) else to_plain_again
    records = (*_records_of(codecs), shape)
    return Codec(record_name, checked, make, False, is_tuple=True, records=records)


def _default_of(field: dataclasses.Field[Any], codec: Codec, where: str) -> str:
    """Return a field's default as text. Raises UsageError for one that does not fit the annotation."""
    if field.default is not dataclasses.MISSING:
        codec.to_plain(field.default, f"{where}: default of {field.name}")
    return shown_default(field)


def _maker(record: type[Any], codecs: tuple[Codec, ...], names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return what makes a record of its plain fields: by *names*, or by position if there are none."""
    count = len(codecs)
    name = f"{record.__name__} of {count} fields"
    is_plain = all(codec.is_plain for codec in codecs)

    def make_of_plain(plain: Any) -> Any:
        if type(plain) is not tuple or len(plain) != count:
            raise _mismatch(plain, name, "packed value")
        return record(*plain)

    def make(plain: Any) -> Any:
        if type(plain) is not tuple or len(plain) != count:
            raise _mismatch(plain, name, "packed value")
        values = [codec.from_plain(item) for codec, item in zip(codecs, plain, strict=True)]
        return record(**dict(zip(names, values, strict=True))) if names else record(*values)

    return make if names or not is_plain else make_of_plain


def _made_again(make: Callable[[Any], Any], plain: Any, name: str, where: str) -> Any:
    try:
        return make(plain)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # the user's own code may raise any
        raise UsageError(f"{where}: {name} cannot be made again from its fields: {error!r}") from error
