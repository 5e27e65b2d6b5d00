"""V19: what is forgotten, and when a deadline passes, goes by passed time; the header's time leaves it by a bounded step."""

from __future__ import annotations

import random

import pytest

from replicator.core.clocks import Clocks
from replicator.core.effects import ClockConfirmed, LinkLost, Submitted, TurnEnded
from replicator.core.keeping import AGE_LOST_MS
from replicator.core.messages import Level, Status, encode_message, named_txn_id, new_txn_id
from replicator.core.persistence import POSITION_FORMAT, Position, checked, unchecked
from replicator.errors import CorruptRecord
from replicator.values import pack_wire, unpack_wire
from tests.core.services import Bank
from tests.core.world import World

DONE = Status.DONE
DAY_MS = 86_400_000
SKEW_MS = 60_000


# -- passed time, as a model ---------------------------------------------------------------------------------------------


class Machines:
    """Three nodes that die, sleep, restart from old disks and take over from each other, and one log of entries.

    *is_naive*: in a new view a node keeps the greater of the age that it is told and its own.
    """

    def __init__(self, seed: int, *, is_naive: bool) -> None:
        self.is_naive = is_naive
        self.chance = random.Random(seed)
        self.now_ms = 1_000
        self.view = 1
        self.log: list[tuple[int, int, int]] = []  # view, age, the true time
        self.clocks = [Clocks(SKEW_MS) for _ in range(3)]
        self.executed = [0, 0, 0]
        self.disks = [(0, 0)] * 3  # how many entries, which age
        self.active = 0

    def time_passes(self) -> None:
        """A machine that sleeps does not count it."""
        passed_ms = self.chance.choice((0, 1, 10, 500))
        self.now_ms += passed_ms
        for number, clocks in enumerate(self.clocks):
            is_awake = number == self.active or self.chance.random() < 0.8
            clocks.tick(self.now_ms, passed_ms if is_awake else 0, is_serving=number == self.active)

    def stamp(self) -> None:
        """Between two entries the age rises by no more than the time that has passed."""
        clocks = self.clocks[self.active]
        clocks.stamp(self.view)
        if self.log:
            _, age_ms, at_ms = self.log[-1]
            assert 0 <= clocks.header_age_ms - age_ms <= self.now_ms - at_ms, "age rose by more than has passed"
        self.log.append((self.view, clocks.header_age_ms, self.now_ms))
        self.executed[self.active] += 1

    def follow(self, number: int, *, is_tail: bool = False) -> None:
        """A node is forwarded what it lacks; or it takes it over as a tail, which tells no clock."""
        active, clocks = self.clocks[self.active], self.clocks[number]
        if not is_tail:
            clocks.told(self.view, active.line_ms, max(active.age_ms, clocks.age_ms * self.is_naive))
        for view, age_ms, _ in self.log[self.executed[number] :]:
            clocks.follow(view, age_ms, age_ms)
        self.executed[number] = len(self.log)

    def take_over(self, number: int) -> None:
        """Another node becomes the active, with the tail."""
        self.follow(number, is_tail=True)
        self.view += 1
        self.active = number

    def write(self, number: int) -> None:
        """A disk takes the position."""
        self.disks[number] = (self.executed[number], self.clocks[number].age_ms)

    def restart_all(self) -> None:
        """All come back from their disks; what no disk has is gone, and the one with most leads."""
        for number, (count, age_ms) in enumerate(self.disks):
            self.clocks[number] = Clocks(SKEW_MS)
            self.executed[number] = count
            self.clocks[number].restart(age_ms, age_ms)
        self.now_ms += self.chance.choice((0, 3 * DAY_MS))
        self.view += 1
        self.active = max(range(3), key=lambda number: self.executed[number])
        del self.log[self.executed[self.active] :]
        self.executed = [min(count, len(self.log)) for count in self.executed]
        for number in range(3):
            self.clocks[number].tick(self.now_ms, 0, is_serving=number == self.active)

    def live(self, steps: int) -> None:
        """Do things at random."""
        for _ in range(steps):
            number = self.chance.randrange(3)
            match self.chance.choice(("time", "time", "stamp", "stamp", "follow", "write", "take over", "restart")):
                case "time":
                    self.time_passes()
                case "stamp":
                    self.stamp()
                case "follow" if number != self.active:
                    self.follow(number)
                case "write":
                    self.write(number)
                case "take over" if number != self.active:
                    self.take_over(number)
                case "restart" if self.chance.random() < 0.1:
                    self.restart_all()


def live(*, is_naive: bool) -> None:
    """Let machines live, with many seeds."""
    for seed in range(500):
        Machines(seed, is_naive=is_naive).live(100)


def test_v19_age_never_rises_by_more_than_has_passed() -> None:
    """Whoever dies, sleeps or takes over: a reply is kept for at least as long as promised, a deadline comes no sooner."""
    live(is_naive=False)


def test_v19_the_greater_of_two_ages_would_be_too_much() -> None:
    """Why a node sets its clock in a new view: else a disk that was written later forgets too early."""
    with pytest.raises(AssertionError, match="rose by more"):
        live(is_naive=True)


# -- the header's time -----------------------------------------------------------------------------------------------------


def test_v19_a_wall_clock_far_ahead_is_noted_and_not_followed_until_a_person_confirms_it() -> None:
    """One machine's clock jumps a day ahead: the header's time goes on by the monotonic clock."""
    world = World(Bank)
    active = world.active
    clocks = active.replica.state.clocks
    before_ms = clocks.time_ms
    world.skews[active.name] += DAY_MS
    world.settle(2_000)
    assert clocks.time_ms <= before_ms + 2_000 + SKEW_MS
    assert [facts["ahead_ms"] for _, event, facts in world.notes if event == "clock_ahead"] == [DAY_MS - SKEW_MS]
    assert active.replica.status()["clock_ahead_ms"] == DAY_MS - SKEW_MS
    active.give(ClockConfirmed())
    assert clocks.time_ms == world.now_ms + DAY_MS
    assert active.replica.status()["clock_ahead_ms"] == 0
    world.skews[active.name] -= 2 * DAY_MS
    world.settle(100)
    assert clocks.time_ms == world.now_ms + DAY_MS, "it never runs back, and goes on"


def test_v19_many_small_jumps_do_not_add_up() -> None:
    """The bound is over the monotonic line, not over the last header: a clock that runs away is left behind."""
    clocks = Clocks(SKEW_MS)
    clocks.tick(1_000_000, 0, is_serving=True)
    for number in range(1, 1_000):
        clocks.tick(1_000_000 + 50_000 * number, 1_000, is_serving=True)
        clocks.stamp(1)
    assert clocks.header_ms == 1_000_000 + 999_000 + SKEW_MS


def test_v19_two_nodes_whose_clocks_agree_need_no_person() -> None:
    """Both hosts slept for a night, or their clocks were set: the callers' clocks say the same, and must be served."""
    world = World(Bank)
    for node in world.nodes.values():
        world.skews[node.name] += DAY_MS
    world.settle(1_000)
    name = world.active.name
    txn_id = new_txn_id(world.now_ms + DAY_MS, b"0123456789")
    world.nodes[name].give(Submitted("late", encode_message(txn_id, 1, "deposit", {"owner": "x", "cents": 1})))
    world.settle(200)
    assert world.outcome("late") == (DONE, 1)
    assert world.active.replica.status()["clock_ahead_ms"] == 0


def test_v19_a_promoted_node_begins_from_the_last_header_not_from_its_clock() -> None:
    """Its clock was a day ahead from its first moment on."""
    world = World(Bank)
    backup = world.backups[0]
    world.skews[backup.name] += DAY_MS
    world.settle(500)
    assert world.call(world.active.name, "pay", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.kill(world.active.name)
    backup.give(LinkLost(world.record.active.name if world.record.active else "", True))
    backup.give(TurnEnded())
    world.settle(3_000)
    assert world.active is backup
    assert backup.replica.state.clocks.time_ms <= world.now_ms + SKEW_MS + 50
    assert world.call(backup.name, "other", 1, "deposit", owner="x", cents=1) == (DONE, 6)
    assert world.call(backup.name, "pay", 1, "deposit", owner="x", cents=5) == (DONE, 5), "a repeat, a day after or not"


def test_v19_after_an_outage_of_all_nodes_callers_need_not_wait_for_a_person() -> None:
    """Nobody knows how long it was: the clock of the first active is taken; what is remembered ages by what has passed."""
    clocks = Clocks(SKEW_MS)
    clocks.restart(1_000_000, 77)
    clocks.tick(1_000_000 + 2 * DAY_MS, 0, is_serving=False)
    clocks.tick(1_000_000 + 2 * DAY_MS, 0, is_serving=True)
    assert (clocks.time_ms, clocks.age_ms, clocks.ahead_ms) == (1_000_000 + 2 * DAY_MS, 77, 0)


@pytest.mark.parametrize("ms", [DAY_MS + 5_000, -DAY_MS])
@pytest.mark.parametrize("who", ["active", "all"])
def test_v19_a_named_transaction_takes_effect_once_whatever_the_clocks_do(who: str, ms: int) -> None:
    """A clock jumps beyond every retention, here, or everywhere."""
    world = World(Bank)
    name = world.active.name
    assert world.call(name, "order-18", 1, "deposit", owner="x", cents=30) == (DONE, 30)
    for node in list(world.nodes.values()):
        if who == "all" or node.name == name:
            world.skews[node.name] += ms
    world.settle(1_000)
    assert world.call(name, "other", 1, "deposit", owner="y", cents=1) == (DONE, 1)
    assert world.call(name, "order-18", 1, "deposit", owner="x", cents=30) == (DONE, 30)


@pytest.mark.parametrize("who", ["active", "all"])
def test_v19_deadlines_do_not_fire_at_once_when_clocks_jump(who: str) -> None:
    """They wait for as long as was said; then they come."""
    world = World(Bank)
    name = world.active.name
    for number in range(20):
        assert world.call(name, f"t{number}", 1, "begin", owner=f"o{number}")[0] is DONE
    for node in list(world.nodes.values()):
        if who == "all" or node.name == name:
            world.skews[node.name] += DAY_MS
    world.settle(2_000)
    assert len(world.active.replica.state.transactions.open) == 20
    world.settle(20_000)
    assert not world.active.replica.state.transactions.open


def test_v19_a_database_that_only_waits_writes_down_what_has_passed() -> None:
    """All its nodes may be restarted every night: a deadline of some hours still comes."""
    world = World(Bank, is_durable=True, ack=Level.DURABLE, deadline_ms_max=10 * DAY_MS)
    assert world.call(world.active.name, "t", 1, "begin", owner="x")[0] is DONE
    state = world.active.replica.state
    state.transactions.open[named_txn_id("t")].deadline_ms += 600_000
    state.transactions.rearm()
    world.settle(200_000)
    for disk in world.disks.values():
        restored = disk.load()
        assert restored is not None
        assert state.clocks.age_ms - restored.position.age_ms <= AGE_LOST_MS + 50


# -- formats ---------------------------------------------------------------------------------------------------------------


def test_a_position_of_the_format_before_is_read_and_one_to_come_refused_as_such() -> None:
    """Without passed time: what is remembered was counted by header time, so age goes on from there."""
    position = Position(7, 2, 1_700_000_000_000, 5, 9, 3, (), ("one",), age_ms=44)
    fields = list(unpack_wire(unchecked(position.to_bytes())))
    assert Position.from_bytes(position.to_bytes()) == position
    before = Position.from_bytes(checked(pack_wire([2, *fields[1:-1]])))
    assert before.age_ms == before.header_ms == position.header_ms
    with pytest.raises(CorruptRecord, match=f"format {POSITION_FORMAT + 1}.*reads 2 and {POSITION_FORMAT}"):
        Position.from_bytes(checked(pack_wire([POSITION_FORMAT + 1, *fields[1:]])))
    with pytest.raises(CorruptRecord, match="not a position"):
        Position.from_bytes(checked(pack_wire([])))
