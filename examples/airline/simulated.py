"""Own the airline as a workload: what callers do, and what flights must answer, independently of the service."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from examples.airline.service import PATIENCE_MS, Airline
from replicator import transaction
from replicator.testing.actors import Caller, Script
from replicator.testing.history import Call, History
from replicator.testing.workloads import Workload

#: flight -> (seats, cents): few seats, so that many bookings meet a full flight.
FLIGHTS = {"AB 1": (20, 9_900), "AB 2": (60, 19_900), "AB 3": (400, 4_900)}
#: Callers that fill a flight within a run would leave nothing to do; they ask for up to so many seats.
SEATS_MAX = 4


def prepare(caller: Caller) -> Script:
    """Add the flights."""
    for flight, (seats, cents) in FLIGHTS.items():
        yield from caller.once("add_flight", flight=flight, seats=seats, cents=cents)


def converse(caller: Caller) -> Script:
    """Look, or book: hold, then pay, pay too little, cancel, or fall silent."""
    chance = caller.random
    flight = chance.choice((*FLIGHTS, *FLIGHTS, "XY 9"))
    if chance.random() < caller.read_part:
        yield from caller.query("load", flight=chance.choice(sorted(FLIGHTS)))
        return
    with transaction(caller.client) as booking:
        price = yield from caller.say(booking.hold, flight=flight, seats=chance.randrange(0, SEATS_MAX + 1))
        yield chance.expovariate(1 / (2 * caller.think_ms))
        what = chance.choice(("pay", "pay", "too little", "cancel", "cancel", "cancel", "silence"))
        if what == "pay":
            yield from caller.say(booking.pay, cents=price + chance.randrange(100))
        elif what == "too little":
            yield from caller.say(booking.pay, cents=price - 1)
        elif what == "cancel":
            yield from caller.say(booking.cancel)


def audit(caller: Caller) -> Script:
    """Read every flight, and what the tickets come to."""
    loads: dict[str, list[int]] = {}
    for flight in FLIGHTS:
        row = yield from caller.query("load", flight=flight)
        loads[flight] = [row.seats, row.held, row.sold, row.cents, row.paid_cents]
    sold = yield from caller.query("sold")
    return {"flights": loads, "sold": sold}


class AirlineModel:
    """Each flight is a key; a state is (seats, held, sold, cents, paid, ((booking, seats), ...)), () before it is added."""

    deadlines: ClassVar[Mapping[str, str]] = {"hold": "release"}
    ends: ClassVar[frozenset[str]] = frozenset(
        (
            "pay",
            "cancel",
        )
    )

    def key(self, call: Call, opening: Call) -> str | None:
        """A flight; how many flights there are is asked of all, and left to the audit."""
        if call.handler in ("add_flight", "sold"):
            return None
        return str(opening.arguments.get("flight", "")) or None

    def initial(self, key: str) -> Hashable:
        """As `prepare` has added it."""
        return (FLIGHTS[key][0], 0, 0, FLIGHTS[key][1], 0, ()) if key in FLIGHTS else ()

    def step(self, state: Any, call: Call) -> list[tuple[Hashable, str, Any]]:
        """What may follow."""
        if not state:
            return [((), "aborted", ["unknown flight", {"flight": call.arguments.get("flight", "")}])]
        seats, held, sold, cents, paid, bookings = state
        if call.handler == "load":
            return [(state, "done", [seats, held, sold, cents, paid])]
        if call.handler == "hold":
            return self._hold(state, call)
        mine = dict(bookings).get(call.txn_id)
        if mine is None:
            return []
        left = tuple(each for each in bookings if each[0] != call.txn_id)
        if call.handler != "pay":
            free = seats - held + mine - sold
            return [((seats, held - mine, sold, cents, paid, left), "done", free)]
        price = mine * cents
        if call.arguments["cents"] < price:
            return [(state, "aborted", ["too little", {"missing": price - call.arguments["cents"]}])]
        flight = call.value[1] if call.value else ""
        ticket = [call.txn_id, flight, mine, call.arguments["cents"] - price]
        return [((seats, held - mine, sold + mine, cents, paid + price, left), "done", ticket)]

    def _hold(self, state: Any, call: Call) -> list[tuple[Hashable, str, Any]]:
        seats, held, sold, cents, paid, bookings = state
        wanted, free = call.arguments["seats"], seats - held - sold
        if wanted < 1:
            return [(state, "aborted", ["bad number", {"seats": wanted}])]
        if wanted > free:
            return [(state, "aborted", ["sold out", {"flight": call.arguments["flight"], "free": free}])]
        booked = tuple(sorted((*bookings, (call.txn_id, wanted))))
        return [((seats, held + wanted, sold, cents, paid, booked), "done", wanted * cents)]

    def audit(self, history: History) -> list[str]:
        """No flight is overbooked; tickets, seats sold and money agree."""
        wrong = []
        for flight, (seats, held, sold, cents, paid) in history.final_state["flights"].items():
            if held < 0 or sold < 0 or held + sold > seats or paid != sold * cents:
                wrong.append(f"flight {flight}: {seats} seats, {held} held, {sold} sold at {cents}, {paid} paid")
        total = sum(row[2] for row in history.final_state["flights"].values())
        if total != history.final_state["sold"]:
            wrong.append(f"flights have sold {total} seats, the tickets come to {history.final_state['sold']}")
        return wrong


WORKLOAD = Workload(Airline, AirlineModel(), prepare, converse, audit, PATIENCE_MS)
