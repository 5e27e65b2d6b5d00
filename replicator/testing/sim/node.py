"""Own a production node in a simulated process: it runs as it is, is watched, and can die before any effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replicator.config import Config
from replicator.core.effects import Execute, Executed, Propose, Reply, Send
from replicator.core.executor import Outcome
from replicator.core.frames import ForwardAck, Join, Ping
from replicator.core.messages import Kind, Status, split_message
from replicator.core.persistence import Batch, Restored
from replicator.core.state import Role
from replicator.core.views import View
from replicator.errors import StorageError, UsageError
from replicator.node.deadlines import MarksFile
from replicator.node.folder import DataFolder, HandOver
from replicator.node.gateway import Gateway, Token, answer
from replicator.node.node import Node
from replicator.node.notes import Notes
from replicator.node.stepping import Performers
from replicator.node.writer import Done, Failed
from replicator.service import Service
from replicator.shape import check_schema
from replicator.store.memory import MemoryStore
from replicator.testing.sim.poison import Poison
from replicator.testing.sim.process import Died, Process
from replicator.testing.sim.recorder import Recorder
from replicator.testing.sim.sockets import SimPlatform
from replicator.wire import FLAG_STALE, Answer, Outgoing

#: How long a batch takes to become durable: microseconds, at least and at most.
WRITE_US = (150, 3_000)
#: How often a write on a disk that hangs is tried.
HANG_LOOK_S = 0.02


@dataclass(slots=True)
class Disk:
    """What a node's data folder holds; it outlives the process."""

    database_id: str = ""
    highest_view: int = 0
    starts: int = 0
    record: bytes = b""
    fails: Callable[[], bool] = field(default=lambda: False)  # whether a write fails now
    bent: set[int] = field(default_factory=set)  # seqs whose outcome is another one on this machine
    store: MemoryStore = field(default_factory=MemoryStore)
    write_us: tuple[int, int] = WRITE_US  # how long a batch takes to become durable
    schema: tuple[str, ...] = ()  # of what it holds
    marks: bytes = b""  # of the deadline that runs
    hangs: bool = False  # writes are not done while it does


class SimMarks(MarksFile):
    """The marks on a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def read(self) -> bytes:
        """Return what was written last."""
        return self._disk.marks

    def write(self, marks: bytes) -> None:
        """Keep *marks*."""
        self._disk.marks = marks

    def close(self) -> None:
        """Nothing to give back."""


class SimFolder(DataFolder):
    """A data folder on a simulated disk."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self.path = Path("simulated")
        self._disk = disk
        self._process = process
        disk.starts += 1
        self.database_id, self.highest_view, self.starts = disk.database_id, disk.highest_view, disk.starts
        self.record = disk.record

    def write(self, database_id: str, highest_view: int, record: bytes = b"") -> None:
        """Store durably. Raises StorageError if the disk is broken."""
        if self._disk.fails():
            raise StorageError("the simulated disk cannot be written")
        self._disk.database_id, self._disk.highest_view = database_id, highest_view
        self._disk.record = record or self._disk.record
        self.database_id, self.highest_view, self.record = database_id, highest_view, self._disk.record

    @property
    def events_file(self) -> Path | None:
        """Events are kept in memory."""
        return None

    def open_marks(self) -> SimMarks:
        """Open the marks of the deadline that runs."""
        return SimMarks(self._disk)

    def refuse_rows(self) -> None:
        """A simulated deployment keeps its store."""

    def open_writer(
        self,
        tables: tuple[str, ...],
        schema: tuple[str, ...],
        database_id: str,
        hand_over: HandOver,
        done: Done,
        failed: Failed,
    ) -> SimWriter:
        """Open the rows. Raises SchemaMismatch."""
        check_schema(self._disk.schema or schema, schema, f"the disk of {self._process.name}")
        self._disk.schema = schema
        return SimWriter(self._disk, self._process, done, failed)

    def close(self) -> None:
        """Nothing to give back."""


class SimWriter:
    """The writing thread of a simulated node. A batch becomes durable at some moment, and the node hears of it later."""

    def __init__(self, disk: Disk, process: Process, done: Done, failed: Failed) -> None:
        self._disk = disk
        self._process = process
        self._done = done
        self._failed = failed

    def load(self) -> Restored | None:
        """Return what the disk holds."""
        return self._disk.store.load()

    def write(self, batch: Batch) -> None:
        """Store a batch, in a while."""
        self._later(lambda: self._land(batch))

    def _later(self, what: Callable[[], None]) -> None:
        us = self._process.random.randint(*self._disk.write_us)
        if self._disk.hangs:
            self._process.loop.call_later(HANG_LOOK_S, lambda: self._later(what))
        else:
            self._process.loop.call_later(us / 2e6, what)

    def _land(self, batch: Batch) -> None:
        if self._disk.fails():
            self._failed(StorageError("the simulated disk cannot be written"))
            return
        store, goes_back = self._disk.store, batch.position.seq < self._disk.store.seq
        store.write(batch)
        if goes_back:  # a catch-up has undone something
            assert store.highest_seq <= store.seq, (
                "a row on the disk is of a later seq than the position: it will be refused"
            )
        self._later(lambda: self._done(batch.position.seq))

    def close(self, *, within_s: float | None = None) -> None:
        """Nothing to give back."""


class SimNotes(Notes):
    """Notes that go to the recorder."""

    def __init__(self, take: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__("")
        self._take = take

    def take(self, event: str, facts: Mapping[str, Any]) -> None:
        """Write one down."""
        self.counts[event] += 1
        self._take(event, facts)


class SimNode(Node):
    """One life of a node."""

    def __init__(
        self,
        config: Config,
        name: str,
        service: Service[Any],
        *,
        process: Process,
        platform: SimPlatform,
        disk: Disk,
        recorder: Recorder,
        on_release: Callable[[SimNode, Answer], None],
        on_read: Callable[[SimNode, Answer, int | None], None],
        on_ack: Callable[[SimNode, ForwardAck], None],
        poison: Poison,
        on_record: Callable[[SimNode, View], None],
    ) -> None:
        self.process = process
        self._poison = poison
        self._senders: dict[bytes, Process] = {}  # who has sent a message last
        self.recorder = recorder
        self._disk = disk
        self._on_release = on_release
        self._on_read = on_read
        self._after_record = on_record
        self._messages: dict[Token, tuple[bytes, bool, int]] = {}  # with the moment of arrival, in microseconds
        notes = SimNotes(lambda event, facts: recorder.note(self.me, event, facts))
        super().__init__(config, name, service, platform=platform, folder=SimFolder(disk, process), notes=notes)
        own = self._stepper.performers
        send = own[Send]
        performers: Performers = {
            **own,
            Propose: self._propose,
            Send: lambda effect: self._send(effect, send, on_ack),
            Execute: self._perform_execute,
            Reply: self._perform_reply,
        }
        self._stepper.performers = {kind: self._counted(perform) for kind, perform in performers.items()}

    @property
    def seq_on_disk(self) -> int:
        """Up to where its disk holds what happened."""
        return self._disk.store.seq

    def _counted(self, perform: Callable[[Any], None]) -> Callable[[Any], None]:
        def counted(effect: Any) -> None:
            self.process.effect()
            perform(effect)

        return counted

    def _perform_execute(self, effect: Execute) -> None:
        """Run a handler, give its outcome back, and write down what was committed."""
        replica = self.replica
        assert replica is not None
        state, entry = replica.state, effect.entry
        outcome = self.deadlines.execute(effect, self._execute)
        if state.role in (Role.BACKUP, Role.OUTSIDE) and self.is_bent(entry.seq):
            outcome = outcome._replace(state=outcome.state._replace(digest=b"it bends"))
        self._stepper.follow(replica.step(Executed(entry, outcome)))
        if state.fifo.executed_seq == entry.seq:
            transaction = state.transactions.open.get(entry.txn_id)
            expect_no = 0 if transaction is None else transaction.expect_no
            before = state.fifo.chain_at(entry.seq - 1) or b""
            self.recorder.executed(self.me, effect, outcome, state.digest, before=before, expect_no=expect_no)

    def _execute(self, effect: Execute) -> Outcome:
        """Run a handler, or die of it."""
        assert self.replica is not None
        message, is_active = effect.entry.message, self.replica.state.role is Role.ACTIVE
        sender = self._senders.pop(message, None)
        if self._poison.kills(self.name, message, sender, is_first=is_active):
            raise Died
        if effect.entry.kind == Kind.DEADLINE and is_active and not effect.entry.told:
            self._poison.runs_deadline(self.name, message)
        return self.replica.execute(effect)

    def _propose(self, effect: Propose) -> None:
        self.recorder.proposed(effect.view)
        self.arbiter.propose(effect.base, effect.view, effect.asked)

    def _send(self, effect: Send, send: Callable[[Any], None], on_ack: Callable[[SimNode, ForwardAck], None]) -> None:
        if isinstance(effect.frame, ForwardAck):
            on_ack(self, effect.frame)
        elif isinstance(effect.frame, Join | Ping):
            self.recorder.hellos[self.me] = effect.frame
        send(effect)

    def is_bent(self, seq: int) -> bool:
        """Whether the machine makes another outcome of this entry, as a stack of another depth may (A5)."""
        return seq in self._disk.bent

    def on_told(self, view: View, asked: int) -> None:
        """Take an answer of the arbiter, and be watched."""
        super()._on_record(view, asked)
        self._after_record(self, view)

    def _on_record(self, view: View, asked: int) -> None:
        self.on_told(view, asked)

    def _perform_reply(self, effect: Reply) -> None:
        """Answer a client, and write it down."""
        self._note_release(effect.token, effect.answer)  # type: ignore[arg-type]
        answer(effect)

    def _note_release(self, token: Token, answer: Answer) -> None:
        known = self._messages.pop(token, None)
        if known is not None:
            message, stale, arrived_us = known
            is_readonly = self._is_readonly(message)
            if not is_readonly:
                self._on_release(self, answer)
            elif answer.status == Status.DONE:
                self._on_read(self, answer, None if stale else arrived_us)
            self.recorder.released(self.me, message, answer, readonly=is_readonly, stale=stale)

    def _is_readonly(self, message: bytes) -> bool:
        try:
            spec = type(self.service).handlers().get(str(split_message(message)[2]))
        except UsageError:
            return True
        return spec is not None and spec.readonly

    def _make_gateway(self) -> Gateway:
        return Gateway(
            self._on_submit,
            self.who,
            invoke_ms=self.config.timing.call_timeout_ms,
            frame_bytes_max=self.config.limits.frame_bytes_max,
        )

    def _on_submit(self, token: Token, outgoing: Outgoing) -> None:
        """Take a client's message."""
        now_us = self.process.timeline.now_us
        self._senders[outgoing.message] = token[0].request.sender  # type: ignore[attr-defined]
        self._messages[token] = (outgoing.message, bool(outgoing.flags & FLAG_STALE), now_us)
        self._stepper.submit(token, outgoing)
