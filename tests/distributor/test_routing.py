"""Routing as a pure machine, in single stories; test_routing_random.py has the random ones."""

from __future__ import annotations

from itertools import pairwise

import pytest

from distributor.effects import Drop
from distributor.routing import NO_FACTS, REST_MS_MAX
from replicator.core.messages import Answer, Status
from replicator.values import unpack_wire
from replicator.wire import FLAG_STALE
from tests.distributor.routing_world import DEADLINE_MS, UNKNOWN, World, done, not_active, overloaded, sent


def test_a_message_goes_out_and_its_answer_comes_back() -> None:
    world = World()
    world.submit("m1")
    call = world.connected()
    assert sent(call) == ["m1"]
    assert call.messages[0].remaining_ms == DEADLINE_MS
    world.answer(call, done())
    world.flush()
    assert world.statuses() == {"m1": Status.DONE}
    assert world.routing.next_wake_ms(world.now_ms) is None


def test_what_gathers_while_a_batch_is_out_is_the_next_batch() -> None:
    world = World()
    world.submit("m1")
    first = world.connected()
    world.submit("m2", "m3", "m4")
    assert not world.flush()
    world.answer(first, done())
    world.flush()
    assert sent(world.calls[-1]) == ["m2", "m3", "m4"]


@pytest.mark.parametrize(("limits", "count"), [({"batch_entries_max": 2}, 2), ({"batch_bytes_max": 5}, 2)])
def test_a_batch_is_capped_by_count_and_by_bytes(limits: dict[str, int], count: int) -> None:
    world = World("a", **limits)
    world.submit("m1", "m2", "m3", "m4")
    assert len(world.connected().messages) == count


def test_a_message_above_the_cap_of_bytes_travels_alone() -> None:
    world = World("a", batch_bytes_max=3)
    world.submit("a long one", "m2")
    assert sent(world.connected()) == ["a long one"]


def test_an_unknown_active_is_probed_with_one_message() -> None:
    world = World()
    world.submit("m1", "m2", "m3")
    call = world.connected()
    assert sent(call) == ["m1"]
    world.answer(call, done())
    world.flush()
    assert sent(world.calls[-1]) == ["m2", "m3"]


def test_not_active_leads_to_the_named_active_at_once() -> None:
    world = World()
    world.submit("m1")
    call = world.connected()
    assert call.node == "a"
    world.answer(call, not_active(3, "c", "b", "c"))
    second = world.connected()
    assert second.node == "c"
    assert second.messages[0].message == call.messages[0].message
    assert (world.routing.known.number, world.routing.known.active) == (3, "c")


def test_the_known_view_changes_only_to_a_higher_number_and_an_equal_one_fills_in_the_active() -> None:
    """Claim 4, as a table of answers and what is known after each."""
    world = World()
    world.submit("m1")
    for answer, view, active in (
        (not_active(5, ""), 5, ""),
        (not_active(4, "a"), 5, ""),
        (not_active(5, "b"), 5, "b"),
        (not_active(5, "c"), 5, "b"),
        (not_active(6, "c"), 6, "c"),
    ):
        world.answer(world.connected(after_ms=REST_MS_MAX), answer)
        world.flush()
        assert (world.routing.known.number, world.routing.known.active) == (view, active)


def test_a_lost_link_sends_the_same_bytes_elsewhere_at_once_in_the_old_order() -> None:
    """Claim 2: the active is known and holds a batch; more waits; the link breaks."""
    world = World()
    world.submit("m0")
    world.answer(world.connected(), done())
    world.submit("m1", "m2")
    world.flush()
    lost = world.calls[-1]
    assert (lost.node, sent(lost)) == ("a", ["m1", "m2"])
    world.submit("m3")
    world.routing.on_link_lost("a", world.now_ms, is_gone=False)
    probe = world.connected()
    assert probe.node == "b"
    assert sent(probe) == ["m1"]
    world.answer(probe, done(view=2))
    world.flush()
    assert sent(world.calls[-1]) == ["m2", "m3"]


def test_in_sync_nodes_are_tried_before_others() -> None:
    world = World("a", "b", "c", "d")
    world.submit("m1")
    world.answer(world.connected(), not_active(2, "d", "c", "d"))
    call = world.connected()
    assert call.node == "d"
    world.routing.on_link_lost("d", world.now_ms, is_gone=False)
    assert world.connected().node == "c"


def test_a_refused_connection_leads_to_the_next_node_and_back_with_a_growing_rest() -> None:
    world = World("a", "b")
    world.submit("m1", deadline_ms=100_000)
    tried: list[tuple[int, str]] = []
    while world.now_ms < 2_000:
        world.flush()
        if world.to_connect:
            node = world.to_connect.pop()
            tried.append((world.now_ms, node))
            world.routing.on_link_lost(node, world.now_ms, is_gone=False)
            continue
        wake_ms = world.routing.next_wake_ms(world.now_ms)
        assert wake_ms is not None
        world.now_ms = max(world.now_ms, wake_ms)
    assert tried[:2] == [(0, "a"), (0, "b")]
    times = [when for when, node in tried if node == "a"]
    rests = [after - before for before, after in pairwise(times)]
    assert rests[0] <= 10
    assert max(rests) <= REST_MS_MAX * 1.25 + 1
    assert len(times) < 60


def test_a_silent_node_is_dropped_and_its_batch_goes_elsewhere() -> None:
    world = World()
    world.submit("m0")
    world.answer(world.connected(), done())
    world.submit("m1")
    world.flush()
    assert not world.flush(999)
    effects = world.flush(1)
    assert Drop("a") in effects
    assert world.connected().node == "b"


def test_a_node_that_need_not_be_active_is_given_a_quarter_of_the_silence() -> None:
    world = World()
    world.submit("m1")
    assert world.connected().silence_ms == 250
    assert world.routing.next_wake_ms(world.now_ms) == 250
    assert Drop("a") in world.flush(250)


def test_too_few_answers_drop_the_link() -> None:
    world = World("a")
    world.submit("m1", "m2")
    world.answer(world.connected(), done())
    assert Drop("a") in world.flush()
    assert not world.answers


def test_a_late_answer_to_a_call_that_was_taken_back_is_ignored() -> None:
    world = World("a", "b")
    world.submit("m1")
    old = world.connected()
    world.routing.on_link_lost(old.node, world.now_ms, is_gone=False)
    new = world.connected()
    world.answer(old, done())
    world.answer(new, done())
    world.answer(new, done())
    world.flush()
    assert world.statuses() == {"m1": Status.DONE}


def test_after_a_lost_call_batches_begin_again_with_one_message() -> None:
    """One message whose answer breaks the link must not take the others with it."""
    world = World("a")
    world.submit(*[f"m{number}" for number in range(30)])
    assert len(world.connected().messages) == 30
    world.routing.on_link_lost("a", world.now_ms, is_gone=False)
    sizes = []
    while len(world.answers) < 30:
        call = world.connected(after_ms=REST_MS_MAX)
        sizes.append(len(call.messages))
        world.answer(call, *[done()] * len(call.messages))
        world.flush()
    assert sizes == [1, 8, 21]


def test_overloaded_is_tried_again_within_the_deadline_and_told_when_it_is_over() -> None:
    world = World("a")
    world.submit("m1", deadline_ms=200)
    world.answer(world.connected(), overloaded(100))
    world.flush()
    wake_ms = world.routing.next_wake_ms(world.now_ms)
    assert wake_ms is not None
    assert 100 <= wake_ms <= 150
    call = world.connected(after_ms=wake_ms)
    world.answer(call, overloaded(100))
    world.flush()
    assert world.statuses() == {"m1": Status.OVERLOADED}


def test_overloaded_lets_others_pass() -> None:
    world = World("a")
    world.submit("m1", "m2")
    world.answer(world.connected(), overloaded(100), done())
    world.submit("m3")
    world.flush()
    assert sent(world.calls[-1]) == ["m3"]


@pytest.mark.parametrize(
    ("story", "status"),
    [
        ("never sent", Status.UNAVAILABLE),
        ("refused", Status.UNAVAILABLE),
        ("refused by a distributor", Status.UNAVAILABLE),
        ("outstanding", Status.UNKNOWN),
        ("lost", Status.UNKNOWN),
        ("given up", Status.UNKNOWN),
        ("dropped by the node", Status.UNKNOWN),
        ("lost, then refused", Status.UNKNOWN),
        ("nonsense", Status.UNKNOWN),
    ],
)
def test_at_the_deadline_unknown_is_said_only_if_some_send_may_have_been_accepted(story: str, status: Status) -> None:
    """Claim 3."""
    world = World("a")
    world.submit("m1", deadline_ms=500)
    if story != "never sent":
        call = world.connected()
        if story == "refused":
            world.answer(call, not_active(1))
        elif story == "refused by a distributor":
            world.answer(call, Answer(Status.UNAVAILABLE, b"", NO_FACTS))
        elif story == "dropped by the node":
            world.answer(call, UNKNOWN)
        elif story == "nonsense":
            world.answer(call, Answer(77, b"?", NO_FACTS))
        elif story == "given up":
            world.routing.on_given_up("a")
        elif story != "outstanding":
            world.routing.on_link_lost("a", world.now_ms, is_gone=False)
        if story == "lost, then refused":
            world.answer(world.connected(after_ms=REST_MS_MAX), not_active(1))
    world.flush(500)
    assert world.statuses() == {"m1": status}


def test_a_deadline_passes_while_the_batch_is_out_and_the_answer_comes_late() -> None:
    world = World("a")
    world.submit("m1", deadline_ms=100)
    world.submit("m2")
    call = world.connected()
    world.flush(100)
    assert world.statuses() == {"m1": Status.UNKNOWN}
    world.answer(call, done(), done())
    world.flush()
    assert world.statuses() == {"m1": Status.UNKNOWN, "m2": Status.DONE}


def test_one_more_than_requests_max_is_overloaded_at_once() -> None:
    """Claim 6."""
    world = World("a", requests_max=2)
    world.submit("m1", "m2", "m3")
    world.flush()
    assert world.statuses() == {"m3": Status.OVERLOADED}
    assert world.routing.is_full


def test_a_stale_read_goes_beside_what_waits_for_the_active_and_proves_nothing() -> None:
    world = World("a", "b")
    world.submit("m0")
    world.answer(world.connected(), done(view=1))
    world.submit("m1")
    world.submit("r1", flags=FLAG_STALE)
    world.flush()
    assert sent(world.calls[-1]) == ["m1"]
    assert world.to_connect == ["b"]
    world.routing.on_link_up("b", "1")
    world.flush()
    read = world.calls[-1]
    assert (read.node, sent(read)) == ("b", ["r1"])
    world.answer(read, done(view=9))
    world.flush()
    assert (world.routing.known.number, world.routing.known.active) == (1, "a")
    assert world.statuses()["r1"] is Status.DONE


def test_abandon_completes_everything() -> None:
    world = World("a", batch_entries_max=1)
    world.submit("m1", "m2")
    world.connected()
    world.routing.abandon()
    world.flush()
    assert world.statuses() == {"m1": Status.UNKNOWN, "m2": Status.UNAVAILABLE}


def test_a_cancelled_request_is_neither_sent_nor_completed() -> None:
    world = World("a")
    request = world.routing.submit("m1", b"m1", 0, 0, DEADLINE_MS)
    world.submit("m2")
    world.routing.cancel(request)
    call = world.connected()
    assert sent(call) == ["m2"]
    world.answer(call, done())
    world.flush(DEADLINE_MS)
    assert world.statuses() == {"m2": Status.DONE}


def test_the_earliest_deadline_is_exact_when_it_is_near() -> None:
    world = World("a")
    world.submit("m1", deadline_ms=100)
    world.submit("m2", deadline_ms=5_000)
    assert world.routing.earliest_deadline_ms(1_000) == 100
    world.answer(world.connected(), done(), done())
    world.submit("m3", deadline_ms=6_000)
    assert world.routing.earliest_deadline_ms(1_000) is None
    assert world.routing.deadline_bound_ms() == 6_000


def test_a_refusal_names_the_limit() -> None:
    world = World("a", requests_max=1)
    world.submit("m1", "m2")
    world.flush()
    assert unpack_wire(world.answers["m2"].body)[0] == "requests_max"
