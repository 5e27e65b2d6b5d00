"""Own the declaration of tables: a class of annotations, checked when it is created."""

from __future__ import annotations

import typing
from typing import Any, ClassVar, TypeVar

from replicator.errors import UsageError
from replicator.records import hints_of
from replicator.shape import record_lines
from replicator.tables import Table
from replicator.values import Codec, codec_for, without_alias

_KEY_TYPES = "str, int, bytes or a tuple of these"
#: A row's hash and a stored row name their table by two bytes.
TABLES_MAX = 65_535


class Tables:
    """Declare the tables of a service, as annotations.

        class Accounts(Tables):
            cards: Table[str, Card]        # card number -> card

    Keys are str, int, bytes or tuples of these; rows are plain values or frozen records. Raises UsageError at class
    creation for anything that cannot be stored, and for names that cannot be told apart where tables are kept.
    """

    _schema: ClassVar[tuple[tuple[str, Codec, Codec], ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        schema = []
        folded: dict[str, str] = {}
        for name, annotation in hints_of(cls, cls.__name__).items():
            if name == "_schema":
                continue
            where = f"{cls.__name__}.{name}"
            _check_name(cls, name, where, folded)
            annotation = without_alias(annotation, where)
            if typing.get_origin(annotation) is not Table:
                raise UsageError(f"{where}: declare it as Table[key type, row type], got {annotation!r}")
            key_type, row_type = typing.get_args(annotation)
            schema.append((name, _key_codec(key_type, where), codec_for(row_type, f"{where} row")))
        if len(schema) > TABLES_MAX:
            raise UsageError(f"{cls.__name__}: {len(schema)} tables; at most {TABLES_MAX}")
        cls._schema = tuple(schema)
        schema_lines(cls)  # two records of one name are refused here

    def __setattr__(self, name: str, value: object) -> None:
        raise UsageError(
            f"{type(self).__name__}.{name} cannot be set: tables are fixed, change their rows "
            f"(to replace them all: ctx.tables.{name}.clear(), then .update(...))"
        )

    def __delattr__(self, name: str) -> None:
        raise UsageError(f"{type(self).__name__}.{name} cannot be deleted: tables are fixed; .clear() deletes all rows")


def _check_name(cls: type[Tables], name: str, where: str, folded: dict[str, str]) -> None:
    """Refuse a table's name that means something else elsewhere: it names an attribute and a table of SQLite."""
    if not name.isidentifier() or name.startswith("_"):
        raise UsageError(f"{where}: a table's name must be a Python name that does not begin with _")
    other = folded.setdefault(name.casefold(), name)
    if other != name:
        raise UsageError(f"{where}: differs from {other} by case only, and would be the same table on disk: rename one")
    if any(name in each.__dict__ for each in cls.__mro__):
        raise UsageError(f"{where}: is an attribute of the class as well: give it an annotation only, no value")


def schema_lines(tables_class: type[Tables]) -> tuple[str, ...]:
    """Describe the tables and the records in them: what must be equal for one to read the other's rows."""
    schema = tables_class._schema
    codecs = [codec for _, key_codec, row_codec in schema for codec in (key_codec, row_codec)]
    tables = [f"table {name}: {key_codec.name} -> {row_codec.name}" for name, key_codec, row_codec in schema]
    return (*tables, *record_lines(codecs, tables_class.__name__, defaults=False))


def _key_codec(annotation: Any, where: str) -> Codec:
    _check_key_type(annotation, where)
    return codec_for(annotation, f"{where} key")


def _check_key_type(annotation: Any, where: str) -> None:
    annotation = without_alias(annotation, where)
    if annotation is str or annotation is int or annotation is bytes:
        return
    if typing.get_origin(annotation) is tuple:
        for argument in typing.get_args(annotation):
            if argument is not Ellipsis and argument != ():
                _check_key_type(argument, where)
        return
    raise UsageError(f"{where}: a key must be {_KEY_TYPES}, as keys need one order everywhere; got {annotation!r}")


T = TypeVar("T", bound=Tables)
