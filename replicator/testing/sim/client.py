"""Own a simulated client: the production client object on a production routing, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distributor.driver import Driver
from distributor.effects import Effect
from distributor.routing import Routing
from distributor.server import DistributorProcess
from distributor.states import RoutingRules
from replicator.config import Config
from replicator.core.messages import Answer, split_message
from replicator.errors import UsageError
from replicator.meeting import MetLink, Pin
from replicator.node.gateway import Token
from replicator.node.links import AddressBook, kept_until_it_fails
from replicator.service import Service
from replicator.testing.history import Call
from replicator.testing.sim.process import Process
from replicator.testing.sim.recorder import Recorder
from replicator.testing.sim.sockets import SimPlatform
from replicator.transport import LinkLike
from replicator.wire import FLAG_STALE, Outgoing, new_txn_id

CLIENT_ID = "replicator.client"
#: As the real client's: only deadlines end the wait for a distributor process.
PATIENT_MS = 86_400_000


class CountedDriver(Driver):
    """A driver whose process can die before any effect."""

    process: Process

    def _perform(self, effect: Effect) -> None:
        self.process.effect()
        super()._perform(effect)


class CountedDistributor(DistributorProcess):
    """A distributor process that can die before any answer."""

    before_effect: Callable[[], None] = staticmethod(lambda: None)

    def _complete(self, token: Any, answer: Answer) -> None:
        self.before_effect()
        super()._complete(token, answer)

    def _note(self, event: str, facts: Mapping[str, object]) -> None:
        self.counts[event] += 1  # a simulation does not log

    def _admit(self, token: Token, outgoing: Outgoing) -> None:
        self.before_effect()
        super()._admit(token, outgoing)


class SimLane:
    """Messages in order; as `distributor.lane.Lane`."""

    def __init__(self, way: SimWay, targets: dict[str, str], rules: RoutingRules) -> None:
        self._way = way
        process = way.process
        routing = Routing(targets, rules, seed=process.random.getrandbits(64))
        self._targets = targets
        self._routing = routing
        self._driver = CountedDriver(
            process.loop, routing, targets, self._link, way.pin, complete=self._complete, note=lambda event, facts: None
        )
        self._driver.process = process

    def _link(self, name: str, on_up: Callable[[str], None], on_down: Callable[[bool], None]) -> LinkLike:
        way = self._way
        book = AddressBook(
            way.platform.names(way.process.loop, "", 0, refresh_ms=10**9, connect_ms=0), self._targets[name], None
        )
        up, down = kept_until_it_fails(book, on_up, on_down)
        return MetLink(
            way.platform,
            way.process.loop,
            CLIENT_ID,
            book,
            way.pin,
            message_bytes_max=way.config.limits.frame_bytes_max,
            connect_ms=way.config.timing.connect_ms,
            on_up=up,
            on_down=down,
            on_stranger=lambda problem: None,
        )

    def _complete(self, token: tuple[Call, Callable[[Answer], None]], answer: Answer) -> None:
        call, on_answer = token
        self._way.recorder.answered(call, answer)
        on_answer(answer)

    def start(
        self, message: bytes, on_answer: Callable[[Answer], None], *, timeout_ms: int, ack: int, flags: int
    ) -> None:
        """Send one message; *on_answer* is called once, in a turn of the client's process."""
        way = self._way
        if not way.process.is_alive:
            raise UsageError("this client's process is dead")
        call = way.recorder.invoked(
            way.process.name, message, readonly=way.is_readonly(message), stale=bool(flags & FLAG_STALE)
        )
        deadline_ms = way.process.elapsed_ms + timeout_ms
        self._routing.submit((call, on_answer), message, ack, flags, deadline_ms)
        way.process.wake()

    def call(self, message: bytes, *, timeout_ms: int, ack: int, flags: int) -> Answer:
        """Send one message and let time pass until its answer is there. Raises UsageError if it never comes."""
        answers: list[Answer] = []
        self.start(message, answers.append, timeout_ms=timeout_ms, ack=ack, flags=flags)
        self._way.wait(lambda: bool(answers), timeout_ms + 60_000)
        if not answers:
            raise UsageError("no answer: is this client's process stopped, or dead?")
        return answers[0]


class SimWay:
    """A client's way to the database; as `distributor.embedded.Embedded`."""

    def __init__(
        self,
        service: type[Service[Any]],
        config: Config,
        process: Process,
        platform: SimPlatform,
        recorder: Recorder,
        wait: Callable[[Callable[[], bool], float], bool],
        *,
        distributor: str = "",
        only: str = "",
    ) -> None:
        self.config = config
        self.pin = Pin(config.database.name)
        self.process = process
        self.platform = platform
        self.recorder = recorder
        self.wait = wait
        self._handlers = service.handlers()
        prefix = f"replicator.{config.database.name}"
        if distributor:
            targets = {"distributor": f"{prefix}.{distributor}"}
            silence_ms = PATIENT_MS
        else:
            targets = {name: f"{prefix}.node.{name}" for name in ([only] if only else config.nodes)}
            silence_ms = config.timing.suspect_ms
        limits = config.limits
        rules = RoutingRules(
            silence_ms,
            limits.batch_entries_max,
            limits.batch_bytes_max,
            are_nodes=not distributor,
            poison_ms=config.timing.poison_ms,
        )
        self._ordered = SimLane(self, targets, rules)
        self._stale = SimLane(self, targets, rules) if len(targets) > 1 else self._ordered

    def is_readonly(self, message: bytes) -> bool:
        """Whether this message goes to a readonly handler."""
        spec = self._handlers.get(str(split_message(message)[2]))
        return spec is not None and spec.readonly

    def lane(self, flags: int) -> SimLane:
        """Return the lane for a message with these flags."""
        return self._stale if flags & FLAG_STALE else self._ordered

    def new_txn_id(self) -> bytes:
        """Make the id of a new transaction."""
        return new_txn_id(self.process.wall_ms, self.process.random.randbytes(10))

    def close(self, *, drain_ms: int = 0) -> None:
        """End the client's process."""
        self.process.die()
