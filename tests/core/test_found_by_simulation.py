"""What the simulator found in the protocol of the first version, each as a short story; the same bugs are mutants now."""

from __future__ import annotations

from replicator.core.effects import Submitted, Tick, TurnEnded
from replicator.core.frames import Forward, Frame, Join
from replicator.core.messages import Status, encode_message, new_txn_id
from replicator.core.views import Member
from tests.core.services import Bank
from tests.core.world import World

DONE = Status.DONE
HOUR_MS = 3_600_000


def test_p2_a_late_repeat_within_a_forgotten_transaction_may_have_taken_effect() -> None:
    """Its reply was lost, and the transaction pruned: "unknown transaction" would have told the caller that nothing happened."""
    world = World(Bank, retain_ms=1_000)
    active = world.active
    txn_id = new_txn_id(world.now_ms, b"0123456789")

    def say(msg_no: int, handler: str, **args: object) -> object:
        world.tokens += 1
        token = f"t{world.tokens}"
        active.give(Submitted(token, encode_message(txn_id, msg_no, handler, args)))
        active.give(TurnEnded())
        world.run()
        return token

    say(1, "begin", owner="x")
    assert world.outcome(say(2, "end"))[0] is DONE
    world.settle(2_000)
    assert world.call(active.name, "later", 1, "deposit", owner="y", cents=1)[0] is DONE  # its header time prunes
    assert world.outcome(say(2, "end")) == (Status.REFUSED, "TooLate")
    assert world.outcome(say(1, "begin", owner="x")) == (Status.REFUSED, "TooLate")


def test_v12_a_joiner_that_lost_the_first_batch_is_sent_it_again() -> None:
    """The link broke under the first batch; the empty forwards that followed were answered "gap" for ever."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    for number in range(3):
        assert world.call(active.name, f"t{number}", 1, "deposit", owner="x", cents=1)[0] is DONE
    world.kill(backup.name)
    world.settle()

    def lose_the_first_batch(source: Member, target: str, frame: Frame) -> bool:
        return not (isinstance(frame, Forward) and frame.entries)

    world.keep = lose_the_first_batch
    again = world.restart(backup.name, "second life")
    for _ in range(20):
        if not world.held:
            world.advance(50)
    assert world.held, "the first batch has been sent"
    world.keep = lambda source, target, frame: (
        not isinstance(frame, Join)
    )  # a heartbeat comes before the next try to join
    world.settle(600)
    world.held.clear()  # lost: their connection broke under them
    world.keep = lambda source, target, frame: True
    world.settle(2_000)
    assert world.backups == [again]
    world.check()


def test_p5_deadlines_pass_although_the_wall_clock_has_run_back() -> None:
    """Header times never run backwards; they may not stand still either until the clock has caught up with its own jump."""
    world = World(Bank)
    active = world.active
    active.give(Tick(world.now_ms + HOUR_MS, world.elapsed_ms))
    assert world.call(active.name, "ahead", 1, "deposit", owner="x", cents=1)[0] is DONE
    assert world.call(active.name, "talk", 1, "begin", owner="x")[0] is DONE  # within_ms=10_000
    for _ in range(12):
        world.advance(1_000)  # the wall clock is an hour behind the headers again
    assert world.call(active.name, "read", 1, "balance", owner="given up") == (DONE, 1)
    world.check()
