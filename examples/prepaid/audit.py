"""Own the independent computation: what every call must cost and every card must hold, from the CSV files alone.

Imports nothing of the service: the prices are worked out again in another way (unit by unit, by walking through the
call, where the service divides), so that one mistake cannot hide in both. The order in which calls of *different* cards
ran does not matter to any figure here; calls of one card are made in file order (`play.py`).

Never does: talk to a node. `play.py` reads the end state through readonly handlers and hands it over.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FIRST_TRANCHE_SECONDS = 120
#: The plan under which tariffs.csv lists the surcharges of origins.
ORIGIN_PLAN = "origin"
PROBLEMS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """What must become of a call. `refusals`: `handler: reason` in order. `messages`: how many take effect."""

    card: str
    refusals: tuple[str, ...]
    messages: int
    seconds: int
    cents: int
    ended_by: str

    @property
    def is_charged(self) -> bool:
        """Whether the call came about; a refused one leaves no charge."""
        return self.messages > 0


@dataclass(frozen=True, slots=True)
class SeenCard:
    """A card as the database holds it at the end."""

    balance_cents: int
    reserved_cents: int
    is_busy: bool


@dataclass(frozen=True, slots=True)
class SeenCharge:
    """A charge as the database holds it at the end."""

    card: str
    seconds: int
    cents: int
    messages: int
    ended_by: str


@dataclass(slots=True)
class EndState:
    """What the database holds at the end: `{card: ...}`, `{call: ...}`, and txn ids of charges nobody asked for."""

    cards: dict[str, SeenCard] = field(default_factory=dict)
    charges: dict[str, SeenCharge] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Expected:
    """The whole computation: `{call: ...}`, `{card: balance in cents}`."""

    calls: dict[str, ExpectedCall]
    balances: dict[str, int]
    opening_cents: int


@dataclass(frozen=True, slots=True)
class Told:
    """What the callers were told of one call: messages acknowledged, sent without a refusal, refusals in order, price.

    `cents` is None if no receipt came (a refused or a silent call).
    """

    acknowledged: int
    sent: int
    refusals: tuple[str, ...]
    cents: int | None


@dataclass(slots=True)
class _Meter:
    """One call's tariff, read as a customer reads it."""

    connection_cents: int
    unit_seconds: int
    unit_cents: int
    surcharge_cents: int

    def cost(self, seconds: int) -> int:
        """Let the meter run: it takes a unit's price at the beginning of each unit."""
        if not seconds:
            return 0
        cents = self.connection_cents + self.surcharge_cents
        for _second in range(0, seconds, self.unit_seconds):
            cents += self.unit_cents
        return cents

    def lasts(self, cents: int, wanted: int) -> int:
        """Let the meter run on a purse until it is empty or *wanted* seconds are over."""
        purse = cents - self.connection_cents - self.surcharge_cents
        seconds = 0
        while purse >= 0 and seconds < wanted and purse >= self.unit_cents:
            purse -= self.unit_cents
            seconds += self.unit_seconds
        return min(seconds, wanted)


class _Books:
    """The computation in progress."""

    def __init__(self, folder: Path, count: int | None) -> None:
        cards = _rows(folder / "cards.csv")
        self.cards = {row["card"]: row for row in cards}
        self.balances = {row["card"]: int(row["balance_cents"]) for row in cards}
        self.tariffs = {(row["plan"], row["prefix"]): row for row in _rows(folder / "tariffs.csv")}
        self.rows = _rows(folder / "calls.csv")[:count]
        self.during: dict[str, list[dict[str, str]]] = {}
        for row in self.rows:
            if row["during"]:
                self.during.setdefault(row["during"], []).append(row)
        self.calls: dict[str, ExpectedCall] = {}

    def play(self, row: dict[str, str], busy_card: str) -> None:
        """Work out one call, tried while a call of *busy_card* is open, and those tried during it."""
        refusal = self._refusal(row, busy_card)
        if refusal:
            self.calls[row["call"]] = ExpectedCall(row["card"], (f"authorize: {refusal}",), 0, 0, 0, "")
        for other in self.during.get(row["call"], []):
            self.play(other, busy_card if refusal else row["card"])
        if not refusal:
            self._talk(row)

    def _meter(self, row: dict[str, str]) -> _Meter | None:
        plan = self.cards[row["card"]]["plan"]
        dialled = row["destination"]
        reaching = [prefix for owner, prefix in self.tariffs if owner == plan and dialled.startswith(prefix)]
        kind = row["origin"].split(":")[0]
        if not reaching or (ORIGIN_PLAN, kind) not in self.tariffs:
            return None
        tariff = self.tariffs[plan, max(reaching, key=len)]
        return _Meter(
            int(tariff["connection_cents"]),
            int(tariff["unit_seconds"]),
            int(tariff["unit_cents"]),
            int(self.tariffs[ORIGIN_PLAN, kind]["connection_cents"]),
        )

    def _refusal(self, row: dict[str, str], busy_card: str) -> str:
        number = row["card"]
        if number not in self.cards:
            return "unknown card"
        if self.cards[number]["state"] == "blocked":
            return "blocked card"
        if self.cards[number]["pin"] != row["pin"]:
            return "wrong PIN"
        if number == busy_card:
            return "busy card"
        meter = self._meter(row)
        if meter is None:
            return "no tariff"
        return "" if meter.lasts(self.balances[number], FIRST_TRANCHE_SECONDS) else "no balance"

    def _talk(self, row: dict[str, str]) -> None:
        number, meter = row["card"], self._meter(row)
        assert meter is not None
        granted = meter.lasts(self.balances[number], FIRST_TRANCHE_SECONDS)
        messages, before, refusals = 1, 0, []
        for tranche in filter(None, row["reserves"].split("+")):
            if meter.cost(granted + int(tranche)) > self.balances[number]:
                refusals.append("reserve: no balance")
                break
            before, granted, messages = granted, granted + int(tranche), messages + 1
        if row["ends"] == "silence" and not refusals:
            seconds, ended_by = before, "hang_up"
        else:
            seconds, ended_by, messages = int(row["seconds"]), "terminate", messages + 1
            if seconds > granted:
                refusals.append("terminate: not reserved")
                seconds = granted
        cents = meter.cost(seconds)
        self.balances[number] -= cents
        self.calls[row["call"]] = ExpectedCall(number, tuple(refusals), messages, seconds, cents, ended_by)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compute(folder: Path, count: int | None = None) -> Expected:
    """Work out the end from the CSV files in *folder*, for the first *count* calls (None: all)."""
    books = _Books(folder, count)
    opening_cents = sum(books.balances.values())
    for row in books.rows:
        if not row["during"]:
            books.play(row, busy_card="")
    assert len(books.calls) == len(books.rows), "a call is tried during one that does not exist"
    return Expected(books.calls, books.balances, opening_cents)


@dataclass(frozen=True, slots=True)
class ExactlyOnce:
    """`lost`: messages acknowledged but not in effect; `doubled`: messages in effect more often than sent."""

    lost: int
    doubled: int
    problems: tuple[str, ...]


def count_effects(told: Mapping[str, Told], end: EndState, *, loaded: Iterable[str] = ()) -> ExactlyOnce:
    """Compare what callers were told with what is in effect, without any knowledge of prices.

    Each ended call's charge says how many of its messages took effect, and a call has one charge: a charge with another
    count, none at all, or one that nobody asked for shows what was lost or doubled. *loaded*: the cards whose loading
    was acknowledged (a second loading of a card would have been refused).
    """
    lost = doubled = 0
    problems = []
    for name, call in told.items():
        charge = end.charges.get(name)
        effects = charge.messages if charge is not None else 0
        if effects < call.acknowledged:
            lost += call.acknowledged - effects
            problems.append(f"{name}: {call.acknowledged} messages acknowledged, {effects} in effect")
        if effects > call.sent:
            doubled += effects - call.sent
            problems.append(f"{name}: {call.sent} messages sent, {effects} in effect")
    for number in loaded:
        if number not in end.cards:
            lost += 1
            problems.append(f"card {number}: loading it was acknowledged, but it is not there")
    for stranger in end.strangers:
        doubled += 1
        problems.append(f"txn {stranger}: a charge in effect that no call asked for")
    for name in end.charges.keys() - told.keys():
        doubled += 1
        problems.append(f"{name}: a charge in effect of a call that was not made")
    return ExactlyOnce(lost, doubled, tuple(problems))


def find_wrong(expected: Expected, end: EndState, told: Mapping[str, Told]) -> list[str]:
    """Return what differs from the computation, one sentence each: refusals, charges, cards, the sum of money."""
    return [*_wrong_refusals(expected, told), *_wrong_charges(expected, end, told), *_wrong_cards(expected, end)]


def _wrong_refusals(expected: Expected, told: Mapping[str, Told]) -> Iterable[str]:
    for name, call in expected.calls.items():
        if name not in told:
            yield f"{name}: was never made"
        elif told[name].refusals != call.refusals:
            yield f"{name}: refusals {list(told[name].refusals)}, computed {list(call.refusals)}"


def _wrong_charges(expected: Expected, end: EndState, told: Mapping[str, Told]) -> Iterable[str]:
    for name, call in expected.calls.items():
        charge = end.charges.get(name)
        if not call.is_charged:
            if charge is not None:
                yield f"{name}: was to be refused but is charged {charge.cents} cents"
            continue
        wanted = SeenCharge(call.card, call.seconds, call.cents, call.messages, call.ended_by)
        if charge is None:
            yield f"{name}: no charge, computed {call.cents} cents"
        elif charge != wanted:
            yield f"{name}: charge {charge}, computed {wanted}"
        elif name in told and told[name].cents not in (None, charge.cents):
            yield f"{name}: the caller was told {told[name].cents} cents, the database says {charge.cents}"


def _wrong_cards(expected: Expected, end: EndState) -> Iterable[str]:
    for number, balance_cents in expected.balances.items():
        card = end.cards.get(number)
        if card is None:
            yield f"card {number}: is not there"
        elif card != SeenCard(balance_cents, 0, False):
            yield f"card {number}: {card}, computed balance {balance_cents}, nothing reserved, not busy"
    for number in sorted(end.cards.keys() - expected.balances.keys()):
        yield f"card {number}: is not in the file"
    held_cents = sum(card.balance_cents for card in end.cards.values())
    charged_cents = sum(charge.cents for charge in end.charges.values())
    if held_cents + charged_cents != expected.opening_cents:
        yield (
            f"money is not conserved: balances {held_cents} + charges {charged_cents} cents"
            f" differ from the {expected.opening_cents} cents at the start"
        )


def verdict(problems: Iterable[str]) -> str:
    """Return "ok", or the first problems as one text."""
    found = list(problems)
    if not found:
        return "ok"
    more = len(found) - PROBLEMS_SHOWN_MAX
    return "; ".join(found[:PROBLEMS_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")


def summary(expected: Expected) -> dict[str, int]:
    """Count the computed calls by what becomes of them: the variety of the input at a glance."""
    counts: Counter[str] = Counter()
    for call in expected.calls.values():
        counts.update(call.refusals or ("no refusal",))
        if call.is_charged:
            counts[f"ended by {call.ended_by}"] += 1
    return dict(sorted(counts.items()))
