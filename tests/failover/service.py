"""The service of the failover tests: transfers of several messages whose effect can be counted to the cent."""

from __future__ import annotations

from replicator import Abort, Context, Service, Table, Tables, handler


class Ledger(Tables):
    totals: Table[str, int]  # account -> cents
    done: Table[str, int]  # transaction id -> how often it took effect


class Payments(Service[Ledger]):
    """`start`, any number of `add`, `finish`: the sum is booked once, at the end."""

    @handler
    def start(self, ctx: Context[Ledger], account: str) -> str:
        """Begin."""
        ctx.tsd.update(account=account, cents=0)
        ctx.expect("add", "finish", within_ms=60_000, otherwise="forget")
        return ctx.txn_id

    @handler
    def add(self, ctx: Context[Ledger], cents: int) -> int:
        """Add to the sum."""
        if cents <= 0:
            raise Abort("cents must be positive", cents=cents)
        ctx.tsd["cents"] += cents
        ctx.expect("add", "finish", within_ms=60_000, otherwise="forget")
        return int(ctx.tsd["cents"])

    @handler
    def finish(self, ctx: Context[Ledger]) -> int:
        """Book the sum; return the account's new total."""
        account = str(ctx.tsd["account"])
        total = int(ctx.tables.totals.get(account, 0)) + int(ctx.tsd["cents"])
        ctx.tables.totals[account] = total
        ctx.tables.done[ctx.txn_id] = ctx.tables.done.get(ctx.txn_id, 0) + 1
        return total

    @handler
    def forget(self, ctx: Context[Ledger]) -> None:
        """The deadline: nothing is booked."""

    @handler(readonly=True)
    def total(self, ctx: Context[Ledger], account: str) -> int:
        """Return an account's total."""
        return int(ctx.tables.totals.get(account, 0))

    @handler(readonly=True)
    def times(self, ctx: Context[Ledger], txn_ids: tuple[str, ...]) -> tuple[int, ...]:
        """Return how often each transaction took effect."""
        return tuple(int(ctx.tables.done.get(txn_id, 0)) for txn_id in txn_ids)
