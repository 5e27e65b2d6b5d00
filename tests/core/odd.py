"""Handlers and values that nobody should write, and somebody will: what becomes of each must be the same everywhere.

`CALLS` is the list; `outcomes()` plays it on two nodes, whose stacks are of different depth, and tells what came of each.
test_odd.py compares nodes, test_compiled.py compares builds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replicator import Context, Service, Table, Tables, handler
from replicator.errors import ReplicatorError
from replicator.testing.local import START_MS, Local
from tests.core.odd_deeds import DEEDS, LEFT, down
from tests.core.odd_values import RAISED, RETURNED, Pair


class Oddments(Tables):
    """Tables for them."""

    counts: Table[str, int]
    texts: Table[str, str]


class Odd(Service[Oddments]):
    """Does all of it."""

    @handler
    def do(self, ctx: Context[Oddments], what: str = "a number") -> object:
        ctx.tables.counts["done"] = ctx.seq  # kept if the handler ends well, and only then
        return play(self, ctx, what)

    @handler
    def deep(self, ctx: Context[Oddments], levels: int) -> int:
        return down(levels)

    @handler(readonly=True)
    def look(self, ctx: Context[Oddments], what: str) -> object:
        return play(self, ctx, what)

    @handler
    def returns_number(self, ctx: Context[Oddments], what: str) -> int:
        return RETURNED[what]()  # type: ignore[no-any-return]

    @handler
    def returns_record(self, ctx: Context[Oddments], what: str) -> Pair | None:
        return RETURNED[what]()  # type: ignore[no-any-return]

    @handler
    def returns_floats(self, ctx: Context[Oddments], what: str) -> tuple[float, ...]:
        return (RETURNED[what](), 1.0)


class Waiting(Service[Oddments]):
    """A transaction that waits for a message, or for a deadline whose handler finds no memory."""

    @handler
    def begin(self, ctx: Context[Oddments]) -> None:
        ctx.tsd["begun"] = ctx.seq
        ctx.expect("go_on", within_ms=5_000, otherwise="give_up")

    @handler
    def go_on(self, ctx: Context[Oddments], width: int) -> int:
        ctx.tables.counts["begun"] = int(ctx.tsd["begun"])
        return len("x".ljust(width))

    @handler
    def give_up(self, ctx: Context[Oddments]) -> None:
        "x".ljust(10**15)


def play(service: Any, ctx: Any, what: str) -> Any:
    """Do what a name says."""
    if what in OWN:
        return OWN[what](service)
    if what in RETURNED:
        return RETURNED[what]()
    return (RAISED.get(what) or DEEDS[what])(ctx)


OWN: dict[str, Callable[[Any], Any]] = {
    "self.x =": lambda service: setattr(service, "x", 1),
    "type(self).x =": lambda service: setattr(type(service), "x", 1),
    "del type(self).do": lambda service: delattr(type(service), "do"),
}
#: (handler, what): each is one transaction.
CALLS: tuple[tuple[str, str], ...] = (
    *(("do", what) for what in (*RAISED, *RETURNED, *DEEDS, *OWN)),
    *(("look", what) for what in (*RAISED, *RETURNED, "too much memory")),
    *((name, what) for name in ("returns_number", "returns_record", "returns_floats") for what in RETURNED),
)


def outcomes() -> list[str]:
    """Play all calls on two copies; return each one's outcome, and the digest of everything after it."""
    LEFT.clear()
    told = []
    local = Local(Odd, seed=1, now_ms=START_MS)
    state = local._replica.state
    for name, what in CALLS:
        try:
            answer = repr(getattr(local.client, name)(what))
        except ReplicatorError as error:
            answer = f"{type(error).__name__}: {error}"
        told.append(f"{name}({what!r}): {answer[:200]!a} {state.digest:016x}")
    return told
