"""More on the promises: each test here fails for a planted bug that the plain stories do not notice."""

from __future__ import annotations

from dataclasses import replace

from replicator import Context, Service, Table, Tables, handler
from replicator.context import Expectation
from replicator.core.effects import Execute
from replicator.core.messages import Entry, Kind, Level, Status, encode_message, named_txn_id
from replicator.core.replica import Replica
from replicator.core.state import Role, Rules
from replicator.core.views import Member
from tests.core.services import Bank
from tests.core.world import DATABASE, Node, World

DONE = Status.DONE


class Shelf(Tables):
    books: Table[str, int]


class Quiet(Service[Shelf]):
    """Handlers whose reply and rows tell nothing of what they keep."""

    @handler
    def note(self, ctx: Context[Shelf]) -> None:
        ctx.tsd["seen"] = ctx.tables.books.get("x", 0)
        ctx.expect("note", within_ms=1_000, otherwise="note")

    @handler
    def wait(self, ctx: Context[Shelf]) -> None:
        ctx.expect("note", within_ms=1_000 + ctx.tables.books.get("x", 0), otherwise="note")


def digest_of(name: str, row: bytes) -> bytes:
    """Return the outcome digest of a handler that finds *row* at x."""
    replica = Replica(Quiet(), Member("a", "a1"), DATABASE, Rules(), seed=1)
    state = replica.state
    state.database.tables[0].apply("x", b"\xa1x", row)
    entry = Entry(1, 1, 1, 1, state.fingerprint, Kind.MESSAGE, encode_message(named_txn_id("t"), 1, name, {}))
    return state.executor.execute(entry, state.transactions).digest


def test_p7_the_outcome_digest_covers_tsd_and_expectation() -> None:
    """Two nodes that differ only in what the transaction keeps are told apart at this message, not at a later one."""
    for name in ("note", "wait"):
        assert digest_of(name, b"\x01") == digest_of(name, b"\x01")
        assert digest_of(name, b"\x01") != digest_of(name, b"\x02")


def test_p7_a_diverged_backup_acks_nothing_more() -> None:
    """The arbiter is away, so it cannot be removed: later replies wait, though `received` would do."""
    world = World(Bank, ack=Level.RECEIVED)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.is_arbiter_up = False

    def tamper(node: Node, effect: Execute) -> None:
        if node is backup:
            node.replica.state.database.tables[0].apply("x", b"\xa1x", b"\x09")

    world.tamper = tamper
    world.submit(active.name, "u", 1, "deposit", owner="x", cents=5)
    world.run()
    assert backup.role is Role.DIVERGED
    token = world.submit(active.name, "v", 1, "deposit", owner="x", cents=5)
    world.settle(3_000)
    assert token not in world.answers
    world.is_arbiter_up = True
    world.settle()
    assert world.outcome(token) == (DONE, 15)
    assert world.answers[token].facts.mismatch


def test_p7_a_node_with_other_rules_or_another_service_is_not_taken_in() -> None:
    """Replicated rules are part of the fingerprint: a node started with another retention stays outside and says why."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.kill(backup.name)
    world.settle()
    world.rules = replace(world.rules, retain_ms=1)
    stranger = world.restart(backup.name, "second life")
    world.settle(3_000)
    assert stranger.role is Role.OUTSIDE
    assert world.record.in_sync == (active.me,)
    [because] = {str(facts["because"]) for _, event, facts in world.notes if event == "stays_outside"}
    assert "another version" in because


def test_p2_a_reply_is_remembered_for_as_long_as_promised_and_no_longer() -> None:
    """At three quarters of its time a repeat gets the same bytes; past it the name may be used anew."""
    world = World(Bank, retain_named_ms=8_000)
    name = world.active.name
    assert world.call(name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.settle(3_000)
    assert world.call(name, "u", 1, "deposit", owner="y", cents=5) == (DONE, 5)
    world.settle(3_000)
    assert world.call(name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.settle(3_000)
    assert world.call(name, "another", 1, "deposit", owner="z", cents=5) == (DONE, 5)
    assert world.call(name, "u", 1, "deposit", owner="y", cents=5) == (DONE, 5)
    assert world.call(name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 10)
    world.check()


def test_p5_a_deadline_of_an_expectation_that_is_over_changes_nothing() -> None:
    """It may stand in the FIFO behind the message that ended it: executed, it is no more than a place in the order."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "begin", owner="x")[0] is DONE
    assert world.call(active.name, "t", 2, "add", cents=5) == (DONE, 5)
    state = active.replica.state
    transaction = state.transactions.open[named_txn_id("t")]
    assert transaction.expect_no == 2
    head = encode_message(named_txn_id("t"), 1, "give_up", {})
    entry = Entry(9, 3, world.now_ms, 1, state.fingerprint, Kind.DEADLINE, head)
    outcome = state.executor.execute(entry, state.transactions)
    assert (outcome.status, outcome.changes) == (DONE, [])
    state.transactions.record(entry, outcome.status, outcome.body, outcome.state)
    assert state.transactions.open[named_txn_id("t")].expectation == Expectation(("add", "end"), 10_000, "give_up")
    assert backup.is_alive
    state.transactions.check()


def test_p4_two_nodes_are_never_active_in_one_view() -> None:
    """Three nodes, both backups see the active gone at once: one is recorded, the other follows it."""
    world = World(Bank, "abc")
    world.kill(world.active.name)
    world.run()
    roles = sorted(node.role.value for node in world.nodes.values() if node.is_alive)
    assert roles == ["active", "backup"]
    assert {node.replica.state.view for node in world.nodes.values() if node.is_alive} == {world.record}


def test_p9_a_full_fifo_of_bytes_is_overloaded_and_drains() -> None:
    """The backup takes nothing: bytes gather until the bound, then Overloaded; when it takes again, all goes on."""
    world = World(Bank, fifo_bytes_max=200, log_bytes_max=200, suspect_ms=60_000)
    name = world.active.name
    world.keep = lambda source, target, frame: False
    tokens = [world.submit(name, f"t{number}", 1, "deposit", owner="x", cents=1) for number in range(20)]
    told = [world.answers[token].status for token in tokens if token in world.answers]
    assert told
    assert set(told) == {Status.OVERLOADED}
    world.release_held()
    world.settle(2_000)
    done = [token for token in tokens if world.outcome(token)[0] is DONE]
    assert len(done) + len(told) == 20
    assert world.call(name, "last", 1, "deposit", owner="x", cents=1) == (DONE, len(done) + 1)
