"""The audit: agrees with the service on all calls, and sees every kind of planted mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from examples.prepaid import audit
from examples.prepaid.audit import EndState, Expected, SeenCard, SeenCharge, Told
from examples.prepaid.generate import DATA, Row, read_csv
from examples.prepaid.records import ACKNOWLEDGED, REFUSED, MessageRecord, tell
from examples.prepaid.service import Grant, NewRate, NewSurcharge
from replicator.errors import Aborted
from tests.examples.direct import Direct, new_card

CALLS = 400


class DirectPlay:
    """Plays calls on a database without processes, one after another."""

    def __init__(self, rows: list[Row]) -> None:
        self.database = Direct()
        self.told: dict[str, Told] = {}
        self.calls: dict[str, str] = {}
        self._during: dict[str, list[Row]] = {}
        for row in rows:
            self._during.setdefault(row["during"], []).append(row)
        self._load()
        for row in self._during[""]:
            self._play(row)

    def _load(self) -> None:
        tariffs = read_csv(DATA / "tariffs.csv")
        names = ("connection_cents", "unit_seconds", "unit_cents")
        rates = [NewRate(row["plan"], row["prefix"], *(int(row[name]) for name in names)) for row in tariffs]
        surcharges = [NewSurcharge(row["prefix"], int(row["connection_cents"])) for row in tariffs]
        self.database.once(
            "load_tariffs",
            rates=tuple(rate for rate in rates if rate.plan != "origin"),
            surcharges=tuple(each for each, rate in zip(surcharges, rates, strict=True) if rate.plan == "origin"),
        )
        cards = [
            new_card(row["card"], int(row["balance_cents"]), row["pin"], plan=row["plan"], state=row["state"])
            for row in read_csv(DATA / "cards.csv")
        ]
        self.database.once("load_cards", cards=tuple(cards))

    def _play(self, row: Row) -> None:
        name = row["call"]
        acknowledged, refusals, cents = 0, [], None

        def ask(handler: str, **arguments: object) -> object:
            nonlocal acknowledged
            try:
                value = self.database.call(name, handler, **arguments)
            except Aborted as refusal:
                refusals.append(f"{handler}: {refusal.reason}")
                return None
            acknowledged += 1
            return value

        grant = ask("authorize", **{key: row[key] for key in ("card", "pin", "origin", "destination")})
        for other in self._during.get(name, []):
            self._play(other)
        if isinstance(grant, Grant):
            self.calls[grant.call] = name
            for tranche in filter(None, row["reserves"].split("+")):
                more = ask("reserve", seconds=int(tranche))
                if not isinstance(more, Grant):
                    break
                grant = more
            if row["ends"] == "silence" and not refusals:
                self.database.wait(180_000)
            else:
                receipt = ask("terminate", seconds=int(row["seconds"]))
                receipt = receipt or ask("terminate", seconds=grant.reserved_seconds)
                cents = receipt.cents  # type: ignore[attr-defined]
        self.told[name] = Told(acknowledged, acknowledged, tuple(refusals), cents)

    def end(self) -> EndState:
        """Read the end state."""
        end = EndState()
        for card in self.database.read("cards_after", number="", count=500):
            end.cards[card.number] = SeenCard(card.balance_cents, card.reserved_cents, bool(card.call))
        after = ""
        while lines := self.database.read("charges_after", call=after, count=500):
            for line in lines:
                seen = SeenCharge(line.card, line.seconds, line.cents, line.messages, line.ended_by)
                end.charges[self.calls[line.call]] = seen
            after = lines[-1].call
        return end


def good_end(expected: Expected) -> tuple[EndState, dict[str, Told]]:
    """Make the end state and the callers' notes that the computation demands."""
    end = EndState()
    told = {}
    for number, balance_cents in expected.balances.items():
        end.cards[number] = SeenCard(balance_cents, 0, False)
    for name, call in expected.calls.items():
        if call.is_charged:
            end.charges[name] = SeenCharge(call.card, call.seconds, call.cents, call.messages, call.ended_by)
        cents = call.cents if call.ended_by == "terminate" else None
        told[name] = Told(call.messages, call.messages, call.refusals, cents)
    return end, told


def findings(expected: Expected, end: EndState, told: dict[str, Told]) -> tuple[int, int, str]:
    """Return (lost, doubled, verdict)."""
    effects = audit.count_effects(told, end, loaded=expected.balances)
    return effects.lost, effects.doubled, audit.verdict([*effects.problems, *audit.find_wrong(expected, end, told)])


def test_service_and_audit_agree_on_every_call() -> None:
    """All calls of the file, one after another; the two were written apart and compute prices differently."""
    rows = read_csv(DATA / "calls.csv")
    played = DirectPlay(rows)
    assert findings(audit.compute(DATA), played.end(), played.told) == (0, 0, "ok")


def test_the_order_of_different_cards_does_not_matter() -> None:
    rows = read_csv(DATA / "calls.csv")[:CALLS]
    played = DirectPlay(sorted(rows, key=lambda row: row["card"]))
    assert findings(audit.compute(DATA, CALLS), played.end(), played.told) == (0, 0, "ok")


def change_charge(end: EndState, **changes: object) -> None:
    """Change the charge of the first call."""
    name = min(end.charges)
    end.charges[name] = dataclasses.replace(end.charges[name], **changes)  # type: ignore[arg-type]


def lose_call(end: EndState) -> None:
    """Take a call out, and give the money back: as if it had never been."""
    name = min(end.charges)
    charge = end.charges.pop(name)
    card = end.cards[charge.card]
    end.cards[charge.card] = dataclasses.replace(card, balance_cents=card.balance_cents + charge.cents)


def double_call(end: EndState) -> None:
    """Charge a call a second time, as a transaction of its own."""
    charge = end.charges[min(end.charges)]
    card = end.cards[charge.card]
    end.cards[charge.card] = dataclasses.replace(card, balance_cents=card.balance_cents - charge.cents)
    end.strangers.append("00ff")


def move_cent(end: EndState) -> None:
    """Move a cent from one card to another: the sum stays right."""
    first, second = sorted(end.cards)[:2]
    end.cards[first] = dataclasses.replace(end.cards[first], balance_cents=end.cards[first].balance_cents - 1)
    end.cards[second] = dataclasses.replace(end.cards[second], balance_cents=end.cards[second].balance_cents + 1)


@pytest.mark.parametrize(
    ("plant", "lost", "doubled", "word"),
    [
        (lambda end: change_charge(end, cents=99_999), 0, 0, "call-0001: charge"),
        (lambda end: change_charge(end, messages=99), 0, 97, "99 in effect"),
        (lambda end: change_charge(end, ended_by="hang_up"), 0, 0, "call-0001: charge"),
        (lose_call, 2, 0, "call-0001: 2 messages acknowledged, 0 in effect"),
        (double_call, 0, 1, "txn 00ff"),
        (move_cent, 0, 0, "computed balance"),
        (lambda end: end.cards.pop(min(end.cards)), 1, 0, "is not there"),
        (lambda end: end.cards.update(x=SeenCard(1, 0, False)), 0, 0, "money is not conserved"),
        (lambda end: end.cards.update({max(end.cards): SeenCard(0, 5, True)}), 0, 0, "nothing reserved"),
        (lambda end: end.charges.update(x=SeenCharge("c", 0, 0, 1, "hang_up")), 0, 1, "that was not made"),
    ],
)
def test_a_planted_mistake_is_found(plant: Callable[[EndState], object], lost: int, doubled: int, word: str) -> None:
    expected = audit.compute(DATA, CALLS)
    end, told = good_end(expected)
    assert findings(expected, end, told) == (0, 0, "ok")
    plant(end)
    found = findings(expected, end, told)
    assert found[:2] == (lost, doubled)
    assert word in found[2]


def test_an_acknowledged_message_without_effect_is_lost_and_a_wrong_receipt_is_found() -> None:
    expected = audit.compute(DATA, CALLS)
    end, told = good_end(expected)
    first = min(end.charges)
    told[first] = dataclasses.replace(told[first], acknowledged=told[first].acknowledged + 1)
    assert findings(expected, end, told)[0] == 1
    told = good_end(expected)[1]
    told[first] = dataclasses.replace(told[first], cents=1)
    assert "the caller was told 1 cents" in findings(expected, end, told)[2]


def test_a_wrong_or_missing_refusal_is_found() -> None:
    expected = audit.compute(DATA, CALLS)
    end, told = good_end(expected)
    busy = next(name for name, call in expected.calls.items() if call.refusals == ("authorize: busy card",))
    told[busy] = dataclasses.replace(told[busy], refusals=("authorize: UnknownTransaction: ...",))
    del told[min(told)]
    verdict = findings(expected, end, told)[2]
    assert f"{busy}: refusals" in verdict
    assert "was never made" in verdict


def test_a_call_charged_although_refused_is_found() -> None:
    expected = audit.compute(DATA, CALLS)
    end, told = good_end(expected)
    busy = next(name for name, call in expected.calls.items() if call.refusals == ("authorize: busy card",))
    end.charges[busy] = SeenCharge(expected.calls[busy].card, 60, 5, 2, "terminate")
    lost, doubled, verdict = findings(expected, end, told)
    assert (lost, doubled) == (0, 2)
    assert f"{busy}: was to be refused but is charged 5 cents" in verdict


def test_a_long_list_of_problems_is_shortened() -> None:
    verdict = audit.verdict(f"p{index}" for index in range(30))
    assert verdict.endswith("; p19; and 10 more")


def record(msg_no: int, handler: str, outcome: str, reason: str = "", cents: int | None = None) -> MessageRecord:
    """Make one record of call c."""
    return MessageRecord("c", "ff", msg_no, handler, outcome, reason, cents, 1, 0, 0.0, 0.0)


def test_records_are_summed_up_by_call_and_loading_is_left_out() -> None:
    records = [
        record(3, "terminate", ACKNOWLEDGED, cents=7),
        record(1, "authorize", ACKNOWLEDGED),
        record(2, "reserve", REFUSED, "no balance"),
        dataclasses.replace(record(1, "load_cards", ACKNOWLEDGED), call=""),
    ]
    assert tell(records) == {"c": Told(2, 2, ("reserve: no balance",), 7)}
