"""Own the shell of a replica: sockets in, `step`, effects out; one thread, one loop.

Reads all ready requests, steps, forwards in one call, and writes the replies when the acks come (DESIGN.md section 11). It
decides nothing: what is protocol is in core/. Effects are performed in the order given; a `WriteView` is durable before the
next one. A failed write halts the node.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from loguru import logger

from replicator.claiming import Claim
from replicator.config import Config
from replicator.core.effects import (
    ArbiterLost,
    ClockConfirmed,
    Connect,
    Execute,
    ExecuteRead,
    Halt,
    LinkLost,
    LinkUp,
    Note,
    Propose,
    ReadDone,
    ReadView,
    Received,
    Reply,
    Send,
    Started,
    ViewChanged,
    Write,
    WriteView,
    Written,
)
from replicator.core.frames import ANSWERS, Frame
from replicator.core.replica import Replica
from replicator.core.state import Role
from replicator.core.views import Member, View
from replicator.errors import ConfigError, OutOfMemory, ReplicatorError, StorageError, StorageUnavailable, UsageError
from replicator.ids import shown_id
from replicator.meeting import WHO, Identity, Pin, answering
from replicator.node.deadlines import Deadlines
from replicator.node.events import Events
from replicator.node.folder import DataFolder
from replicator.node.gateway import Gateway, answer
from replicator.node.holdings import tell
from replicator.node.links import ArbiterClient, NodeLinks
from replicator.node.loading import load_service_class
from replicator.node.notes import Notes, says
from replicator.node.progress import CatchupBar
from replicator.node.pulse import Pulse
from replicator.node.rules import rules_of
from replicator.node.stepping import Performers, Stepper
from replicator.node.writer import WriterLike
from replicator.service import Service
from replicator.transport import SYSTEM, LoopLike, Platform, Request, ServerLike
from replicator.wire import DEATHS_MAX, decode_frame, encode_frame

#: Ticks per heartbeat: deadlines and silences are seen this much finer than the heartbeat.
TICKS_PER_HEARTBEAT = 4
#: How often, and from how many new objects on, a node looks for rings of them that handlers have left: 1 ms for so many.
COLLECT_S = 0.05
COLLECT_OBJECTS_MIN = 4_000
#: So many at once within one turn are looked through right there, so that one handler's garbage is bounded, too.
COLLECT_WITHIN_TURN = 100_000
#: At SIGTERM: how long held replies may still leave.
LAST_REPLIES_MS = 1_000
#: How long a node that has halted waits for the write that is under way.
HALTED_CLOSE_S = 2.0


class Node:
    """One node of a database. Raises ConfigError, StorageError at once for what can never run."""

    def __init__(
        self,
        config: Config,
        name: str,
        service: Service[Any],
        *,
        platform: Platform = SYSTEM,
        folder: DataFolder | None = None,
        notes: Notes | None = None,
    ) -> None:
        if name not in config.nodes:
            raise ConfigError(f"{config.path}: there is no [nodes.{name}]; nodes are: {', '.join(config.nodes)}")
        self.config = config
        self.name = name
        self.service = service
        self.platform = platform
        self.bar = CatchupBar(sys.stderr)
        self.notes = notes or Notes(name, before=self.bar.clear)
        self.halted_because = ""
        self._may_start_again = False  # what halted it may pass by itself
        self.on_loaded: Callable[[], None] = lambda: None  # the rows of a former life are in memory
        self.folder = folder or DataFolder(config.nodes[name].data)
        self.deadlines = Deadlines(self.folder.open_marks(), self._on_deadline_given_up)
        self._stepper = Stepper(self._on_write_failed, platform.wall_ms, platform.elapsed_ms, self.deadlines)
        self.give = self._stepper.give
        self._held: dict[tuple[str, int], Request] = {}  # request frames not answered yet
        self._stepper.performers = self._make_performers()
        self.writer: WriterLike | None = None
        self.events = Events(name, self.folder.events_file)
        self.me = Member(name, f"{self.folder.starts:08x}.{platform.noise(6).hex()}")
        self.pin = Pin(config.database.name, self.folder.database_id)
        self.loop = platform.loop(buffers_bytes_max=config.limits.buffers_bytes_max)
        self.gateway = self._make_gateway()
        self.server = self._serve()
        self.names = platform.names(
            self.loop,
            config.name_server.host,
            config.name_server.port,
            refresh_ms=config.timing.name_refresh_ms,
            connect_ms=config.timing.connect_ms,
        )
        self.claim = self._claim_name()
        self.links = self._make_links()
        self.pulse = self._make_pulse()
        self.arbiter = self._make_arbiter()
        self._tick_s = config.timing.heartbeat_ms / 1000 / TICKS_PER_HEARTBEAT
        self.loop.at_turn_end(self._stepper.end_turn)

    @property
    def replica(self) -> Replica | None:
        """This node's copy; None before it has read the record."""
        return self._stepper.replica

    def _make_gateway(self) -> Gateway:
        return Gateway(
            self._stepper.submit,
            self.who,
            invoke_ms=self.config.timing.call_timeout_ms,
            frame_bytes_max=self.config.limits.frame_bytes_max,
        )

    def who(self) -> Identity:
        """Say which database this node is of (V20)."""
        return Identity(self.config.database.name, self.pin.database_id, f"{self.name} {self.me.incarnation}")

    def _serve(self) -> ServerLike:
        """Listen."""
        own = self.config.nodes[self.name]
        return self.platform.server(
            self.loop,
            {
                "replicator.client": self.gateway.endpoint(),
                "replicator.node": {"frame": self._on_frame, WHO: answering(self.who)},
                "replicator.operator": {
                    "status": lambda request: request.reply(self.status()),
                    "events": self._on_events,
                    "holdings": self._on_holdings,
                    "confirm_clock": self._on_confirm_clock,
                },
            },
            host=own.host,
            port=own.port,
            limits=self.config.limits,
            timing=self.config.timing,
            reserved=("replicator.node", "replicator.operator"),
            on_note=self.notes.take,
        )

    def _claim_name(self) -> Claim:
        """Be found by name, unless a living process of another database is."""
        return Claim(
            self.platform,
            self.loop,
            self.names,
            f"replicator.{self.config.database.name}.node.{self.name}",
            self.server.uri("replicator.node"),
            self.pin,
            again_ms=self.config.timing.name_refresh_ms,
            connect_ms=self.config.timing.connect_ms,
            on_taken=lambda problem: self.notes.take("name_taken", {"problem": problem}),
            life=self.who().life,
            on_twin=self._on_twin,
        )

    def _make_links(self) -> NodeLinks:
        """Make the links to the other nodes."""
        return NodeLinks(
            self.platform,
            self.loop,
            self.config,
            self.name,
            self.names,
            self.pin,
            on_up=self._on_link_up,
            on_down=self._on_link_down,
            on_stranger=self._on_stranger,
        )

    def _make_pulse(self) -> Pulse:
        """Make what beats while a handler runs."""
        return Pulse(
            self.me,
            lambda: self.replica,
            self.links.known,
            turn_began_s=lambda: self.loop.now_s,
            heartbeat_ms=self.config.timing.heartbeat_ms,
            handler_ms_max=self.config.timing.handler_ms_max,
            on_too_long=lambda handler, ms: self.notes.take("handler_too_long", {"handler": handler, "ms": ms}),
        )

    def _make_arbiter(self) -> ArbiterClient:
        """Make the link to the arbiter."""
        return ArbiterClient(
            self.platform,
            self.loop,
            self.config,
            self.names,
            self.pin,
            on_record=self._on_record,
            on_lost=lambda: self.give(ArbiterLost()),
            on_stranger=self._on_stranger,
        )

    def _make_performers(self) -> Performers:
        """Return how each effect is performed."""
        return {
            Execute: self._stepper.execute,
            ExecuteRead: self._perform_execute_read,
            Send: self.perform_send,
            Reply: answer,
            WriteView: self._perform_write_view,
            Write: self.perform_write,
            Propose: lambda effect: self.arbiter.propose(effect.base, effect.view, effect.asked),
            ReadView: lambda effect: self.arbiter.read(effect.asked),
            Connect: lambda effect: self.links.connect(effect.node),
            Note: lambda effect: self.notes.take(effect.event, effect.facts),
            Halt: self._perform_halt,
        }

    # -- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`, a signal, or a halt; then leave cleanly. Raises ReplicatorError if it halted."""
        log = logger.bind(node=self.name)
        log.info("listens at {address}", address=self.server.uri("replicator.client"))
        self.start()
        self.pulse.start()
        try:
            self.loop.run()
            self._end()
        finally:
            self.close()
        if self.halted_because:
            kind = StorageUnavailable if self._may_start_again else ReplicatorError
            raise kind(f"node {self.name} halted: {self.halted_because}")
        log.info("ended, as {why} asked for it", why=self.loop.stopped_by or "its owner")

    def start(self) -> None:
        """Ask for the record, and begin to look at the clock; the loop does the rest."""
        self.arbiter.read(self.folder.highest_view)
        self._on_timer()

    def stop(self) -> None:
        """End from any thread."""
        self.loop.stop()

    def _end(self) -> None:
        """Let held replies leave, take nothing new, take the name out of the phone book."""
        self._stepper.is_ending = True
        done: list[bool] = []
        self.names.unregister_all(lambda: done.append(True))
        end_s = time.monotonic() + LAST_REPLIES_MS / 1000
        while time.monotonic() < end_s and not self.halted_because:
            if done and (self.replica is None or not (self.replica.active.in_flight or self.replica.keeper.is_behind)):
                break
            self.loop.run_once(0.05)

    def close(self) -> None:
        """Give back sockets, folder, loop."""
        self.pulse.close()
        self.links.close()
        self.arbiter.close()
        self.claim.close()
        self.names.close()
        self.server.close()
        if self.writer is not None:
            self.writer.close(within_s=HALTED_CLOSE_S if self.halted_because else None)
        self.deadlines.close()
        self.folder.close()
        self.loop.close()

    def _on_timer(self) -> None:
        self._stepper.tick()
        if self.replica is None:
            self.arbiter.read(self.folder.highest_view)
        else:
            self.bar.show(self.replica.council.recovery.progress)
        self.loop.call_later(self._tick_s, self._on_timer)

    # -- effects -----------------------------------------------------------------------------------------------------

    def _perform_execute_read(self, effect: ExecuteRead) -> None:
        assert self.replica is not None
        outcome = self.replica.execute_read(effect)
        self._stepper.follow(self.replica.step(ReadDone(effect, outcome)))

    def perform_send(self, effect: Send) -> None:
        """Send a frame: an answer on the call it answers, a request on the link."""
        assert self.replica is not None
        frame = effect.frame
        data = encode_frame(self.replica.state.database_id, frame)
        if isinstance(frame, ANSWERS):
            request = self._held.pop((effect.node, frame.request), None)
            if request is not None:
                request.reply(data, at_once=True)  # an ack releases replies: it goes before our own work
        else:
            self.links.send(effect.node, data, self._on_answer)

    def _perform_write_view(self, effect: WriteView) -> None:
        self.folder.write(effect.view.database_id, effect.view.number, effect.view.to_bytes())
        self.events.on_view(effect.view, self.platform.wall_ms())

    def perform_write(self, effect: Write) -> None:
        """Give the store a batch; `Written` follows."""
        assert self.writer is not None
        self.writer.write(effect.batch)

    def _on_twin(self, problem: str) -> None:
        self._perform_halt(Halt(f"{problem}. A node runs once: stop that one first"))

    def _on_deadline_given_up(self, txn_id: bytes, handler: str) -> None:
        self.notes.take("deadline_given_up", {"txn": shown_id(txn_id), "handler": handler, "deaths": DEATHS_MAX})

    def _perform_halt(self, effect: Halt) -> None:
        if not self.halted_because:
            self.halted_because = effect.reason
            self._may_start_again |= effect.may_pass
            self._stepper.is_halted = True
            if self.replica is not None:
                self.replica.state.role = Role.HALTED
            self.notes.take("halted", {"reason": effect.reason})
        self.loop.stop()

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _on_frame(self, request: Request, blob: object) -> None:
        """Take a request frame of another node; its answer may come later."""
        if self.replica is None:
            request.refuse("this node has not read the view record yet")
            return
        try:
            frame = decode_frame(self.replica.state.database_id, blob)
            if isinstance(frame, ANSWERS):
                raise UsageError(f"a {type(frame).__name__} frame is an answer, not a request")
        except UsageError as error:
            self.notes.take("peer_refused", {"peer": request.peer, "problem": str(error)})
            request.refuse(str(error))
            return
        self._held[(frame.sender.name, frame.request)] = request
        self._stepper.tick()
        self.give(Received(frame))
        if len(self._held) > self.config.limits.connections_max:
            self._held.pop(next(iter(self._held)))

    def _on_answer(self, data: object) -> None:
        """Take the answer to a frame of ours."""
        assert self.replica is not None
        try:
            frame: Frame = decode_frame(self.replica.state.database_id, data)
        except UsageError as error:
            self.notes.take("peer_refused", {"peer": "a node", "problem": str(error)})
            return
        self._stepper.tick()
        self.give(Received(frame))

    def _on_link_up(self, node: str) -> None:
        self._stepper.tick()
        self.give(LinkUp(node))

    def _on_link_down(self, node: str, refused: bool) -> None:
        self._stepper.tick()
        self.give(LinkLost(node, refused))

    def _on_stranger(self, whom: str, problem: str) -> None:
        """What answered in somebody's place is nobody there (V20)."""
        self.notes.take("stranger", {"whom": whom, "problem": problem})

    def _on_record(self, view: View, asked: int) -> None:
        """Take the arbiter's record; the first one brings the replica to life."""
        if self.replica is None:
            if view.ack != self.config.database.ack:
                reason = f"the database was initialised with ack = {view.ack!r}, the configuration says otherwise"
                self._perform_halt(Halt(f"{reason} ({self.config.database.ack!r}): make them equal"))
                return
            try:
                self._make_replica(view.database_id)
            except StorageError as error:
                self._on_write_failed(error)
                return
        self._stepper.tick()
        self.give(ViewChanged(view, asked))

    def _make_replica(self, database_id: str) -> None:
        """Bring the replica to life, with the rows that the store holds. Raises StorageError."""
        seed = int.from_bytes(self.platform.noise(8), "big")
        replica = Replica(self.service, self.me, database_id, rules_of(self.config), seed=seed)
        if replica.state.rules.is_durable:
            tables = tuple(table.name for table in replica.state.database.tables)
            self.writer = self.folder.open_writer(
                tables,
                replica.state.schema,
                database_id,
                self.loop.call_soon_threadsafe,
                self._on_written,
                self._on_write_failed,
            )
            restored = self.writer.load()
            if restored is not None:
                replica.restore(restored)
                self.on_loaded()
        else:
            self.folder.refuse_rows()
        self._stepper.replica = replica
        self._stepper.tick()
        self.give(Started(self.folder.highest_view))

    def _on_written(self, seq: int) -> None:
        self.give(Written(seq))

    def _on_write_failed(self, error: StorageError | OutOfMemory) -> None:
        """What the disk holds now is not known: never go on as if it had kept its word. Nor without the memory to go on."""
        self._may_start_again = isinstance(error, (StorageUnavailable, OutOfMemory))
        self._perform_halt(Halt(str(error)))

    # -- looking -----------------------------------------------------------------------------------------------------

    def _on_holdings(self, request: Request) -> None:
        try:
            request.reply(tell(self))
        except StorageError as error:
            request.refuse(str(error))

    def _on_confirm_clock(self, request: Request) -> None:
        """A person says that this machine's clock is right (V19)."""
        self._stepper.tick()
        self.give(ClockConfirmed())
        request.reply(self.status())

    def _on_events(self, request: Request, after: object) -> None:
        if type(after) is not int:
            request.refuse("events takes (after: whole number)")
            return
        request.reply(self.events.after(after))

    def status(self) -> dict[str, object]:
        """Return what `replicator status` shows of this node."""
        which = {"database": self.config.database.name, "database_id": self.pin.database_id}
        if self.replica is None:
            return {
                **which, "node": self.name, "incarnation": self.me.incarnation, "role": "starting", "view": 0, "seq": 0,
                "applied": 0, "behind": {}, "in_flight": 0, "open": 0, "digest": "", "active": "", "in_sync": [],
                "mismatch": False, "fifo": 0, "remembered": 0, "remembered_named": 0, "rows": 0, "opened": False,
                "members": [], "time_ms": 0, "wall_ms": 0, "clock_ahead_ms": 0,
                "says": "waits for the arbiter's record", "events": {}, "pid": os.getpid(),
                "connections": self.server.status(),
            }  # fmt: skip
        status = self.replica.status()
        own = {"says": says(status), "events": dict(self.notes.counts), "pid": os.getpid()}
        return {**status, **which, **own, "connections": self.server.status(), "limits": asdict(self.config.limits)}


def run_node(config: Config, name: str, *, make: Callable[[Config, str, Service[Any]], Node] = Node) -> None:
    """Run a node as this process, until SIGTERM or Ctrl-C. Raises ReplicatorError if it halts."""
    service_class = load_service_class(config.database.service, folder=config.path.parent)
    node = make(config, name, service_class())
    node.loop.stop_on_signals(on_look=lambda: node.notes.say(node.status()))
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_WITHIN_TURN, 1_000_000, 1_000_000)
    node.on_loaded = gc.freeze
    collect_young(node.loop)
    node.run()


def collect_young(loop: LoopLike) -> None:
    """Collect what handlers left in rings, now and then, between messages; never look twice at what stays.

    Rows and remembered replies live long and form no rings: to look through a million of them again would stop the loop for a
    second. Between messages no handler runs, so that what a handler made for itself is garbage by now.
    """
    young, collections, _ = gc.get_count()
    if young >= COLLECT_OBJECTS_MIN or collections:
        gc.collect(1)  # both younger generations: all that came since the last time
        gc.freeze()
    loop.call_later(COLLECT_S, partial(collect_young, loop))
