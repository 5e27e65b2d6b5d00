"""Own simulated sockets: connections that keep order within, and nothing else.

Like TCP: what is sent on one connection arrives in order or not at all, after any delay; connections know nothing of each
other. Faults: delay and long tails, a cut (one way or both: what is under way waits, connects hang), a reset (a prefix of
what is under way still arrives), and, harsher than TCP: a message lost without a sign, and a message that comes a second
time, late, perhaps at the next life of its receiver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from replicator.testing.sim.process import Process
from replicator.testing.sim.timeline import Timeline
from replicator.transport import Address

Item = Callable[[], None]
NEVER_US = 1 << 62
#: How long the news takes that a connection is unknown where its messages go.
RESET_US = 300


@dataclass(slots=True)
class Weather:
    """How the network behaves; times in microseconds, chances from 0 to 1."""

    delay_us: tuple[int, int] = (20, 200)
    tail_us: int = 0  # a message in `tail_part` takes up to this much longer
    tail_part: float = 0.0
    loss: float = 0.0
    repeat: float = 0.0
    repeat_after_us: int = 500_000
    slow_us: dict[tuple[str, str], int] = field(default_factory=dict)  # by (from, to)


class Network:
    """Who listens where, who can reach whom, and every connection."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.weather = Weather()
        self.counts: Counter[str] = Counter()
        self.cuts: set[tuple[str, str]] = set()
        self.repeating: set[str] = set()  # processes between which messages may come twice
        self.listeners: dict[Address, Listener] = {}
        self.connections: dict[int, Connection] = {}
        self._random = timeline.stream("network")
        self._port = 10_000
        self._number = 0

    def listen(self, process: Process, accept: Callable[[Connection], None]) -> Address:
        """Listen at a new port."""
        self._port += 1
        address = ("sim", self._port)
        self.listeners[address] = Listener(process, accept)
        return address

    def close_listener(self, address: Address) -> None:
        """Nothing listens there any more."""
        self.listeners.pop(address, None)

    def connect(self, process: Process, address: Address, done: Callable[[Connection | None, bool], None]) -> None:
        """Try to connect; *done* gets the connection, or None and whether it was refused. Over a cut it never comes."""
        listener = self.listeners.get(address)
        target = listener.process.name if listener is not None else ""
        there_us, back_us = self.delay_us(process.name, target), self.delay_us(target, process.name)

        def arrive() -> None:
            if self.is_cut(process.name, target) or self.is_cut(target, process.name):
                return
            live = self.listeners.get(address)
            if live is None or not live.process.is_alive:
                self.timeline.after_us(back_us, lambda: process.deliver(lambda: done(None, True)))
                return
            live.process.deliver(lambda: self._accept(process, live, done))

        self.timeline.after_us(there_us, arrive)

    def _accept(self, process: Process, listener: Listener, done: Callable[[Connection | None, bool], None]) -> None:
        self._number += 1
        connection = Connection(self, self._number, process, listener.process)
        self.connections[self._number] = connection
        listener.accept(connection)
        connection.back.send(lambda: done(connection, False))

    def delay_us(self, source: str, target: str) -> int:
        """Draw how long a message takes."""
        weather = self.weather
        delay_us = self._random.randint(*weather.delay_us) + weather.slow_us.get((source, target), 0)
        if weather.tail_part and self._random.random() < weather.tail_part:
            delay_us += self._random.randint(0, weather.tail_us)
        return delay_us

    def fate(self, source: str, target: str) -> str:
        """Draw what becomes of a message beside its delay.

        Only what the nodes and the arbiter say to each other comes twice: a caller's message that comes again after it was
        refused would make "nothing was accepted" untrue, and no connection does that. Callers repeat by themselves.
        """
        weather = self.weather
        if weather.loss and self._random.random() < weather.loss:
            self.counts["lost"] += 1
            return "lost"
        if weather.repeat and self._random.random() < weather.repeat and {source, target} <= self.repeating:
            self.counts["repeated"] += 1
            return "repeated"
        return ""

    def draw_us(self, most_us: int) -> int:
        """Draw a time."""
        return self._random.randint(0, max(0, most_us))

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing gets from *source* to *target*."""
        return (source, target) in self.cuts

    def cut(self, source: str, target: str) -> None:
        """Let nothing through in this direction."""
        self.cuts.add((source, target))

    def mend(self, source: str, target: str) -> None:
        """End one cut; what waited goes on."""
        self.cuts.discard((source, target))
        for connection in list(self.connections.values()):
            for pipe in (connection.there, connection.back):
                if (pipe.source.name, pipe.target.name) == (source, target):
                    pipe.go_on()

    def heal(self) -> None:
        """End all cuts; what waited goes on."""
        self.cuts.clear()
        for connection in list(self.connections.values()):
            connection.there.go_on()
            connection.back.go_on()

    def reset(self, one: str, other: str) -> int:
        """Break all connections between two processes; return how many there were."""
        hit = [each for each in self.connections.values() if {each.client.name, each.server.name} == {one, other}]
        for connection in hit:
            connection.reset()
        return len(hit)

    def on_death(self, process: Process) -> None:
        """Break the connections of a dead process, and stop listening for it."""
        for address in [at for at, listener in self.listeners.items() if listener.process is process]:
            del self.listeners[address]
        for connection in [each for each in self.connections.values() if process in (each.client, each.server)]:
            connection.reset()


class Listener:
    """A listening socket."""

    def __init__(self, process: Process, accept: Callable[[Connection], None]) -> None:
        self.process = process
        self.accept = accept


class Connection:
    """Two pipes, and what each end wants to know of its end."""

    def __init__(self, network: Network, number: int, client: Process, server: Process) -> None:
        self.network = network
        self.number = number
        self.client = client
        self.server = server
        self.there = Pipe(self, client, server)
        self.back = Pipe(self, server, client)
        #: Takes a call: (object id, method, arguments, answered); set by the server that accepts.
        self.server_side: Callable[..., None] = lambda *call: None
        self.on_client_lost: Item = lambda: None
        self.on_server_lost: Item = lambda: None

    def close(self, closer: Process) -> None:
        """Close from one side: that side hears no more; the other hears of it after all that was sent before."""
        there, back = (self.there, self.back) if closer is self.client else (self.back, self.there)
        back.dead_after_us = -1
        self._forget()
        there.send(self.lost_item(there), is_end=True)

    def reset(self) -> None:
        """Break both ways: in each a prefix of what is under way still arrives, then the end is seen."""
        self._forget()
        timeline = self.network.timeline
        for pipe in (self.there, self.back):
            if pipe.dead_after_us != NEVER_US:
                continue
            last_us = timeline.now_us + self.network.draw_us(pipe.last_us - timeline.now_us)
            pipe.dead_after_us = last_us
            item = self.lost_item(pipe)
            if not pipe.source.is_alive and self.network.is_cut(pipe.source.name, pipe.target.name):
                continue  # a power cut behind a broken cable: nobody is told
            timeline.at_us(last_us + 1, lambda pipe=pipe, item=item: pipe.target.deliver(item))  # type: ignore[misc]

    def lost_item(self, pipe: Pipe) -> Item:
        """Return what the target of *pipe* does when it sees the end."""
        return lambda: self.on_server_lost() if pipe is self.there else self.on_client_lost()

    def _forget(self) -> None:
        self.network.connections.pop(self.number, None)


class Pipe:
    """One direction of a connection."""

    __slots__ = ("_held", "connection", "dead_after_us", "last_us", "source", "target")

    def __init__(self, connection: Connection, source: Process, target: Process) -> None:
        self.connection = connection
        self.source = source
        self.target = target
        self.last_us = 0  # when the last message sent arrives
        self.dead_after_us = NEVER_US
        self._held: list[Item] = []  # arrived at a cut

    def send(self, item: Item, *, is_end: bool = False) -> None:
        """Send something; `item` is what the target does with it."""
        network = self.connection.network
        if not self.source.is_alive:
            return
        if self.dead_after_us != NEVER_US:
            if not self.target.is_alive and not network.is_cut(self.source.name, self.target.name):
                self._deliver(item)
            return
        timeline = network.timeline
        delay_us = network.delay_us(self.source.name, self.target.name)
        fate = "" if is_end else network.fate(self.source.name, self.target.name)
        if fate != "lost":
            self.last_us = max(self.last_us + 1, timeline.now_us + delay_us)
            timeline.at_us(self.last_us, lambda: self._arrive(item))
        if fate == "repeated":
            late_us = network.draw_us(network.weather.repeat_after_us)
            timeline.after_us(delay_us + late_us, lambda: self.target.deliver(item))
        if is_end:
            self.dead_after_us = self.last_us

    def _arrive(self, item: Item) -> None:
        network = self.connection.network
        if network.timeline.now_us > self.dead_after_us:
            return
        if self._held or network.is_cut(self.source.name, self.target.name):
            self._held.append(item)
        else:
            self._deliver(item)

    def _deliver(self, item: Item) -> None:
        self.target.deliver(item)
        if not self.target.is_alive:  # its machine answers that there is no such connection any more
            connection = self.connection
            back = connection.back if self is connection.there else connection.there
            connection.network.timeline.after_us(RESET_US, lambda: self.source.deliver(connection.lost_item(back)))

    def go_on(self) -> None:
        """The cut has ended: deliver what waited."""
        held, self._held = self._held, []
        for item in held:
            self._deliver(item)
