"""How a handler gets its arguments, whatever way it takes them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from replicator import Context, Service, Table, Tables, handler
from replicator.core.messages import Status
from tests.core.world import World


class Holds(Tables):
    cents: Table[str, int]


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a user's decorator: shows the signature of what it wraps, and takes names only."""

    @functools.wraps(function)
    def wrapper(self: object, ctx: Context[Holds], **arguments: Any) -> Any:
        return function(self, ctx, **arguments)

    return wrapper


def turned(function: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the arguments in another order than it shows."""

    @functools.wraps(function)
    def wrapper(self: object, ctx: Context[Holds], cents: int, owner: str) -> Any:
        return function(self, ctx, owner=owner, cents=cents)

    return wrapper


class Till(Service[Holds]):
    """Handlers that take their arguments in every way there is."""

    @handler
    def plain(self, ctx: Context[Holds], owner: str, cents: int = 7) -> tuple[str, int]:
        return owner, cents

    @handler
    def by_name(self, ctx: Context[Holds], owner: str, *, cents: int = 7) -> tuple[str, int]:
        return owner, cents

    @handler
    @counted
    def wrapped(self, ctx: Context[Holds], owner: str, cents: int = 7) -> tuple[str, int]:
        return owner, cents

    @handler
    @turned
    def turned(self, ctx: Context[Holds], owner: str, cents: int = 7) -> tuple[str, int]:
        return owner, cents

    @handler
    def hold(self, ctx: Context[Holds], owner: str) -> None:
        ctx.tables.cents[owner] = 100
        ctx.tsd["owner"] = owner
        ctx.expect("release", within_ms=1_000, otherwise="release")

    @handler
    def release(self, ctx: Context[Holds], reason: str = "late") -> str:
        del ctx.tables.cents[str(ctx.tsd["owner"])]
        return reason


@pytest.mark.parametrize("way", ["plain", "by_name", "wrapped", "turned"])
def test_arguments_come_by_their_names_whatever_the_handler_is(way: str) -> None:
    world = World(Till)
    name = world.active.name
    assert world.call(name, "t", 1, way, owner="bob", cents=3) == (Status.DONE, ("bob", 3))
    assert world.call(name, "u", 1, way, cents=4, owner="eve") == (Status.DONE, ("eve", 4))
    assert world.call(name, "v", 1, way, owner="bob") == (Status.DONE, ("bob", 7))
    world.check()


def test_a_deadline_runs_its_handler_with_the_defaults_of_its_arguments() -> None:
    """It comes without arguments: what has a default may still be there."""
    world = World(Till)
    world.call(world.active.name, "t", 1, "hold", owner="bob")
    world.settle(3_000)
    assert world.events()["handler_failed"] == 0
    assert [node.replica.state.database.row_count for node in world.nodes.values()] == [0, 0]
    world.check()
