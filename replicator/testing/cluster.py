"""Own `Cluster`: a whole deployment in one thread, on a virtual clock, for tests of services and of the product itself.

    with Cluster(Bank, nodes=3, seed=7) as cluster:
        bank = cluster.connect()
        bank.transfer(source="x", target="y", cents=5)
        cluster.crash(cluster.active)
        bank.transfer(source="x", target="y", cents=5)
        cluster.settle()

Nodes, distributors, routing and client objects are production code (`Node`, `DistributorProcess`, `Routing`, `connect`'s
client); simulated are sockets, clocks, the disk under a data folder, the arbiter's file and the name server. The same seed
gives the same run. A minute of an idle cluster of three costs about a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from replicator.arbiter.server import OBJECT_ID as ARBITER_ID
from replicator.arbiter.server import arbiter_endpoints
from replicator.client import Connection, timeout_ms_of
from replicator.config import (
    ArbiterConfig,
    Config,
    DatabaseConfig,
    DistributorConfig,
    LimitsConfig,
    NameServerConfig,
    NodeConfig,
    TimingConfig,
)
from replicator.core.views import View
from replicator.errors import UsageError
from replicator.node.links import PARTITION
from replicator.service import Service
from replicator.testing.checkers import Violation, check
from replicator.testing.history import Done, History
from replicator.testing.settled import why_not_settled
from replicator.testing.sim.client import CountedDistributor, SimWay
from replicator.testing.sim.network import Network
from replicator.testing.sim.node import Disk, SimNode
from replicator.testing.sim.poison import Poison
from replicator.testing.sim.process import Process
from replicator.testing.sim.recorder import Recorder
from replicator.testing.sim.sockets import PhoneBook, SimPlatform
from replicator.testing.sim.timeline import Timeline
from replicator.testing.sim.witness import WatchedRegister, Witness

S = TypeVar("S", bound=Service[Any])

DATABASE_ID = "simulated"
#: How long `settle` lets a healthy cluster take, in virtual milliseconds.
SETTLE_MS = 60_000


class Cluster(Generic[S]):
    """A deployment of *service*: nodes a, b, c, ... (or the given names), an arbiter, a name server, distributors, clients.

    *distributors*: how many distributor processes run beside those in the clients. *timing*, *limits*: as in the
    configuration file. `history` and `transcript()` tell what happened; `check()` runs every checker that applies.
    """

    def __init__(
        self,
        service: type[S],
        *,
        nodes: int | str = 3,
        seed: int | str = 0,
        ack: str = "applied",
        store: str = "sqlite",
        on_no_backup: str = "continue",
        distributors: int = 0,
        timing: TimingConfig | None = None,
        limits: LimitsConfig | None = None,
    ) -> None:
        names = _checked(service, nodes, ack, store, on_no_backup, distributors)
        self.service = service
        self.timeline = Timeline(seed)
        self.network = Network(self.timeline)
        self.book = PhoneBook()
        self.recorder = Recorder(self.timeline)
        self.poison = Poison(self.network, self.recorder)
        self.config = _config(names, ack, store, on_no_backup, timing or TimingConfig(), limits or LimitsConfig())
        record = View(0, None, (), tuple(names), False, ack, DATABASE_ID, False)
        self.processes: dict[str, Process] = {}
        self.nodes: dict[str, SimNode] = {}
        self.witness = Witness(self.nodes, self.recorder, record)
        self.recorder.on_note = self.witness.on_note
        self.recorder.on_proposed = self.witness.on_proposed
        self.register = WatchedRegister({PARTITION: record.to_bytes()}, self.witness.on_change)
        self.disks = {name: Disk() for name in names}
        self.network.repeating = {*names, "arbiter"}
        self.doomed: dict[str, int] = {}  # processes yet to be started that die before this effect
        self.met_their_end: set[str] = set()  # processes that have died before the effect meant for them
        self._has_ended = False
        self._distributors: list[str] = []
        self._lives: dict[str, int] = {}
        self._client_count = 0
        self.start_arbiter()
        for number in range(distributors):
            self.start_distributor(f"distributor{number + 1}")
        for name in names:
            self.start_node(name)

    # -- processes ---------------------------------------------------------------------------------------------------

    def _process(self, name: str) -> tuple[Process, SimPlatform]:
        """Make the next life of a process."""
        self._refuse_after_the_end()
        former = self.processes.get(name)
        if former is not None and former.is_alive:
            raise UsageError(f"process {name!r} lives: crash it first, or choose another name")
        self._lives[name] = self._lives.get(name, 0) + 1
        process = Process(self.timeline, name, self._lives[name])
        if former is not None:
            process.skew_ms = former.skew_ms
        process.steps_left = self.doomed.pop(name, None)
        process.on_death = lambda: self._on_death(process)
        self.processes[name] = process
        return process, SimPlatform(self.network, self.book, process)

    def _demand(self, *names: str, among: Collection[str] = ()) -> None:
        """Raise UsageError for a name that no process has, or none of those *among* which it must be."""
        self._refuse_after_the_end()
        known = among or self.processes
        for name in names:
            if name not in known:
                raise UsageError(f"no process {name!r}; there are: {', '.join(known)}")

    def _refuse_after_the_end(self) -> None:
        if self._has_ended:
            raise UsageError("this cluster has ended with its `with` block; history and transcript() can still be read")

    def _on_death(self, process: Process) -> None:
        self.recorder.say(process.name, "died", {})
        if process.has_met_its_end:
            self.met_their_end.add(process.name)
        self.network.on_death(process)

    def start_node(self, name: str) -> None:
        """Start a node's process."""
        process, platform = self._process(name)
        node = SimNode(
            self.config,
            name,
            self.service(),
            process=process,
            platform=platform,
            disk=self.disks[name],
            recorder=self.recorder,
            on_release=self.witness.on_release,
            on_read=self.witness.on_read,
            on_ack=self.witness.on_ack,
            poison=self.poison,
            on_record=self.witness.on_record,
        )
        self.nodes[name] = node
        process.deliver(node.start)

    def start_arbiter(self) -> None:
        """Start the arbiter; its record outlives it."""
        process, platform = self._process("arbiter")
        endpoints = {ARBITER_ID: arbiter_endpoints(self.register, self.config.database.name, is_silent=True)}
        self.arbiter_door = endpoints[ARBITER_ID]
        counted = {name: _counted(process, each) for name, each in self.arbiter_door.items()}
        server = platform.server(process.loop, {ARBITER_ID: counted})
        names = platform.names(process.loop, "", 0, refresh_ms=self.config.timing.name_refresh_ms, connect_ms=0)
        names.register(f"replicator.{self.config.database.name}.arbiter", server.uri(ARBITER_ID))

    def start_distributor(self, name: str) -> None:
        """Start a distributor's process. Its name in the phone book is its own."""
        process, platform = self._process(name)
        if name not in self._distributors:
            self._distributors.append(name)
        distributor = CountedDistributor(self.config, with_arbiter=False, platform=platform)
        distributor.before_effect = process.effect
        distributor.pin.database_id = DATABASE_ID  # a real one has it from the arbiter's file
        names = platform.names(process.loop, "", 0, refresh_ms=self.config.timing.name_refresh_ms, connect_ms=0)
        names.register(f"replicator.{self.config.database.name}.{name}", distributor.server.uri("replicator.client"))

    def connect(self, *, distributor: str = "", timeout_s: float = 10.0, name: str = "", only: str = "") -> S:
        """Make a client, as `replicator.connect` does; *distributor*: by way of that process instead of its own routing.

        *only*: a client that knows one node, and goes to no other.

        The client is a process named *name* ("client1", ...), which can be cut off, stopped and killed like any other.
        """
        if only:
            self._demand(only, among=self.disks)
        if distributor and not self._distributors:
            raise UsageError(f"distributor={distributor!r}: there is none; make some with Cluster(..., distributors=2)")
        if distributor:
            self._demand(distributor, among=self._distributors)
        self._client_count += 1
        name = name or f"client{self._client_count}"
        process, platform = self._process(name)
        way = SimWay(
            self.service,
            self.config,
            process,
            platform,
            self.recorder,
            self.run_until,
            distributor=distributor,
            only=only,
        )
        limits = self.config.limits
        connection = Connection(
            self.service, way, timeout_ms=timeout_ms_of(timeout_s), message_bytes_max=limits.message_bytes_max
        )
        return connection.client

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> float:
        """Virtual milliseconds since the start."""
        return self.timeline.now_ms

    def run(self, ms: float) -> None:
        """Let virtual time pass. Raises UsageError for less than 0."""
        self._refuse_after_the_end()
        if not ms >= 0:
            raise UsageError(f"time passes forward only: run({ms!r})")
        self.timeline.run_until(self.timeline.now_us + round(ms * 1000))

    def run_until(self, claim: Callable[[], bool], ms: float) -> bool:
        """Let virtual time pass until *claim* holds, *ms* at most; return whether it does."""
        self._refuse_after_the_end()
        end_us = self.timeline.now_us + round(ms * 1000)
        while not claim() and self.timeline.now_us < end_us:
            self.timeline.step()
        return claim()

    def settle(self, ms: float = SETTLE_MS) -> None:
        """Let time pass until all that lives is level and quiet. Raises AssertionError, with the transcript, after *ms*, or
        at once if a node has diverged."""
        self._refuse_after_the_end()
        end_us = self.timeline.now_us + round(ms * 1000)
        while self.timeline.now_us < end_us:
            self._refuse_divergence()
            if self.is_settled():
                return
            self.run(20)
        raise AssertionError(f"not settled after {ms} ms: {why_not_settled(self)}\n{self.recorder.transcript(80)}")

    def _refuse_divergence(self) -> None:
        """A node that has come to another outcome than its active, in this life, shows that the service is wrong (P7)."""
        for name in self.living():
            replica = self.nodes[name].replica
            told = [text for rule, text in self.recorder.history.witnessed if rule == "P7"]
            if replica is not None and replica.state.diverged and told:
                raise AssertionError(f"node {name} has diverged: {'; '.join(told)}\n{self.recorder.transcript(40)}")

    def is_settled(self) -> bool:
        """Whether one node serves, all that can be in sync are and are level, and no call waits."""
        return not why_not_settled(self)

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> str:
        """The node that serves. Raises AssertionError if none does."""
        name = self.find_active()
        assert name, f"no node serves\n{self.recorder.transcript(40)}"
        return name

    def find_active(self) -> str:
        """The node that serves, "" if none does."""
        best, found = -1, ""
        for name in self.living():
            replica = self.nodes[name].replica
            if replica is not None and replica.state.is_serving and not self.processes[name].is_stopped:
                assert replica.state.view is not None
                if replica.state.view.number > best:
                    best, found = replica.state.view.number, name
        return found

    def living(self) -> list[str]:
        """The nodes whose processes live."""
        return [name for name in self.nodes if self.processes[name].is_alive]

    def replica(self, name: str) -> Any:
        """A node's replica."""
        self._demand(name, among=self.nodes)
        replica = self.nodes[name].replica
        assert replica is not None, f"node {name} has not read the record yet"
        return replica

    @property
    def record(self) -> View:
        """What the arbiter holds."""
        return self.witness.record

    @property
    def history(self) -> History:
        """What happened, for the checkers; `final` is the log of the node that serves now, from seq 1.

        Whoever executed an entry: a node that has caught up executed only what came later, and knows the chain of the rest.
        """
        history = self.recorder.history
        name = self.find_active()
        history.final = self._lineage(self.replica(name).state) if name else []
        return history

    def _lineage(self, state: Any) -> list[Done]:
        executed: dict[bytes, Done] = {}
        for done in self.recorder.history.done:
            executed.setdefault(done.chain, done)
        log: list[Done] = []
        done_last = executed.get(state.fifo.chain_at(state.fifo.executed_seq))
        while done_last is not None:
            log.append(done_last)
            done_last = executed.get(done_last.before)
        return log[::-1]

    def transcript(self, last: int | None = None) -> str:
        """The story in columns."""
        return self.recorder.transcript(last)

    def check(self, model: Any = None) -> None:
        """Run every checker, and every replica's own. Raises AssertionError with all violations."""
        self._refuse_after_the_end()
        for name in self.living():
            if self.nodes[name].replica is not None:
                self.replica(name).check()
        found: list[Violation] = check(self.history, model)
        assert not found, "\n".join([*map(str, found), self.recorder.transcript(60)])

    # -- faults ------------------------------------------------------------------------------------------------------

    def crash(self, name: str) -> None:
        """kill -9."""
        self._demand(name)
        self.recorder.fault("crash", process=name)
        self.processes[name].die()

    def restart(self, name: str) -> None:
        """Start a dead process again: a node with the rows of its disk, if it has one. A client does not come back."""
        self._demand(name, among=[*self.disks, "arbiter", *self._distributors])
        self.recorder.fault("restart", process=name)
        if name in self.disks:
            self.start_node(name)
        elif name == "arbiter":
            self.start_arbiter()
        else:
            self.start_distributor(name)

    def stop(self, name: str) -> None:
        """SIGSTOP: it does nothing, and what comes for it waits."""
        self._demand(name)
        self.recorder.fault("stop", process=name)
        self.processes[name].stop()

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._demand(name)
        self.recorder.fault("resume", process=name)
        self.processes[name].go_on()

    def partition(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let nothing through from *one* to *other*, and, unless *one_way*, back."""
        self._demand(one, other)
        if one == other:
            raise UsageError(f"partition({one!r}, {other!r}): no process is cut off from itself")
        self.recorder.fault("cut", source=one, target=other, one_way=one_way)
        self.network.cut(one, other)
        if not one_way:
            self.network.cut(other, one)

    def isolate(self, name: str, *, clients_too: bool = False) -> None:
        """Cut a process off from all nodes and the arbiter; and from clients and distributors if *clients_too*."""
        self._demand(name)
        self.recorder.fault("isolate", process=name, clients_too=clients_too)
        for other in self.processes:
            if other != name and (clients_too or other in self.nodes or other == "arbiter"):
                self.network.cut(name, other)
                self.network.cut(other, name)

    def heal(self) -> None:
        """End all cuts and slowness; stopped processes stay stopped."""
        self.recorder.fault("heal")
        self.network.weather.slow_us.clear()
        self.network.heal()

    def slow(self, one: str, other: str, *, ms: float) -> None:
        """Let every message between two processes take this much longer."""
        self._demand(one, other)
        if not ms >= 0:
            raise UsageError(f"slow(..., ms={ms!r}): give 0 or more")
        self.recorder.fault("slow", one=one, other=other, ms=ms)
        for pair in ((one, other), (other, one)):
            self.network.weather.slow_us[pair] = round(ms * 1000)

    def reset(self, one: str, other: str) -> None:
        """Break the connections between two processes."""
        self._demand(one, other)
        self.recorder.fault("reset", one=one, other=other, count=self.network.reset(one, other))

    def jump_clock(self, name: str, *, ms: int) -> None:
        """Let a process's wall clock jump."""
        self._demand(name)
        self.recorder.fault("jump", process=name, ms=ms)
        self.processes[name].skew_ms += ms
        skew_ms = self.processes[name].skew_ms
        self.recorder.skew_ms_max = max(self.recorder.skew_ms_max, skew_ms)
        if name in self.nodes:
            skews = self.recorder.skews_ms
            skews[name] = max(skews.get(name, 0), skew_ms)

    def stop_name_server(self) -> None:
        """Take the name server away; it forgets everything."""
        self.recorder.fault("names_away")
        self.book.stop()

    def start_name_server(self) -> None:
        """Bring it back, empty."""
        self.recorder.fault("names_back")
        self.book.is_up = True

    def __enter__(self) -> Self:
        self.settle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended = True
        for process in self.processes.values():
            process.is_alive = False


def _checked(service: object, nodes: int | str, ack: str, store: str, on_no_backup: str, distributors: int) -> str:
    """Return the names of the nodes. Raises UsageError for what no deployment can be."""
    names = "abcdefgh"[: max(0, nodes)] if isinstance(nodes, int) else str(nodes)
    is_whole = isinstance(nodes, str) or nodes == len(names)
    if not (is_whole and 2 <= len(names) <= 8 and names.isalnum() and len(set(names)) == len(names)):
        raise UsageError(
            f'a cluster has 2 to 8 nodes: give their number, or their letters, such as "xyz"; got {nodes!r}'
        )
    if not (isinstance(service, type) and issubclass(service, Service)):
        raise UsageError(f"Cluster takes a class of handlers (a Service), got {service!r:.80}")
    for name, value, known in (
        ("ack", ack, ("async", "received", "applied", "durable")),
        ("store", store, ("sqlite", "memory")),
        ("on_no_backup", on_no_backup, ("continue", "stop")),
    ):
        if value not in known:
            raise UsageError(f"{name}={value!r} is unknown; it is one of {', '.join(known)}")
    if distributors < 0:
        raise UsageError(f"distributors={distributors}: give 0 or more")
    return names


def _counted(process: Process, function: Callable[..., None]) -> Callable[..., None]:
    """An endpoint before and after which the process can die."""

    def counted(*args: Any) -> None:
        process.effect()
        function(*args)
        process.effect()

    return counted


def _config(names: str, ack: str, store: str, on_no_backup: str, timing: TimingConfig, limits: LimitsConfig) -> Config:
    nodes: Mapping[str, NodeConfig] = {name: NodeConfig() for name in names}
    return Config(
        path=Path("simulated.toml"),
        database=DatabaseConfig("sim", "simulated:Service", ack, store, on_no_backup),
        name_server=NameServerConfig(),
        arbiter=ArbiterConfig(),
        distributor=DistributorConfig(),
        nodes=nodes,
        timing=timing,
        limits=limits,
    )
