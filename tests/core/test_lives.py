"""V2, V6: a node's life is believed from the node itself only, whatever a frame says of it."""

from __future__ import annotations

from replicator.core.effects import Received, TurnEnded
from replicator.core.frames import Frame, Join, Ping, Pong
from replicator.core.messages import Status
from replicator.core.state import Role
from replicator.core.views import Member
from replicator.wire import decode_frame
from tests.core.services import Bank
from tests.core.world import DATABASE, Node, World

DONE = Status.DONE


class Listener(World):
    """A world that keeps every frame that was sent."""

    def __init__(self, names: str = "ab") -> None:
        self.sent: list[tuple[str, Frame]] = []
        super().__init__(Bank, names)

    def _deliver(self, source: Member, target: str, data: bytes) -> None:
        self.sent.append((target, decode_frame(DATABASE, data)))
        super()._deliver(source, target, data)


def give(world: World, node: Node, frame: Frame) -> None:
    node.give(Received(frame))
    node.give(TurnEnded())
    world.run()


def test_v6_a_made_up_ping_of_a_later_life_changes_nothing() -> None:
    """One such frame to each node changed the view six times: the node itself is asked first."""
    world = World(Bank, "abc")
    number = world.record.number
    for node in world.nodes.values():
        for name in "abc":
            if name != node.name:
                give(world, node, Ping(77, Member(name, "z later life")))
    world.settle(3_000)
    assert world.record.number == number
    assert world.events()["new_incarnation"] == 0


def test_v6_a_pong_that_nobody_asked_for_proves_nothing() -> None:
    """As an answer to another request, or to none."""
    world = World(Bank)
    [backup] = world.backups
    number = world.record.number
    for request in range(1_000):
        backup.replica.step(Received(Pong(request + 10_000, Member(world.active.name, "z later life"))))
    world.settle(2_000)
    assert world.record.number == number


def test_v6_a_later_life_that_the_node_itself_tells_is_believed_at_once() -> None:
    """It was killed and started within the suspect time: its first frame leads to a question, the answer to a change of view."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.kill(active.name, seen=False)
    world.restart(active.name, "a2")
    world.run()
    world.settle(300)
    assert world.record.active == backup.me


def test_v2_replayed_joins_of_an_older_life_do_not_keep_a_returning_node_outside() -> None:
    """They come between all that the new life says, again and again."""
    world = Listener()
    active, [backup] = world.active, world.backups
    world.kill(backup.name)
    world.settle()
    world.restart(backup.name, "b2")
    world.settle()
    [old] = [frame for target, frame in world.sent if isinstance(frame, Join) and frame.sender.incarnation == "b2"][-1:]
    assert world.record.has(world.nodes["b"].me)
    world.kill("b")
    world.settle()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    reborn = world.restart("b", "b3")
    for _ in range(60):
        give(world, active, old)
        world.advance(50)
        give(world, active, old)
    assert reborn.role is Role.BACKUP
    assert world.record.has(reborn.me)
