"""Own the declaration of tables: a class of annotations, checked when it is created."""

from __future__ import annotations

import typing
from typing import Any, ClassVar, TypeVar

from replicator.errors import UsageError
from replicator.tables import Table
from replicator.values import Codec, codec_for

_KEY_TYPES = "str, int, bytes or a tuple of these"


class Tables:
    """Declare the tables of a service, as annotations.

        class Accounts(Tables):
            cards: Table[str, Card]        # card number -> card

    Keys are str, int, bytes or tuples of these; rows are plain values or frozen records. Raises UsageError at class
    creation for anything that cannot be stored.
    """

    _schema: ClassVar[tuple[tuple[str, Codec, Codec], ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        hints = typing.get_type_hints(cls)
        schema = []
        for name, annotation in hints.items():
            if name == "_schema":
                continue
            where = f"{cls.__name__}.{name}"
            if typing.get_origin(annotation) is not Table:
                raise UsageError(f"{where}: declare it as Table[key type, row type], got {annotation!r}")
            key_type, row_type = typing.get_args(annotation)
            schema.append((name, _key_codec(key_type, where), codec_for(row_type, f"{where} row")))
        cls._schema = tuple(schema)

    def __setattr__(self, name: str, value: object) -> None:
        raise UsageError(
            f"{type(self).__name__}.{name} cannot be set: tables are fixed, change their rows "
            f"(to replace them all: ctx.tables.{name}.clear(), then .update(...))"
        )

    def __delattr__(self, name: str) -> None:
        raise UsageError(f"{type(self).__name__}.{name} cannot be deleted: tables are fixed; .clear() deletes all rows")


def _key_codec(annotation: Any, where: str) -> Codec:
    _check_key_type(annotation, where)
    return codec_for(annotation, f"{where} key")


def _check_key_type(annotation: Any, where: str) -> None:
    if annotation in (str, int, bytes):
        return None
    if isinstance(annotation, typing.NewType):
        return _check_key_type(annotation.__supertype__, where)
    if typing.get_origin(annotation) is tuple:
        for argument in typing.get_args(annotation):
            if argument is not Ellipsis:
                _check_key_type(argument, where)
        return None
    raise UsageError(f"{where}: a key must be {_KEY_TYPES}, as keys need one order everywhere; got {annotation!r}")


T = TypeVar("T", bound=Tables)
