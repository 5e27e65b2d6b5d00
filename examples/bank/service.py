"""Own a bank of accounts: money moves, and never comes or goes.

A transfer is one message, or a transaction of two: `reserve` takes the money out of the source, `settle` puts it into the
target; `cancel`, or a deadline, gives it back. At every seq: balances + reserved = what was paid in.
"""

from __future__ import annotations

from dataclasses import dataclass

from replicator import Abort, Context, Service, Table, Tables, handler

#: A payer that says nothing more within this time gets the money back.
PATIENCE_MS = 2_000


@dataclass(frozen=True, slots=True)
class Totals:
    """What all accounts come to."""

    accounts: int
    cents: int
    reserved_cents: int


class Ledger(Tables):
    """The tables."""

    balances: Table[str, int]  # owner -> cents
    reserved: Table[str, int]  # transaction id -> cents taken out of an account and not settled yet


class Bank(Service[Ledger]):
    """Accounts and transfers between them."""

    @handler
    def open_account(self, ctx: Context[Ledger], owner: str, cents: int) -> int:
        """Open an account with a first payment; return its balance. Refuses: account exists, bad amount."""
        if owner in ctx.tables.balances:
            raise Abort("account exists", owner=owner)
        if cents < 0:
            raise Abort("bad amount", cents=cents)
        ctx.tables.balances[owner] = cents
        return cents

    @handler
    def transfer(self, ctx: Context[Ledger], source: str, target: str, cents: int) -> int:
        """Move money; return what the source has left. Refuses: as `reserve`, and same account."""
        if source == target:
            raise Abort("same account", owner=source)
        if target not in ctx.tables.balances:
            raise Abort("unknown account", owner=target)
        left = _take(ctx, source, cents)
        ctx.tables.balances[target] += cents
        return left

    @handler
    def reserve(self, ctx: Context[Ledger], source: str, cents: int) -> int:
        """Begin a transfer: take money out; return what is left. Refuses: unknown account, bad amount, too little."""
        left = _take(ctx, source, cents)
        ctx.tables.reserved[ctx.txn_id] = cents
        ctx.tsd.update(source=source, cents=cents)
        ctx.expect("settle", "cancel", within_ms=PATIENCE_MS, otherwise="give_back")
        return left

    @handler
    def settle(self, ctx: Context[Ledger], target: str) -> int:
        """Put the reserved money into an account; return its balance. Refuses: no reservation, unknown account."""
        if "source" not in ctx.tsd:
            raise Abort("no reservation", advice="begin with reserve")
        if target not in ctx.tables.balances:
            raise Abort("unknown account", owner=target)
        ctx.tables.balances[target] += ctx.tsd["cents"]
        del ctx.tables.reserved[ctx.txn_id]
        return int(ctx.tables.balances[target])

    @handler
    def cancel(self, ctx: Context[Ledger]) -> int:
        """Give the reserved money back; return the source's balance. Refuses: no reservation."""
        if "source" not in ctx.tsd:
            raise Abort("no reservation", advice="begin with reserve")
        return _give_back(ctx)

    @handler
    def give_back(self, ctx: Context[Ledger]) -> int:
        """The payer fell silent."""
        return _give_back(ctx)

    @handler(readonly=True)
    def balance(self, ctx: Context[Ledger], owner: str) -> int:
        """Return a balance. Refuses: unknown account."""
        cents: int | None = ctx.tables.balances.get(owner)
        if cents is None:
            raise Abort("unknown account", owner=owner)
        return cents

    @handler(readonly=True)
    def totals(self, ctx: Context[Ledger]) -> Totals:
        """Return what all accounts come to. O(accounts)."""
        balances, reserved = ctx.tables.balances, ctx.tables.reserved
        return Totals(len(balances), sum(balances.values()), sum(reserved.values()))


def _take(ctx: Context[Ledger], source: str, cents: int) -> int:
    balance: int | None = ctx.tables.balances.get(source)
    if balance is None:
        raise Abort("unknown account", owner=source)
    if cents <= 0:
        raise Abort("bad amount", cents=cents)
    if balance < cents:
        raise Abort("too little", owner=source, missing=cents - balance)
    ctx.tables.balances[source] = balance - cents
    return balance - cents


def _give_back(ctx: Context[Ledger]) -> int:
    source = str(ctx.tsd["source"])
    ctx.tables.balances[source] += ctx.tsd["cents"]
    del ctx.tables.reserved[ctx.txn_id]
    return int(ctx.tables.balances[source])
