"""Transactions of several messages: the duplicate filter, deadlines, Abort, failures, pruning, limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.effects import Submitted, TurnEnded
from replicator.core.messages import Answer, Status, encode_message, named_txn_id, new_txn_id
from replicator.core.state import Rules
from replicator.core.transactions import REPLY_BYTES, Transaction, Verdict
from replicator.ids import shown_id
from tests.core.services import Bank
from tests.core.world import World

DONE, REFUSED, ABORTED, FAILED = Status.DONE, Status.REFUSED, Status.ABORTED, Status.FAILED


def survivor(world: World) -> str:
    """Kill the active; return the name of the node that took over."""
    world.kill(world.active.name)
    world.run()
    return world.active.name


def test_p2_a_repeat_gets_the_same_bytes_before_and_after_failover() -> None:
    """The random numbers and the time in the reply show that it was not made again."""
    world = World(Bank)
    first = world.submit(world.active.name, "t", 1, "dice")
    world.settle()
    repeat = world.submit(world.active.name, "t", 1, "dice")
    world.run()
    node = survivor(world)
    again = world.submit(node, "t", 1, "dice")
    world.run()
    assert world.answers[first].body == world.answers[repeat].body == world.answers[again].body


def test_p5_an_open_transaction_continues_where_it_stood() -> None:
    """TSD is rebuilt on the backup by the same messages."""
    world = World(Bank)
    name = world.active.name
    world.call(name, "t", 1, "begin", owner="bob")
    assert world.call(name, "t", 2, "add", cents=7) == (DONE, 7)
    name = survivor(world)
    assert world.call(name, "t", 3, "add", cents=5) == (DONE, 12)
    assert world.call(name, "t", 4, "end") == (DONE, 12)
    world.check()


@pytest.mark.parametrize(
    ("msg_no", "handler", "error"),
    [
        (1, "begin", ""),
        (2, "add", ""),
        (4, "add", "MessageGap"),
        (3, "deposit", "UnexpectedMessage"),
        (2, "end", "BadArguments"),
    ],
)
def test_p5_messages_out_of_order_are_told_apart(msg_no: int, handler: str, error: str) -> None:
    """After begin and one add: an old message, a repeat, a gap, an unexpected one, an id used for another message."""
    known: dict[str, dict[str, Any]] = {"begin": {"owner": "bob"}, "add": {"cents": 7}, "end": {}}
    arguments = known.get(handler, {"owner": "bob", "cents": 1})
    world = World(Bank)
    name = world.active.name
    world.call(name, "t", 1, "begin", owner="bob")
    world.call(name, "t", 2, "add", cents=7)
    seq = world.active.replica.state.fifo.last_seq
    status, value = world.call(name, "t", msg_no, handler, **arguments)
    if msg_no == 1:
        assert (status, value) == (DONE, shown_id(named_txn_id("t")))
    elif error:
        assert (status, value) == (REFUSED, error)
    else:
        assert (status, value) == (DONE, 7)
    assert world.active.replica.state.fifo.last_seq == seq, "a refused message must change nothing"


def test_p5_unknown_and_finished_transactions_have_their_own_errors() -> None:
    """One was never begun, the other has ended."""
    world = World(Bank)
    name = world.active.name
    assert world.call(name, "never", 2, "end") == (REFUSED, "UnknownTransaction")
    world.call(name, "t", 1, "deposit", owner="x", cents=1)
    assert world.call(name, "t", 2, "end") == (REFUSED, "TransactionFinished")


def test_abort_changes_nothing_and_leaves_the_transaction_open() -> None:
    """The refusal is remembered as the message's outcome, on both sides."""
    world = World(Bank)
    name = world.active.name
    world.call(name, "t", 1, "begin", owner="bob")
    status, value = world.call(name, "t", 2, "add", cents=-1)
    assert (status, value) == (ABORTED, ("negative", {}))
    name = survivor(world)
    assert world.call(name, "t", 2, "add", cents=-1) == (ABORTED, ("negative", {}))
    assert world.call(name, "t", 3, "add", cents=4) == (DONE, 4)
    status, value = world.call(name, "u", 1, "transfer", source="nobody", target="x", cents=5)
    assert (status, value) == (ABORTED, ("too little", {"missing": 5, "owner": "nobody"}))
    assert world.call(name, "r", 1, "balance", owner="x") == (DONE, 0)


def test_a_failing_handler_changes_nothing_and_is_remembered() -> None:
    """The write before the exception is gone; the exception's class is told, its text stays in the node's log."""
    world = World(Bank)
    name = world.active.name
    assert world.call(name, "t", 1, "fail", owner="x") == (FAILED, ("fail", "KeyError"))
    assert world.call(name, "t", 1, "fail", owner="x") == (FAILED, ("fail", "KeyError"))
    assert world.call(name, "r", 1, "balance", owner="x") == (DONE, 0)
    assert world.events()["handler_failed"] == 2  # once on each node, not once more for the repeat


def test_a_deadline_ends_the_transaction_once_on_all_nodes() -> None:
    """Only the active puts it into the FIFO; a late message finds the transaction finished."""
    world = World(Bank, "abc")
    name = world.active.name
    world.call(name, "t", 1, "begin", owner="bob")
    world.settle(9_000)
    assert world.events()["deadline"] == 0
    world.settle(2_000)
    assert world.events()["deadline"] == 1
    assert world.call(name, "t", 2, "end") == (REFUSED, "TransactionFinished")
    assert world.call(name, "t", 1, "begin", owner="bob")[0] is DONE, "the last message's reply is still remembered"
    assert world.call(name, "r", 1, "balance", owner="given up") == (DONE, 1)
    world.check()


def test_a_promoted_node_keeps_the_deadlines() -> None:
    """The transaction was opened on a node that is dead when its time comes."""
    world = World(Bank)
    world.call(world.active.name, "t", 1, "begin", owner="bob")
    name = survivor(world)
    world.settle(12_000)
    assert world.call(name, "r", 1, "balance", owner="given up") == (DONE, 1)


def test_a_message_in_time_moves_the_deadline() -> None:
    """Each expect has a number of its own; the old deadline finds it over."""
    world = World(Bank)
    name = world.active.name
    world.call(name, "t", 1, "begin", owner="bob")
    world.settle(8_000)
    assert world.call(name, "t", 2, "add", cents=1) == (DONE, 1)
    world.settle(8_000)
    assert world.call(name, "t", 3, "end") == (DONE, 1)
    world.settle(20_000)
    assert world.events()["deadline"] == 0


def test_the_header_time_never_runs_backwards() -> None:
    """The wall clock jumps back an hour: the time in the control header does not."""
    world = World(Bank)
    name = world.active.name
    _, before = world.call(name, "t", 1, "dice")
    world.now_ms -= 3_600_000
    world.advance(50)
    _, after = world.call(name, "u", 1, "dice")
    assert after[2] >= before[2]


def raw(world: World, txn_id: bytes, handler: str = "deposit", **arguments: Any) -> Answer:
    """Submit a first message under a time-stamped id."""
    token = object()
    node = world.active
    message = encode_message(txn_id, 1, handler, arguments or {"owner": "x", "cents": 1})
    node.give(Submitted(token, message))
    node.give(TurnEnded())
    world.run()
    return world.answers[token]


def test_an_id_older_than_what_is_remembered_is_too_late_and_never_run_again() -> None:
    """After retain_ms the reply is pruned; the watermark refuses the repeat on the successor as well."""
    world = World(Bank, retain_ms=5_000)
    txn_id = new_txn_id(world.now_ms, b"0123456789")
    assert raw(world, txn_id).status == DONE
    world.settle(6_000)
    raw(world, new_txn_id(world.now_ms, b"abcdefghij"))
    raw(world, new_txn_id(world.now_ms, b"abcdefghik"))
    answer = raw(world, txn_id)
    assert answer.status == REFUSED
    assert b"TooLate" in answer.body
    survivor(world)
    assert b"TooLate" in raw(world, txn_id).body
    world.check()


def test_a_full_table_forgets_its_oldest_replies_and_never_runs_them_again() -> None:
    """Above remembered_replies_max a reply is kept for retain_min_ms only, on all nodes alike; its repeat is TooLate."""
    world = World(Bank, remembered_replies_max=3, retain_min_ms=2_000)
    ids = [new_txn_id(world.now_ms, bytes([number]) * 10) for number in range(3)]
    for txn_id in ids:
        assert raw(world, txn_id).status == DONE
    refused = new_txn_id(world.now_ms, b"0123456789")
    assert raw(world, refused).status == Status.OVERLOADED  # the three are too young to be forgotten
    assert raw(world, ids[0]).status == DONE  # and so are answered as before
    world.settle(3_000)
    assert raw(world, ids[1]).status == DONE  # old enough, but a repeat needs no room
    assert raw(world, new_txn_id(world.now_ms, b"abcdefghij")).status == DONE
    before = world.active.replica.state.database.digest
    assert b"TooLate" in raw(world, ids[0]).body
    survivor(world)
    assert b"TooLate" in raw(world, ids[1]).body
    assert world.active.replica.state.database.digest == before, "a forgotten transaction ran again"
    world.check()


def test_p9_named_transactions_fill_a_table_of_their_own() -> None:
    """They are kept for a day: a caller who names every transaction shuts out others who do so, and nobody else."""
    world = World(Bank, remembered_named_max=2, remembered_replies_max=3, retain_named_ms=5_000)
    name = world.active.name
    for number in range(2):
        assert world.call(name, f"order {number}", 1, "deposit", owner="x", cents=1)[0] is DONE
    assert world.call(name, "one too many", 1, "deposit", owner="x", cents=1)[1][0] == "remembered_named_max"
    assert world.call(name, "order 0", 1, "deposit", owner="x", cents=1) == (DONE, 1)
    assert raw(world, new_txn_id(world.now_ms, b"0123456789")).status == DONE
    status = world.active.replica.status()
    assert (status["remembered"], status["remembered_named"]) == (3, 2)
    world.settle(6_000)
    assert world.call(name, "one too many", 1, "deposit", owner="x", cents=1)[0] is DONE
    world.check()


def test_an_id_from_the_future_is_refused() -> None:
    """More than max_skew_ms ahead of the header's time: the caller's clock is wrong."""
    world = World(Bank)
    assert raw(world, new_txn_id(world.now_ms + 59_000, b"0123456789")).status == DONE
    answer = raw(world, new_txn_id(world.now_ms + 61_000, b"0123456789"))
    assert answer.status == REFUSED
    assert b"future" in answer.body


@pytest.mark.parametrize(
    ("limit", "value"), [("open_txns_max", 2), ("remembered_named_max", 2), ("rows_max", 2), ("fifo_entries_max", 2)]
)
def test_p9_a_reached_limit_is_overloaded_and_names_itself(limit: str, value: int) -> None:
    """The third is one too many; nothing of it is kept."""
    world = World(Bank, rules=replace(Rules(), **{limit: value}))  # type: ignore[arg-type]
    name = world.active.name
    if limit == "fifo_entries_max":
        world.keep = lambda source, target, frame: False
    for number in range(2):
        handler, arguments = (
            ("begin", {"owner": "o"}) if limit == "open_txns_max" else ("deposit", {"owner": "o", "cents": 1})
        )
        if limit == "rows_max":
            arguments["owner"] = f"owner {number}"
        world.submit(name, f"t{number}", 1, handler, **arguments)
        world.run()
    seq = world.active.replica.state.fifo.last_seq
    status, body = world.call(name, "one too many", 1, "begin", owner="o")
    assert (status, body[0]) == (Status.OVERLOADED, limit)
    assert world.active.replica.state.fifo.last_seq == seq


@settings(max_examples=150)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["begin", "add", "end"]), st.integers(0, 9)),
        max_size=25,
    ),
    kill_at=st.integers(0, 25),
)
def test_the_duplicate_filter_against_a_plain_model(steps: list[tuple[int, int, str, int]], kill_at: int) -> None:
    """Random messages, repeats, gaps and one failover: each message takes effect at most once, repeats are equal."""
    world = World(Bank)
    known_replies: dict[
        tuple[int, int], tuple[str, tuple[Status, Any]]
    ] = {}  # (txn, msg_no) -> its message and outcome
    totals: dict[int, int] = {}
    booked = 0
    for index, (txn, msg_no, handler, cents) in enumerate(steps):
        if index == kill_at:
            world.kill(world.active.name)
            world.run()
        known: dict[str, dict[str, Any]] = {"begin": {"owner": "o"}, "add": {"cents": cents}, "end": {}}
        arguments = known[handler]
        key = f"{handler}{arguments}"
        got = world.call(world.active.name, f"txn {txn}", msg_no, handler, **arguments)
        no = max((each for one, each in known_replies if one == txn), default=0)
        if msg_no <= no and key == known_replies[txn, msg_no][0]:
            assert got == known_replies[txn, msg_no][1]
        elif msg_no == no + 1 and ((no == 0 and handler == "begin") or (txn in totals and handler in ("add", "end"))):
            assert got[0] is DONE
            if handler == "begin":
                totals[txn] = 0
            elif handler == "add":
                totals[txn] += cents
                assert got[1] == totals[txn]
            else:
                booked += totals.pop(txn)
                assert got[1] == booked
            known_replies[txn, msg_no] = (key, got)
        elif msg_no == 1 and no == 0:
            assert got[0] is FAILED  # add or end as a first message: its TSD is missing, the handler fails
            known_replies[txn, msg_no] = (key, got)
        else:
            assert got[0] is REFUSED
    world.check()


def taken_up(world: World, messages: list[tuple[str, dict[str, Any]]]) -> list[tuple[Status, Any]]:
    """What another life of the caller gets for the messages of transaction "order", from the first on."""
    return [
        world.call(world.active.name, "order", no, *each[:1], **each[1]) for no, each in enumerate(messages, start=1)
    ]


ORDER: list[tuple[str, dict[str, Any]]] = [
    ("begin", {"owner": "bob"}),
    ("add", {"cents": 7}),
    ("add", {"cents": -1}),  # refused, and remembered like any outcome
    ("add", {"cents": 5}),
    ("end", {}),
]


@pytest.mark.parametrize("count", range(1, len(ORDER) + 1))
def test_p2_a_named_transaction_is_taken_up_from_its_first_message(count: int) -> None:
    """Wherever its caller died, and after a failover: the same replies for what was processed, then it goes on."""
    world = World(Bank)
    first = taken_up(world, ORDER[:count])
    assert [status for status, _ in first] == [DONE, DONE, ABORTED, DONE, DONE][:count]
    assert taken_up(world, ORDER[:count]) == first
    survivor(world)
    again = taken_up(world, ORDER)
    assert again[:count] == first
    assert again[-1] == (DONE, 12)
    assert taken_up(world, ORDER) == again
    assert world.call(world.active.name, "order", 2, "add", cents=8) == (REFUSED, "BadArguments")
    world.check()


def test_p2_its_replies_outlive_its_deadline_and_come_back_with_a_nodes_rows() -> None:
    """A deadline is no message: what was answered before stays. A node that returns is given the replies as rows."""
    world = World(Bank)
    first = taken_up(world, ORDER[:3])
    backup = world.backups[0].name
    world.kill(backup)
    world.settle(1_500)
    again = taken_up(world, ORDER[:4])
    world.restart(backup, f"{backup}2")
    world.settle(1_500)
    world.settle(12_000)  # its deadline
    survivor(world)
    assert again[:3] == first
    assert taken_up(world, ORDER) == [*again, (REFUSED, "TransactionFinished")]
    world.check()


def test_the_earlier_replies_of_a_named_transaction_are_bounded() -> None:
    """The oldest go; a repeat of theirs says so. The digest has all of them, kept or not."""
    world = World(Bank, rules=Rules(txn_replies_bytes_max=3 * (REPLY_BYTES + 5)))
    messages: list[tuple[str, dict[str, Any]]] = [("begin", {"owner": "x"})] + [("add", {"cents": 1})] * 9
    first = taken_up(world, messages)
    assert taken_up(world, messages) == [(REFUSED, "StaleMessage")] * 6 + first[6:]
    transactions = world.active.replica.state.transactions
    [transaction] = transactions.open.values()
    again = Transaction.from_bytes(transaction.txn_id, transaction.to_bytes())
    assert [again.reply_to(number) for number in range(12)] == [transaction.reply_to(number) for number in range(12)]
    assert [number for number in range(12) if again.reply_to(number)] == [7, 8, 9, 10]
    world.check()


def test_of_a_transaction_without_a_name_only_the_last_reply_is_kept() -> None:
    """Nobody can take it up by name, so nobody needs the others."""
    world = World(Bank)
    txn_id = new_txn_id(world.now_ms, b"0123456789")
    for msg_no, (handler, arguments) in enumerate(ORDER[:3], start=1):
        world.active.give(Submitted(f"m{msg_no}", encode_message(txn_id, msg_no, handler, arguments), 0, False))
        world.active.give(TurnEnded())
        world.run()
    assert world.active.replica.state.transactions.open[txn_id].past == ()
    world.active.give(Submitted("again", encode_message(txn_id, 1, *ORDER[0]), 0, False))
    world.active.give(TurnEnded())
    world.run()
    assert world.outcome("again") == (REFUSED, "StaleMessage")


def test_the_verdicts_are_all_reached() -> None:
    """Guards the names that the active branches on."""
    assert {verdict.name for verdict in Verdict} == {"NEW", "NEXT", "REPEAT"}
