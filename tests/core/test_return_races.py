"""What a second review had found: late frames, large rows, slow disks and many starts around the return of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replicator import Context, Service, Table, Tables, handler
from replicator.core.effects import Received, TurnEnded
from replicator.core.frames import Adopt, Fetch, Forward, ForwardAck, Join
from replicator.core.keeping import LIVES_MAX
from replicator.core.messages import Level, Status
from replicator.core.state import Role, Rules
from replicator.store.sqlite import SqliteStore
from replicator.wire import decode_frame, encode_frame
from tests.core.test_return import deposit, level, world_with_disks
from tests.core.world import World

DONE = Status.DONE


class Wide(Tables):
    texts: Table[str, str]


class Texts(Service[Wide]):
    """Rows as large as one likes."""

    @handler
    def put(self, ctx: Context[Wide], key: str, text: str) -> int:
        ctx.tables.texts[key] = text
        return len(text)

    @handler
    def drop(self, ctx: Context[Wide], key: str) -> int:
        del ctx.tables.texts[key]
        return 1


def texts_world(**more: Any) -> World:
    return World(Texts, rules=Rules(**{"is_durable": True, "join_entries_max": 1, **more}))


def put(world: World, name: str, key: str, text: str = "t") -> None:
    world.submit(name, f"p{key}-{len(text)}", 1, "put", key=key, text=text)
    world.run()


@pytest.mark.parametrize("entries_max", [7, 1_000], ids=["by a catch-up", "by the FIFO"])
def test_v1_an_ack_is_no_proof_of_entries_that_were_never_compared(entries_max: int) -> None:
    """b's late question takes c, promoted since, to a position that b has left; what b holds beyond it is of another history."""
    world = world_with_disks("abc", join_entries_max=entries_max)
    active = world.active.name
    returning, heir = [node.name for node in world.backups]

    def more(node: str, first: int, last: int) -> list[object]:
        return [world.submit(node, f"t{i}", 1, "deposit", owner="x", cents=1) for i in range(first, last)]

    more(active, 0, 90)
    world.settle(500)
    world.kill(returning)
    world.settle(1_500)
    more(active, 90, 95)
    world.settle(300)
    late: list[Any] = []
    acks: list[Any] = []
    is_over = False

    def keep(source: Any, target: str, frame: Any) -> bool:
        if is_over:
            if source.name == returning and isinstance(frame, ForwardAck):
                acks.append(frame)
            return not (source.name == returning and isinstance(frame, Join | ForwardAck))
        if target == heir and isinstance(frame, Join):
            late.append(frame)
            return False
        if source.name == returning and isinstance(frame, Join):
            return world.nodes[returning].replica.state.fifo.last_seq < 100
        if source.name == returning and isinstance(frame, ForwardAck):
            return target != active
        return not (source.name == active and target == heir and isinstance(frame, Forward) and frame.entries)

    world.keep = keep
    more(active, 95, 100)
    world.run()
    node = world.restart(returning, f"{returning}2")
    world.settle(400)
    assert node.replica.state.fifo.last_seq == 100
    world.held.clear()
    world.kill(active)
    successor = world.nodes[heir]
    while successor.role is not Role.ACTIVE:
        world.advance(50)
    assert successor.replica.state.fifo.last_seq == 95
    is_over = True
    successor.give(Received(late[0]))
    successor.give(TurnEnded())
    world.run()
    assert acks
    assert {ack.problem for ack in acks if ack.received == 100} == {"conflict"}


def test_v7_a_late_question_for_the_tail_is_refused_and_halts_nobody() -> None:
    """Its receiver has adopted a newer view meanwhile; the asker was held up and has not heard of it."""
    world = world_with_disks("abc")
    active, (first, second) = world.active, world.backups
    deposit(world, "t0")
    world.settle(500)
    fetches: list[Fetch] = []

    def keep(source: Any, target: str, frame: Any) -> bool:
        if isinstance(frame, Fetch):
            fetches.append(frame)
            return False
        if isinstance(frame, Forward) and target == first.name and source == active.me:
            return False
        return not (isinstance(frame, Adopt) and source.name == first.name and bool(fetches))

    world.keep = keep
    deposit(world, "t1")
    world.run()
    world.held.clear()
    world.kill(active.name)
    for _ in range(60):
        if fetches:
            break
        world.advance(50)
    asker = world.nodes[fetches[0].sender.name]
    other = second if asker is first else first
    world.late_records = None
    asker.is_stopped = True
    for _ in range(60):
        if other.role in (Role.OPENING, Role.ACTIVE):
            break
        world.advance(50)
    asker.is_stopped = False
    other.give(Received(fetches[0]))
    other.give(TurnEnded())
    world.run()
    assert asker.is_alive
    assert world.events()["halted"] == 0


def test_rows_that_fill_frames_come_one_frame_after_the_other() -> None:
    """A node that had changed many large rows itself tells their keys; their rows do not come all in one answer."""
    world = texts_world()
    text, limit = "y" * 60_000, 200_000
    for number in range(32):
        put(world, world.active.name, f"k{number}", text)
    world.settle(500)
    former = world.active
    world.cut_links("a", "b")
    for number in range(32):
        put(world, former.name, f"k{number}", text + "z")
    world.advance(50)
    world.kill(former.name)
    world.cut.clear()
    world.settle(2_000)
    put(world, world.active.name, "k99")
    world.keep = lambda source, target, frame: len(encode_frame("d1", frame)) <= limit
    world.restart(former.name, f"{former.name}2")
    world.settle(3_000)
    level(world)


@pytest.mark.parametrize("how", ["a deleted row", "rows that did not differ"])
def test_a_catch_up_back_to_a_lesser_seq_leaves_a_disk_that_can_be_used(tmp_path: Path, how: str) -> None:
    """The former active had gone further, alone; its disk must not hold a seq beyond the position that it is brought to."""
    world = texts_world(clt_keys_max=500_000 if how == "a deleted row" else 3)
    world.disks = {name: SqliteStore(tmp_path / name, ("texts",), "d1") for name in world.nodes}  # type: ignore[misc]
    for number in range(5):
        put(world, world.active.name, f"k{number}")
    world.settle(2_000)
    former = world.active
    world.cut_links("a", "b")
    for number in range(100, 110):
        put(world, former.name, f"k{number}")
    world.submit(former.name, "d", 1, "drop", key="k100")
    world.run()
    world.advance(50)
    world.kill(former.name)
    world.cut.clear()
    world.settle(2_000)
    if how != "a deleted row":
        for number in range(105, 110):
            put(world, world.active.name, f"k{number}")
    for life in "23":
        world.kill(former.name)
        world.disks[former.name].close()
        world.disks[former.name] = SqliteStore(tmp_path / former.name, ("texts",), "d1")  # type: ignore[assignment]
        world.restart(former.name, former.name + life)
        world.settle(3_000)
        level(world)
    for store in world.disks.values():
        store.close()


def test_an_ack_before_the_disk_knows_this_life_crosses_the_wire() -> None:
    """It says so with a -1; its problem must arrive all the same."""
    world = world_with_disks()
    backup = world.backups[0]
    ack = ForwardAck(1, 2, backup.me, 5, 5, -1, 0, "conflict", b"", b"")
    assert decode_frame("d1", encode_frame("d1", ack)) == ack
    name = backup.name
    deposit(world, "t")
    world.run()
    world.kill(name)
    world.slow_disks.add(name)
    world.restart(name, f"{name}2")
    world.settle(300)
    assert world.events()["peer_refused"] == 0


@pytest.mark.parametrize(("lives", "ms"), [(3, 500), (LIVES_MAX + 5, 50)])
def test_v13_starts_in_an_outage_do_not_make_a_disk_strange(lives: int, ms: int) -> None:
    """A node that dies again before it was back has the rows of its life in sync: that one is the oldest, and is kept."""
    world = world_with_disks(ack=Level.DURABLE)
    name = world.active.name
    token = deposit(world, "t", cents=5)
    world.run()
    assert world.outcome(token) == (DONE, 5)
    for node in "ab":
        world.kill(node)
    world.is_arbiter_up = False
    for life in range(lives):
        world.restart(name, f"{name}{life:05}")
        world.settle(ms)
        world.kill(name)
    world.is_arbiter_up = True
    world.restart(name, f"{name}last")
    world.settle(3_000)
    assert world.call(name, "read", 1, "balance", owner="x") == (DONE, 5)


def test_a_node_with_a_slow_disk_comes_back_under_traffic_in_mode_applied() -> None:
    """A batch takes longer than a suspicion; no reply waits for it, and so no joiner is given up for it."""
    world = world_with_disks(join_entries_max=1_000)
    active, name = world.active.name, world.backups[0].name
    due: dict[int, int] = {}
    count = 0

    def go(ms: int) -> None:
        nonlocal count
        for _ in range(ms // 50):
            count += 1
            world.submit(active, f"t{count}", 1, "deposit", owner="x", cents=1)
            world.advance(50)
            for node, batch in list(world.held_batches):
                at_ms = due.setdefault(id(batch), world.elapsed_ms + 1_200)
                if world.elapsed_ms >= at_ms or not node.is_alive:
                    world.held_batches.remove((node, batch))
                    if node.is_alive:
                        world.disks[node.name].write(batch)
                        world.written.append((node, batch.position.seq))
                        world.run()

    world.slow_disks.add(name)
    go(500)
    world.kill(name)
    go(1_500)
    node = world.restart(name, f"{name}2")
    go(15_000)
    assert node.role is Role.BACKUP
