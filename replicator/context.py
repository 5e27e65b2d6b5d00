"""Own the one door of a handler: `ctx`, with everything it may read and every way out.

All of it comes from the control header and the replicated state, so it is equal on every node. Valid only while its
handler runs. Never does: read a clock, make its own random seed, or reach outside.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Generic, NamedTuple, Self

from replicator.errors import UsageError
from replicator.ids import shown_id
from replicator.schema import T
from replicator.values import check_plain, new_tuple, pack_checked, unpack_wire

#: Seeding a `random.Random` costs 6 us, so it is made on first use only.
_SEED_SHAPE = "{view}/{seq}/{seed}"
_NOTHING: tuple[()] = ()
_ALWAYS_PLAIN = frozenset((str, bool, bytes, type(None)))


class Abort(Exception):
    """Refuse the message: nothing changed, and the refusal is the reply, remembered like any outcome.

        raise Abort("too little", owner=source, missing=120)

    *reason* and *facts* are plain values; the caller gets them as `Aborted`. An open transaction stays open as it was.
    A subclass that does not call `super().__init__` refuses with its own name as the reason, and without facts.
    """

    reason: str
    facts: dict[str, object]

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Make a refusal that can be told, whatever the `__init__` of a subclass leaves out."""
        abort = super().__new__(cls, *args, **kwargs)
        abort.reason, abort.facts = cls.__name__, {}
        return abort

    def __init__(self, reason: str, **facts: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.facts = facts


class Expectation(NamedTuple):
    """What an open transaction waits for: `messages` (handler names), until `within_ms` has passed, then `otherwise`."""

    messages: tuple[str, ...]
    within_ms: int
    otherwise: str


class TransactionState(MutableMapping[str, object]):
    """The TSD of one transaction as its handlers see it: names -> plain values, kept from message to message.

    Source: US 6,347,322 B1, "transaction state data": rebuilt on the backup by the same messages, never shipped.
    """

    __slots__ = ("_items", "is_changed")

    def __init__(self, data: bytes) -> None:
        self._items: dict[str, object] = dict(unpack_wire(data)) if data else {}  # our own bytes
        self.is_changed = False

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __setitem__(self, name: str, value: object) -> None:
        _check_item(name, value)
        self._items[name] = value
        self.is_changed = True

    def update(self, other: Any = _NOTHING, /, **named: object) -> None:
        """Set all of a mapping or of (name, value) pairs, then what is named; all or, with an error, nothing."""
        items: dict[str, object] = named if other is _NOTHING else dict(other, **named)
        for name, value in items.items():
            if type(name) is not str or type(value) not in _ALWAYS_PLAIN:
                _check_item(name, value)
        if items:
            self._items.update(items)
            self.is_changed = True

    def __delitem__(self, name: str) -> None:
        del self._items[name]
        self.is_changed = True

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def to_bytes(self) -> bytes:
        """Pack as ordered pairs: the same state has the same bytes on every node."""
        return pack_checked(tuple(sorted(self._items.items()))) if self._items else b""


def _check_item(name: str, value: object) -> None:
    if type(name) is not str:
        raise UsageError(f"ctx.tsd: a name must be text, got {name!r}")
    if type(value) not in _ALWAYS_PLAIN:  # most are: no text is made for them
        check_plain(value, f"ctx.tsd[{name!r}]")


class Context(Generic[T]):
    """The argument `ctx` of every handler: small enough to memorise.

    `txn_id` (text), `seq` (position in the partition's FIFO, from 1), `now_ms` (the control header's time,
    milliseconds since 1970, never running backwards), `tables` (the replicated tables), `tsd` (this transaction's own
    state), `random` (seeded from the control header), `expect` (keep the transaction open).
    """

    __slots__ = (
        "_expectation",
        "_handlers",
        "_now_ms",
        "_packed_tsd",
        "_random",
        "_seed",
        "_seq",
        "_tables",
        "_tsd",
        "_txn_id",
        "_view",
    )

    def __init__(
        self,
        tables: T,
        handlers: Mapping[str, object],
        txn_id: bytes,
        view: int,
        seq: int,
        now_ms: int,
        seed: int,
        tsd: bytes,
    ) -> None:
        self._tables = tables
        self._seq = seq
        self._now_ms = now_ms
        self._txn_id = txn_id
        self._packed_tsd = tsd
        self._tsd: TransactionState | None = None
        self._view = view
        self._seed = seed
        self._random: random.Random | None = None
        self._handlers = handlers
        self._expectation: Expectation | None = None

    @property
    def tables(self) -> T:
        """The replicated tables."""
        return self._tables

    @property
    def seq(self) -> int:
        """The position in the partition's FIFO, from 1."""
        return self._seq

    @property
    def now_ms(self) -> int:
        """The control header's time: milliseconds since 1970, never running backwards."""
        return self._now_ms

    @property
    def txn_id(self) -> str:
        """The transaction's id, as text, as `with_options` takes it."""
        return shown_id(self._txn_id)

    @property
    def tsd(self) -> TransactionState:
        """The transaction's own state: names -> plain values, kept until the transaction ends."""
        if self._tsd is None:
            self._tsd = TransactionState(self._packed_tsd)
        return self._tsd

    @property
    def random(self) -> random.Random:
        """A generator seeded from the control header: the same numbers on every node."""
        if self._random is None:
            self._random = random.Random(_SEED_SHAPE.format(view=self._view, seq=self._seq, seed=self._seed))
        return self._random

    def expect(self, *messages: str, within_ms: int, otherwise: str) -> None:
        """Keep the transaction open for *messages*; if none has come within *within_ms*, run handler *otherwise*.

        *otherwise* runs without arguments and with this transaction's TSD, as a message that the active itself puts in
        the FIFO. Raises UsageError for an unknown handler or a deadline below 1 ms.
        """
        for name in (*messages, otherwise):
            if name not in self._handlers:
                raise UsageError(f"ctx.expect: the service has no handler {name!r}")
        if not messages:
            raise UsageError("ctx.expect: name at least one message to wait for")
        if type(within_ms) is not int or within_ms < 1:
            raise UsageError(f"ctx.expect: within_ms must be a whole number of at least 1, got {within_ms!r}")
        ordered = messages if len(messages) == 1 else tuple(sorted(set(messages)))
        self._expectation = new_tuple(Expectation, (ordered, within_ms, otherwise))
