"""Own what a record class may be, so that whatever is accepted comes back equal; and the advice for what is not.

A record is a class marked `@dataclass(frozen=True)`. It travels as the tuple of its fields and is made again by its own
constructor, which must therefore take exactly the fields. Own code in between (`__post_init__`, an own `__init__`) may look
at the values, not change them: values.py makes such a record again before it is stored, and refuses it if it differs.

Never does: pack or unpack.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from typing import Any, NamedTuple

from replicator.errors import UsageError

#: Advice by the qualified name of a class, so that nothing is imported for it.
_ADVICE = {
    "builtins.list": "use tuple[..., ...]: a list could change unseen",
    "builtins.dict": "use a tuple of pairs, or a table of its own: a dict could change unseen",
    "builtins.set": "use a tuple in a fixed order: a set could change unseen, and its order differs between nodes",
    "builtins.frozenset": "use a tuple in a fixed order: the order of a set differs between nodes",
    "builtins.bytearray": "use bytes",
    "builtins.complex": "use two floats",
    "datetime.datetime": "use an int of milliseconds since 1970, as ctx.now_ms is",
    "datetime.date": "use an int of days, or text such as '2024-12-31'",
    "datetime.timedelta": "use an int of milliseconds",
    "decimal.Decimal": "use an int of the smallest unit (cents), or text",
    "fractions.Fraction": "use two ints",
    "uuid.UUID": "use its text or its bytes",
    "collections.abc.Sequence": "use tuple[..., ...]",
    "collections.abc.Iterable": "use tuple[..., ...]",
    "collections.abc.Mapping": "use a tuple of pairs, or a table of its own",
}


class RecordShape(NamedTuple):
    """A record class as others see it: `fields` is (name, type, default or "") of each, in order, all as text."""

    record: type[Any]
    fields: tuple[tuple[str, str, str], ...]


def hints_of(thing: Any, where: str) -> dict[str, Any]:
    """Return the annotations of a class or function, names resolved. Raises UsageError for one that cannot be."""
    try:
        return typing.get_type_hints(thing)
    except Exception as error:  # an annotation is any expression
        raise UsageError(
            f"{where}: an annotation cannot be read: {error}; what it names must stand at the top of the module, and be "
            "imported at run time (not only under TYPE_CHECKING)"
        ) from error


def fields_of(record: type[Any], where: str) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of a record class, in order. Raises UsageError, with advice, for one that would not come back equal."""
    name = record.__name__
    params = record.__dict__.get("__dataclass_params__")
    if params is None:
        raise UsageError(f"{where}: {name} inherits from a record: mark it @dataclass(frozen=True), too")
    if not params.frozen:
        raise UsageError(f"{where}: {name} must be @dataclass(frozen=True), as a row must not change unseen")
    if not params.eq:
        raise UsageError(f"{where}: {name} has eq=False: what comes back would never be equal to what was stored")
    fields = dataclasses.fields(record)
    for field in fields:
        if not field.init:
            raise UsageError(f"{where}: {name} has a field with init=False, {field.name!r}, which cannot be restored")
    for hint in record.__dataclass_fields__.values():
        if hint._field_type is dataclasses._FIELD_INITVAR:  # type: ignore[attr-defined]
            raise UsageError(
                f"{where}: {name}.{hint.name} is an InitVar, which is not kept, so that the record could not be made again: "
                "make it a field, or a parameter of a class method that makes the record"
            )
    return fields


def takes_positions(record: type[Any], names: tuple[str, ...], where: str) -> bool:
    """Whether the constructor takes the fields by position, in order; else by name. Raises UsageError if it does neither."""
    try:
        parameters = inspect.signature(record).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    if {each.name for each in parameters} != set(names) or any(
        each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) for each in parameters
    ):
        raise UsageError(
            f"{where}: {record.__name__} cannot be made again from its fields ({', '.join(names)}), as its own __init__ "
            "takes other arguments: leave __init__ to dataclass, and use a class method for another way to make one"
        )
    return [each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD] == list(names)


def is_transparent(record: type[Any], names: tuple[str, ...]) -> bool:
    """Whether nothing of the user's own stands between the constructor's arguments and the fields."""
    made: Any = record
    code = getattr(made.__init__, "__code__", None)
    is_generated = code is not None and code.co_filename == "<string>" and code.co_name == "__init__"
    has_own_code = (
        hasattr(made, "__post_init__")
        or hasattr(made, "__getattr__")
        or made.__new__ is not object.__new__
        or made.__getattribute__ is not object.__getattribute__
        or type(made).__call__ is not type.__call__
    )
    places = [inspect.getattr_static(record, name, None) for name in names]
    is_stored_plainly = all(isinstance(each, types.MemberDescriptorType) or not _is_descriptor(each) for each in places)
    return is_generated and not has_own_code and is_stored_plainly


def _is_descriptor(value: object) -> bool:
    return hasattr(type(value), "__set__") or hasattr(type(value), "__get__")


def shown_default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as text that is equal in every process; "" if it has none."""
    if field.default is not dataclasses.MISSING:
        return shown_value(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return f"{getattr(field.default_factory, '__qualname__', type(field.default_factory).__qualname__)}()"
    return ""


def shown_value(value: object) -> str:
    """Return a default as text that is equal in every process and Python version."""
    if isinstance(value, tuple):
        return f"({', '.join(map(shown_value, value))})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f"{each.name}={shown_value(getattr(value, each.name))}" for each in dataclasses.fields(value)]
        return f"{type(value).__name__}({', '.join(fields)})"
    if value is None or type(value) in (bool, int, float, str, bytes):
        return ascii(value)  # what repr takes for printable depends on the version's Unicode tables
    return type(value).__qualname__


def value_of_alias(annotation: Any, where: str) -> Any:
    """Return what `type X = ...` stands for. Raises UsageError if that cannot be read."""
    try:
        return annotation.__value__
    except Exception as error:
        raise UsageError(f"{where}: what `type {annotation.__name__}` stands for cannot be read: {error}") from error


def is_alias(annotation: Any) -> bool:
    """Whether it was made by `type X = ...` (PEP 695), or by the same of typing_extensions."""
    return type(annotation).__name__ == "TypeAliasType"


def advice_for(annotation: Any) -> str:
    """Return what to write in the place of an annotation that cannot be stored."""
    origin = typing.get_origin(annotation)
    kind = origin if isinstance(origin, type) else annotation
    if annotation is Any:
        return "write object for any plain value: Any says nothing that a value could be checked by"
    if origin is typing.Literal:
        return "write the type of its values (str or int), and check them in the handler"
    if isinstance(annotation, typing.TypeVar):
        return "it is a type variable: write the type itself"
    if is_alias(origin) or is_alias(annotation):
        return "an alias with parameters: write out what it stands for"
    if isinstance(annotation, (str, typing.ForwardRef)):
        return "a name in quotes that was not resolved: write it without quotes, or at the top level of the annotation"
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return f"make a record class for each type: class {kind.__name__}OfInt, without parameters"
    if isinstance(kind, type):
        return _advice_for_class(kind)
    return _ALLOWED


_ALLOWED = (
    "use None, bool, int, float, str, bytes, tuple[...], a union of these with None, or a class marked "
    "@dataclass(frozen=True)"
)


def _advice_for_class(kind: type[Any]) -> str:
    if issubclass(kind, enum.Enum):
        return "store its value: annotate str or int, and make the Enum of it in the handler"
    if issubclass(kind, tuple) or typing.is_typeddict(kind):
        return "make it a class marked @dataclass(frozen=True)"
    return _ADVICE.get(f"{kind.__module__}.{kind.__qualname__}", _ALLOWED)
