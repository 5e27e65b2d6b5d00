"""Own the open transactions (TSD, expectations, deadlines) and the remembered replies: the duplicate filter (P2, P5).

Replicated state: every node changes it only by `record`, at the same entry, in the same way. A transaction remembers
its last reply; a repeat of that message gets the same bytes, an older one is stale. Finished ones are pruned, and deadlines
pass, by the passed time that entries carry (`age_ms`), never by a wall clock (V19): after `retain_ms`, or after
`retain_min_ms` once there are `remembered_max`; ids made at or before the newest pruned one are refused, never run again.
Named ones have no time in their ids, so nothing would refuse them afterwards: they stay for `retain_named_ms`.

Invariants (`check`): a transaction is open or finished, never both; the digest is the sum over all of them.
"""

from __future__ import annotations

import heapq
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import permutations
from typing import NamedTuple

from replicator.context import Expectation
from replicator.core.messages import MESSAGE_HEAD, NAMED_PREFIX, TXN_ID_BYTES, Entry, Kind, created_ms, split_message
from replicator.core.persistence import checked, unchecked
from replicator.errors import (
    BadArguments,
    CorruptRecord,
    MessageGap,
    ReplicatorError,
    StaleMessage,
    TooLate,
    TransactionFinished,
    UnexpectedMessage,
    UnknownTransaction,
    UsageError,
)
from replicator.rows import DIGEST_MASK
from replicator.values import pack_wire, unpack_wire

#: Of the finished and of the named transactions that are due, so many are forgotten with each entry.
PRUNED_PER_ENTRY = 64
#: Deadlines of expectations that are over leave the list when there are this many, and more than half of it. It
#: takes 1 ms, with 20,000 transactions open 6 ms.
OVER_DEADLINES_MIN = 10_000
#: All orders of so many arguments are tried, when a repeat does not have the bytes of the first.
ARGUMENTS_PERMUTED_MAX = 5
#: An odd number without a pattern: it spreads a time over the 64 bits of a transaction's hash.
_TIME_MIX = 0xC2B2AE3D27D4EB4F


class Transaction:
    """One transaction: its last message and reply, and, while open, its TSD and what it expects.

    `deadline_ms` and `ended_ms` are passed times (`Entry.age_ms`).
    """

    __slots__ = (
        "body",
        "checksum",
        "deadline_ms",
        "ended_ms",
        "expect_no",
        "expectation",
        "hash",
        "msg_no",
        "seq",
        "status",
        "tsd",
        "txn_id",
    )

    def __init__(self, txn_id: bytes) -> None:
        self.txn_id = txn_id
        self.msg_no = 0
        self.seq = 0
        self.status = 0
        self.body = b""
        self.checksum = 0
        self.tsd = b""
        self.expectation: Expectation | None = None
        self.expect_no = 0
        self.deadline_ms = 0
        self.ended_ms = 0
        self.hash = 0

    @property
    def is_open(self) -> bool:
        """Whether more messages may come."""
        return self.expectation is not None

    def to_bytes(self) -> bytes:
        """Pack for a store or another node."""
        expected = self.expectation
        return checked(
            pack_wire(
                [
                    self.msg_no,
                    self.seq,
                    self.status,
                    self.body,
                    self.checksum,
                    self.tsd,
                    None if expected is None else [expected.messages, expected.within_ms, expected.otherwise],
                    self.expect_no,
                    self.deadline_ms,
                    self.ended_ms,
                    self.hash,
                ]
            )
        )

    @staticmethod
    def from_bytes(txn_id: bytes, packed: bytes) -> Transaction:
        """Unpack. Raises CorruptRecord if *packed* is not a transaction."""
        transaction = Transaction(txn_id)
        try:
            (
                transaction.msg_no,
                transaction.seq,
                transaction.status,
                transaction.body,
                transaction.checksum,
                transaction.tsd,
                expected,
                transaction.expect_no,
                transaction.deadline_ms,
                transaction.ended_ms,
                transaction.hash,
            ) = unpack_wire(unchecked(packed))
            transaction.expectation = None if expected is None else Expectation(*expected)
        except (UsageError, ValueError, TypeError) as error:
            raise CorruptRecord(f"not a transaction: {error}") from error
        return transaction


class Verdict(Enum):
    """What the duplicate filter says of a message that is not refused."""

    NEW = "first message of a transaction"
    NEXT = "next message of an open transaction"
    REPEAT = "repeat of the last message"


@dataclass(frozen=True)
class TransactionRules:
    """Bounds that are part of the replicated behaviour, so equal on all nodes (in the service fingerprint)."""

    retain_ms: int
    retain_min_ms: int
    retain_named_ms: int
    max_skew_ms: int
    remembered_max: int


class Transactions:
    """All transactions of a replica."""

    def __init__(self, rules: TransactionRules) -> None:
        self.rules = rules
        self.open: dict[bytes, Transaction] = {}
        #: In the order of their end. Ordered dicts, as finding the first of a plain one takes the longer the more were removed.
        self.finished: OrderedDict[bytes, Transaction] = OrderedDict()
        self.named: OrderedDict[bytes, Transaction] = OrderedDict()
        self.watermark_ms = 0
        self.digest = 0
        self.pruned: list[bytes] = []  # forgotten by the last `record`
        self._deadlines: list[tuple[int, bytes, int]] = []
        self._prune_ms = 0  # before this passed time there is nothing to prune

    @property
    def remembered_count(self) -> int:
        """Finished transactions whose last reply is still kept."""
        return len(self.finished) + len(self.named)

    def find(self, txn_id: bytes) -> Transaction | None:
        """Return the open or remembered transaction of this id, or None if there is none."""
        return self.open.get(txn_id) or self.finished.get(txn_id) or self.named.get(txn_id)

    def is_waiting(self, txn_id: bytes, expect_no: int) -> bool:
        """Whether the transaction is open in this very expectation."""
        transaction = self.open.get(txn_id)
        return transaction is not None and transaction.expect_no == expect_no

    def is_repeat(self, message: bytes) -> bool:
        """Whether these are the very bytes of a transaction's last message. O(bytes) if its id is known, else O(1)."""
        transaction = self.find(message[:TXN_ID_BYTES])
        return (
            transaction is not None
            and len(message) >= MESSAGE_HEAD.size
            and MESSAGE_HEAD.unpack_from(message)[1] == transaction.msg_no
            and transaction.checksum == zlib.crc32(message)
        )

    def judge(
        self, message: bytes, txn_id: bytes, msg_no: int, handler: object, now_ms: int
    ) -> Verdict | ReplicatorError:
        """Say what this message is; an error means a refusal that depends on the present state. O(1)."""
        transaction = self.open.get(txn_id) or self.finished.get(txn_id) or self.named.get(txn_id)
        if transaction is None:
            return self._judge_unknown(txn_id, msg_no, now_ms)
        last = transaction.msg_no
        if msg_no == last + 1 and transaction.expectation is not None and handler in transaction.expectation.messages:
            return Verdict.NEXT
        shown = txn_id.hex()
        if msg_no == last:
            if not any(transaction.checksum == each for each in checksums(message)):
                return BadArguments(f"transaction {shown}: message {msg_no} was another one; never use an id twice")
            return Verdict.REPEAT
        if msg_no < last:
            return StaleMessage(f"message {msg_no} of transaction {shown} is past: message {last} was processed")
        if transaction.expectation is None:
            return TransactionFinished(f"transaction {shown} ended with message {last} (or its deadline)")
        if msg_no > last + 1:
            return MessageGap(f"message {msg_no} of transaction {shown} came before message {last + 1}")
        expected = ", ".join(transaction.expectation.messages)
        return UnexpectedMessage(f"transaction {shown} expects {expected}, not {handler}")

    def _judge_unknown(self, txn_id: bytes, msg_no: int, now_ms: int) -> Verdict | ReplicatorError:
        made_ms = created_ms(txn_id)
        if 0 < made_ms <= self.watermark_ms:
            return TooLate(
                f"transaction {txn_id.hex()} is older than what is remembered; whether it took effect is not known"
            )
        if msg_no != 1:
            return UnknownTransaction(f"no transaction {txn_id.hex()} is open here; begin with message 1")
        if made_ms > now_ms + self.rules.max_skew_ms:
            return BadArguments(
                f"transaction {txn_id.hex()} was made {made_ms - now_ms} ms in the future of this database: set the caller's "
                "clock; if that one is right, see `replicator clock`"
            )
        return Verdict.NEW

    def record(self, entry: Entry, status: int, body: bytes, outcome: OutcomeState) -> bool | None:
        """Remember an entry's outcome: the only way this state changes, but for `put`. O(1) amortised.

        Returns whether the transaction was known before; None if nothing changed. `pruned` then lists what was forgotten.
        """
        txn_id = entry.txn_id
        self.pruned = []
        if entry.kind == Kind.DEADLINE and not self.is_waiting(txn_id, entry.msg_no):
            return None  # the expectation was over before its deadline came to its turn
        known = self.open.pop(txn_id, None)
        transaction = known or Transaction(txn_id)
        self.digest -= transaction.hash
        if entry.kind == Kind.MESSAGE:
            transaction.msg_no = entry.msg_no
            transaction.seq = entry.seq
            transaction.status = status
            transaction.body = body
            transaction.checksum = zlib.crc32(entry.message)
        # The same outcome at the same seq of another view is another transaction: it is pruned at another time.
        transaction.hash = (int.from_bytes(outcome.digest, "big") + entry.age_ms * _TIME_MIX) & DIGEST_MASK
        self.digest = (self.digest + transaction.hash) & DIGEST_MASK
        if not outcome.is_kept:
            self._set_expectation(transaction, entry, outcome)
        if transaction.expectation is not None:
            self.open[txn_id] = transaction
        else:
            self._finish(transaction, entry.age_ms)
        if entry.age_ms > self._prune_ms or len(self.finished) > self.rules.remembered_max:
            self._prune(entry.age_ms)
        return known is not None

    def _set_expectation(self, transaction: Transaction, entry: Entry, outcome: OutcomeState) -> None:
        transaction.expectation = outcome.expectation
        transaction.tsd = outcome.tsd if outcome.expectation else b""
        if outcome.expectation is not None:
            transaction.expect_no += 1
            transaction.deadline_ms = entry.age_ms + outcome.expectation.within_ms
            deadlines = self._deadlines
            if len(deadlines) > OVER_DEADLINES_MIN + 2 * len(self.open):
                self._deadlines = deadlines = [each for each in deadlines if self.is_waiting(each[1], each[2])]
                heapq.heapify(deadlines)
            heapq.heappush(deadlines, (transaction.deadline_ms, transaction.txn_id, transaction.expect_no))

    def _finish(self, transaction: Transaction, age_ms: int) -> None:
        transaction.ended_ms = age_ms
        kept = self.named if transaction.txn_id.startswith(NAMED_PREFIX) else self.finished
        kept[transaction.txn_id] = transaction

    def _prune(self, age_ms: int) -> None:
        """Forget what is due, some with each entry: a million at once would stop the node.

        Those that ended in one millisecond go together, as their order may differ between nodes after a catch-up.
        """
        rules = self.rules
        due_ms = age_ms + min(rules.retain_ms, rules.retain_named_ms)
        for kept, long_ms, short_ms in (
            (self.finished, rules.retain_ms, rules.retain_min_ms),
            (self.named, rules.retain_named_ms, rules.retain_named_ms),
        ):
            count, last_ms = 0, -1
            while kept:
                oldest = next(iter(kept.values()))
                if oldest.ended_ms != last_ms:
                    retain_ms = short_ms if len(self.finished) > rules.remembered_max else long_ms
                    if oldest.ended_ms + retain_ms >= age_ms:
                        due_ms = min(due_ms, oldest.ended_ms + retain_ms)
                        break
                    if count >= PRUNED_PER_ENTRY:
                        due_ms = age_ms - 1  # the next entry goes on, even one of this very time
                        break
                count, last_ms = count + 1, oldest.ended_ms
                del kept[oldest.txn_id]
                self.pruned.append(oldest.txn_id)
                self.digest = (self.digest - oldest.hash) & DIGEST_MASK
                self.watermark_ms = max(self.watermark_ms, created_ms(oldest.txn_id))
        self._prune_ms = due_ms

    def has_room(self, txn_id: bytes, age_ms: int, named_max: int) -> bool:
        """Whether one more of its kind may be remembered: the table is not full, or its oldest is due now. O(1).

        Named ones have a table and a bound (*named_max*) of their own, so that they fill nobody else's.
        """
        if txn_id.startswith(NAMED_PREFIX):
            kept, count_max, retain_ms = self.named, named_max, self.rules.retain_named_ms
        else:
            kept, count_max, retain_ms = self.finished, self.rules.remembered_max, self.rules.retain_min_ms
        return len(kept) < count_max or next(iter(kept.values())).ended_ms + retain_ms < age_ms

    def due(self, age_ms: int) -> Transaction | None:
        """Return an open transaction whose deadline has passed, each expectation once; None if there is none."""
        while self._deadlines and self._deadlines[0][0] <= age_ms:
            _, txn_id, expect_no = heapq.heappop(self._deadlines)
            if self.is_waiting(txn_id, expect_no):
                return self.open[txn_id]
        return None

    @property
    def next_deadline_ms(self) -> int | None:
        """At which passed time the earliest listed deadline passes (it may be over already); None without one."""
        return self._deadlines[0][0] if self._deadlines else None

    def rearm(self) -> None:
        """Rebuild the deadlines from the open transactions: for a node that becomes active. O(open)."""
        self._deadlines = [(each.deadline_ms, each.txn_id, each.expect_no) for each in self.open.values()]
        heapq.heapify(self._deadlines)

    # -- as rows -----------------------------------------------------------------------------------------------------

    def get(self, txn_id: bytes) -> bytes | None:
        """Return the packed transaction, or None if it is not known."""
        transaction = self.find(txn_id)
        return None if transaction is None else transaction.to_bytes()

    def put(self, txn_id: bytes, packed: bytes | None) -> None:
        """Take a transaction from another node or from a store, in the place of what is known of it; None: forget it.

        `arrange` must follow before the next `record`. Raises CorruptRecord.
        """
        old = self.open.pop(txn_id, None) or self.finished.pop(txn_id, None) or self.named.pop(txn_id, None)
        if old is not None:
            self.digest -= old.hash
        if packed is not None:
            transaction = Transaction.from_bytes(txn_id, packed)
            self.digest += transaction.hash
            if transaction.is_open:
                self.open[txn_id] = transaction
            else:
                self._finish(transaction, transaction.ended_ms)
        self.digest &= DIGEST_MASK

    def arrange(self) -> None:
        """Bring what `put` has put into the order in which it is pruned. O(transactions log transactions)."""
        for name in ("finished", "named"):
            ordered = sorted(getattr(self, name).items(), key=lambda item: item[1].ended_ms)
            setattr(self, name, OrderedDict(ordered))
        self._prune_ms = 0
        self.rearm()

    def forget_all(self) -> None:
        """Begin anew, without any transaction."""
        self.open, self.finished, self.named = {}, OrderedDict(), OrderedDict()
        self.digest = self.watermark_ms = 0
        self.arrange()

    def check(self) -> None:
        """Assert the invariants; O(transactions)."""
        everything = [*self.open.values(), *self.finished.values(), *self.named.values()]
        assert len({each.txn_id for each in everything}) == len(everything), "a transaction is open and finished"
        assert sum(each.hash for each in everything) & DIGEST_MASK == self.digest, "digest of the transactions"
        assert all(each.is_open for each in self.open.values())
        assert not any(each.is_open for each in self.finished.values())


def checksums(message: bytes) -> Iterator[int]:
    """Return the checksums of all messages of equal value: arguments have names, and no order (U5).

    A stock proxy of a language with unordered maps may send a repeat with its arguments in another order than the first
    time. Only the first checksum is remembered, so all orders are tried, up to `ARGUMENTS_PERMUTED_MAX` arguments (120 orders,
    some 0.1 ms); with more, only that by name, in which `invoke` packs.
    """
    yield zlib.crc32(message)
    try:
        _, _, name, arguments = split_message(message)
    except UsageError:
        return
    if type(arguments) is not dict:
        return
    pairs = [pack_wire(key) + pack_wire(value) for key, value in sorted(arguments.items(), key=_name_of)]
    body = pack_wire([name, arguments])
    before = message[: MESSAGE_HEAD.size] + body[: len(body) - sum(map(len, pairs))]
    head = zlib.crc32(before)
    for order in permutations(pairs) if len(pairs) <= ARGUMENTS_PERMUTED_MAX else (tuple(pairs),):
        yield zlib.crc32(b"".join(order), head)


def _name_of(item: tuple[object, object]) -> str:
    return str(item[0])


class OutcomeState(NamedTuple):
    """What an outcome does to its transaction: keep it as it was (`is_kept`), or set expectation and TSD."""

    digest: bytes
    is_kept: bool
    expectation: Expectation | None
    tsd: bytes
