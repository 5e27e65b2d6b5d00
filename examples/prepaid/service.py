"""Own the prepaid calling card: a call is one transaction, `authorize -> reserve* -> terminate`.

The switch sends `authorize` when a customer dials, `reserve` each time the granted time is about used up, `terminate`
when the call ends. Between the messages the call lives in its TSD, so whichever node gets the next message goes on with
it. A switch that falls silent is ended by `hang_up`, a deadline.

Rules of money, in whole cents:
- `reserved_cents` of a card is always the price of the time reserved for its open call; 0 without a call.
- A charge never exceeds what was reserved, and what was reserved never exceeds the balance.
- Opening balances = balances + charges, at any time.

Never does: keep state on `self`, read a clock, draw a random number.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

from examples.prepaid.tariffs import Rate, affordable_seconds, find_rate, price_cents
from replicator import Abort, Context, Service, Table, Tables, handler

ACTIVE = "active"
BLOCKED = "blocked"
#: The first tranche: granted with the authorization, so that a short call needs no `reserve`.
FIRST_TRANCHE_SECONDS = 120
#: One `reserve` may ask for an hour at most: a switch that asks for more is mistaken.
RESERVE_SECONDS_MAX = 3_600
#: A switch reports every minute; after three it is taken for dead.
SILENCE_MS = 180_000
#: Rows in one answer of a paged query: 500 rows of about 100 bytes stay far below the message limit.
PAGE_ROWS_MAX = 500


def hash_pin(pin: str, salt: bytes) -> bytes:
    """Hash a PIN with blake2b under the card's own salt.

    A slow hash (scrypt, argon2) has no place here. Handlers run one after another on the node's loop: 100 ms for each
    PIN would hold the whole database to ten calls a second, and once more on each backup. Nor would it buy much, as a
    PIN of four digits has 10,000 values. The salt keeps equal PINs from looking equal and a prepared table from being
    of use. Whoever wants a slow hash computes it before the message is sent, and lets the handler compare the result.
    """
    return hashlib.blake2b(pin.encode(), digest_size=16, salt=salt).digest()


@dataclass(frozen=True, slots=True)
class Card:
    """A row: one card. `call` is the txn id of its open call, or empty."""

    plan: str
    balance_cents: int
    reserved_cents: int
    state: str
    salt: bytes
    pin_hash: bytes
    call: str


@dataclass(frozen=True, slots=True)
class Charge:
    """A row: one ended call. `messages`: how many of its messages took effect; `ended_by`: the handler that did it."""

    card: str
    seconds: int
    cents: int
    messages: int
    ended_by: str
    ended_ms: int


class Accounts(Tables):
    """The tables."""

    cards: Table[str, Card]  # card number -> card
    rates: Table[tuple[str, str], Rate]  # (plan, prefix of the dialled number) -> rate
    surcharges: Table[str, int]  # kind of origin -> cents a call
    charges: Table[str, Charge]  # txn id of the call -> its charge


@dataclass(frozen=True, slots=True)
class NewCard:
    """A card to be loaded. The PIN is hashed by whoever issues the card: it never travels with the card."""

    number: str
    plan: str
    balance_cents: int
    state: str
    salt: bytes
    pin_hash: bytes


@dataclass(frozen=True, slots=True)
class NewRate:
    """A rate to be loaded."""

    plan: str
    prefix: str
    connection_cents: int
    unit_seconds: int
    unit_cents: int


@dataclass(frozen=True, slots=True)
class NewSurcharge:
    """A surcharge to be loaded: calls from this kind of origin cost so much more."""

    kind: str
    cents: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The call may go ahead, or go on, until *reserved_seconds* from its start."""

    call: str
    reserved_seconds: int
    reserved_cents: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The call has ended."""

    call: str
    seconds: int
    cents: int
    balance_cents: int


@dataclass(frozen=True, slots=True)
class CardLine:
    """What a query tells about a card."""

    number: str
    balance_cents: int
    reserved_cents: int
    state: str
    call: str


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """What a query tells about an ended call."""

    call: str
    card: str
    seconds: int
    cents: int
    messages: int
    ended_by: str


class PrepaidCalls(Service[Accounts]):
    """A prepaid call: authorize, any number of reserve messages, terminate."""

    @handler
    def authorize(
        self,
        ctx: Context[Accounts],
        card: str,
        pin: str,
        origin: str,
        destination: str,
        silence_ms: int = SILENCE_MS,
    ) -> Grant:
        """Begin a call and reserve its first tranche, or as much of it as the balance pays for.

        *origin* is `kind:number`. *silence_ms*: without another message for so long, the switch is taken for dead.
        Refuses: unknown card, blocked card, wrong PIN, busy card, no tariff, no balance (in this order).
        """
        row = _card_for_call(ctx, card, pin)
        rate, surcharge_cents = _rate_for_call(ctx, row.plan, origin, destination)
        seconds = affordable_seconds(rate, surcharge_cents, row.balance_cents, FIRST_TRANCHE_SECONDS)
        if seconds == 0:
            raise Abort("no balance", card=card, balance_cents=row.balance_cents)
        cents = price_cents(rate, surcharge_cents, seconds)
        ctx.tables.cards[card] = replace(row, reserved_cents=cents, call=ctx.txn_id)
        ctx.tsd.update(
            card=card,
            rate=(rate.connection_cents, rate.unit_seconds, rate.unit_cents),
            surcharge_cents=surcharge_cents,
            reserved_seconds=seconds,
            used_seconds=0,
            messages=1,
        )
        ctx.expect("reserve", "terminate", within_ms=silence_ms, otherwise="hang_up")
        return Grant(ctx.txn_id, seconds, cents)

    @handler
    def reserve(self, ctx: Context[Accounts], seconds: int, silence_ms: int = SILENCE_MS) -> Grant:
        """Extend the reservation by *seconds*: the time reserved before is about used up.

        Refuses: bad duration, no balance (the call stays open with what it has).
        """
        number, rate, surcharge_cents = _open_call(ctx)
        if not 1 <= seconds <= RESERVE_SECONDS_MAX:
            raise Abort("bad duration", seconds=seconds)
        row = ctx.tables.cards[number]
        used_seconds: int = ctx.tsd["reserved_seconds"]
        total_seconds = used_seconds + seconds
        cents = price_cents(rate, surcharge_cents, total_seconds)
        if cents > row.balance_cents:
            raise Abort("no balance", card=number, reserved_seconds=used_seconds)
        ctx.tables.cards[number] = replace(row, reserved_cents=cents)
        ctx.tsd.update(reserved_seconds=total_seconds, used_seconds=used_seconds, messages=ctx.tsd["messages"] + 1)
        ctx.expect("reserve", "terminate", within_ms=silence_ms, otherwise="hang_up")
        return Grant(ctx.txn_id, total_seconds, cents)

    @handler
    def terminate(self, ctx: Context[Accounts], seconds: int) -> Receipt:
        """End the call after *seconds* of talk (0: nobody answered) and charge for them.

        Refuses: bad duration, not reserved (the call stays open; reserve more or terminate with fewer).
        """
        _open_call(ctx)
        if seconds < 0:
            raise Abort("bad duration", seconds=seconds)
        if seconds > ctx.tsd["reserved_seconds"]:
            raise Abort("not reserved", seconds=seconds, reserved_seconds=ctx.tsd["reserved_seconds"])
        return _charge(ctx, seconds, "terminate", messages=1)

    @handler
    def hang_up(self, ctx: Context[Accounts]) -> Receipt:
        """End a call whose switch fell silent, and charge the time that was surely used.

        A switch asks for more when what it has is about used up. So the time that was reserved *before* its last
        `reserve` is taken as used, and no more: nobody knows how the rest went, and the doubt is the customer's. A call
        without a `reserve` costs nothing. The rule needs no clock, so an audit can repeat it from the call's messages.
        """
        _open_call(ctx)
        return _charge(ctx, ctx.tsd["used_seconds"], "hang_up", messages=0)

    @handler
    def load_cards(self, ctx: Context[Accounts], cards: tuple[NewCard, ...]) -> int:
        """Add a batch of cards, all or none; return how many cards there are. Refuses: card exists, bad card."""
        table = ctx.tables.cards
        for new in cards:
            if new.number in table:
                raise Abort("card exists", card=new.number)
            if new.balance_cents < 0 or new.state not in (ACTIVE, BLOCKED) or len(new.salt) != 16:
                raise Abort("bad card", card=new.number)
            table[new.number] = Card(new.plan, new.balance_cents, 0, new.state, new.salt, new.pin_hash, "")
        return len(table)

    @handler
    def load_tariffs(
        self, ctx: Context[Accounts], rates: tuple[NewRate, ...], surcharges: tuple[NewSurcharge, ...]
    ) -> int:
        """Put rates and surcharges, all or none; return how many rates there are. A call keeps the rate it began with.

        Refuses: bad tariff.
        """
        for new in rates:
            if new.unit_seconds < 1 or new.unit_cents < 0 or new.connection_cents < 0 or not new.prefix:
                raise Abort("bad tariff", plan=new.plan, prefix=new.prefix)
            ctx.tables.rates[new.plan, new.prefix] = Rate(new.connection_cents, new.unit_seconds, new.unit_cents)
        for surcharge in surcharges:
            if surcharge.cents < 0:
                raise Abort("bad tariff", kind=surcharge.kind)
            ctx.tables.surcharges[surcharge.kind] = surcharge.cents
        return len(ctx.tables.rates)

    @handler(readonly=True)
    def balance(self, ctx: Context[Accounts], card: str) -> CardLine:
        """Return what is known of one card. Refuses: unknown card."""
        row = ctx.tables.cards.get(card)
        if row is None:
            raise Abort("unknown card", card=card)
        return _card_line(card, row)

    @handler(readonly=True)
    def cards_after(self, ctx: Context[Accounts], number: str, count: int) -> tuple[CardLine, ...]:
        """Return up to *count* cards (at most 500) whose numbers come after *number*: a page."""
        table = ctx.tables.cards
        return tuple(_card_line(key, table[key]) for key in _page(table, number, count))

    @handler(readonly=True)
    def charges_after(self, ctx: Context[Accounts], call: str, count: int) -> tuple[ChargeLine, ...]:
        """Return up to *count* charges (at most 500) whose txn ids come after *call*: a page."""
        table = ctx.tables.charges
        lines = []
        for key in _page(table, call, count):
            row = table[key]
            lines.append(ChargeLine(key, row.card, row.seconds, row.cents, row.messages, row.ended_by))
        return tuple(lines)


def _card_for_call(ctx: Context[Accounts], number: str, pin: str) -> Card:
    row: Card | None = ctx.tables.cards.get(number)
    if row is None:
        raise Abort("unknown card", card=number)
    if row.state != ACTIVE:
        raise Abort("blocked card", card=number)
    if not hmac.compare_digest(row.pin_hash, hash_pin(pin, row.salt)):
        raise Abort("wrong PIN", card=number)
    if row.call:
        raise Abort("busy card", card=number)
    return row


def _rate_for_call(ctx: Context[Accounts], plan: str, origin: str, destination: str) -> tuple[Rate, int]:
    rate = find_rate(ctx.tables.rates, plan, destination)
    surcharge_cents: int | None = ctx.tables.surcharges.get(origin.partition(":")[0])
    if rate is None or surcharge_cents is None:
        raise Abort("no tariff", origin=origin, destination=destination)
    return rate, surcharge_cents


def _open_call(ctx: Context[Accounts]) -> tuple[str, Rate, int]:
    """Return (card number, rate, surcharge) of the call in the TSD; refuse a transaction that did not authorize."""
    if "card" not in ctx.tsd:
        raise Abort("no call", advice="begin the transaction with authorize")
    return ctx.tsd["card"], Rate(*ctx.tsd["rate"]), ctx.tsd["surcharge_cents"]


def _charge(ctx: Context[Accounts], seconds: int, ended_by: str, *, messages: int) -> Receipt:
    number, rate, surcharge_cents = _open_call(ctx)
    row = ctx.tables.cards[number]
    cents = price_cents(rate, surcharge_cents, seconds)
    balance_cents = row.balance_cents - cents
    assert row.call == ctx.txn_id, "only the call that holds a card may charge it"
    assert cents <= row.reserved_cents, "a charge never exceeds what was reserved"
    ctx.tables.cards[number] = replace(row, balance_cents=balance_cents, reserved_cents=0, call="")
    ctx.tables.charges[ctx.txn_id] = Charge(
        number, seconds, cents, ctx.tsd["messages"] + messages, ended_by, ctx.now_ms
    )
    return Receipt(ctx.txn_id, seconds, cents, balance_cents)


def _card_line(number: str, row: Card) -> CardLine:
    return CardLine(number, row.balance_cents, row.reserved_cents, row.state, row.call)


def _page(table: Table[str, Card] | Table[str, Charge], after: str, count: int) -> list[str]:
    """Return up to *count* keys of *table* beyond *after*, in key order."""
    keys: list[str] = []
    for key in table.keys_between(after, None):
        if len(keys) >= min(count, PAGE_ROWS_MAX):
            break
        if key != after:
            keys.append(key)
    return keys
