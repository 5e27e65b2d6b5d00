"""Own a prepaid database without processes: the core's executor and duplicate filter, with a clock to move.

Each message runs on two replicas, whose digests are compared: what a handler does must not depend on the node.
"""

from __future__ import annotations

import itertools
from typing import Any

from examples.prepaid.service import NewCard, PrepaidCalls, hash_pin
from replicator.core.effects import ExecuteRead
from replicator.core.executor import Outcome
from replicator.core.messages import Entry, Kind, Status, encode_message, named_txn_id
from replicator.core.state import Rules, State
from replicator.core.transactions import Verdict
from replicator.core.views import Member
from replicator.errors import Aborted, HandlerFailed
from replicator.ids import shown_id
from replicator.values import unpack, unpack_wire

SALT = bytes(16)
START_MS = 1_700_000_000_000


def new_card(number: str = "c1", balance_cents: int = 1_000, pin: str = "1234", **changed: Any) -> NewCard:
    """Make a card to load."""
    fields = {
        "number": number,
        "plan": "minute",
        "balance_cents": balance_cents,
        "state": "active",
        "salt": SALT,
        "pin_hash": hash_pin(pin, SALT),
    }
    return NewCard(**{**fields, **changed})


class Direct:
    """Two replicas of the service in step."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self._seq = itertools.count(1)
        self._names = itertools.count(1)
        self._msg_nos: dict[str, int] = {}
        self._states = [State(PrepaidCalls(), Member(name, "1"), "test", Rules(), 0) for name in ("a", "b")]

    def call(self, txn: str, handler: str, **arguments: Any) -> Any:
        """Send the next message of transaction *txn* and return its result, or raise its refusal."""
        spec = PrepaidCalls.handlers()[handler]
        self._msg_nos[txn] = msg_no = self._msg_nos.get(txn, 0) + 1
        txn_id = named_txn_id(txn)
        message = encode_message(txn_id, msg_no, handler, spec.bind((), arguments))
        verdict = self._states[0].transactions.judge(message, txn_id, msg_no, handler, self.now_ms)
        if isinstance(verdict, Exception):
            raise verdict
        assert verdict is not Verdict.REPEAT
        outcome = self._run(Kind.MESSAGE, message)
        if outcome.status == Status.ABORTED:
            reason, facts = unpack_wire(outcome.body)
            raise Aborted(reason, facts, txn_id=shown_id(txn_id))
        if outcome.status == Status.FAILED:
            raise HandlerFailed(*unpack_wire(outcome.body), txn_id=shown_id(txn_id)) from outcome.failure
        return spec.result_from_plain(unpack(outcome.body))

    def once(self, handler: str, **arguments: Any) -> Any:
        """Send a message as a transaction of its own."""
        return self.call(f"once-{next(self._names)}", handler, **arguments)

    def read(self, handler: str, **arguments: Any) -> Any:
        """Run a readonly handler."""
        spec = PrepaidCalls.handlers()[handler]
        state = self._states[0]
        read = ExecuteRead(None, bytes(16), spec, spec.bind((), arguments), False)
        outcome = state.executor.read(read, view=1, seq=0, now_ms=self.now_ms)
        if outcome.status == Status.ABORTED:
            raise Aborted(*unpack_wire(outcome.body))
        assert outcome.status == Status.DONE, outcome.failure
        return spec.result_from_plain(unpack(outcome.body))

    def wait(self, passed_ms: int) -> None:
        """Move the clock and run the deadlines that pass."""
        self.now_ms += passed_ms
        while (due := self._states[0].transactions.due(self.now_ms)) is not None:
            assert due.expectation is not None
            self._run(Kind.DEADLINE, encode_message(due.txn_id, due.expect_no, due.expectation.otherwise, {}))

    @property
    def digest(self) -> int:
        """The digest of tables and transactions."""
        return self._states[0].digest

    def _run(self, kind: Kind, message: bytes) -> Outcome:
        seq = next(self._seq)
        outcomes = []
        for state in self._states:
            entry = Entry(1, seq, self.now_ms, 7, b"", kind, message, age_ms=self.now_ms)
            outcome = state.executor.execute(entry, state.transactions)
            state.commit(entry, outcome)
            outcomes.append(outcome)
        assert outcomes[0].digest == outcomes[1].digest
        assert self._states[0].digest == self._states[1].digest
        return outcomes[0]
