"""The callers' common notes: the gate that keeps calls for the next kill, and the hold for a comparison."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from examples.prepaid.records import ACKNOWLEDGED, GATE_SHARE, GaveUp, Journal, MessageRecord

#: Long enough for a thread that may go on to do so, on a busy machine too.
SOON_S = 10.0
#: Long enough for a thread that must not go on to be caught at it, mostly.
WHILE_S = 0.05


def message(call: str, handler: str) -> MessageRecord:
    return MessageRecord(call, f"txn-{call}", 1, handler, ACKNOWLEDGED, "", None, 1, 0, 0.0, 0.0)


def tell(journal: Journal, call: str, *handlers: str) -> None:
    for handler in handlers:
        journal.note_send()
        journal.note(message(call, handler))


class Other:
    """Another caller: does *act* in a thread of its own."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.is_done = threading.Event()
        self.gave_up = False
        self._act = act
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._act()
        except GaveUp:
            self.gave_up = True
        self.is_done.set()


def within(entered: Callable[[], AbstractContextManager[None]]) -> Callable[[], None]:
    def act() -> None:
        with entered():
            pass

    return act


def test_no_call_begins_once_the_gate_is_reached_and_those_begun_go_on() -> None:
    journal = Journal()
    journal.narrow(1)
    with journal.call():
        tell(journal, "first", "authorize", "reserve", "terminate")
    late = Other(within(journal.call))
    assert not late.is_done.wait(WHILE_S)
    tell(journal, "begun before", "authorize", "terminate")
    assert not late.is_done.wait(WHILE_S)
    journal.widen()
    assert late.is_done.wait(SOON_S)
    assert not late.gave_up


def test_the_fewer_calls_are_left_the_fewer_begin_at_the_same_time() -> None:
    """One more for each GATE_SHARE that are left; the next begins when one is over."""
    journal = Journal()
    journal.narrow(GATE_SHARE + 1)
    with journal.call():
        with journal.call():
            third = Other(within(journal.call))
            assert not third.is_done.wait(WHILE_S)
        assert third.is_done.wait(SOON_S)


def test_messages_are_held_when_those_before_are_answered_and_then_go_on() -> None:
    journal = Journal()
    journal.note_send()
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with journal.holding():
            is_held.set()
            may_go.wait(SOON_S)

    Other(hold)
    assert not is_held.wait(WHILE_S)
    journal.note(message("early", "authorize"))
    assert is_held.wait(SOON_S)
    late = Other(journal.note_send)
    assert not late.is_done.wait(WHILE_S)
    may_go.set()
    assert late.is_done.wait(SOON_S)


@pytest.mark.parametrize("waits_for", ["a call", "a message", "a hold"])
def test_whoever_waits_gives_up_when_the_play_is_over(waits_for: str) -> None:
    journal = Journal()
    journal.narrow(0)
    if waits_for == "a hold":
        journal.note_send()
        waiting = Other(within(journal.holding))
    elif waits_for == "a call":
        waiting = Other(within(journal.call))
    else:
        with journal.holding():
            waiting = Other(journal.note_send)
            assert not waiting.is_done.wait(WHILE_S)
            journal.stop()
            assert waiting.is_done.wait(SOON_S)
    assert waits_for == "a message" or not waiting.is_done.wait(WHILE_S)
    journal.stop()
    assert waiting.is_done.wait(SOON_S)
    assert waiting.gave_up
