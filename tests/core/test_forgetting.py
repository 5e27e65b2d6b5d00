"""How finished transactions are forgotten: some with each entry, in an order that all nodes share."""

from __future__ import annotations

import random
from dataclasses import replace

from replicator.context import Expectation
from replicator.core.messages import Entry, Kind, encode_message, named_txn_id, new_txn_id
from replicator.core.transactions import (
    OVER_DEADLINES_MIN,
    PRUNED_PER_ENTRY,
    OutcomeState,
    TransactionRules,
    Transactions,
)

RULES = TransactionRules(
    retain_ms=1_000, retain_min_ms=300, retain_named_ms=5_000, max_skew_ms=1_000, remembered_max=20_000
)
BEGIN_MS = 1_800_000_000_000


class Node:
    """Transactions, and the entries that it has recorded."""

    def __init__(self) -> None:
        self.transactions = Transactions(RULES)
        self.seq = 0

    def finish(self, age_ms: int, count: int = 1) -> list[bytes]:
        """Record messages that are whole transactions; return what was forgotten."""
        forgotten: list[bytes] = []
        for _ in range(count):
            self.seq += 1
            txn_id = new_txn_id(age_ms, self.seq.to_bytes(10, "big"))
            entry = Entry(1, self.seq, 0, 0, b"", int(Kind.MESSAGE), encode_message(txn_id, 1, "x", {}), age_ms=age_ms)
            outcome = OutcomeState(self.seq.to_bytes(8, "big"), False, None, b"")
            self.transactions.record(entry, 0, b"", outcome)
            forgotten += self.transactions.pruned
        return forgotten


def test_what_is_due_at_once_is_forgotten_some_with_each_entry() -> None:
    """After a pause a million may be due; the node must not stop for all of them at the next message."""
    node = Node()
    for step in range(500):
        node.finish(BEGIN_MS + step)
    later_ms = BEGIN_MS + 10_000
    assert len(node.finish(later_ms)) == PRUNED_PER_ENTRY
    assert len(node.finish(later_ms)) == PRUNED_PER_ENTRY  # the same header time: goes on all the same
    node.finish(later_ms, count=500 // PRUNED_PER_ENTRY)
    assert node.transactions.remembered_count == node.seq - 500
    assert node.transactions.watermark_ms == BEGIN_MS + 499
    node.transactions.check()


def test_those_that_ended_together_are_forgotten_together() -> None:
    node = Node()
    node.finish(BEGIN_MS, count=300)
    node.finish(BEGIN_MS + 1, count=300)
    assert len(node.finish(BEGIN_MS + 10_000)) == 300
    assert len(node.finish(BEGIN_MS + 10_000)) == 300


def test_a_node_that_was_given_its_transactions_forgets_the_same_ones() -> None:
    """Rows of a catch-up or a disk come in any order; the digests must stay equal at every entry that follows."""
    chance = random.Random(7)
    node, other = Node(), Node()
    age_ms = BEGIN_MS
    for _ in range(400):
        age_ms += chance.randrange(3)
        node.finish(age_ms)
    rows = [(each.txn_id, each.to_bytes()) for each in node.transactions.finished.values()]
    chance.shuffle(rows)
    for txn_id, packed in rows:
        other.transactions.put(txn_id, packed)
    other.transactions.arrange()
    other.seq = node.seq
    for _ in range(40):
        age_ms += chance.randrange(200)
        assert sorted(node.finish(age_ms)) == sorted(other.finish(age_ms))
        assert node.transactions.digest == other.transactions.digest
        assert node.transactions.watermark_ms == other.transactions.watermark_ms


def test_forgetting_goes_on_while_new_ones_come_and_open_ones_stay() -> None:
    """Ten thousand under steady traffic: as many are forgotten as come, and one that is open is not among them."""
    node = Node()
    entry = Entry(
        1,
        1,
        0,
        0,
        b"",
        int(Kind.MESSAGE),
        encode_message(new_txn_id(BEGIN_MS, bytes(10)), 1, "x", {}),
        age_ms=BEGIN_MS,
    )
    node.seq = 1
    node.transactions.record(entry, 0, b"", OutcomeState(bytes(8), False, Expectation(("x",), 60_000, "x"), b""))
    for step in range(10_000):
        node.finish(BEGIN_MS + step)
    assert node.transactions.remembered_count == RULES.retain_ms + 1
    assert len(node.transactions.open) == 1


def full_node(limit: int, **changes: int) -> Node:
    """A node that remembers *limit* replies, one for each millisecond, and may not remember more."""
    node = Node()
    node.transactions.rules = replace(RULES, remembered_max=limit, retain_ms=100_000, **changes)
    for step in range(limit):
        assert not node.finish(BEGIN_MS + step)
    return node


def test_a_full_table_forgets_the_oldest_but_none_before_its_time() -> None:
    """Only what is above the limit goes, and only what is older than retain_min_ms; with room it would stay."""
    node = full_node(1_000)
    first = next(iter(node.transactions.finished))
    assert node.finish(BEGIN_MS + 1_000) == [first]  # 1,000 ms old, where retain_min_ms is 300
    assert node.transactions.remembered_count == 1_000
    node = full_node(200)
    assert not node.finish(BEGIN_MS + 300)  # the oldest is 300 ms old, and not older
    young, named = new_txn_id(BEGIN_MS, bytes(10)), named_txn_id("order")
    assert not node.transactions.has_room(young, BEGIN_MS + 300, 1)
    assert node.transactions.has_room(young, BEGIN_MS + 301, 1)
    assert node.transactions.has_room(named, BEGIN_MS + 300, 1), "they have a table of their own"
    assert len(node.finish(BEGIN_MS + 301)) == 1  # the oldest; the others are younger than 300 ms
    assert len(node.finish(BEGIN_MS + 9_000)) == 2  # down to the limit and not below
    assert node.transactions.remembered_count == 200
    node.transactions.check()


def test_a_full_table_forgets_whole_milliseconds() -> None:
    """Nodes may hold those of one millisecond in different orders, so the limit never falls between them."""
    node = full_node(10)
    node.transactions.rules = replace(node.transactions.rules, remembered_max=15)
    node.finish(BEGIN_MS + 10, count=5)
    assert len(node.finish(BEGIN_MS + 900, count=11)) == 15  # ten, one with each entry, and the five together
    assert node.transactions.remembered_count == 11


def test_named_transactions_are_not_forgotten_for_want_of_room() -> None:
    """Their ids tell no time: once forgotten, a repeat of them would be run again."""
    node = Node()
    node.transactions.rules = replace(RULES, remembered_max=2)
    for number in range(5):
        node.seq += 1
        message = encode_message(named_txn_id(f"order {number}"), 1, "x", {})
        entry = Entry(1, node.seq, BEGIN_MS, 0, b"", int(Kind.MESSAGE), message, age_ms=BEGIN_MS + number)
        node.transactions.record(entry, 0, b"", OutcomeState(bytes(8), False, None, b""))
    assert not node.finish(BEGIN_MS + 4_000)
    assert not node.transactions.has_room(named_txn_id("one more"), BEGIN_MS + 5_000, 5)
    assert node.transactions.has_room(named_txn_id("one more"), BEGIN_MS + 5_001, 5)
    assert node.transactions.has_room(named_txn_id("one more"), BEGIN_MS + 4_000, 6)
    assert len(node.transactions.named) == 5


def test_deadlines_of_what_is_over_do_not_pile_up() -> None:
    """What was to end within a day and did so at once is not listed for a day; what is still waited for stays listed."""
    transactions = Transactions(RULES)
    day_ms = 86_400_000
    opening = OutcomeState(b"1" * 8, False, Expectation(("end",), day_ms, "give_up"), b"")
    ending = OutcomeState(b"2" * 8, False, None, b"")
    count, kept = 3 * OVER_DEADLINES_MIN, []
    for number in range(count):
        txn_id = new_txn_id(BEGIN_MS, number.to_bytes(10, "big"))
        messages = ((1, opening), (2, ending)) if number % 1_000 else ((1, opening),)
        for msg_no, outcome in messages:
            entry = Entry(
                1, 1, 0, 0, b"", int(Kind.MESSAGE), encode_message(txn_id, msg_no, "x", {}), age_ms=BEGIN_MS + number
            )
            transactions.record(entry, 0, b"", outcome)
        if len(messages) == 1:
            kept.append(txn_id)
        assert len(transactions._deadlines) <= OVER_DEADLINES_MIN + 2 * len(transactions.open) + 3
    due: list[bytes] = []
    while (transaction := transactions.due(BEGIN_MS + count + day_ms)) is not None:
        due.append(transaction.txn_id)
    assert due == kept
