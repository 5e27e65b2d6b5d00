"""The service that is measured: the two-message prepaid transaction, with little to do in its handlers."""

from __future__ import annotations

from replicator import Abort, Context, Service, Table, Tables, handler

PAYLOAD = "x" * 100


class Cards(Tables):
    balances: Table[str, int]  # card number -> cents


class Prepaid(Service[Cards]):
    """Authorize, terminate; and one message that is a whole transaction, for batches."""

    @handler
    def authorize(self, ctx: Context[Cards], card: str, pin: str, destination: str) -> int:
        """Open the call; return what the card holds."""
        balance = ctx.tables.balances.get(card, 100_000_000)
        if balance <= 0:
            raise Abort("no balance")
        ctx.tsd.update(card=card, balance=balance, destination=destination, pin=pin)
        ctx.expect("terminate", within_ms=60_000, otherwise="hang_up")
        return int(balance)

    @handler
    def terminate(self, ctx: Context[Cards], seconds: int) -> int:
        """Charge one cent a second; return the new balance."""
        card = str(ctx.tsd["card"])
        left = int(ctx.tables.balances.get(card, 100_000_000)) - seconds
        ctx.tables.balances[card] = left
        return left

    @handler
    def hang_up(self, ctx: Context[Cards]) -> None:
        """The caller is gone: nothing is charged."""

    @handler
    def charge(self, ctx: Context[Cards], card: str, cents: int, note: str) -> int:
        """Charge in one message; return the new balance."""
        left = int(ctx.tables.balances.get(card, 100_000_000)) - cents
        ctx.tables.balances[card] = left
        return left
