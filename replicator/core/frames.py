"""Own the shapes of the frames between nodes, in pairs: a request and its answer, tied by `request`.

Each carries its sender's incarnation, as an ack proves nothing without it (V1, V2), and, where it names a view by number,
the digest of its record as `view_digest` (V16; empty: not told). Where it names an entry by (view, seq) it carries the
chain up to it, which is that entry's proof (V17). wire.py packs them, by their annotations.
"""

from __future__ import annotations

from dataclasses import dataclass

from replicator.core.views import Member

#: How a node that joins may be brought level: by whatever is shortest; by comparing digests; by anything but the FIFO.
BY_ANY, BY_DIGESTS, BY_LIST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Forward:
    """Entries for a backup, after the entry (prev_view, prev_seq) (V8). Empty: a heartbeat or a barrier round.

    `held_by_all`: every in-sync node holds entries up to here. `round`: echoed by the ack, proves it was made
    afterwards (V10). `want`: the level at which the ack must come. `floor`: every member holds what changed up to here
    durably, so change lists may begin behind it (C1). `clock_ms`, `age_ms`: what the active's clocks read (V19).
    `prev_chain`: the chain at `prev_seq`. `digest`: of the state there, 8
    bytes, with a heartbeat of an idle active; else empty.
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
    view_digest: bytes
    prev_chain: bytes
    digest: bytes
    clock_ms: int = 0
    age_ms: int = 0


@dataclass(frozen=True, slots=True)
class ForwardAck:
    """What a backup holds, has applied, and has on its disk, in this view. `chain`: at `received`, which it proves.

    `problem`: "", "gap", "conflict", "garbage", "diverged", "unknown view". `wall_ms`: what its own clock reads (V19).
    """

    request: int
    view: int
    sender: Member
    received: int
    applied: int
    durable: int
    round: int
    problem: str
    view_digest: bytes
    chain: bytes
    wall_ms: int = 0


@dataclass(frozen=True, slots=True)
class Adopt:
    """The active's announcement of a view: to answer is to adopt it (V7). `record` is the packed view."""

    request: int
    sender: Member
    record: bytes


@dataclass(frozen=True, slots=True)
class Adopted:
    """A member's position in the adopted view: its last entry (last_view, last_seq, last_chain), and what it has applied.

    `fingerprint`: empty from one that has diverged (R5).
    """

    request: int
    view: int
    sender: Member
    last_view: int
    last_seq: int
    applied: int
    fingerprint: bytes
    view_digest: bytes
    last_chain: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """A promoted node asks for the tail after its own last entry (V7)."""

    request: int
    view: int
    sender: Member
    after_view: int
    after_seq: int
    view_digest: bytes
    after_chain: bytes


@dataclass(frozen=True, slots=True)
class Tail:
    """The entries asked for by `Fetch`; `problem`: "conflict", "trimmed" or "stale", and then there are none."""

    request: int
    view: int
    sender: Member
    entries: tuple[bytes, ...]
    problem: str
    view_digest: bytes


@dataclass(frozen=True, slots=True)
class Join:
    """A node outside says where it stands, and asks the active to be brought level ("recovery completion").

    `position`: its packed position with history, and the lives whose rows it has. `whole`: `BY_ANY`, `BY_DIGESTS` if what
    changed has proved not to be all that differs, `BY_LIST` if the FIFO would give it what it has diverged at (R1).
    """

    request: int
    view: int
    sender: Member
    fingerprint: bytes
    last_view: int
    last_seq: int
    position: bytes
    whole: int
    view_digest: bytes
    last_chain: bytes


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
    view_digest: bytes


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
    view_digest: bytes


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


@dataclass(frozen=True, slots=True)
class Busy:
    """I live, and am in a handler: from beside the loop, which takes and sends nothing meanwhile (V24).

    `count` rises with each one of a life, so that a repeated one proves nothing. `ms`: how long the handler runs already.
    Answered by `Pong`.
    """

    request: int
    view: int
    sender: Member
    count: int
    ms: int
    handler: str
    view_digest: bytes


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
    | Busy
)
#: Those that name a view by its number.
Numbered = Forward | ForwardAck | Adopted | Fetch | Tail | Join | Gather | Gathered | Busy
NUMBERED = (Forward, ForwardAck, Adopted, Fetch, Tail, Join, Gather, Gathered, Busy)
ANSWERS = (ForwardAck, Adopted, Tail, JoinAnswer, Gathered, Pong, Refused)
