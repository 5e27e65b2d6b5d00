"""Own the distributor as a process: clients' messages in, one batch at a time to the active node, held replies out.

One thread, one loop. All clients' messages of a turn, and whatever gathers while a batch is outstanding, leave in one
call at the end of a turn. It holds no sole truth: killed, its clients repeat the same messages through another one.
It also hosts the embedded arbiter, unless told not to or a `replicator arbiter` holds the file; the register and the
routing share nothing but the loop. Never does: decide who is active.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from loguru import logger

from distributor.driver import Driver, counted
from distributor.routing import NO_FACTS, Routing
from distributor.states import RoutingRules
from replicator.arbiter.embedded import PARTITION, Register, RegisterInUse
from replicator.arbiter.server import OBJECT_ID as ARBITER_ID
from replicator.arbiter.server import arbiter_endpoints
from replicator.claiming import Claim
from replicator.config import Config
from replicator.core.views import View
from replicator.meeting import WHO, Identity, MetLink, Pin, answering
from replicator.node.gateway import Gateway, Token
from replicator.node.links import AddressBook, kept_until_it_fails
from replicator.transport import SYSTEM, LinkLike, Platform, ServerLike
from replicator.transport.platform import RequestLike
from replicator.values import pack_wire
from replicator.wire import FLAG_STALE, Answer, Outgoing, Status

CLIENT_ID = "replicator.client"
OPERATOR_ID = "replicator.operator"
#: A caller cannot make a message wait for longer than this; deadlines are kept in a list that is searched.
REMAINING_MS_MAX = 86_400_000

_SENTENCES = {
    "active_learned": "view {view}: the active is {active}",
    "node_unreachable": "node {node} cannot be reached; trying the others",
    "stranger": "what answers at the address of node {node} is nobody there: {problem}",
    "poison": (
        "{message} is refused for {ms} ms: two nodes died while they had it. Look into their logs; if something else killed "
        "them, `distributor release FILE TXN_ID` lets it through"
    ),
    "name_taken": (
        "cannot be found: {problem}; two databases on one name server need different names: change [database] name of one"
    ),
    "node_dropped": "dropped the connection to node {node}: {reason}",
}


_WARNINGS = ("name_taken", "poison", "stranger")


class DistributorProcess:
    """The distributor of one database. Raises: ConfigError, StorageError at once for what can never run."""

    def __init__(self, config: Config, *, with_arbiter: bool = True, platform: Platform = SYSTEM) -> None:
        self.config = config
        self.platform = platform
        self.counts: Counter[str] = Counter()
        self._register = _open_register(config) if with_arbiter else None
        self.loop = platform.loop(buffers_bytes_max=config.limits.buffers_bytes_max)
        timing, limits = config.timing, config.limits
        self.pin = _pin(config, self._register)
        self._life = platform.noise(6).hex()
        self._gateway = Gateway(
            self._admit, self._who, invoke_ms=timing.call_timeout_ms, frame_bytes_max=limits.frame_bytes_max
        )
        endpoints: dict[str, Mapping[str, Callable[..., None]]] = {
            CLIENT_ID: self._gateway.endpoint(),
            OPERATOR_ID: {
                "status": lambda request: request.reply(self.status()),
                "release": self._on_release,
                WHO: answering(self._who),
            },
        }
        arbiter = (
            {ARBITER_ID: arbiter_endpoints(self._register, config.database.name)} if self._register is not None else {}
        )
        if not config.arbiter.port:
            endpoints.update(arbiter)
        self.server = self._serve(endpoints, config.distributor.host, config.distributor.port)
        self._arbiter_server = self.server
        if arbiter and config.arbiter.port:
            self._arbiter_server = self._serve(arbiter, config.arbiter.host, config.arbiter.port)
        self.names = platform.names(
            self.loop,
            config.name_server.host,
            config.name_server.port,
            refresh_ms=timing.name_refresh_ms,
            connect_ms=timing.connect_ms,
        )
        self._claims = [self._claim("distributor", self.server.uri(CLIENT_ID))]
        if arbiter:
            self._claims.append(self._claim("arbiter", self._arbiter_server.uri(ARBITER_ID)))
        routing = Routing(
            config.nodes,
            _rules(config),
            seed=int.from_bytes(platform.noise(8), "big"),
        )
        self._routing = routing
        self._driver = Driver(
            self.loop, routing, config.nodes, self._link, self.pin, complete=self._complete, note=self._note
        )

    def _serve(self, endpoints: Mapping[str, Mapping[str, Callable[..., None]]], host: str, port: int) -> ServerLike:
        return self.platform.server(
            self.loop,
            endpoints,
            host=host,
            port=port,
            limits=self.config.limits,
            timing=self.config.timing,
            reserved=(ARBITER_ID, OPERATOR_ID),
            on_note=self._note,
        )

    def _claim(self, what: str, uri: str) -> Claim:
        """Be found by name, unless a living process of another database is."""
        timing, name = self.config.timing, f"replicator.{self.config.database.name}.{what}"
        return Claim(
            self.platform,
            self.loop,
            self.names,
            name,
            uri,
            self.pin,
            again_ms=timing.name_refresh_ms,
            connect_ms=timing.connect_ms,
            on_taken=lambda problem: self._note("name_taken", {"problem": problem}),
        )

    def _who(self) -> Identity:
        """Say of which database this process is. It learns the id from the arbiter's file, else from the first node that
        answers: whoever asks before must ask again."""
        if not self.pin.database_id:
            self._routing.look_around(self._driver.now_ms)
        return Identity(self.config.database.name, self.pin.database_id, self._life)

    def _link(self, name: str, on_up: Callable[[str], None], on_down: Callable[[bool], None]) -> LinkLike:
        config, node = self.config, self.config.nodes[name]
        fixed = (node.host, node.port) if node.port else None
        book = AddressBook(self.names, f"replicator.{config.database.name}.node.{name}", fixed)
        up, down = kept_until_it_fails(book, on_up, on_down)
        return MetLink(
            self.platform,
            self.loop,
            CLIENT_ID,
            book,
            self.pin,
            message_bytes_max=config.limits.frame_bytes_max,
            connect_ms=config.timing.connect_ms,
            on_up=up,
            on_down=down,
            keepalive_ms=config.timing.keepalive_ms,
            on_stranger=lambda problem: self._note("stranger", {"node": name, "problem": problem}),
        )

    # -- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop` or a signal, then answer what is held and leave the phone book; `close` comes after."""
        log = logger.bind(node="dist")
        log.info("the distributor listens at {address}", address=self.server.uri(CLIENT_ID))
        if self._register is not None:
            log.info("it holds the arbiter of {file}", file=self.config.arbiter_file)
        self.loop.run()
        self._end()
        log.info("the distributor ended, as {why} asked for it", why=self.loop.stopped_by or "its owner")

    def stop(self) -> None:
        """Let `run` end, from any thread; `close` must come later."""
        self.loop.stop()

    def _end(self) -> None:
        """Answer every held request as it stands, and take the names out of the book, within `connect_ms`."""
        self._routing.abandon()
        done: list[bool] = []
        self.names.unregister_all(lambda: done.append(True))
        while not done:
            self.loop.run_once()

    def close(self) -> None:
        """Give back sockets, file, loop; when `run` has ended."""
        self._driver.close()
        for claim in self._claims:
            claim.close()
        self.names.close()
        self.server.close()
        self._arbiter_server.close()
        if self._register is not None:
            self._register.close()
        self.loop.close()

    # -- clients -----------------------------------------------------------------------------------------------------

    def _admit(self, token: Token, outgoing: Outgoing) -> None:
        message = outgoing.message
        self.counts["messages"] += 1
        limit = self.config.limits.message_bytes_max
        if len(message) > limit:
            text = f"a message of {len(message)} bytes is above message_bytes_max = {limit}"
            body = pack_wire({"error": "MessageTooLarge", "message": text, "facts": {}})
            self._complete(token, Answer(Status.REFUSED, body, NO_FACTS))
            return
        deadline_ms = self._driver.now_ms + max(1, min(outgoing.remaining_ms, REMAINING_MS_MAX))
        flags = outgoing.flags & FLAG_STALE
        self._routing.submit(token, message, outgoing.ack, flags, deadline_ms, outgoing.deaths)

    def _complete(self, token: Any, answer: Answer) -> None:
        sink, index = token
        sink.put(index, answer)
        self.counts[Status(answer.status).name.lower()] += 1

    def _note(self, event: str, facts: Mapping[str, object]) -> None:
        self.counts[event] += 1
        log = logger.opt(capture=False).bind(node="dist")  # facts fill the sentence; "node" among them is another
        if event in _SENTENCES:
            (log.warning if event in _WARNINGS else log.info)(_SENTENCES[event], **facts)
        else:
            log.debug("{event} {facts}", event=event, facts=dict(facts))

    def say(self) -> None:
        """Log how it is, for somebody who asked by a signal."""
        status = self.status()
        told = {name: status[name] for name in ("connections", "counts")}
        logger.bind(node="dist").info("asked how it is: {connections} connections, counted {counts}", **told)

    def _on_release(self, request: RequestLike, txn_id: object) -> None:
        """A person says that a transaction's messages are no poison."""
        if type(txn_id) is not str:
            request.refuse("release takes (txn_id: text)")
            return
        request.reply(self._routing.suspects.release(txn_id))

    def status(self) -> dict[str, object]:
        """Return what an operator sees of this process."""
        return {
            "process": "distributor",
            "pid": os.getpid(),
            "database": self.config.database.name,
            "hosts_arbiter": self._register is not None,
            "connections": self.server.status(),
            **self._routing.status(),
            "counts": counted(self.counts, self._driver),
        }


def _open_register(config: Config) -> Register | None:
    """Open the arbiter's file; None if a `replicator arbiter` holds it. Raises: StorageError if there is no record."""
    try:
        return Register(config.arbiter_file)
    except RegisterInUse:
        logger.bind(node="dist").info("another process holds {file}; going on without", file=config.arbiter_file)
        return None


def _rules(config: Config) -> RoutingRules:
    timing, limits = config.timing, config.limits
    return RoutingRules(
        timing.suspect_ms,
        limits.batch_entries_max,
        limits.batch_bytes_max,
        limits.fifo_entries_max,
        poison_ms=timing.poison_ms,
    )


def _pin(config: Config, register: Register | None) -> Pin:
    """Return the database that is meant: its id is in the arbiter's file, if that is here."""
    database_id = View.from_bytes(register.read(PARTITION)).database_id if register is not None else ""
    return Pin(config.database.name, database_id)


def run_distributor(config: Config, *, with_arbiter: bool = True) -> None:
    """Run the distributor as this process, until SIGTERM or Ctrl-C. Raises: StorageError, ConfigError."""
    process = DistributorProcess(config, with_arbiter=with_arbiter)
    process.loop.stop_on_signals(on_look=process.say)
    try:
        process.run()
    finally:
        process.close()
