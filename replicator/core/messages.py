"""Own the shapes of what travels: messages, control headers (`Entry`), and the frames between nodes.

A message is packed once at the client and stays those bytes at every hop:
`txn_id (16 bytes) | msg_no (4 bytes, from 1) | msgpack [handler, {argument: value}]`. A deadline is a message too, made by
the active, whose msg_no is the number of the `expect` it ends. Frames come in pairs, a request and its answer, tied by
`request`; each carries its sender's incarnation, as an ack proves nothing without it (V1, V2).

Never does: pack frames (wire.py does) or decide anything.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from replicator.core.views import Member
from replicator.errors import UsageError
from replicator.values import pack_checked, pack_wire, unpack_wire

TXN_ID_BYTES = 16
#: The handler of a message that only asks where the database stands; its answer waits for a barrier and says nothing
#: but its facts.
PROBE = ""
MESSAGE_HEAD = struct.Struct(">16sI")
_unpack_head = MESSAGE_HEAD.unpack_from
_HEAD_BYTES = MESSAGE_HEAD.size
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


def new_txn_id(now_ms: int, noise: bytes) -> bytes:
    """Make a transaction id: six bytes of time of creation, ten of *noise*."""
    return max(1, now_ms).to_bytes(6, "big") + noise[:10]


def named_txn_id(name: str) -> bytes:
    """Make the transaction id of a name given by the user: the same name, the same id."""
    return NAMED_PREFIX + hashlib.blake2b(name.encode(), digest_size=10).digest()


def created_ms(txn_id: bytes) -> int:
    """Return an id's time of creation in milliseconds since 1970; 0 for a named one."""
    return int.from_bytes(txn_id[:6], "big")


class Entry:
    """A message with its control header, at its place in the FIFO.

    `digest` is the outcome digest and doubles as the replication indicator: empty until the entry is executed.
    Source: US 6,347,322 B1, "control header", "replication indicator".
    """

    __slots__ = (
        "arguments",
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
        self.packed = b""
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
        entry = Entry(*fields)
        entry.packed = packed
        return entry

    def __repr__(self) -> str:
        return f"<Entry seq={self.seq} view={self.view} txn={self.txn_id.hex()[:16]}#{self.msg_no}>"


_ENTRY_TYPES = (int, int, int, int, bytes, int, bytes, bytes, bytes)


@dataclass(frozen=True, slots=True)
class Forward:
    """Entries for a backup, after the entry (prev_view, prev_seq) (V8). Empty: a heartbeat or a barrier round.

    `held_by_all`: every in-sync node holds entries up to here. `round`: echoed by the ack, proves it was made
    afterwards (V10). `want`: the level at which the ack must come. `floor`: every member holds what changed up to here
    durably, so change lists may begin behind it (C1).
    """

    request: int
    view: int
    sender: Member
    target: str
    prev_view: int
    prev_seq: int
    entries: tuple[bytes, ...]
    held_by_all: int
    round: int
    want: int
    floor: int


@dataclass(frozen=True, slots=True)
class ForwardAck:
    """What a backup holds, has applied, and has on its disk, in this view.

    `problem`: "", "gap", "conflict", "garbage", "diverged", "unknown view".
    """

    request: int
    view: int
    sender: Member
    received: int
    applied: int
    durable: int
    round: int
    problem: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """The active's announcement of a view: to answer is to adopt it (V7). `record` is the packed view."""

    request: int
    sender: Member
    record: bytes


@dataclass(frozen=True, slots=True)
class Adopted:
    """A member's position in the adopted view: its last entry (last_view, last_seq), and what it has applied."""

    request: int
    view: int
    sender: Member
    last_view: int
    last_seq: int
    applied: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """A promoted node asks for the tail after its own last entry (V7)."""

    request: int
    view: int
    sender: Member
    after_view: int
    after_seq: int


@dataclass(frozen=True, slots=True)
class Tail:
    """The entries asked for by `Fetch`; `problem`: "conflict", "trimmed" or "stale", and then there are none."""

    request: int
    view: int
    sender: Member
    entries: tuple[bytes, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class Join:
    """A node outside says where it stands, and asks the active to be brought level ("recovery completion").

    `position`: its packed position with history, and the lives whose rows it has. `whole`: 1 if what changed has proved not
    to be all that differs.
    """

    request: int
    sender: Member
    fingerprint: bytes
    last_view: int
    last_seq: int
    position: bytes
    whole: int


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """Accepted if `problem` is empty; `record` is the packed view the answerer knows.

    `catch_up`: 0 no, the FIFO reaches back; 1 from the seq `common` on; 2 everything.
    """

    request: int
    sender: Member
    record: bytes
    problem: str
    catch_up: int
    common: int


@dataclass(frozen=True, slots=True)
class Gather:
    """A returning node asks for chunk *number* (from 1) of its catch-up beyond `common`.

    `whole`: 0 what changed beyond it, 1 everything, 2 what differs. `keys`: packed keys that it changed itself beyond the
    common point, or, for what differs, digests of its ranges; a part at a time; `is_last`: there are no more.
    """

    request: int
    view: int
    sender: Member
    session: int
    number: int
    common: int
    whole: int
    keys: bytes
    is_last: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """One chunk: packed present rows.

    `ranges`: empty, or a bit for each range whose digest was told, set if it differs. `position`: empty, or with the last
    chunk the position at S; `left`: a guess.
    """

    request: int
    view: int
    sender: Member
    session: int
    number: int
    rows: bytes
    ranges: bytes
    position: bytes
    left: int
    problem: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there, and in which life?"""

    request: int
    sender: Member


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `Ping`."""

    request: int
    sender: Member


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a frame of an old view: `record` is the packed newer one (V8)."""

    request: int
    sender: Member
    record: bytes


Frame = (
    Forward
    | ForwardAck
    | Adopt
    | Adopted
    | Fetch
    | Tail
    | Join
    | JoinAnswer
    | Gather
    | Gathered
    | Ping
    | Pong
    | Refused
)
ANSWERS = (ForwardAck, Adopted, Tail, JoinAnswer, Gathered, Pong, Refused)
