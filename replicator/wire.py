"""Own the bytes between processes: versioned frames between nodes, and the blobs between client, distributor and node.

A frame is msgpack `[WIRE_VERSION, database id, kind, field, ...]`, fields in the order of the dataclass; an unknown version,
kind, field count or type is refused with a clear error, never guessed. Decoders trust nothing: whatever the bytes, the result
is a frame or UsageError.
"""

from __future__ import annotations

import dataclasses
import operator
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

from replicator.core.frames import (
    Adopt,
    Adopted,
    Busy,
    Fetch,
    Forward,
    ForwardAck,
    Frame,
    Gather,
    Gathered,
    Join,
    JoinAnswer,
    Ping,
    Pong,
    Refused,
    Tail,
)
from replicator.core.messages import (
    LEVELS,
    PROBE,
    Answer,
    Facts,
    Level,
    Status,
    encode_message,
    named_txn_id,
    new_txn_id,
    read_txn_id,
)
from replicator.core.views import Member
from replicator.errors import UsageError
from replicator.values import new_tuple, pack_wire, shown, unpack_wire

__all__ = [
    "DEATHS_MAX",
    "LEVELS",
    "PROBE",
    "Answer",
    "Facts",
    "Level",
    "Outgoing",
    "Status",
    "decode_answers",
    "decode_frame",
    "decode_submit",
    "encode_answers",
    "encode_frame",
    "encode_message",
    "encode_submit",
    "named_txn_id",
    "new_txn_id",
    "poison_answer",
    "poison_ms",
    "read_txn_id",
]

#: Raised when a frame changes shape, or when nodes would come to another state by the same entries (4: how many replies an
#: entry forgets, how deep a value may be; 5: that they forget by passed
#: time, an outcome that is told, bounds of rows, replies of named transactions, digests of
#: records, chains of entries; 6: `Busy`); two versions never talk to each other.
WIRE_VERSION = 6
#: 2: the database's id, and how many nodes have died of a message.
SUBMIT_VERSION = 2
#: A message that was outstanding at so many nodes when they died is sent to no other (V22).
DEATHS_MAX = 2
#: No number between nodes is greater, so that what is counted on from it fits into 64 bits.
NUMBER_MAX = 2**62
#: In `Outgoing.flags`: the caller accepts a stale read on a backup.
FLAG_STALE = 1

_KINDS: tuple[type[Any], ...] = (
    Forward,
    ForwardAck,
    Adopt,
    Adopted,
    Fetch,
    Tail,
    Join,
    JoinAnswer,
    Ping,
    Pong,
    Refused,
    Gather,
    Gathered,
    Busy,
)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_FIELD_NAMES = tuple(tuple(field.name for field in dataclasses.fields(kind)) for kind in _KINDS)
_FIELDS_OF = tuple(operator.attrgetter(*names) for names in _FIELD_NAMES)


def _is_entries(value: object) -> bool:
    return type(value) is tuple and all(type(item) is bytes for item in value)


def _is_member(value: object) -> bool:
    return type(value) is tuple and len(value) == 2 and type(value[0]) is str and type(value[1]) is str


def _is_durable(value: object) -> bool:
    return type(value) is int and value >= -1  # -1: the disk does not know this life yet


#: What a field's value must be: by its type or, for `int` (none below 0) and `Member`, which are most, looked at in place.
_CHECKS: dict[Any, Any] = {
    int: int,
    str: lambda value: type(value) is str,
    bytes: lambda value: type(value) is bytes,
    Member: Member,
    tuple[bytes, ...]: _is_entries,
}
_FIELD_CHECKS = tuple(
    tuple(
        (name, _is_durable if (kind, name) == (ForwardAck, "durable") else _CHECKS[typing.get_type_hints(kind)[name]])
        for name in names
    )
    for kind, names in zip(_KINDS, _FIELD_NAMES, strict=True)
)


def encode_frame(database_id: str, frame: Frame) -> bytes:
    """Pack a frame between nodes of one database."""
    number = _KIND_NUMBERS[type(frame)]
    return pack_wire((WIRE_VERSION, database_id, number, *_FIELDS_OF[number](frame)))


def decode_frame(database_id: str, data: object) -> Frame:
    """Unpack a frame. Raises UsageError for garbage, another version, or another database."""
    if type(data) is not bytes:
        raise UsageError("a frame must be bytes")
    fields = unpack_wire(data)
    if type(fields) is not tuple or len(fields) < 3 or fields[0] != WIRE_VERSION:
        raise UsageError(f"not a frame of version {WIRE_VERSION}")
    if fields[1] != database_id:
        raise UsageError(f"a frame of database {shown(fields[1])} came to a node of database {database_id!r}")
    number, values = fields[2], fields[3:]
    if type(number) is not int or not 0 <= number < len(_KINDS):
        raise UsageError(f"frame kind {shown(number)} is unknown")
    checks = _FIELD_CHECKS[number]
    if len(values) != len(checks):
        raise UsageError(f"a {_KINDS[number].__name__} frame has {len(checks)} fields, got {len(values)}")
    made: list[Any] = []
    for index, (name, check) in enumerate(checks):
        value = values[index]
        if check is int:
            if type(value) is int and 0 <= value <= NUMBER_MAX:
                made.append(value)
                continue
        elif check is Member:
            if _is_member(value):
                made.append(new_tuple(Member, value))
                continue
        elif check(value):
            made.append(value)
            continue
        raise UsageError(f"field {name} of a {_KINDS[number].__name__} frame is of a wrong type")
    return typing.cast(Frame, _KINDS[number](*made))


class Outgoing(NamedTuple):
    """One message on its way: packed once, with what may change per hop beside it.

    `deaths`: at how many nodes it was outstanding when they died (V22).
    """

    message: bytes
    remaining_ms: int
    ack: int
    flags: int
    deaths: int = 0


def encode_submit(database_id: str, messages: Sequence[Outgoing]) -> bytes:
    """Pack messages for one call of `submit` at a process of the database of this id."""
    return pack_wire([SUBMIT_VERSION, database_id, messages])


def decode_submit(database_id: str, data: object) -> list[Outgoing]:
    """Unpack a `submit` call that came to a process of the database of this id.

    Raises UsageError on garbage, and for what means another database, before any of its messages is looked at (V20).
    """
    if type(data) is not bytes:
        raise UsageError("submit takes one bytes argument")
    fields = unpack_wire(data)
    if type(fields) is not tuple or len(fields) != 3 or fields[0] != SUBMIT_VERSION or type(fields[2]) is not tuple:
        raise UsageError(f"not a submit blob of version {SUBMIT_VERSION}")
    if fields[1] != database_id or not database_id:
        raise UsageError(f"messages for database {shown(fields[1])} came to a process of database {database_id!r}")
    messages: list[Outgoing] = []
    for item in fields[2]:
        if type(item) is not tuple or len(item) != 5:
            raise UsageError("a submitted message must be [message, remaining_ms, ack, flags, deaths]")
        message, remaining_ms, ack, flags, deaths = item
        if (
            type(message) is not bytes
            or type(remaining_ms) is not int
            or type(ack) is not int
            or type(flags) is not int
            or type(deaths) is not int
        ):
            raise UsageError("a submitted message must be [bytes, int, int, int, int]")
        messages.append(new_tuple(Outgoing, item))
    return messages


def poison_answer(refused_ms: int) -> Answer:
    """Make the answer to a message that is sent to no node any more, for so long at most (V22)."""
    return Answer(Status.UNKNOWN, pack_wire(["poison", refused_ms]), Facts(0, 0, 0, 0, 0))


def poison_ms(answer: Answer) -> int | None:
    """Return for how long a message is refused, if that is what an answer says."""
    if answer.status != Status.UNKNOWN or not answer.body:
        return None
    try:
        word, refused_ms = unpack_wire(answer.body)
    except (UsageError, TypeError, ValueError):
        return None
    return refused_ms if word == "poison" and type(refused_ms) is int else None


def encode_answers(answers: Sequence[Answer]) -> bytes:
    """Pack the answers of one `submit` call, in the order of its messages."""
    return pack_wire(answers)


_FACTS_TYPES = (int,) * len(Facts._fields)


def decode_answers(data: object) -> list[Answer]:
    """Unpack answers. Raises UsageError on garbage."""
    if type(data) is not bytes:
        raise UsageError("answers must be bytes")
    items = unpack_wire(data)
    if type(items) is not tuple:
        raise UsageError("answers must be a list")
    answers: list[Answer] = []
    for item in items:
        if type(item) is not tuple or len(item) != 3 or type(item[2]) is not tuple or len(item[2]) != 5:
            raise UsageError("an answer must be [status, body, [view, seq, level, copies, mismatch]]")
        status, body, facts = item
        if type(status) is not int or type(body) is not bytes or tuple(map(type, facts)) != _FACTS_TYPES:
            raise UsageError("an answer must be [int, bytes, five ints]")
        answers.append(new_tuple(Answer, (status, body, new_tuple(Facts, facts))))
    return answers
