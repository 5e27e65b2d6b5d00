"""What a caller gives as a transaction's id: one of ours as it was shown, or a name; never one for the other."""

from __future__ import annotations

import hashlib
import random
import uuid

import pytest

from replicator import UsageError, reply, transaction, with_options
from replicator.core.messages import created_ms, named_txn_id, new_txn_id, read_txn_id
from replicator.ids import id_of, shown_id
from replicator.testing import Local
from tests.core.services import Bank

NAMES = [
    uuid.UUID(int=1 << 127 | 7, version=4).hex,  # its first 12 digits, read as a time, lie in the year 6429
    hashlib.md5(b"order-17").hexdigest(),
    hashlib.md5(b"order-17").hexdigest().upper(),
    str(uuid.UUID(int=7, version=4)),
    hashlib.sha256(b"order-17").hexdigest(),
    "0" * 32,
    "0000 0000 0000 0000 0000 0000 17",
    "0000 0000 0000 0000 0000 00 0017",
    "0" * 12 + "-" + "0" * 19,
    "0" * 12 + "-" + "0" * 19 + " ",
    "0" * 12 + "-" + "0" * 19 + "\N{ARABIC-INDIC DIGIT ONE}",
    " ",
    "order-17",
    "order-17 ",
]


def test_every_text_that_is_no_id_of_ours_is_a_name_and_each_another() -> None:
    assert [id_of(name) for name in NAMES] == [None] * len(NAMES)
    ids = [read_txn_id(name) for name in NAMES]
    assert ids == [named_txn_id(name) for name in NAMES]
    assert len(set(ids)) == len(NAMES)
    with Local(Bank) as bank:
        for count, name in enumerate(NAMES, start=1):
            for _ in range(2):
                assert with_options(bank, txn_id=name).deposit(owner="x", cents=1) == count


def test_what_is_shown_reads_back_in_any_case() -> None:
    chance = random.Random(1)
    for txn_id in [new_txn_id(1_700_000_000_000, chance.randbytes(10)) for _ in range(100)] + [named_txn_id("x")]:
        assert read_txn_id(shown_id(txn_id)) == read_txn_id(shown_id(txn_id).upper()) == txn_id
    assert created_ms(named_txn_id("x")) == 0


@pytest.mark.parametrize("txn_id", ["", b"order-17", 17, True, ["x"], "order-\ud800"])
def test_what_is_no_text_names_no_transaction(txn_id: object) -> None:
    with Local(Bank) as bank:
        with pytest.raises(UsageError, match="txn_id"):
            with_options(bank, txn_id=txn_id)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="txn_id"):
            transaction(bank, txn_id=txn_id)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, "order-17"])
def test_the_id_in_a_reply_repeats_its_message(name: str | None) -> None:
    with Local(Bank) as bank:
        first = reply((bank if name is None else with_options(bank, txn_id=name)).deposit, owner="x", cents=1)
        again = reply(with_options(bank, txn_id=first.txn_id).deposit, owner="x", cents=1)
        assert (again.value, again.seq, again.txn_id) == (1, first.seq, first.txn_id)
