"""V17: an entry is named by its chain, so that (view, seq) may lie: compared before an ack, in an ack, at a join, and at rest."""

from __future__ import annotations

from replicator.core.effects import Received, Send, TurnEnded
from replicator.core.frames import Forward, ForwardAck
from replicator.core.messages import Entry, Kind, Level, Status, encode_message, named_txn_id
from replicator.core.persistence import Position
from replicator.core.state import Role
from replicator.values import pack_wire
from tests.core.services import Bank
from tests.core.world import Node, World

DONE = Status.DONE


def take_foreign_entry(world: World, node: Node, owner: str) -> None:
    """Let a node take, as the next entry of the present view, what no active of it has stamped."""
    state = node.replica.state
    message = encode_message(named_txn_id(f"foreign {owner}"), 1, "deposit", {"owner": owner, "cents": 9})
    entry = Entry(
        state.highest_view, state.fifo.last_seq + 1, world.now_ms, 1, state.fingerprint, Kind.MESSAGE, message
    )
    entry.seal(state.executor.execute(entry, state.transactions).digest)
    active = world.active.me
    node.give(
        Received(
            Forward(
                999, entry.view, active, node.me.incarnation, state.fifo.last_view, state.fifo.last_seq, (entry.packed,),
                0, 0, int(Level.APPLIED), 0, state.view_digest, state.fifo.last_chain, b"",
            )
        )
    )  # fmt: skip
    assert state.fifo.executed_seq == entry.seq
    world.network.clear()  # whoever sent it is not the active


def test_v17_what_is_held_under_the_same_number_is_compared_before_the_ack() -> None:
    """A backup that holds a foreign entry 1 must not ack the active's: an acknowledged message would be gone unseen."""
    world = World(Bank, "abc")
    active, [backup, _] = world.active, world.backups
    take_foreign_entry(world, backup, "z")
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    assert world.outcome(token) == (DONE, 5)
    assert not world.record.has(backup.me), "it does not hold what was acknowledged"
    world.settle(2_000)
    assert {node.role for node in world.backups} == {Role.BACKUP}
    [caught_up] = [facts for _, event, facts in world.notes if event == "catchup_applied"]
    assert caught_up["whole"] == "compared", "what views say is common does not give the digest"
    world.check()
    digests = {node.replica.state.digest for node in world.nodes.values()}
    assert len(digests) == 1


def test_v17_an_idle_database_finds_a_backup_that_holds_more_than_its_active() -> None:
    """Nobody calls: the answer to the next heartbeat shows it."""
    world = World(Bank)
    [backup] = world.backups
    take_foreign_entry(world, backup, "z")
    world.settle(2_000)
    assert world.events()["backup_problem"] == 1
    assert backup.role is Role.BACKUP
    assert backup.replica.state.fifo.executed_seq == 0


def test_v17_an_ack_proves_what_is_held_by_its_chain() -> None:
    """An ack of seq 1 with another chain releases nothing."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.is_arbiter_up = False
    world.keep = lambda source, target, frame: False
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    view, digest = world.record.number, active.replica.state.view_digest
    active.give(Received(ForwardAck(1, view, backup.me, 1, 1, 1, 0, "", digest, b"another!")))
    active.give(TurnEnded())
    assert token not in world.answers
    assert world.events()["backup_problem"] == 1


def test_v17_who_joins_with_another_entry_under_the_same_number_catches_up() -> None:
    """(view, seq) fits the active's FIFO, the chain does not: by the FIFO it would be in sync with another row."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.cut_links("a", "b")
    backup.is_stopped = True
    world.settle(2_500)
    assert world.record.in_sync == (active.me,)
    world.cut.clear()
    backup.is_stopped = False
    number = backup.replica.state.highest_view
    backup.replica.state.highest_view = world.record.number
    take_foreign_entry_outside(world, backup)
    backup.replica.state.highest_view = number
    assert world.call(active.name, "u", 1, "deposit", owner="y", cents=5) == (DONE, 5)
    assert backup.replica.state.fifo.last_view == active.replica.state.fifo.last_view
    world.settle(3_000)
    assert world.events()["differs"] >= 1
    assert backup.role is Role.BACKUP
    world.check()
    assert backup.replica.state.digest == active.replica.state.digest


def take_foreign_entry_outside(world: World, node: Node) -> None:
    """As if the node had executed entry 2 in the present view, under another active of the same number."""
    state = node.replica.state
    message = encode_message(named_txn_id("foreign"), 1, "deposit", {"owner": "z", "cents": 9})
    entry = Entry(world.record.number, 2, world.now_ms, 1, state.fingerprint, Kind.MESSAGE, message)
    outcome = state.executor.execute(entry, state.transactions)
    entry.seal(outcome.digest)
    state.fifo.append(entry)
    state.commit(entry, outcome)


def test_v17_rows_that_differ_in_silence_are_found_at_rest() -> None:
    """A bit lost in memory: no entry shows it, the digest in the next heartbeat does; the ranges are compared, and it is well."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    [table] = [each for each in backup.replica.state.database.tables if each.rows]
    key = next(iter(table.rows))
    table.apply(key, table.key_codec.encode(key, "key"), table.row_codec.encode(6, "row"))
    world.settle(600)
    assert world.events()["rows_differ"] == 1
    world.settle(3_000)
    assert backup.role is Role.BACKUP
    assert backup.replica.state.digest == active.replica.state.digest
    world.check()


def test_a_position_of_version_2_has_no_chain_and_fits_nobodys() -> None:
    """A disk of the version before: its rows are taken up, and compared when the node joins."""
    position = Position(4, 1, 10, 9, 77, 3, (), ("a1",), b"12345678")
    assert Position.from_bytes(position.to_bytes()) == position
    from replicator.core.persistence import checked

    old = checked(pack_wire([2, 4, 1, 10, 9, 77, 3, (), ("a1",)]))
    assert Position.from_bytes(old).chain == bytes(8)


def test_an_ack_goes_with_the_chain_of_what_is_held() -> None:
    """What a backup says that it holds is what its active gave it."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    state = active.replica.state
    beat = Forward(
        7, state.highest_view, active.me, backup.me.incarnation, state.fifo.last_view, 1, (), 0, 0, 2, 0,
        state.view_digest, state.fifo.last_chain, b"",
    )  # fmt: skip
    [ack] = [effect.frame for effect in backup.replica.step(Received(beat)) if isinstance(effect, Send)]
    assert isinstance(ack, ForwardAck)
    assert (ack.received, ack.chain, ack.view_digest) == (1, state.fifo.last_chain, state.view_digest)
