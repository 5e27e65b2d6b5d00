"""Own the example's input: makes `data/cards.csv`, `data/tariffs.csv` and `data/calls.csv` from one seed.

    python -m examples.prepaid.generate [FOLDER]

The files are in the tree; a test checks that this script makes exactly them. Only `randrange` of a seeded generator is
used, whose numbers are the same in every Python since 3.2.

calls.csv, one row a call, the calls of one card in the order in which they are made:
- `call`: its name; `card`, `pin`, `origin`, `destination`: what authorize is told;
- `reserves`: seconds of each reserve message, as `60+60`; `seconds`: talk time told to terminate;
- `ends`: `terminate`, or `silence` (nothing more comes after the last reserve: the deadline ends the call);
- `during`: the call of the same card while which this one is tried, or empty.

Never does: compute an outcome. Whether a call is refused follows from the files (see `audit.py`).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

SEED = 6_347_322
CARD_COUNT = 320
CALL_COUNT = 2_400
DATA = Path(__file__).parent / "data"

CARD_COLUMNS = ("card", "pin", "plan", "balance_cents", "state")
TARIFF_COLUMNS = ("plan", "prefix", "connection_cents", "unit_seconds", "unit_cents")
CALL_COLUMNS = ("call", "card", "pin", "origin", "destination", "reserves", "seconds", "ends", "during")

#: plan, prefix, connection fee, seconds of a unit, cents of a unit. The pseudo plan `origin` holds the surcharges.
TARIFFS: tuple[tuple[str, str, int, int, int], ...] = (
    ("minute", "+49", 0, 60, 4),
    ("minute", "+4915", 0, 60, 12),
    ("minute", "+44", 5, 60, 9),
    ("minute", "+1", 5, 60, 7),
    ("minute", "+1900", 50, 60, 150),
    ("minute", "+800", 0, 60, 0),
    ("second", "+49", 3, 1, 1),
    ("second", "+44", 6, 1, 1),
    ("second", "+4479", 6, 1, 2),
    ("second", "+33", 6, 1, 1),
    ("second", "+800", 0, 1, 0),
    ("business", "+49", 9, 6, 1),
    ("business", "+1", 9, 6, 2),
    ("business", "+1212", 9, 6, 1),
    ("business", "+81", 25, 30, 14),
    ("business", "+800", 0, 6, 0),
    ("origin", "fixed", 0, 0, 0),
    ("origin", "mobile", 5, 0, 0),
    ("origin", "payphone", 30, 0, 0),
)
PLANS = ("minute", "second", "business")
ORIGINS = ("fixed", "fixed", "fixed", "mobile", "mobile", "payphone")
DESTINATIONS = {
    "minute": ("+4930", "+4989", "+49151", "+4420", "+1415", "+1900", "+80012"),
    "second": ("+4930", "+4940", "+4420", "+44791", "+331", "+80012"),
    "business": ("+4930", "+4969", "+1415", "+1212", "+813", "+80012"),
}
UNREACHED = "+99955"  # no plan has a rate for it

Row = dict[str, str]


def generate(seed: int = SEED) -> dict[str, str]:
    """Return `{file name: text}`."""
    random = Random(seed)
    cards = [_card(random, index) for index in range(CARD_COUNT)]
    calls = _calls(random, cards)
    tariffs = [[str(value) for value in row] for row in TARIFFS]
    return {
        "cards.csv": _text(CARD_COLUMNS, ([card[name] for name in CARD_COLUMNS] for card in cards)),
        "tariffs.csv": _text(TARIFF_COLUMNS, tariffs),
        "calls.csv": _text(CALL_COLUMNS, ([call[name] for name in CALL_COLUMNS] for call in calls)),
    }


def _text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in (columns, *rows))


def _pick(random: Random, choices: Sequence[str]) -> str:
    return choices[random.randrange(len(choices))]


def _card(random: Random, index: int) -> Row:
    kind = random.randrange(100)
    balance_cents = 500 + random.randrange(9_500)
    if kind < 4:
        balance_cents = random.randrange(12)  # not enough for a call to most places
    elif kind < 18:
        balance_cents = 40 + random.randrange(260)  # used up by a few calls
    return {
        "card": f"8949{4_711_000_000 + 7_919 * index:012d}",
        "pin": f"{random.randrange(10_000):04d}",
        "plan": _pick(random, PLANS),
        "balance_cents": str(balance_cents),
        "state": "blocked" if random.randrange(100) < 4 else "active",
    }


def _calls(random: Random, cards: list[Row]) -> list[Row]:
    """Draw cards until there are enough calls, so that the calls of different cards are mixed."""
    calls: list[Row] = []
    while len(calls) < CALL_COUNT:
        card = cards[random.randrange(len(cards))]
        call = _call(random, card, len(calls) + 1)
        calls.append(call)
        is_disturbed = random.randrange(100) < 6
        if is_disturbed and call["ends"] == "terminate" and len(calls) < CALL_COUNT:
            second = _call(random, card, len(calls) + 1)
            second["ends"] = "terminate"
            if call["card"] == card["card"]:  # with a mistyped number, the first call uses no card
                second["during"] = call["call"]
            calls.append(second)
    return calls


def _call(random: Random, card: Row, number: int) -> Row:
    tranches = [30 + 30 * random.randrange(6) for _ in range(random.randrange(4))]
    call = {
        "call": f"call-{number:04d}",
        "card": card["card"],
        "pin": card["pin"],
        "origin": f"{_pick(random, ORIGINS)}:+49{random.randrange(10**8):08d}",
        "destination": f"{_pick(random, DESTINATIONS[card['plan']])}{random.randrange(10**6):06d}",
        "reserves": "+".join(map(str, tranches)),
        "seconds": str(_seconds(random, tranches)),
        "ends": "terminate",
        "during": "",
    }
    _disturb(random, call, card)
    return call


def _seconds(random: Random, tranches: list[int]) -> int:
    """Draw a talk time that makes use of the last tranche; now and then nobody answers, or one second too many."""
    first = 120
    before = (first + sum(tranches[:-1])) if tranches else 0
    total = first + sum(tranches)
    kind = random.randrange(100)
    if kind < 6 and not tranches:
        return 0
    if kind < 9:
        return total + 1 + random.randrange(30)
    return before + 1 + random.randrange(total - before)


def _disturb(random: Random, call: Row, card: Row) -> None:
    """Turn some calls into ones that are refused, or whose switch falls silent."""
    kind = random.randrange(1_000)
    if kind < 35:
        call["pin"] = f"{(int(card['pin']) + 1 + random.randrange(9_999)) % 10_000:04d}"
    elif kind < 50:
        call["card"] = f"9999{random.randrange(10**12):012d}"
    elif kind < 75:
        call["destination"] = UNREACHED + call["destination"][-6:]
    elif kind < 90:
        call["ends"] = "silence"


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a CSV file with a head line, as `{column: text}`."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(folder: Path = DATA) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in generate().items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {folder / name}: {text.count(chr(10)) - 1} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
