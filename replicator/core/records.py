"""Own what this node believes of the arbiter's record: when it is read, and which record is taken, told, or refused.

Only the arbiter's own answers are believed. A newer record in a peer's frame is a reason to read it at once; nothing of it is
adopted or written down. One exception, as a promoted node needs its peers even if they cannot reach the arbiter: if it has not
answered for half of `suspect_ms` since, a record that some rule makes of the own one, in one step, is taken (V14). One
made-up frame thus moves a node by one view at most, and only while the arbiter is away.

Two records of one number are equal, or the arbiter has broken its contract (V16). A peer may be the wrong one, so whoever sees
another record in a frame refuses the frame, tells its own record, and reads the arbiter's: a node halts only if that differs.
The record is read every `arbiter_read_ms` as well, so that an arbiter that was lost, or set back to an older record, is told
while there is time. A node in a view goes on then; nothing can be proposed until the record is back.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.core.effects import ReadView
from replicator.core.frames import ANSWERS, Numbered, Refused
from replicator.core.state import Role, State
from replicator.core.views import Member, View, is_rewritten, kin_problem, successor_problem
from replicator.errors import CorruptRecord

#: An arbiter that has not answered for so many times `arbiter_read_ms` is told to be away.
SILENT_READS = 3


class Records:
    """What a node knows of the arbiter's record, and from whom."""

    def __init__(self, state: State, believe: Callable[[View], None]) -> None:
        self.state = state
        self._believe = believe
        self._read_ms = -(10**9)
        self._answered_ms = 0  # when the arbiter last answered
        self._hint_ms = -(10**9)  # when a frame last told of a newer record, or of another one
        self._hinted = 0  # the next number after ours, once it was heard: read at once, but once only
        self._heard: View | None = None  # a newer record that a rule makes of ours, as a peer tells it
        self._heard_ms = 0
        self.is_silent = False  # it has not answered for long, and that was told
        self._told_ms = -(10**9)  # when a refusal was last told
        self.problem = ""  # what is wrong with the arbiter's record, in words

    @property
    def answered_ms_ago(self) -> int:
        """Milliseconds since the arbiter last answered, or since the start."""
        return self.state.elapsed_ms - self._answered_ms

    # -- asking ------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Ask the arbiter for the record."""
        self._read_ms = self.state.elapsed_ms
        self.state.effects.append(ReadView(self.state.highest_view))

    def read_soon(self) -> None:
        """Ask now, unless that was done a moment ago: then by the clock, until there is an answer that explains it."""
        self._hint_ms = self.state.elapsed_ms
        if self.state.elapsed_ms - self._read_ms >= self.state.rules.heartbeat_ms // 4:
            self.read()

    def on_tick(self) -> None:
        """Read when it is due; say that the arbiter is silent; take what it cannot tell."""
        state, rules = self.state, self.state.rules
        if not self._answered_ms:
            self._answered_ms = state.elapsed_ms
        # A node that has diverged waits for its removal, of which nobody tells it.
        is_hinted = (
            state.view is None or state.role is Role.DIVERGED or state.elapsed_ms - self._hint_ms < rules.suspect_ms
        )
        if state.elapsed_ms - self._read_ms >= (rules.heartbeat_ms if is_hinted else rules.arbiter_read_ms):
            self.read()
        if not self.is_silent and self.answered_ms_ago > SILENT_READS * rules.arbiter_read_ms:
            self.is_silent = True
            state.note("arbiter_silent", ms=self.answered_ms_ago)
        heard = self._heard
        if heard is not None and state.elapsed_ms - self._heard_ms >= rules.suspect_ms // 2:
            self._heard = None
            if self._answered_ms < self._heard_ms and not self._successor_problem(heard):
                self._believe(heard)

    # -- the arbiter's own word --------------------------------------------------------------------------------------

    def take(self, view: View, asked: int, *, is_proposing: bool) -> bool:
        """Take the arbiter's present record; return whether it counts. Halts on what cannot be (V14, V16).

        *asked*: the highest view this node knew when it asked; a late answer to an early question proves nothing.
        """
        state = self.state
        if self.is_silent:
            state.note("arbiter_back", ms=self.answered_ms_ago)
        self._answered_ms, self.is_silent = state.elapsed_ms, False
        if not self._is_ours(view):
            return False
        own = state.view
        if view.number < asked:
            self._tell_problem(
                f"the arbiter's record is view {view.number}, older than view {asked}, which this node had adopted before "
                "it asked: it was set back, or is another arbiter's; no change of view is possible until it is put right; "
                "`replicator recover FILE` rebuilds it from the nodes, and nothing is lost"
            )
            return False
        if view.number < state.highest_view:
            return False  # late: we have adopted a newer one, perhaps in a former life (V11)
        self.problem = ""
        if own is not None and view.number > own.number:
            self._hint_ms = -(10**9)
        if own is not None:
            self._compare(own, view, is_proposing=is_proposing)
        if self._heard is not None and self._heard.number <= view.number:
            self._heard = None
        return state.role is not Role.HALTED

    def _is_ours(self, view: View) -> bool:
        state = self.state
        if view.database_id != state.database_id:
            state.halt(
                f"the arbiter's record is of database {view.database_id}, this node is of {state.database_id}; "
                "it asks the wrong arbiter, or a new database was made over this one. Its rows are left as they are; to give "
                "the node to the other database, move its data folder away: what only this node holds is lost to that one"
            )
        elif state.me.name not in view.members:
            state.halt(f"node {state.me.name} is no member of this database (members: {', '.join(view.members)})")
        return state.role is not Role.HALTED

    def _compare(self, own: View, view: View, *, is_proposing: bool) -> None:
        """Halt if the record cannot have followed from ours (V16)."""
        state = self.state
        why = ""
        if view.number == own.number and view != own:
            why = "another one under the same number"
        elif view.number == own.number + 1 and self._successor_problem(view):
            why = f"view {view.number}, which cannot follow: {self._successor_problem(view)}"
        elif view.number > own.number + 1 and kin_problem(own, view):
            why = f"view {view.number}, which cannot follow: {kin_problem(own, view)}"
        elif view.number > own.number and not is_proposing and self._is_alone(own) and not is_rewritten(own, view):
            why = (
                f"view {view.number}, though nobody but this node could change view {own.number}, in which it is alone"
            )
        if why:
            state.halt(
                f"this node adopted view {own.number}, and the arbiter's record is {why}: the arbiter has lost its memory, "
                "or is another one; what was acknowledged here since may be nowhere else, so keep this data folder"
            )

    def _is_alone(self, own: View) -> bool:
        """Whether the record can only be changed by this very process, as long as it lives."""
        state = self.state
        return own.opened and own.in_sync == (state.me,) and state.role is Role.ACTIVE

    def _successor_problem(self, view: View) -> str:
        assert self.state.view is not None
        return successor_problem(self.state.view, view)

    def _tell_problem(self, problem: str) -> None:
        if self.problem != problem:
            self.problem = problem
            self.state.note("arbiter_set_back", problem=problem)

    # -- what peers tell ---------------------------------------------------------------------------------------------

    def hear(self, record: bytes, sender: Member) -> View | None:
        """Read a record that a peer sent: a newer one, or another of our number, is a reason to read the arbiter's.

        None, and a Note, if it is none of this database's: a peer's garbage is no fault of ours.
        """
        state, own = self.state, self.state.view
        try:
            view = View.from_bytes(record)
        except CorruptRecord as error:
            self._refuse(sender, str(error))
            return None
        if own is None:
            return view
        problem = kin_problem(own, view) if view.number > own.number else ""
        if problem:
            self._refuse(sender, f"a record that cannot be: {problem}")
            return None
        if view.number > own.number:
            if self._heard is None and view.has(sender) and not self._successor_problem(view):
                self._heard, self._heard_ms = view, state.elapsed_ms
            if view.number == own.number + 1 != self._hinted:
                self._hinted = view.number
                self._read_ms = -(10**9)
            self.read_soon()
        elif view.number == own.number and view != own:
            self._refuse(sender, f"another record of view {view.number}")
            self.read_soon()
        return view

    def is_other(self, frame: Numbered) -> bool:
        """Whether a frame is of our view's number and of another record: it is refused with ours, and the arbiter is read."""
        state = self.state
        if state.view is None or frame.view != state.view.number or frame.view_digest in (b"", state.view_digest):
            return False
        self._refuse(frame.sender, f"another record of view {frame.view}")
        self.read_soon()
        if not isinstance(frame, ANSWERS):
            state.send(frame.sender.name, Refused(frame.request, state.me, state.view.to_bytes()))
        return True

    def _refuse(self, sender: Member, problem: str) -> None:
        """Say that a frame was refused, once in a while."""
        state = self.state
        if state.elapsed_ms - self._told_ms >= state.rules.suspect_ms:
            self._told_ms = state.elapsed_ms
            state.note("peer_refused", peer=f"node {sender.name}", problem=problem)
