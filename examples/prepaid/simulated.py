"""Own the prepaid card as a workload: what switches do, and what a card must answer, independently of the service.

The prices are computed here once more, in another way than in tariffs.py, for the one tariff that `prepare` loads.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from examples.prepaid.service import NewCard, NewRate, NewSurcharge, PrepaidCalls, hash_pin
from replicator import transaction
from replicator.testing.actors import Caller, Script
from replicator.testing.history import Call, History
from replicator.testing.workloads import Workload

CARDS = tuple(f"4000 {number}" for number in range(4))
BLOCKED = "4999"
PIN = "1234"
FIRST_CENTS = 5_000
CONNECTION_CENTS, UNIT_SECONDS, UNIT_CENTS = 5, 60, 9
SURCHARGES = {"fixed": 0, "mobile": 10}
#: Deadline of a silent switch in a run: milliseconds.
SILENCE_MS = 1_500
Answers = list[tuple[Hashable, str, Any]]


def prepare(caller: Caller) -> Script:
    """Load the cards and the tariff."""
    cards = (*(_new_card(number, "active") for number in CARDS), _new_card(BLOCKED, "blocked"))
    yield from caller.once("load_cards", cards=cards)
    rates = (NewRate("day", "+49", CONNECTION_CENTS, UNIT_SECONDS, UNIT_CENTS),)
    surcharges = tuple(NewSurcharge(kind, cents) for kind, cents in SURCHARGES.items())
    yield from caller.once("load_tariffs", rates=rates, surcharges=surcharges)


def _new_card(number: str, state: str) -> NewCard:
    salt = number.encode().ljust(16, b".")
    return NewCard(number, "day", FIRST_CENTS, state, salt, hash_pin(PIN, salt))


def converse(caller: Caller) -> Script:
    """Ask for a balance, or make a call, with mistakes now and then."""
    chance = caller.random
    if chance.random() < caller.read_part:
        yield from caller.query("balance", card=chance.choice(CARDS))
        return
    card = chance.choice(CARDS) if chance.random() < 0.9 else BLOCKED
    pin = PIN if chance.random() < 0.95 else "0000"
    destination = "+49 30" if chance.random() < 0.95 else "+1 212"
    origin = f"{chance.choice(sorted(SURCHARGES))}:1"
    with transaction(caller.client) as call:
        opening = {"card": card, "pin": pin, "origin": origin, "destination": destination}
        yield from caller.say(call.authorize, **opening, silence_ms=SILENCE_MS)
        for _ in range(chance.randrange(3)):
            yield chance.expovariate(1 / (2 * caller.think_ms))
            yield from caller.say(call.reserve, seconds=chance.choice((0, 30, 61, 200)), silence_ms=SILENCE_MS)
        yield chance.expovariate(1 / (2 * caller.think_ms))
        if chance.random() < 0.9:
            yield from caller.say(call.terminate, seconds=chance.choice((-1, 0, 1, 59, 60, 61, 120)))


def audit(caller: Caller) -> Script:
    """Read every card and every charge."""
    balances: dict[str, int] = {}
    for number in CARDS:
        line = yield from caller.query("balance", card=number)
        balances[number] = line.balance_cents
    charged: dict[str, int] = dict.fromkeys(CARDS, 0)
    after, page = "", [None]
    while page:
        page = yield from caller.query("charges_after", call=after, count=500)
        for charge in page:
            charged[charge.card] += charge.cents
            after = charge.call
    return {"balances": balances, "charged": charged}


def _price(seconds: int, surcharge_cents: int) -> int:
    cents = 0
    if seconds > 0:
        cents = CONNECTION_CENTS + surcharge_cents
        for _ in range(0, seconds, UNIT_SECONDS):
            cents += UNIT_CENTS
    return cents


class PrepaidModel:
    """Each card is a key; a state is (balance, open call or "", seconds reserved, seconds surely used, surcharge)."""

    deadlines: ClassVar[Mapping[str, str]] = {"authorize": "hang_up"}
    ends: ClassVar[frozenset[str]] = frozenset(("terminate",))

    def key(self, call: Call, opening: Call) -> str | None:
        """A card that can be called with; batches and pages are left to the audit."""
        card = str(opening.arguments.get("card", ""))
        return card if card in CARDS else None

    def initial(self, key: str) -> Hashable:
        """As loaded."""
        return (FIRST_CENTS, "", 0, 0, 0)

    def step(self, state: Any, call: Call) -> Answers:
        """What may follow."""
        balance, open_call, reserved, used, surcharge = state
        given = call.arguments
        if call.handler == "balance":
            line = [given["card"], balance, _price(reserved, surcharge) if open_call else 0, "active", open_call]
            return [(state, "done", line)]
        if call.handler == "authorize":
            return self._authorize(state, call)
        if call.txn_id != open_call:
            return []
        if call.handler == "reserve":
            return self._reserve(state, call)
        seconds = used if call.handler == "hang_up" else given["seconds"]
        if seconds < 0:
            return [(state, "aborted", ["bad duration", {"seconds": seconds}])]
        if seconds > reserved:
            return [(state, "aborted", ["not reserved", {"seconds": seconds, "reserved_seconds": reserved}])]
        cents = _price(seconds, surcharge)
        return [((balance - cents, "", 0, 0, 0), "done", [open_call, seconds, cents, balance - cents])]

    def _authorize(self, state: Any, call: Call) -> Answers:
        balance, open_call = state[:2]
        given = call.arguments
        card = given["card"]
        if given["pin"] != PIN:
            return [(state, "aborted", ["wrong PIN", {"card": card}])]
        if open_call:
            return [(state, "aborted", ["busy card", {"card": card}])]
        if not given["destination"].startswith("+49"):
            where = {"origin": given["origin"], "destination": given["destination"]}
            return [(state, "aborted", ["no tariff", where])]
        surcharge = SURCHARGES[given["origin"].split(":")[0]]
        seconds = 120
        while seconds and _price(seconds, surcharge) > balance:
            seconds -= UNIT_SECONDS
        if not seconds:
            return [(state, "aborted", ["no balance", {"card": card, "balance_cents": balance}])]
        granted = [call.txn_id, seconds, _price(seconds, surcharge)]
        return [((balance, call.txn_id, seconds, 0, surcharge), "done", granted)]

    def _reserve(self, state: Any, call: Call) -> Answers:
        balance, open_call, reserved, _, surcharge = state
        wanted = call.arguments["seconds"]
        if not 1 <= wanted <= 3_600:
            return [(state, "aborted", ["bad duration", {"seconds": wanted}])]
        cents = _price(reserved + wanted, surcharge)
        if cents > balance:
            facts = {"reserved_seconds": reserved}
            refused = [name for name in CARDS if call.value and name == call.value[1].get("card")]
            return [(state, "aborted", ["no balance", {"card": refused[0] if refused else "", **facts}])]
        return [
            (
                (balance, open_call, reserved + wanted, reserved, surcharge),
                "done",
                [open_call, reserved + wanted, cents],
            )
        ]

    def audit(self, history: History) -> list[str]:
        """Opening balances = balances + charges."""
        found = history.final_state
        return [
            f"card {card}: balance {cents} and charges {found['charged'][card]} are not {FIRST_CENTS}"
            for card, cents in found["balances"].items()
            if cents + found["charged"][card] != FIRST_CENTS or cents < 0
        ]


WORKLOAD = Workload(PrepaidCalls, PrepaidModel(), prepare, converse, audit, SILENCE_MS)
