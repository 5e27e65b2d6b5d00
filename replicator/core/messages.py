"""Own the shapes of what travels: messages, control headers (`Entry`) and answers.

A message is packed once at the client and stays those bytes at every hop:
`txn_id (16 bytes) | msg_no (4 bytes, from 1) | msgpack [handler, {argument: value}]`. A deadline is a message too, made by
the active, whose msg_no is the number of the `expect` it ends.

Never does: pack blobs (wire.py does) or decide anything.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from replicator.errors import UsageError
from replicator.ids import id_of, shown_id
from replicator.values import pack_checked, pack_wire, shown, unpack_wire

TXN_ID_BYTES = 16
#: The handler of a message that only asks where the database stands; its answer waits for a barrier and says nothing
#: but its facts.
PROBE = ""
MESSAGE_HEAD = struct.Struct(">16sI")
_unpack_head = MESSAGE_HEAD.unpack_from
_HEAD_BYTES = MESSAGE_HEAD.size
_blake2b = hashlib.blake2b
#: The chain of a FIFO that holds nothing.
NO_CHAIN = bytes(8)
#: A transaction id begins with six bytes of its time of creation; zero marks one named by the user.
NAMED_PREFIX = bytes(6)


class Status(IntEnum):
    """What became of a message, as a reply says it."""

    DONE = 0
    ABORTED = 1
    FAILED = 2
    REFUSED = 3
    NOT_ACTIVE = 4
    OVERLOADED = 5
    UNKNOWN = 6
    UNAVAILABLE = 7


class Level(IntEnum):
    """How far a message must have come before its reply is released; SERVICE: as the service sets it."""

    SERVICE = 0
    ASYNC = 1
    RECEIVED = 2
    APPLIED = 3
    DURABLE = 4


#: The ack modes by the names used in configuration and options.
LEVELS = {level.name.lower(): level for level in Level if level is not Level.SERVICE}


class Kind(IntEnum):
    """What an entry of the FIFO is."""

    MESSAGE = 0
    DEADLINE = 1


class Facts(NamedTuple):
    """The envelope of a reply: where it stands in the order, and how many nodes hold it.

    `mismatch`: 0, or the number of the view in which the active was left alone (P8).
    """

    view: int
    seq: int
    level: int
    copies: int
    mismatch: int


class Answer(NamedTuple):
    """A reply as it travels: `status`, outcome bytes `body` (the same for every repeat, P2), envelope `facts`."""

    status: int
    body: bytes
    facts: Facts


def encode_message(txn_id: bytes, msg_no: int, handler: str, arguments: dict[str, Any]) -> bytes:
    """Pack a message. *arguments* are plain values by name."""
    return MESSAGE_HEAD.pack(txn_id, msg_no) + pack_wire([handler, arguments])


def split_message(message: bytes) -> tuple[bytes, int, object, object]:
    """Return (txn_id, msg_no, handler, arguments) of packed message bytes. Raises UsageError on garbage."""
    if len(message) <= _HEAD_BYTES:
        raise UsageError(f"a message of {len(message)} bytes is too short to be one")
    txn_id, msg_no = _unpack_head(message)
    body = unpack_wire(message[_HEAD_BYTES:])
    if type(body) is not tuple or len(body) != 2:
        raise UsageError("a message body must be [handler, arguments]")
    if msg_no < 1:
        raise UsageError("msg_no counts from 1")
    return txn_id, msg_no, body[0], body[1]


def pack_told(status: Status, body: bytes) -> bytes:
    """Pack the outcome that the active tells of an entry whose handler nobody else is to run (V21)."""
    return pack_wire((int(status), body))


def unpack_told(told: bytes) -> tuple[Status, bytes]:
    """Unpack it. Raises UsageError unless it is an outcome that changes nothing."""
    fields = unpack_wire(told)
    if type(fields) is not tuple or len(fields) != 2 or type(fields[1]) is not bytes:
        raise UsageError("not an outcome that is told")
    if fields[0] not in (Status.ABORTED, Status.FAILED):
        raise UsageError(f"an outcome of status {fields[0]!r:.20} cannot be told, only found out")
    return Status(fields[0]), fields[1]


def new_txn_id(now_ms: int, noise: bytes) -> bytes:
    """Make a transaction id: six bytes of time of creation, ten of *noise*."""
    return max(1, now_ms).to_bytes(6, "big") + noise[:10]


def named_txn_id(name: str) -> bytes:
    """Make the transaction id of a name given by the user: the same name, the same id."""
    return NAMED_PREFIX + hashlib.blake2b(name.encode(), digest_size=10).digest()


def read_txn_id(text: object) -> bytes:
    """Return the id that a caller gives as text: one that was shown to it, or that of a name of its own, any other text.

    Raises: UsageError for what is neither.
    """
    if type(text) is not str or not text:
        raise UsageError(f"txn_id must be a text that is not empty, got {shown(text)}")
    try:
        return id_of(text) or named_txn_id(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"txn_id is no text that can be sent: {error}") from error


def created_ms(txn_id: bytes) -> int:
    """Return an id's time of creation in milliseconds since 1970; 0 for a named one."""
    return int.from_bytes(txn_id[:6], "big")


class Entry:
    """A message with its control header, at its place in the FIFO.

    `time_ms` and `age_ms` are the readings of the active's two clocks (clocks.py), neither below that of the entry before.
    `digest` is the outcome digest and doubles as the replication indicator: empty until the entry is executed. `told` is
    empty, or the outcome that the active found and that its machine had a part in: then nobody runs the handler again (V21).
    `chain`: `chained` over all entries up to this one; empty until it is known where the entry stands (fifo.py).
    Source: US 6,347,322 B1, "control header", "replication indicator".
    """

    __slots__ = (
        "age_ms",
        "arguments",
        "chain",
        "digest",
        "fingerprint",
        "kind",
        "message",
        "msg_no",
        "packed",
        "recorded",
        "seed",
        "seq",
        "spec",
        "time_ms",
        "told",
        "txn_id",
        "view",
    )

    def __init__(
        self,
        view: int,
        seq: int,
        time_ms: int,
        seed: int,
        fingerprint: bytes,
        kind: int,
        message: bytes,
        recorded: bytes = b"",
        digest: bytes = b"",
        age_ms: int = 0,
        told: bytes = b"",
    ) -> None:
        self.view = view
        self.seq = seq
        self.time_ms = time_ms
        self.seed = seed
        self.fingerprint = fingerprint
        self.kind = kind
        self.message = message
        self.recorded = recorded
        self.digest = digest
        self.age_ms = age_ms
        self.told = told
        self.packed = b""
        self.chain = b""
        self.spec: Any = None  # set by whoever has split the message already: saves a second split
        self.arguments: dict[str, Any] | None = None
        #: The transaction's id; the message's number in it, or the expect number of a deadline.
        self.txn_id, self.msg_no = _unpack_head(message)

    def seal(self, digest: bytes) -> None:
        """Set the replication indicator: the outcome is known, the entry may leave. Packs it, once for all backups."""
        self.digest = digest
        self.packed = pack_checked(
            (
                self.view,
                self.seq,
                self.time_ms,
                self.seed,
                self.fingerprint,
                self.kind,
                self.message,
                self.recorded,
                digest,
                self.age_ms,
                self.told,
            )
        )

    @staticmethod
    def from_packed(packed: bytes) -> Entry:
        """Unpack. Raises UsageError on garbage."""
        fields = unpack_wire(packed)
        if type(fields) is not tuple or tuple(map(type, fields)) != _ENTRY_TYPES:
            raise UsageError("not an entry of the FIFO")
        if len(fields[6]) < _HEAD_BYTES:
            raise UsageError("an entry's message is too short to be one")
        if fields[10]:
            unpack_told(fields[10])
        entry = Entry(*fields)
        entry.packed = packed
        return entry

    @property
    def handler(self) -> str:
        """The name of the handler that it is for; "?" if it cannot be read. It costs a split: for notes, not for the way."""
        try:
            return str(split_message(self.message)[2])
        except UsageError:
            return "?"

    def __repr__(self) -> str:
        return f"<Entry seq={self.seq} view={self.view} txn={shown_id(self.txn_id)[:17]}#{self.msg_no}>"


def chained(chain: bytes, packed: bytes) -> bytes:
    """Go on with a chain by one packed entry: 8 bytes, equal only after equal entries with equal outcomes (V17). 1 to 3 us."""
    return _blake2b(chain + packed, digest_size=8).digest()


_ENTRY_TYPES = (int, int, int, int, bytes, int, bytes, bytes, bytes, int, bytes)
