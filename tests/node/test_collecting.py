"""What a node's collector does between messages."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from replicator.node.node import COLLECT_OBJECTS_MIN, COLLECT_S, collect_young


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self


class Clock:
    """The part of a loop that is used."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.due.append((delay_s, callback))


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As in a node's process; afterwards as before."""
    gc.collect()
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()
    gc.collect()


def test_rings_are_collected_and_what_stays_is_not_looked_at_again() -> None:
    clock = Clock()
    ring = Ring()
    gone = weakref.ref(ring)
    del ring
    rows = [[] for _ in range(COLLECT_OBJECTS_MIN)]  # type: ignore[var-annotated]
    frozen = gc.get_freeze_count()
    collect_young(clock)  # type: ignore[arg-type]
    assert gone() is None
    assert gc.get_freeze_count() >= frozen + len(rows)
    assert gc.get_count()[0] < COLLECT_OBJECTS_MIN
    assert [delay_s for delay_s, _ in clock.due] == [COLLECT_S]


def test_a_quiet_node_does_not_look() -> None:
    clock = Clock()
    ring = Ring()
    there = weakref.ref(ring)
    del ring
    collect_young(clock)  # type: ignore[arg-type]
    assert there() is not None
    assert len(clock.due) == 1


def test_what_outlived_a_collection_within_a_handler_is_collected_after_it() -> None:
    """A handler holds many rings, the collector runs meanwhile, then the handler is over: they must not stay for ever."""
    clock = Clock()
    rings = [Ring() for _ in range(100)]
    gone = weakref.ref(rings[0])
    gc.collect(0)
    rings.clear()
    collect_young(clock)  # type: ignore[arg-type]
    assert gone() is None
