"""Own the price of a call: rates, surcharges, and the arithmetic in whole cents.

A rate belongs to a plan and a prefix of the dialled number; the longest prefix that has a rate wins. A call that was
answered costs the connection fee, the surcharge of its origin, and each *started* unit; one of 0 seconds costs nothing.

Never does: touch a card, or use a float. `audit.py` computes the same prices in another way and imports none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: No dialled number is longer (E.164 allows 15 digits, and a plus sign); bounds the search for a prefix.
NUMBER_CHARS_MAX = 16


@dataclass(frozen=True, slots=True)
class Rate:
    """What one prefix costs in one plan."""

    connection_cents: int
    unit_seconds: int
    unit_cents: int


def find_rate(rates: Mapping[tuple[str, str], Rate], plan: str, destination: str) -> Rate | None:
    """Return the rate of the longest prefix of *destination*; None if the plan does not reach it.

    O(length of the number) lookups.

    >>> local, mobile = Rate(0, 60, 2), Rate(5, 60, 9)
    >>> find_rate({("day", "+49"): local, ("day", "+4915"): mobile}, "day", "+4915112345").unit_cents
    9
    """
    for length in range(min(len(destination), NUMBER_CHARS_MAX), 0, -1):
        rate = rates.get((plan, destination[:length]))
        if rate is not None:
            return rate
    return None


def price_cents(rate: Rate, surcharge_cents: int, seconds: int) -> int:
    """Return the price of a call of *seconds*.

    >>> price_cents(Rate(connection_cents=5, unit_seconds=60, unit_cents=9), 10, 61)
    33
    """
    if seconds == 0:
        return 0
    started_units = -(-seconds // rate.unit_seconds)
    return rate.connection_cents + surcharge_cents + started_units * rate.unit_cents


def affordable_seconds(rate: Rate, surcharge_cents: int, cents: int, wanted_seconds: int) -> int:
    """Return the longest time, up to *wanted_seconds*, that *cents* pay for; 0 if not even one unit.

    >>> affordable_seconds(Rate(connection_cents=5, unit_seconds=60, unit_cents=9), 0, 25, 300)
    120
    """
    if price_cents(rate, surcharge_cents, wanted_seconds) <= cents:
        return wanted_seconds
    left_cents = cents - rate.connection_cents - surcharge_cents
    if left_cents < rate.unit_cents or rate.unit_cents == 0:
        return 0
    return left_cents // rate.unit_cents * rate.unit_seconds
