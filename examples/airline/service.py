"""Own the seats of flights: a booking holds seats, and pays for them or loses them.

`hold` opens a transaction, `pay` ends it with a sale, `cancel` or the deadline `release` gives the seats back. At every seq:
sold + held + free = seats, and none of them is negative: a flight is never overbooked.
"""

from __future__ import annotations

from dataclasses import dataclass

from replicator import Abort, Context, Service, Table, Tables, handler

#: Who does not pay within this time loses the seats.
PATIENCE_MS = 1_500


@dataclass(frozen=True, slots=True)
class Flight:
    """A row, and what `load` tells: seats in all, held, sold; the price of one in cents; what was paid in all."""

    seats: int
    held: int
    sold: int
    cents: int
    paid_cents: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a payment buys."""

    booking: str
    flight: str
    seats: int
    change_cents: int


class Bookings(Tables):
    """The tables."""

    flights: Table[str, Flight]
    tickets: Table[str, int]  # booking -> seats sold


class Airline(Service[Bookings]):
    """Flights, bookings and tickets."""

    @handler
    def add_flight(self, ctx: Context[Bookings], flight: str, seats: int, cents: int) -> int:
        """Add a flight; return how many there are. Refuses: flight exists, bad flight."""
        if flight in ctx.tables.flights:
            raise Abort("flight exists", flight=flight)
        if seats < 1 or cents < 0:
            raise Abort("bad flight", flight=flight)
        ctx.tables.flights[flight] = Flight(seats, 0, 0, cents, 0)
        return len(ctx.tables.flights)

    @handler
    def hold(self, ctx: Context[Bookings], flight: str, seats: int) -> int:
        """Begin a booking; return what it costs in cents. Refuses: unknown flight, bad number, sold out."""
        row: Flight | None = ctx.tables.flights.get(flight)
        if row is None:
            raise Abort("unknown flight", flight=flight)
        if seats < 1:
            raise Abort("bad number", seats=seats)
        free = row.seats - row.held - row.sold
        if free < seats:
            raise Abort("sold out", flight=flight, free=free)
        ctx.tables.flights[flight] = Flight(row.seats, row.held + seats, row.sold, row.cents, row.paid_cents)
        ctx.tsd.update(flight=flight, seats=seats)
        ctx.expect("pay", "cancel", within_ms=PATIENCE_MS, otherwise="release")
        return seats * row.cents

    @handler
    def pay(self, ctx: Context[Bookings], cents: int) -> Ticket:
        """Pay, and end the booking. Refuses: no booking, too little (the seats stay held until the deadline)."""
        if "flight" not in ctx.tsd:
            raise Abort("no booking", advice="begin with hold")
        flight, seats = str(ctx.tsd["flight"]), int(ctx.tsd["seats"])
        row: Flight = ctx.tables.flights[flight]
        price = seats * row.cents
        if cents < price:
            raise Abort("too little", missing=price - cents)
        ctx.tables.flights[flight] = Flight(
            row.seats, row.held - seats, row.sold + seats, row.cents, row.paid_cents + price
        )
        ctx.tables.tickets[ctx.txn_id] = seats
        return Ticket(ctx.txn_id, flight, seats, cents - price)

    @handler
    def cancel(self, ctx: Context[Bookings]) -> int:
        """End the booking; return how many seats are free again. Refuses: no booking."""
        if "flight" not in ctx.tsd:
            raise Abort("no booking", advice="begin with hold")
        return _release(ctx)

    @handler
    def release(self, ctx: Context[Bookings]) -> int:
        """The deadline: nobody paid."""
        return _release(ctx)

    @handler(readonly=True)
    def load(self, ctx: Context[Bookings], flight: str) -> Flight:
        """Return how full a flight is. Refuses: unknown flight."""
        row: Flight | None = ctx.tables.flights.get(flight)
        if row is None:
            raise Abort("unknown flight", flight=flight)
        return row

    @handler(readonly=True)
    def sold(self, ctx: Context[Bookings]) -> int:
        """Return how many seats all tickets come to. O(tickets)."""
        return sum(ctx.tables.tickets.values())


def _release(ctx: Context[Bookings]) -> int:
    flight, seats = str(ctx.tsd["flight"]), int(ctx.tsd["seats"])
    row: Flight = ctx.tables.flights[flight]
    ctx.tables.flights[flight] = Flight(row.seats, row.held - seats, row.sold, row.cents, row.paid_cents)
    return row.seats - row.held + seats - row.sold
