"""Own the client object: how it is made, and what a caller does with it beside calling: transactions, options, futures, replies.

    with connect(Bank, "bank.toml") as bank:
        bank.deposit("alice", cents=1_000)
        with transaction(bank) as order: ...

What each call does is in caller.py. Threads may share a client. A transaction carries one message at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from distributor.addresses import Finder, distributor_finder, node_finders
from distributor.embedded import Embedded
from distributor.links import LinkRules
from distributor.states import RoutingRules
from replicator.caller import Caller, Options, Talk, Way
from replicator.config import Config, LimitsConfig, TimingConfig, load
from replicator.errors import UsageError
from replicator.ids import shown_id
from replicator.meeting import Pin
from replicator.service import BoundHandler, Service, invoker_of, make_client
from replicator.transport import parse_uri
from replicator.watch import Event, Watch
from replicator.wire import LEVELS, PROBE, Answer, Level, encode_message, read_txn_id

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Service[Any])

#: Nobody waits longer than a day for a reply; what keeps deadlines (a node, a distributor, `threading`) relies on a bound.
TIMEOUT_S_MAX = 86_400
DRAIN_MS_MAX = TIMEOUT_S_MAX * 1000
#: How long the end of a `with` block waits for what was submitted when an exception, Ctrl-C for one, leaves the block.
ERROR_DRAIN_MS = 1_000
#: The distributor process holds messages through a failover: only their deadlines, not its silence, end the wait for it.
PATIENT_MS = 86_400_000
#: One client may hold this many messages under way; more are answered Overloaded at once.
REQUESTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Reply(Generic[R]):
    """A result with its facts.

    `view` and `seq`: its place in the order. `level`: how far it had come when it was released ("async", "received",
    "applied", "durable"). `copies`: how many nodes hold it. `mismatch`: True while the database has lost its backups (P8).
    `txn_id`: the transaction's id, for `with_options(client, txn_id=...)`.
    """

    value: R
    view: int
    seq: int
    level: str
    copies: int
    mismatch: bool
    txn_id: str


class Connection(Generic[S]):
    """A way to a database; as a context manager it gives the client, and closes when all that was sent is answered."""

    def __init__(
        self,
        service_class: type[S],
        embedded: Way,
        *,
        timeout_ms: int,
        message_bytes_max: int,
        watch: Watch | None = None,
    ) -> None:
        self.embedded = embedded
        self.watch = watch
        caller = Caller(embedded, Options(timeout_ms), None, message_bytes_max, watch)
        self.client: S = make_client(service_class, caller)

    def close(self, *, timeout_s: float | None = None) -> None:
        """Take no more calls, wait for those under way (messages of `submit` are sent first), and close.

        Waits *timeout_s* at most; without it until each has its answer or has reached its own deadline; 0: not at all. What
        is under way then raises OutcomeUnknown, or Unavailable if no node can have taken it. Called again meanwhile, by
        another thread: both end at once. In a callback of a future it waits for nothing, as the callback is in the way.
        """
        self._end(DRAIN_MS_MAX if timeout_s is None else timeout_ms_of(timeout_s) if timeout_s else 0)

    def _end(self, drain_ms: int) -> None:
        if self.watch is not None:
            self.watch.hush()
        try:
            self.embedded.close(drain_ms=drain_ms)
        finally:
            if self.watch is not None:
                self.watch.close()

    def __enter__(self) -> S:
        return self.client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an exception what was submitted has `ERROR_DRAIN_MS` to end, and does not hold the exception up."""
        self._end(DRAIN_MS_MAX if kind is None else ERROR_DRAIN_MS)


def connect(
    service_class: type[S],
    target: str | Path,
    *,
    distributor: Literal["embedded", "process"] = "embedded",
    timeout_s: float | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Connection[S]:
    """Make a client of the database that *target* names; connects with the first message, not before.

    *target* is a configuration file, or the address of a distributor process: "PYRO:replicator.client@host:port", or
    "PYRONAME:replicator.NAME.distributor@host:port" with the name server's host and port. With a file, messages go
    straight to the nodes ("embedded"), or by way of the distributor process ("process"). *timeout_s* is how long a call
    waits for its reply (the file's call_timeout_ms, else 10 s). *on_event* is called, on a thread of its own, when a node was
    left alone with acknowledged messages and when all is level again, each once (`Event`).

    Raises: ConfigError, UsageError. See examples/prepaid/play.py for a whole client.
    """
    if distributor not in ("embedded", "process"):
        raise UsageError(f'distributor must be "embedded" or "process", got {distributor!r}')
    text = str(target)
    if text.startswith(("PYRO:", "PYRONAME:")):
        limits, timing = LimitsConfig(), TimingConfig()
        finders: Mapping[str, Finder] = {"distributor": _finder_of(text, timing)}
        pin = Pin("")
        silence_ms = PATIENT_MS
    else:
        config = load(target)
        limits, timing = config.limits, config.timing
        pin = Pin(config.database.name)
        finders, silence_ms = _ways(config, distributor)
    rules = RoutingRules(
        silence_ms,
        limits.batch_entries_max,
        limits.batch_bytes_max,
        REQUESTS_MAX,
        are_nodes=silence_ms != PATIENT_MS,
        poison_ms=timing.poison_ms,
    )
    embedded = Embedded(finders, rules, LinkRules(timing.connect_ms, limits.frame_bytes_max, timing.keepalive_ms), pin)
    timeout_ms = timing.call_timeout_ms if timeout_s is None else timeout_ms_of(timeout_s)
    watch = None
    if on_event is not None:
        watch = Watch(
            on_event,
            lambda: probe(embedded, timing.suspect_ms),
            calm_s=timing.suspect_ms / 1000,
            uneasy_s=timing.heartbeat_ms / 1000,
        )
    return Connection(
        service_class, embedded, timeout_ms=timeout_ms, message_bytes_max=limits.message_bytes_max, watch=watch
    )


def probe(way: Way, timeout_ms: int) -> Answer:
    """Ask the active where the database stands: the facts of the answer say it."""
    message = encode_message(way.new_txn_id(), 1, PROBE, {})
    return way.lane(0).call(message, timeout_ms=timeout_ms, ack=0, flags=0)


def _ways(config: Config, distributor: str) -> tuple[Mapping[str, Finder], int]:
    if distributor == "process":
        return {"distributor": distributor_finder(config)}, PATIENT_MS
    return node_finders(config), config.timing.suspect_ms


def _finder_of(text: str, timing: TimingConfig) -> Finder:
    """Read an address of a distributor process. Raises: UsageError."""
    if text.startswith("PYRO:"):
        return Finder("distributor", fixed=parse_uri(text)[1])
    name, at, where = text.removeprefix("PYRONAME:").partition("@")
    host, colon, port = where.rpartition(":")
    if not (name and at and host and colon and port.isdecimal()):
        raise UsageError(f"{text!r} does not say where the name server is; write PYRONAME:name@host:port")
    return Finder(name, name_server=(host, int(port)), timeout_s=timing.connect_ms / 1000)


def timeout_ms_of(timeout_s: float) -> int:
    """Return milliseconds, 1 or more. Raises UsageError for what is no time to wait: the one check of all `timeout_s`."""
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not (is_number and 0 < timeout_s <= TIMEOUT_S_MAX):
        raise UsageError(
            f"timeout_s must be a number of seconds greater than 0, at most {TIMEOUT_S_MAX} (a day), got {timeout_s!r:.80}"
        )
    return max(1, round(timeout_s * 1000))


def _caller_of(client: object) -> Caller:
    caller = invoker_of(client)
    if not isinstance(caller, Caller):
        raise UsageError(f"expected a client made by connect(), got one that {type(caller).__name__} drives")
    return caller


class _Transaction(Generic[S]):
    """What `with transaction(...)` enters."""

    __slots__ = ("_client",)

    def __init__(self, client: S) -> None:
        self._client = client

    def __enter__(self) -> S:
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is sent: the handlers decide when a transaction ends."""


def transaction(client: S, *, txn_id: str | None = None) -> contextlib.AbstractContextManager[S]:
    """Give a client whose calls are the messages 1, 2, 3, ... of one transaction.

    After OutcomeUnknown or Unavailable, repeat the same call with the same arguments: it is sent as the same message. A
    different call then raises TransactionError. *txn_id* names the transaction, so that it can be taken up after a crash
    of the caller: the same calls from the first on get the replies that they got, and the first new one goes on from there.
    (Of one without a name only the last message can be repeated, by the id that `reply` and errors show.) Leaving the block
    sends nothing: the handlers decide when a transaction ends. Read the id with `reply`.
    """
    caller = _caller_of(client)
    made = caller.embedded.new_txn_id() if txn_id is None else read_txn_id(txn_id)
    talk = Talk(made, is_chosen=txn_id is not None)
    return _Transaction(make_client(type(client), caller.varied(caller.options, talk)))


def with_options(
    client: S,
    *,
    txn_id: str | None = None,
    timeout_s: float | None = None,
    ack: str | None = None,
    stale: bool | None = None,
) -> S:
    """Return the same client with other options; what is None stays as it is.

    *txn_id*: the next call is message 1 of the transaction of this name; to repeat after a crash or OutcomeUnknown (whose
    `txn_id` may be given here). *timeout_s*: how long a call waits. *ack*: a level stronger than the service's own.
    *stale*: readonly calls may be answered by a backup that is a little behind.
    """
    caller = _caller_of(client)
    options, talk = caller.options, caller.talk
    if timeout_s is not None:
        options = replace(options, timeout_ms=timeout_ms_of(timeout_s))
    if ack is not None:
        if ack not in LEVELS:
            raise UsageError(f"ack: {ack!r} is unknown; it is one of {', '.join(LEVELS)}")
        options = replace(options, ack=int(LEVELS[ack]))
    if stale is not None:
        options = replace(options, stale=stale)
    if txn_id is not None:
        talk = Talk(read_txn_id(txn_id), is_chosen=True)
    return make_client(type(client), caller.varied(options, talk))


def submit(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Send a message without waiting: `submit(bank.transfer, "alice", "bob", cents=100).result()`.

    Many at once travel together. Callbacks of the future run in the client's background thread: keep them short. Raises:
    UsageError, TransactionError for a message that cannot be sent.
    """
    bound, caller = _bound(method)
    return caller.submit(bound.spec, args, kwargs)


def reply(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Reply[R]:
    """Call, and return the result with its facts: where in the order it is, how many nodes hold it, the transaction id."""
    bound, caller = _bound(method)
    value, facts, message = caller.reply(bound.spec, args, kwargs)
    level = Level(facts.level).name.lower()
    return Reply(value, facts.view, facts.seq, level, facts.copies, facts.mismatch > 0, shown_id(message[:16]))


def _bound(method: object) -> tuple[BoundHandler, Caller]:
    if not isinstance(method, BoundHandler) or not isinstance(method.invoker, Caller):
        raise UsageError(f"expected a handler of a client made by connect(), such as bank.deposit, got {method!r:.80}")
    return method, method.invoker
