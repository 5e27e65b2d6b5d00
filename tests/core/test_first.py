from replicator.core.messages import Status
from tests.core.services import Bank
from tests.core.world import World


def test_it() -> None:
    world = World(Bank)
    print(world.transcript())
    a = world.active.name
    assert world.call(a, "x", 1, "deposit", owner="alice", cents=100) == (Status.DONE, 100)
    assert world.call(a, "x", 1, "deposit", owner="alice", cents=100) == (Status.DONE, 100)
    assert world.call(a, "y", 1, "begin", owner="bob")[0] is Status.DONE
    world.check()
    world.kill(a)
    world.run()
    b = world.active.name
    assert b != a
    assert world.call(b, "y", 2, "add", cents=5) == (Status.DONE, 5)
    assert world.call(b, "y", 3, "end") == (Status.DONE, 5)
    assert world.call(b, "x", 1, "deposit", owner="alice", cents=100) == (Status.DONE, 100)
    print(world.transcript())
    world.check()
    world.restart(a, "a2")
    world.settle()
    print(world.transcript())
    assert len(world.backups) == 1
    world.check()
