"""Own the return of a node by what changed (US 2002/0059279 A1, Figs. 7 and 8; DESIGN.md section 8, C4 and C5).

    returning node X                                active A
    Join: position and history                 ->   (recovery completion)
                                               <-   JoinAnswer: the common point, and that a catch-up is needed
    Gather: keys that X changed beyond it      ->
                                               <-   Gathered: present rows of what A changed, and of X's keys ...
    Gather                                     ->   ... keys changed meanwhile come round again ...
                                               <-   Gathered: the rest, captured at one seq S, with the position at S
    applies all at once, writes it, Join at S  ->   (what follows S is in the FIFO)

X asks, A answers: a chunk at a time, so live messages go on between. X collects aside and changes nothing before the set is
complete and its digest is A's at S; then everything is applied, and written in one transaction. Whoever dies, whenever: X is
at its last consistent state, and A's change list is whole. Differs from its source: an entry is not deleted when its row
was reflected, but when the member's durable position has passed it (C1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from replicator.core.comparing import Compared, all_rows
from replicator.core.frames import Gather, Gathered, Refused
from replicator.core.state import Role, State
from replicator.core.views import Member
from replicator.errors import UsageError
from replicator.values import pack_wire, unpack_wire

#: Bytes of a chunk, beside `catchup_rows_max`.
CHUNK_BYTES = 32_768
#: When no more than one chunk is left, it is captured at one seq; after so many rounds whatever is left is.
ROUNDS_MAX = 8
#: Whoever has not asked for so many times `suspect_ms` when another begins has given up.
SILENT_SUSPECTS = 60
#: From this set on for a node that did not come in, what follows it is kept, whatever the log's bounds are; for a node
#: that was not heard of for so many times `suspect_ms` no longer.
PINNED_FROM = 3
PINNED_SUSPECTS = 20
#: What a `Gather` asks for: what changed, everything, or what differs (C6).
CHANGED, WHOLE, DIFFERING = 0, 1, 2
MODES = {CHANGED: "no", WHOLE: "yes", DIFFERING: "compared"}
NO_KEYS = pack_wire([])

Key = tuple[int, bytes]
Row = tuple[int, bytes, bytes | None]
_NOTHING_LEFT: Key = (-1, b"")


class Session:
    """A's side of one return."""

    __slots__ = (
        "captured",
        "captured_seq",
        "compared",
        "heard_ms",
        "is_exhausted",
        "last",
        "left",
        "left_count",
        "member",
        "position",
        "round_seq",
        "rounds",
        "session",
        "told",
    )

    def __init__(self, member: Member, session: int, left: Iterator[Key | None], round_seq: int) -> None:
        self.member = member
        self.session = session
        self.left = left  # of this round; None in between: enough for one chunk
        self.told: deque[Key] = deque()  # keys that the returning node changed itself; their rows come first
        self.left_count = 0  # how many of this round are left, about
        self.is_exhausted = False  # this round is given
        self.compared: Compared | None = None  # until what differs is known
        self.round_seq = round_seq  # everything changed after it comes round again
        self.rounds = 0
        self.last: Gathered | None = None
        self.position = b""  # at S, once captured
        self.captured: list[Row] = []
        self.captured_seq = 0  # S, once captured
        self.heard_ms = 0

    def is_of(self, frame: Gather) -> bool:
        """Whether *frame* belongs to this return. Each life of a node numbers its sessions from the same number on."""
        return self.member == frame.sender and self.session == frame.session


class Source:
    """What an active does for the nodes that return."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.sessions: dict[str, Session] = {}
        self.rounds: dict[str, int] = {}  # sets given to a node since it was in sync last

    def on_gather(self, frame: Gather) -> None:
        """Answer with the next chunk; the same again if the last one was lost."""
        state = self.state
        problem, session = "", self.sessions.get(frame.sender.name)
        if state.view is not None and frame.view < state.view.number:
            state.send(frame.sender.name, Refused(frame.request, state.me, state.view.to_bytes()))
            return
        if state.role is not Role.ACTIVE or state.view is None or frame.view != state.view.number:
            problem = "not active"
        elif frame.whole not in MODES:
            problem = "garbage"
        elif frame.number == 1 and not (session is not None and session.is_of(frame)):
            session = self._begin(frame)
        if not problem and (session is None or not session.is_of(frame)):
            problem = "unknown session"
        if problem or session is None:
            state.send(
                frame.sender.name,
                Gathered(
                    frame.request, frame.view, state.me, frame.session, frame.number, b"", b"", b"", 0, problem, b""
                ),
            )
            return
        session.heard_ms = state.elapsed_ms
        if session.last is None or frame.number == session.last.number + 1:
            session.last = self._next(session, frame)
        problem = "" if frame.number == session.last.number else "unknown session"
        state.send(
            frame.sender.name, replace(session.last, request=frame.request, problem=problem or session.last.problem)
        )

    def _begin(self, frame: Gather) -> Session | None:
        state = self.state
        seq = state.fifo.executed_seq
        count = 0
        keys: Iterator[Key | None] = iter(())
        if frame.whole == WHOLE:
            keys = ((table, key_bytes) for table, key_bytes, _, _ in all_rows(state))
            count = state.database.row_count + len(state.transactions.open) + state.transactions.remembered_count
        elif frame.whole == DIFFERING:
            pass  # known when the ranges are compared
        elif state.changes.reaches(frame.common):
            changed = state.changes.keys_beyond(frame.common)
            keys, count = iter(changed), len(changed)
        else:
            return None
        silent_ms = state.elapsed_ms - SILENT_SUSPECTS * state.rules.suspect_ms
        self.sessions = {name: each for name, each in self.sessions.items() if each.heard_ms > silent_ms}
        session = self.sessions[frame.sender.name] = Session(frame.sender, frame.session, keys, seq)
        session.left_count = count
        if frame.whole == DIFFERING:
            session.compared = Compared(state)
        state.note("catchup_begun", node=frame.sender.name, after=frame.common, whole=MODES[frame.whole])
        return session

    def _next(self, session: Session, frame: Gather) -> Gathered:
        """Make the next chunk, or, as long as ranges are compared, go on with that."""
        state = self.state
        problem = ""
        rows: list[Row] = []
        ranges = b""
        try:
            if not state.changes.reaches(session.round_seq):
                problem = "unknown session"  # the list overflowed meanwhile: it must begin anew
            elif session.compared is not None:
                ranges = self._compare(session, session.compared, frame)
            else:
                session.told.extend(unpack_keys(frame.keys))
                self._take(session, rows)
                if frame.is_last and session.is_exhausted and not session.told and not session.position:
                    self._go_round(session)
                    self._take(session, rows)
        except (UsageError, IndexError):
            problem, rows = "garbage", []
        position = b""
        if session.position and not session.captured:
            position = session.position
            state.note("catchup_captured", node=session.member.name, rounds=session.rounds)
        left = len(session.captured) + max(0, session.left_count - len(rows))
        session.left_count = max(0, session.left_count - len(rows))
        packed = pack_wire(rows)
        return Gathered(
            frame.request,
            frame.view,
            state.me,
            frame.session,
            frame.number,
            packed,
            ranges,
            position,
            left,
            problem,
            state.view_digest,
        )

    def _compare(self, session: Session, compared: Compared, frame: Gather) -> bytes:
        """Take digests, or hash some rows; when nothing more is asked, go over to what differs. Raises UsageError."""
        if frame.keys != NO_KEYS:
            compared.take(frame.keys, is_last=bool(frame.is_last))
        elif not compared.is_busy:
            session.left, session.compared = compared.differing_keys(), None
        return compared.work() if compared.is_busy else b""

    def _take(self, session: Session, rows: list[Row]) -> None:
        """Add rows until the chunk is full or nothing is left of this round."""
        state, size = self.state, 0
        rows_max = state.rules.catchup_rows_max << session.rounds  # a round must not be as long as the one before (C7)
        while len(rows) < rows_max and size < CHUNK_BYTES:
            if session.position:
                if not session.captured:
                    return
                row = session.captured.pop()
            else:
                key = session.told.popleft() if session.told else next(session.left, _NOTHING_LEFT)
                if key is None:
                    return
                if key is _NOTHING_LEFT:
                    session.is_exhausted = True
                    return
                row = (*key, state.row(*key))
            rows.append(row)
            size += len(row[1]) + len(row[2] or b"") + 4

    def _go_round(self, session: Session) -> None:
        """All of a round is given: what changed meanwhile is the next, or, if it is little, is captured at this seq."""
        state = self.state
        keys = state.changes.keys_beyond(session.round_seq)
        session.rounds += 1
        session.round_seq = state.fifo.executed_seq
        if len(keys) > state.rules.catchup_rows_max and session.rounds < ROUNDS_MAX:
            session.left, session.left_count, session.is_exhausted = iter(keys), len(keys), False
            return
        session.captured = [(table, key, state.row(table, key)) for table, key in keys]
        session.position = state.position().to_bytes()
        session.captured_seq = session.round_seq
        self._count_round(session)

    def _count_round(self, session: Session) -> None:
        """From the third set on for a node that did not come in, what follows S is kept for it, and callers are held back
        rather than S be outrun again (C7). Each set is as large as what came during the one before, so two are enough
        for a node that takes rows faster than this one makes them."""
        state, name = self.state, session.member.name
        self.rounds[name] = rounds = self.rounds.get(name, 0) + 1
        if rounds >= PINNED_FROM:
            state.fifo.pinned_seq = session.captured_seq
            state.note("return_is_slow", node=name, rounds=rounds)

    def has_brought(self, member: Member, seq: int) -> bool:
        """Whether a catch-up from here has brought *member* to *seq*, or it has gone on from there."""
        session = self.sessions.get(member.name)
        return session is not None and session.member == member and 0 < session.captured_seq <= seq

    def on_level(self, name: str) -> None:
        """The node is level: what it was given once is no reason to let it in from afar another time."""
        self.rounds.pop(name, None)
        self.sessions.pop(name, None)
        self.unpin()

    def unpin(self) -> None:
        """Keep no more for a returning node than for anybody."""
        self.state.fifo.pinned_seq = None

    def on_tick(self) -> None:
        """A node for which entries are kept, and which has not been heard of for long, gets them no longer."""
        state = self.state
        if state.fifo.pinned_seq is None:
            return
        heard_ms = max((each.heard_ms for each in self.sessions.values() if each.captured_seq), default=0)
        if state.elapsed_ms - heard_ms > PINNED_SUSPECTS * state.rules.suspect_ms:
            self.unpin()

    def forget(self) -> None:
        """No longer the active: every returning node begins anew elsewhere (C5)."""
        self.sessions.clear()
        self.rounds.clear()
        self.unpin()


def unpack_keys(blob: bytes) -> list[Key]:
    """Unpack keys. Raises UsageError."""
    keys = unpack_wire(blob)
    if type(keys) is not tuple or not all(
        type(each) is tuple and len(each) == 2 and type(each[0]) is int and type(each[1]) is bytes for each in keys
    ):
        raise UsageError("not a list of keys")
    return list(keys)


def unpack_rows(blob: bytes) -> list[Row]:
    """Unpack rows. Raises UsageError."""
    rows = unpack_wire(blob)
    if type(rows) is not tuple or not all(
        type(each) is tuple
        and len(each) == 3
        and type(each[0]) is int
        and type(each[1]) is bytes
        and (each[2] is None or type(each[2]) is bytes)
        for each in rows
    ):
        raise UsageError("not a list of rows")
    return list(rows)
