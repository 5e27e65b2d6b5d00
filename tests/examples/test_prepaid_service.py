"""The handlers of the prepaid example, run directly: money, refusals, the deadline."""

from __future__ import annotations

from typing import Any

import pytest

from examples.prepaid.service import Grant, NewRate, NewSurcharge, Receipt, hash_pin
from replicator.errors import Aborted, TransactionFinished, UnexpectedMessage, UnknownTransaction
from tests.examples.direct import Direct, new_card

DIALLED = {"card": "c1", "pin": "1234", "origin": "payphone:+4930", "destination": "+4420123"}


@pytest.fixture
def database() -> Direct:
    """A database with one card of 10.00 and one rate: 5 + 10 for the origin + 9 a started minute."""
    direct = Direct()
    rates = (
        NewRate("minute", "+44", 5, 60, 9),
        NewRate("minute", "+442", 5, 60, 9),
        NewRate("minute", "+800", 0, 60, 0),
    )
    direct.once("load_tariffs", rates=rates, surcharges=(NewSurcharge("payphone", 10), NewSurcharge("fixed", 0)))
    direct.once("load_cards", cards=(new_card(),))
    return direct


def refusal_of(database: Direct, txn: str, handler: str, **arguments: Any) -> str:
    """Send a message that must be refused; return the reason, after checking that no row changed."""
    before = database.read("cards_after", number="", count=500), database.read("charges_after", call="", count=500)
    with pytest.raises(Aborted) as refused:
        database.call(txn, handler, **arguments)
    after = database.read("cards_after", number="", count=500), database.read("charges_after", call="", count=500)
    assert after == before
    return refused.value.reason


def test_a_call_costs_what_was_talked_and_frees_the_card(database: Direct) -> None:
    grant = database.call("t", "authorize", **DIALLED)
    assert (grant.reserved_seconds, grant.reserved_cents) == (120, 33)
    assert database.read("balance", card="c1").reserved_cents == 33
    assert isinstance(database.call("t", "reserve", seconds=60), Grant)
    receipt = database.call("t", "terminate", seconds=121)
    assert receipt == Receipt(grant.call, 121, 5 + 10 + 3 * 9, 1_000 - 42)
    card = database.read("balance", card="c1")
    assert (card.balance_cents, card.reserved_cents, card.call) == (958, 0, "")
    (charge,) = database.read("charges_after", call="", count=10)
    assert (charge.call, charge.cents, charge.messages, charge.ended_by) == (grant.call, 42, 3, "terminate")


def test_a_call_that_nobody_answered_is_free(database: Direct) -> None:
    database.call("t", "authorize", **DIALLED)
    assert database.call("t", "terminate", seconds=0).cents == 0


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"card": "c9"}, "unknown card"),
        ({"card": "blocked"}, "blocked card"),
        ({"pin": "4321"}, "wrong PIN"),
        ({"destination": "+999"}, "no tariff"),
        ({"origin": "satellite:+1"}, "no tariff"),
        ({"card": "poor"}, "no balance"),
    ],
)
def test_authorize_refuses_and_changes_nothing(database: Direct, changed: dict[str, str], reason: str) -> None:
    database.once("load_cards", cards=(new_card("blocked", state="blocked"), new_card("poor", balance_cents=23)))
    assert refusal_of(database, "t", "authorize", **{**DIALLED, **changed}) == reason
    with pytest.raises(TransactionFinished):
        database.call("t", "terminate", seconds=1)


def test_a_second_call_on_a_busy_card_is_refused_until_the_first_ends(database: Direct) -> None:
    database.call("first", "authorize", **DIALLED)
    assert refusal_of(database, "second", "authorize", **DIALLED) == "busy card"
    database.call("first", "terminate", seconds=1)
    database.call("third", "authorize", **DIALLED)


def test_a_small_balance_is_granted_in_whole_units_and_no_more(database: Direct) -> None:
    database.once("load_cards", cards=(new_card("small", balance_cents=32),))
    grant = database.call("t", "authorize", **{**DIALLED, "card": "small"})
    assert (grant.reserved_seconds, grant.reserved_cents) == (60, 24)
    assert refusal_of(database, "t", "reserve", seconds=1) == "no balance"
    assert refusal_of(database, "t", "terminate", seconds=61) == "not reserved"
    assert database.call("t", "terminate", seconds=60).balance_cents == 8


@pytest.mark.parametrize("seconds", [0, -1, 3_601])
def test_a_bad_duration_is_refused_and_the_call_stays_open(database: Direct, seconds: int) -> None:
    database.call("t", "authorize", **DIALLED)
    assert refusal_of(database, "t", "reserve", seconds=seconds) == "bad duration"
    assert refusal_of(database, "t", "terminate", seconds=-1) == "bad duration"
    database.call("t", "terminate", seconds=60)


def test_a_silent_switch_is_hung_up_and_charged_the_time_before_its_last_reserve(database: Direct) -> None:
    grant = database.call("t", "authorize", **DIALLED)
    database.call("t", "reserve", seconds=60)
    database.call("t", "reserve", seconds=60, silence_ms=2_000)
    database.wait(1_999)
    assert database.read("balance", card="c1").call == grant.call
    database.wait(1)
    (charge,) = database.read("charges_after", call="", count=10)
    assert (charge.seconds, charge.cents, charge.messages, charge.ended_by) == (180, 42, 3, "hang_up")
    assert database.read("balance", card="c1").balance_cents == 958
    with pytest.raises(TransactionFinished):
        database.call("t", "terminate", seconds=200)


def test_a_switch_silent_after_authorize_is_charged_nothing(database: Direct) -> None:
    database.call("t", "authorize", **DIALLED, silence_ms=100)
    database.wait(100)
    (charge,) = database.read("charges_after", call="", count=10)
    assert (charge.seconds, charge.cents, charge.messages) == (0, 0, 1)


@pytest.mark.parametrize("handler", ["terminate", "reserve", "hang_up"])
def test_a_transaction_that_did_not_authorize_is_refused(database: Direct, handler: str) -> None:
    arguments = {} if handler == "hang_up" else {"seconds": 1}
    assert refusal_of(database, "t", handler, **arguments) == "no call"


def test_hang_up_cannot_be_sent_by_a_client_in_a_call(database: Direct) -> None:
    database.call("t", "authorize", **DIALLED)
    with pytest.raises(UnexpectedMessage):
        database.call("t", "hang_up")


def test_a_message_of_a_call_that_never_began_is_refused(database: Direct) -> None:
    database._msg_nos["t"] = 1
    with pytest.raises(UnknownTransaction):
        database.call("t", "terminate", seconds=1)


def test_a_free_number_costs_nothing_beyond_the_surcharge(database: Direct) -> None:
    database.once("load_cards", cards=(new_card("zero", balance_cents=0),))
    call = {**DIALLED, "card": "zero", "destination": "+80012"}
    assert refusal_of(database, "payphone", "authorize", **call) == "no balance"
    assert database.call("fixed", "authorize", **{**call, "origin": "fixed:+1"}).reserved_seconds == 120
    assert database.call("fixed", "terminate", seconds=120).cents == 0


def test_a_batch_of_cards_is_loaded_whole_or_not_at_all(database: Direct) -> None:
    assert refusal_of(database, "t", "load_cards", cards=(new_card("new"), new_card("c1"))) == "card exists"
    assert refusal_of(database, "u", "load_cards", cards=(new_card("new", balance_cents=-1),)) == "bad card"
    assert refusal_of(database, "v", "load_cards", cards=(new_card("new", salt=b""),)) == "bad card"


def test_a_bad_tariff_is_refused(database: Direct) -> None:
    rates = (NewRate("minute", "+1", 0, 0, 1),)
    assert refusal_of(database, "t", "load_tariffs", rates=rates, surcharges=()) == "bad tariff"
    assert refusal_of(database, "u", "load_tariffs", rates=(), surcharges=(NewSurcharge("fixed", -1),)) == "bad tariff"


def test_pages_follow_one_another_without_gap_or_repeat(database: Direct) -> None:
    database.once("load_cards", cards=tuple(new_card(f"p{index:02d}") for index in range(7)))
    numbers: list[str] = []
    while page := database.read("cards_after", number=numbers[-1] if numbers else "", count=3):
        assert len(page) <= 3
        numbers += [line.number for line in page]
    assert numbers == ["c1", *(f"p{index:02d}" for index in range(7))]


def test_equal_pins_of_two_cards_have_different_hashes() -> None:
    assert hash_pin("1234", bytes(16)) != hash_pin("1234", bytes(15) + b"1")
