"""V22: a message that kills the node that runs it takes two nodes with it, and no third."""

from __future__ import annotations

import pytest

from distributor.effects import Call
from replicator.core.messages import Status
from replicator.wire import FLAG_STALE, poison_ms
from tests.distributor.routing_world import World, done, not_active, sent

POISON_MS = 60_000


class Killing(World):
    """A routing whose nodes can be killed; a killed one is refused, unless it was started again."""

    def __init__(self, *nodes: str) -> None:
        super().__init__(*nodes, poison_ms=POISON_MS)
        self.dead: set[str] = set()
        self.lives = {"a": 1, "b": 1, "c": 1}

    def kill(self, call: Call) -> None:
        self.dead.add(call.node)
        self.routing.on_link_lost(call.node, self.now_ms, is_gone=False)

    def start_again(self, node: str) -> None:
        self.dead.discard(node)
        self.lives[node] += 1

    def next_call(self, node: str = "") -> Call:
        """Let time pass until a batch is out (at *node*); whoever else is asked is not the active."""
        for _ in range(100):
            call = self.call_out()
            if call is not None and node in ("", call.node):
                return call
            if call is not None:
                self.answer(call, *[not_active(0)] * len(call.messages))
            self.step(7)
        raise AssertionError("nothing was sent")

    def step(self, after_ms: int = 0) -> None:
        self.flush(after_ms)
        for node in self.to_connect:
            if node in self.dead:
                self.routing.on_link_lost(node, self.now_ms, is_gone=True)
            else:
                self.routing.on_link_up(node, str(self.lives[node]))
        self.to_connect.clear()
        self.flush()


def test_v22_a_message_that_was_outstanding_at_two_dead_nodes_goes_to_no_third() -> None:
    world = Killing()
    world.submit("poison")
    for node in "ab":
        world.kill(world.next_call(node))
    for _ in range(50):
        world.step(20)
    assert all(call.node != "c" or call.messages[0].deaths < 2 for call in world.calls)
    assert [call.node for call in world.calls].count("c") <= 1  # asked before b died, and not the active
    assert world.statuses() == {"poison": Status.UNKNOWN}
    assert poison_ms(world.answers["poison"]) == POISON_MS
    assert [note.event for note in world.notes].count("poison") == 1


def test_v22_a_dying_process_that_takes_one_more_connection_is_asked_again() -> None:
    """Its listener may outlive its connections for a moment: whether it died is known at the next look, and until then not."""
    world = Killing()
    world.routing.look_around(world.now_ms)
    world.step()  # all three are connected
    world.submit("poison")
    for node in "ab":
        call = world.next_call(node)
        world.kill(call)
        world.flush()
        world.to_connect.remove(node)
        world.routing.on_link_lost(node, world.now_ms, is_gone=False)  # taken, and reset
        world.flush()
    for _ in range(50):
        world.step(20)
    assert [call.node for call in world.calls] == ["a", "b"]
    assert world.statuses() == {"poison": Status.UNKNOWN}


def test_v22_a_caller_who_waits_less_long_than_a_failover_takes_does_not_kill_all() -> None:
    """His first try is given up before anybody knows that a node died of it; the next ones are the same message."""
    world = Killing()
    world.routing.look_around(world.now_ms)
    world.step()
    for number, node in enumerate("ab"):
        world.routing.submit(f"try {number}", b"poison", 0, 0, world.now_ms + 100)
        world.kill(world.next_call(node))
        world.routing.expire(world.now_ms + 200)
        world.step(200)
    world.routing.submit("try 2", b"poison", 0, 0, world.now_ms + 1_000)
    for _ in range(50):
        world.step(20)
    assert [call.node for call in world.calls] == ["a", "b"]
    assert world.statuses() == dict.fromkeys(("try 0", "try 1", "try 2"), Status.UNKNOWN)
    assert poison_ms(world.answers["try 2"]) is not None


def test_v22_a_message_that_gets_through_is_no_suspect_any_more() -> None:
    """A node died while it had it; another one answered it: a later death while it is repeated is the first that counts."""
    world = Killing()
    world.submit("innocent")
    world.kill(world.next_call("a"))
    world.answer(world.next_call("b"), done())
    world.flush()
    assert world.statuses() == {"innocent": Status.DONE}
    world.routing.submit("repeat", b"innocent", 0, 0, world.now_ms + 10_000)
    world.kill(world.next_call("b"))
    call = world.next_call("c")
    assert call.messages[0].deaths == 1


def test_v22_suspects_travel_alone_so_that_innocents_go_on() -> None:
    """Of a batch, the second death names the culprit; what was beside it is done by the third node."""
    world = Killing()
    world.submit("first")
    world.answer(world.next_call("a"), done())
    world.submit("x", "poison", "y", "z")
    batch = world.next_call()
    assert sent(batch) == ["x", "poison", "y", "z"]
    world.kill(batch)
    world.submit("late")
    while "z" not in world.answers or "late" not in world.answers:
        call = world.next_call("b" if "b" not in world.dead else "c")
        assert "late" not in sent(call) or "poison" not in sent(call)
        assert len(call.messages) == 1 or not any(each.deaths for each in call.messages)
        if "poison" in sent(call):
            world.kill(call)
        else:
            world.answer(call, *[done(2)] * len(call.messages))
        world.step(5)
    expected = dict.fromkeys(("first", "x", "y", "z", "late"), Status.DONE)
    assert world.statuses() == {**expected, "poison": Status.UNKNOWN}
    assert "c" not in world.dead


@pytest.mark.parametrize("flags", [0, FLAG_STALE])
def test_v22_a_broken_link_is_not_a_death(flags: int) -> None:
    """The same life answers again, however often: nothing is suspected for it, and all is sent on."""
    world = Killing()
    world.submit("message", flags=flags)
    for _ in range(5):
        world.routing.on_link_lost(world.next_call().node, world.now_ms, is_gone=False)
        world.step(1)
    call = world.next_call()
    assert call.messages[0].deaths == 0
    world.answer(call, done())
    world.step()
    assert world.statuses() == {"message": Status.DONE}


def test_v22_silence_is_not_a_death_until_another_life_answers() -> None:
    """A node is cut off for long: what was outstanding there is done elsewhere; its later restart accuses nobody."""
    world = Killing("a", "b")
    world.submit("message")
    world.next_call("a")
    world.flush(1_000)
    call = world.next_call("b")
    world.answer(call, done(2))
    world.start_again("a")
    world.submit("other")
    world.answer(world.next_call(), done(2))
    world.step(1_000)
    assert world.statuses() == {"message": Status.DONE, "other": Status.DONE}


def test_v22_a_node_that_was_started_again_counts_as_another() -> None:
    """Two lives of one node died of it: nobody needs a third."""
    world = Killing("a", "b")
    world.submit("poison")
    for _ in range(2):
        call = world.next_call("a")
        world.kill(call)
        world.start_again("a")
        world.step(30)
    for _ in range(20):
        world.step(20)
    assert world.statuses() == {"poison": Status.UNKNOWN}


def test_v22_a_repeat_is_refused_for_a_while_or_until_a_person_releases_it() -> None:
    world = Killing()
    world.submit("poison")
    for node in "ab":
        world.kill(world.next_call(node))
    while "poison" not in world.answers:
        world.step(20)
    assert len(world.routing.suspects.refused) == 1
    count = len(world.calls)
    for repeat in range(3):
        world.routing.submit(f"again {repeat}", b"poison", 0, 0, world.now_ms + POISON_MS)
        world.step(1)
        assert world.answers[f"again {repeat}"].status == Status.UNKNOWN
    assert len(world.calls) == count
    txn_id = world.routing.suspects.refused[0].split()[0]
    assert world.routing.suspects.release("another") == 0
    assert world.routing.suspects.release(txn_id) == 1
    world.routing.submit("released", b"poison", 0, 0, world.now_ms + POISON_MS)
    world.answer(world.next_call("c"), done(3))
    world.step()
    assert world.answers["released"].status == Status.DONE


def test_v22_the_refusal_ends_by_itself() -> None:
    world = Killing()
    world.submit("poison")
    for node in "ab":
        world.kill(world.next_call(node))
    while "poison" not in world.answers:
        world.step(20)
    world.now_ms += POISON_MS
    world.routing.submit("later", b"poison", 0, 0, world.now_ms + 5_000)
    world.answer(world.next_call("c"), done(3))
    world.step()
    assert world.answers["later"].status == Status.DONE


def test_v22_the_count_travels_with_the_message() -> None:
    """One death on the way to here, one here: that is two. And what has come with two is sent to nobody."""
    world = Killing()
    world.routing.submit("one", b"one", 0, 0, 10_000, 1)
    world.routing.submit("two", b"two", 0, 0, 10_000, 2)
    call = world.next_call("a")
    assert [(each.message, each.deaths) for each in call.messages] == [(b"one", 1)]
    world.kill(call)
    for _ in range(20):
        world.step(20)
    assert world.statuses() == {"one": Status.UNKNOWN, "two": Status.UNKNOWN}
    assert all(each.message != b"two" for each in (each for call in world.calls for each in call.messages))


def test_v22_what_a_distributor_refuses_its_clients_do_not_repeat() -> None:
    """The distributor process ends several times: that is nobody's death. Its word that a message kills is final."""
    from replicator.wire import poison_answer

    world = World("distributor", are_nodes=False)
    world.submit("message")
    for life in "123":
        call = world.connected(50)
        world.routing.on_link_lost(call.node, world.now_ms, is_gone=False)
        world.flush(500)
        world.routing.on_link_lost(call.node, world.now_ms, is_gone=True)
        del life
    call = world.connected(500)
    assert call.messages[0].deaths == 0
    world.answer(call, poison_answer(7_000))
    world.flush()
    assert world.statuses() == {"message": Status.UNKNOWN}
    assert poison_ms(world.answers["message"]) == 7_000


def test_v22_before_a_second_death_is_known_nothing_is_sent_to_a_third() -> None:
    """It was outstanding at a, which is dead, and at b, whose link has broken: first b is asked, though c is free."""
    world = Killing()
    world.submit("message")
    world.kill(world.next_call("a"))
    world.step(30)
    broken = world.next_call("b")
    world.to_connect.clear()
    world.routing.on_link_lost("b", world.now_ms, is_gone=False)
    count = len(world.calls)
    for _ in range(20):
        world.flush(20)
    assert ("b" in world.to_connect, len(world.calls)) == (True, count)
    world.routing.on_link_up("b", "1")  # the same life: it was the link
    world.to_connect.clear()
    world.answer(world.next_call(), done(2))
    world.step()
    assert world.statuses() == {"message": Status.DONE}
    assert broken.messages[0].deaths == 1
