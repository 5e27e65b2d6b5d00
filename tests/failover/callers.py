"""Callers that never give up a message, and the count of what they were told against what is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from replicator import OutcomeUnknown, Unavailable, connect, transaction, with_options
from tests.failover.service import Payments

R = TypeVar("R")

#: A caller that has no answer after this long fails its test.
PATIENCE_S = 30.0


def insist(call: Callable[[], R]) -> R:
    """Repeat one message, with the same ids, until it has an answer."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except (OutcomeUnknown, Unavailable):
            if time.monotonic() > end_s:
                raise


@dataclass
class Tally:
    """What callers were told."""

    booked: dict[str, int] = field(default_factory=dict)  # transaction id -> cents acknowledged
    totals: dict[str, int] = field(default_factory=dict)  # account -> cents acknowledged
    errors: list[BaseException] = field(default_factory=list)
    messages: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def play(client: Payments, account: str, count: int, tally: Tally, *, adds: int = 2) -> None:
    """Play *count* transactions on one account, each of start, *adds* add, finish."""
    for number in range(count):
        with transaction(client) as call:
            txn_id = insist(lambda: call.start(account=account))
            expected = 0
            for step in range(adds):
                cents = 1 + (number * 7 + step) % 50
                expected += cents
                got = insist(lambda: call.add(cents=cents))  # noqa: B023 - called at once
                assert got == expected, f"TSD lost: {got} instead of {expected}"
            total = insist(call.finish)
        with tally.lock:
            tally.booked[txn_id] = expected
            tally.totals[account] = tally.totals.get(account, 0) + expected
            tally.messages += adds + 2
            assert total == tally.totals[account], f"{account} has {total} instead of {tally.totals[account]}"


def start_callers(config: Path, tally: Tally, *, callers: int, count: int) -> list[threading.Thread]:
    """Start threads, each with a client and an account of its own."""

    def run(number: int) -> None:
        try:
            with connect(Payments, config) as client:
                play(with_options(client, timeout_s=5.0), f"account-{number}", count, tally)
        except BaseException as error:  # told to the test by `join`
            tally.errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(callers)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread], tally: Tally) -> None:
    """Wait for all callers; fail as the first of them failed."""
    for thread in threads:
        thread.join(PATIENCE_S * 2)
        assert not thread.is_alive(), "a caller is stuck"
    if tally.errors:
        raise tally.errors[0]


def audit(config: Path, tally: Tally) -> None:
    """Everything acknowledged took effect, exactly once, and nothing else did."""
    with connect(Payments, config) as client:
        for account, cents in tally.totals.items():
            assert client.total(account=account) == cents
        txn_ids = tuple(sorted(tally.booked))
        assert client.times(txn_ids=txn_ids) == (1,) * len(txn_ids)
