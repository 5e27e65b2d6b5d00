"""The whole protocol of one replica: `step(input) -> [effects]` (DESIGN.md section 5).

Owns the dispatch of inputs to the roles and nothing else; state.py holds, active.py, backup.py and council.py decide. Pure:
two replicas given the same inputs give the same effects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replicator.core.active import Active
from replicator.core.backup import Backup
from replicator.core.busy import BusyNodes
from replicator.core.council import Council
from replicator.core.disk import Disk
from replicator.core.effects import (
    ArbiterLost,
    ClockConfirmed,
    Connect,
    Effect,
    Execute,
    Executed,
    ExecuteRead,
    Input,
    LinkLost,
    LinkUp,
    ReadDone,
    Received,
    Started,
    Submitted,
    Tick,
    TurnEnded,
    ViewChanged,
    Written,
)
from replicator.core.executor import Outcome
from replicator.core.frames import (
    NUMBERED,
    Adopt,
    Adopted,
    Busy,
    Fetch,
    Forward,
    ForwardAck,
    Gather,
    Gathered,
    Join,
    JoinAnswer,
    Ping,
    Pong,
    Refused,
    Tail,
)
from replicator.core.keeping import Keeper
from replicator.core.messages import Level
from replicator.core.persistence import Restored
from replicator.core.state import Role, Rules, State
from replicator.core.views import Member
from replicator.ids import shown_id
from replicator.service import Service


class Replica:
    """One node's copy of one partition.

    *seed* feeds the random seeds of control headers; *me* names this incarnation (V2). `check()` asserts every invariant.
    """

    def __init__(self, service: Service[Any], me: Member, database_id: str, rules: Rules, *, seed: int) -> None:
        self.state = State(service, me, database_id, rules, seed)
        self.active = Active(self.state)
        self.backup = Backup(self.state)
        self.keeper = Keeper(self.state)
        self.council = Council(self.state, self.active, self.backup, self.keeper)
        self.disk = Disk(self.state, self.keeper, self.active, self.backup)
        self.busy = BusyNodes(self.state, self.active, self.backup)
        council, backup = self.council, self.backup
        self._inputs: dict[type, Callable[[Any], None]] = {
            Started: self._on_started,
            Tick: self._on_tick,
            Submitted: self._on_submitted,
            Executed: self._on_executed,
            ReadDone: self._on_read_done,
            Received: self._on_received,
            LinkUp: self._on_link_up,
            LinkLost: self._on_link_lost,
            ViewChanged: lambda changed: council.on_view_changed(changed.view, changed.asked),
            ArbiterLost: lambda lost: None,  # still unsettled: `consider` repeats it (V5)
            Written: self._on_written,
            TurnEnded: self._on_turn_ended,
            ClockConfirmed: self._on_clock_confirmed,
        }
        self._frames: dict[type, Callable[[Any], None]] = {
            Forward: self._on_forward,
            ForwardAck: council.on_forward_ack,
            Adopt: council.on_adopt,
            Adopted: council.on_adopted,
            Fetch: backup.on_fetch,
            Tail: council.on_tail,
            Join: council.joining.on_join,
            JoinAnswer: council.on_join_answer,
            Gather: council.source.on_gather,
            Gathered: council.recovery.on_gathered,
            Ping: council.on_ping,
            Pong: council.on_pong,
            Refused: council.on_refused,
            Busy: self.busy.on_busy,
        }

    def restore(self, restored: Restored) -> None:
        """Take up what the store held, before `Started`. O(rows log rows). Raises CorruptRecord."""
        self.keeper.restore(restored)

    def step(self, given: Input) -> list[Effect]:
        """Take one input, return the effects to perform in order. A halted replica does nothing more."""
        state = self.state
        if state.role is not Role.HALTED:
            self._inputs[type(given)](given)
        effects = state.effects
        state.effects = []
        return effects

    def execute(self, effect: Execute) -> Outcome:
        """Perform an `Execute`: run the handler, commit nothing."""
        return self.state.executor.execute(effect.entry, self.state.transactions)

    def execute_read(self, effect: ExecuteRead) -> Outcome:
        """Perform an `ExecuteRead`."""
        state = self.state
        number = 0 if state.view is None else state.view.number
        return state.executor.read(effect, view=number, seq=state.fifo.executed_seq, now_ms=state.clocks.time_ms)

    def _on_started(self, started: Started) -> None:
        self.state.highest_view = started.highest_view
        self.council.records.read()

    def _on_tick(self, tick: Tick) -> None:
        state = self.state
        state.tick(tick.now_ms, tick.elapsed_ms)
        self.council.on_tick()
        self.disk.on_tick(is_awaited=self._awaits_disk())
        if state.role is Role.BACKUP:
            self.backup.ack_late()
        deadline_ms = state.transactions.next_deadline_ms
        if deadline_ms is not None and deadline_ms <= state.clocks.age_ms:
            self.active.put_deadlines()

    def _on_submitted(self, submitted: Submitted) -> None:
        if submitted.stale and self.backup.on_stale_read(submitted):
            return
        self.active.on_submitted(submitted)
        state = self.state
        if state.role is Role.BACKUP and state.view is not None and state.view.active is not None:
            # A caller came here: perhaps its way to the active is broken; see about our own (V6).
            name = state.view.active.name
            if not state.linked.get(name):
                state.effects.append(Connect(name))

    def _on_executed(self, executed: Executed) -> None:
        if executed.entry.digest:
            if self.state.role is Role.OPENING:
                self._on_tail_executed(executed)
            else:
                self.backup.on_executed(executed)
                self.council.outside.leave_if_diverged()
        else:
            self.active.on_executed(executed)

    def _on_tail_executed(self, executed: Executed) -> None:
        """A tail taken over: the same comparison as on a backup."""
        self.backup.on_executed(executed)
        if self.state.role is Role.DIVERGED:
            self.state.halt(f"entry {executed.entry.seq} of the tail has another outcome here than on its active")
            return
        self.council.on_tail_executed()

    def _on_read_done(self, done: ReadDone) -> None:
        if done.outcome.failure is not None:
            name, txn = done.read.spec.name, shown_id(done.read.txn_id)
            self.state.note("handler_failed", handler=name, seq=0, txn=txn, failure=done.outcome.failure)
        if done.read.stale:
            self.backup.on_read_done(done)
        else:
            self.active.on_read_done(done)

    def _on_received(self, received: Received) -> None:
        frame = received.frame
        self.council.see(frame.sender)
        if isinstance(frame, NUMBERED) and self.council.records.is_other(frame):
            return
        self._frames[type(frame)](frame)

    def _on_forward(self, frame: Forward) -> None:
        self.backup.on_forward(frame)
        self.council.outside.leave_if_diverged()

    def _on_link_up(self, up: LinkUp) -> None:
        self.state.linked[up.node] = True
        self.council.on_link_up(up.node)

    def _on_link_lost(self, lost: LinkLost) -> None:
        self.state.linked[lost.node] = False
        self.council.on_link_lost(lost.node, lost.refused)

    def _on_written(self, written: Written) -> None:
        self.keeper.on_written(written)
        self.disk.on_written()
        if self.state.role in (
            Role.BACKUP,
            Role.OUTSIDE,
        ):  # outside: a joiner, which the active counts on to be durable
            self.backup.ack_owed()
        self.council.recovery.finish()

    def _on_turn_ended(self, turn: TurnEnded) -> None:
        self.keeper.pump(is_awaited=self._awaits_disk())
        if self.state.role in (Role.ACTIVE, Role.OPENING):
            self.active.pump()
        elif self.state.role is Role.BACKUP:
            self.backup.release()

    def _on_clock_confirmed(self, confirmed: ClockConfirmed) -> None:
        """Believe this machine's clock, however far ahead it is: a person has looked (V19)."""
        state = self.state
        if state.is_serving:
            state.note("clock_confirmed", ahead_ms=max(0, state.clocks.wall_ms - state.clocks.line_ms))
            state.clocks.confirm()

    def _awaits_disk(self) -> bool:
        """Whether somebody waits for the own disk, so that a batch must not gather first."""
        state = self.state
        if state.rules.ack >= Level.DURABLE:
            return True
        if state.role is Role.ACTIVE:
            return self.active.awaits_disk
        return state.role is not Role.BACKUP or self.backup.awaits_disk

    def status(self) -> dict[str, object]:
        """Return what an operator wants to know: plain values by name; see `replicator status`."""
        state = self.state
        view = state.view
        chain = state.fifo.chain_at(state.fifo.executed_seq)
        return {
            "node": state.me.name,
            "incarnation": state.me.incarnation,
            "role": state.role.value,
            "view": 0 if view is None else view.number,
            "active": "" if view is None or view.active is None else view.active.name,
            "in_sync": [] if view is None else [member.name for member in view.in_sync],
            "members": [] if view is None else list(view.members),
            "opened": view is not None and view.opened,
            "linked": [name for name, is_up in sorted(state.linked.items()) if is_up],
            "mismatch": view is not None and view.is_mismatch,
            "seq": state.fifo.last_seq,
            "applied": state.fifo.executed_seq,
            "held_by_all": state.fifo.held_by_all,
            "behind": {name: state.fifo.last_seq - peer.match_applied for name, peer in self.active.peers.items()},
            "in_flight": self.active.in_flight,
            "fifo": state.fifo.last_seq - state.fifo.base_seq,
            "open": len(state.transactions.open),
            "remembered": state.transactions.remembered_count,
            "remembered_named": len(state.transactions.named),
            "rows": state.database.row_count,
            "digest": f"{state.digest:016x}",
            "written": state.written_seq,
            "changes": len(state.changes),
            "changes_from": state.changes.low,
            "floors": dict(self.active.floors),
            "database_id": state.database_id,
            "fingerprint": state.fingerprint.hex(),
            "tables": [table.name for table in state.database.tables],
            "schema": list(state.schema),
            **self.council.recovery.status(),
            **self._status_of_others(),
            "safe": view is not None and view.safe,
            "time_ms": state.clocks.time_ms,
            "wall_ms": state.clocks.wall_ms,
            "age_ms": state.clocks.age_ms,
            "clock_ahead_ms": state.clocks.ahead_ms,
            "chain": chain.hex() if chain is not None else "",
            "proposed_ms": self.council.proposed_ms_ago,
            "diverged": dict(state.diverged),
            "arbiter_ms": self.council.records.answered_ms_ago,
            "arbiter_silent": self.council.records.is_silent,
            "arbiter_problem": self.council.records.problem,
            "because": self.council.because if state.role is Role.OUTSIDE else "",
        }

    def _status_of_others(self) -> dict[str, object]:
        """Return what this node sees of the others."""
        return {
            "awaited": "" if self.active.awaited is None else self.active.awaited.name,
            "slowest_ack_ms": {name: peer.slowest_ms for name, peer in self.active.peers.items()},
            "busy": self.busy.status(),
            "disk": self.disk.status(),
        }

    def check(self) -> None:
        """Assert every invariant of the state; O(rows + entries), for tests and the simulator."""
        state = self.state
        state.database.check()
        state.transactions.check()
        state.fifo.check()
        state.changes.check()
        if state.role in (Role.ACTIVE, Role.OPENING):
            assert state.view is not None
            assert state.view.active == state.me
        if state.view is not None:
            state.view.check()
            assert state.view.number <= state.highest_view
