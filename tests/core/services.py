"""Small services for tests of the core."""

from __future__ import annotations

from dataclasses import dataclass

from replicator import Abort, Context, Service, Table, Tables, handler


class Ledger(Tables):
    balances: Table[str, int]


class Bank(Service[Ledger]):
    """Deposits and transfers, and an order of several messages."""

    @handler
    def deposit(self, ctx: Context[Ledger], owner: str, cents: int) -> int:
        balances = ctx.tables.balances
        balances[owner] = balances.get(owner, 0) + cents
        return balances[owner]

    @handler
    def transfer(self, ctx: Context[Ledger], source: str, target: str, cents: int) -> int:
        balances = ctx.tables.balances
        balances[source] = balances.get(source, 0) - cents
        balances[target] = balances.get(target, 0) + cents
        if balances[source] < 0:
            raise Abort("too little", owner=source, missing=-balances[source])
        return balances[source]

    @handler
    def begin(self, ctx: Context[Ledger], owner: str) -> str:
        ctx.tsd.update(owner=owner, total=0)
        ctx.expect("add", "end", within_ms=10_000, otherwise="give_up")
        return ctx.txn_id

    @handler
    def add(self, ctx: Context[Ledger], cents: int) -> int:
        if cents < 0:
            raise Abort("negative")
        ctx.tsd["total"] += cents
        ctx.expect("add", "end", within_ms=10_000, otherwise="give_up")
        return int(ctx.tsd["total"])

    @handler
    def end(self, ctx: Context[Ledger]) -> int:
        balances = ctx.tables.balances
        owner = str(ctx.tsd["owner"])
        balances[owner] = balances.get(owner, 0) + int(ctx.tsd["total"])
        return balances[owner]

    @handler
    def give_up(self, ctx: Context[Ledger]) -> None:
        ctx.tables.balances["given up"] = ctx.tables.balances.get("given up", 0) + 1

    @handler
    def fail(self, ctx: Context[Ledger], owner: str) -> None:
        ctx.tables.balances[owner] = 10**6
        raise KeyError(owner)

    @handler
    def dice(self, ctx: Context[Ledger]) -> tuple[int, int, int]:
        return (ctx.random.randrange(10**9), ctx.random.randrange(10**9), ctx.now_ms)

    @handler(readonly=True)
    def balance(self, ctx: Context[Ledger], owner: str) -> int:
        return int(ctx.tables.balances.get(owner, 0))


@dataclass(frozen=True, slots=True)
class Card:
    """A row of several fields."""

    holder: str
    cents: int
    limits: tuple[int, ...] = ()
