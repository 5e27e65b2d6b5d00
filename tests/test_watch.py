"""What a requester is told of mismatches: each event once, in order, whoever tells it, and also while nothing is sent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from replicator.cli_events import merged
from replicator.errors import UsageError
from replicator.watch import MISMATCH_ARISEN, MISMATCH_RECOVERED, Event, Watch
from replicator.wire import Answer, Facts, Status

WAIT_S = 10.0


def answer(view: int, period: int, status: Status = Status.DONE) -> Answer:
    return Answer(status, b"", Facts(view, 1, 3, 1 if period else 2, period))


class Told:
    """Collects events."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Event] = queue.Queue()
        self.probes = threading.Semaphore(0)
        self.next_answer = answer(0, 0, Status.UNKNOWN)
        self.watches: list[Watch] = []

    def watch(self, on_event: Callable[[Event], object] | None = None, *, pause_s: float = WAIT_S) -> Watch:
        made = Watch(on_event or self.queue.put, self.probe, calm_s=pause_s, uneasy_s=pause_s)
        self.watches.append(made)
        return made

    def probe(self) -> Answer:
        self.probes.release()
        return self.next_answer

    def get(self, count: int) -> list[tuple[str, int, int]]:
        events = [self.queue.get(timeout=WAIT_S) for _ in range(count)]
        return [(event.name, event.number, event.view) for event in events]


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    for watch in made.watches:
        watch.close()


def test_a_period_is_told_when_it_begins_and_when_it_ends(told: Told) -> None:
    """By its number, however many replies tell of it."""
    watch = told.watch()
    for view, period in [(3, 0), (4, 4), (4, 4), (5, 4), (5, 4), (6, 0), (6, 0)]:
        watch.observe(answer(view, period))
    assert told.get(2) == [(MISMATCH_ARISEN, 4, 4), (MISMATCH_RECOVERED, 4, 6)]
    watch.close()
    assert told.queue.empty()


def test_a_late_reply_of_an_older_view_tells_nothing(told: Told) -> None:
    watch = told.watch()
    watch.observe(answer(6, 0))
    watch.observe(answer(5, 4))
    watch.observe(answer(7, 7))
    assert told.get(1) == [(MISMATCH_ARISEN, 7, 7)]


def test_a_period_that_was_not_seen_to_end_is_ended_before_the_next_begins(told: Told) -> None:
    watch = told.watch()
    watch.observe(answer(4, 4))
    watch.observe(answer(9, 8))
    assert told.get(3) == [(MISMATCH_ARISEN, 4, 4), (MISMATCH_RECOVERED, 4, 9), (MISMATCH_ARISEN, 8, 9)]


@pytest.mark.parametrize("status", [Status.NOT_ACTIVE, Status.UNKNOWN, Status.UNAVAILABLE, Status.OVERLOADED])
def test_an_answer_that_tells_nothing_of_the_database_is_not_looked_at(told: Told, status: Status) -> None:
    watch = told.watch()
    watch.observe(answer(4, 4))
    watch.observe(answer(5, 0, status))
    watch.observe(answer(6, 0))
    assert told.get(2) == [(MISMATCH_ARISEN, 4, 4), (MISMATCH_RECOVERED, 4, 6)]


def test_while_nothing_is_sent_a_probe_asks(told: Told) -> None:
    told.next_answer = answer(4, 4)
    told.watch(pause_s=0.01)
    assert told.get(1) == [(MISMATCH_ARISEN, 4, 4)]
    told.next_answer = answer(5, 0)
    assert told.get(1) == [(MISMATCH_RECOVERED, 4, 5)]


def test_a_callback_that_fails_is_shown_and_the_next_event_is_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: shown.append(arguments.exc_value))

    def on_event(event: Event) -> None:
        told.queue.put(event)
        if event.name == MISMATCH_ARISEN:
            raise ValueError("the user's mistake")

    watch = told.watch(on_event)
    watch.observe(answer(4, 4))
    watch.observe(answer(5, 0))
    assert len(told.get(2)) == 2
    assert [str(error) for error in shown] == ["the user's mistake"]


def test_a_callback_may_close_its_own_client(told: Told) -> None:
    """No deadlock; what was still to be told is told."""
    closed = threading.Event()
    made: list[Watch] = []

    def on_event(event: Event) -> None:
        made[0].close()
        closed.set()

    made.append(told.watch(on_event))
    made[0].observe(answer(4, 4))
    assert closed.wait(WAIT_S)


def test_a_probe_of_a_closed_client_ends_the_watch_quietly(told: Told) -> None:
    watch = told.watch(pause_s=0.01)
    is_asked = threading.Event()

    def probe() -> Answer:
        watch._is_hushed = watch._is_closed = True
        is_asked.set()
        raise UsageError("this client is closed")

    watch._probe = probe
    assert is_asked.wait(WAIT_S)
    watch._thread.join(WAIT_S)
    assert not watch._thread.is_alive()


def test_what_several_nodes_remember_is_put_together() -> None:
    """Each event once, as the first that saw it tells it; arisen before recovered."""

    def event(name: str, number: int, at_ms: int, node: str) -> dict[str, object]:
        return {"database": "d1", "event": name, "number": number, "at_ms": at_ms, "node": node}

    one = [event(MISMATCH_ARISEN, 4, 10, "a"), event(MISMATCH_RECOVERED, 4, 30, "a")]
    two = [event(MISMATCH_RECOVERED, 4, 29, "b"), event(MISMATCH_ARISEN, 9, 50, "b")]
    assert [(each["event"], each["number"], each["node"]) for each in merged([one, two])] == [
        (MISMATCH_ARISEN, 4, "a"),
        (MISMATCH_RECOVERED, 4, "b"),
        (MISMATCH_ARISEN, 9, "b"),
    ]
