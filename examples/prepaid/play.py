"""Own the driver: plays the calls of calls.csv with many concurrent callers, and audits what came of them.

Each caller (a thread, as a telephone switch has many lines) takes one card after another and makes the card's calls in
file order, each as soon as the journal lets it begin:
1. `authorize`. Refused: the call is over.
2. The calls that are tried during this one.
3. Each `reserve`. Refused: no more of them; the call is then terminated in any case.
4. `ends = silence`: nothing more; the caller waits until the deadline has ended the call.
   Else `terminate`; if that is refused as not reserved, `terminate` with the seconds that were granted.

A caller that gets no answer repeats the very same message, with the same ids, until it has one: so every message has an
outcome in the end, and the audit can demand that each took effect exactly once.

Never does: compute a price (audit.py), start or kill a process (demo.py).
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from examples.prepaid import audit
from examples.prepaid.generate import DATA, Row, read_csv
from examples.prepaid.records import ACKNOWLEDGED, REFUSED, GaveUp, Journal, MessageRecord, tell
from examples.prepaid.service import Grant, NewCard, NewRate, NewSurcharge, PrepaidCalls, Receipt, hash_pin
from replicator import (
    Aborted,
    OutcomeUnknown,
    ReplicatorError,
    Unavailable,
    connect,
    reply,
    transaction,
    with_options,
)

P = ParamSpec("P")
R = TypeVar("R")

#: Cards in one load message: about 100 bytes each, far below the message limit.
LOAD_CARDS = 100
#: A silent switch: short, so that the play does not wait for long; only the last message of a call carries it.
SILENT_MS = 300
#: Before the same message is sent again: the client has used up its own deadline by then.
REPEAT_PAUSE_S = 0.02
PAGE_ROWS = 500


@dataclass(frozen=True, slots=True)
class Group:
    """All calls of one card, in file order, with those tried during another."""

    calls: tuple[Row, ...]
    during: dict[str, list[Row]]


class Line:
    """One transaction as a caller sees it: sends a message until it has an answer, and notes both."""

    def __init__(self, journal: Journal, call: str) -> None:
        self._journal = journal
        self._call = call
        self._msg_no = 0

    def ask(self, send: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Send a message and return its result; None if it was refused. Raises GaveUp if the play is over."""
        self._msg_no += 1
        self._journal.note_send()
        sent_s = time.monotonic()
        repeats = 0
        while True:
            if self._journal.is_over:
                raise GaveUp("the play was stopped")
            try:
                answer = reply(send, *args, **kwargs)
            except (OutcomeUnknown, Unavailable):
                repeats += 1
                self._journal.pause(REPEAT_PAUSE_S)
                continue
            except ReplicatorError as refusal:
                self._note(send, _reason(refusal), None, 0, repeats, sent_s, getattr(refusal, "txn_id", ""))
                return None
            self._note(send, "", answer.value, answer.view, repeats, sent_s, answer.txn_id)
            return answer.value

    def _note(
        self, send: object, reason: str, value: object, view: int, repeats: int, sent_s: float, txn_id: str
    ) -> None:
        self._journal.note(
            MessageRecord(
                call=self._call,
                txn_id=txn_id,
                msg_no=self._msg_no,
                handler=_handler_name(send),
                outcome=REFUSED if reason else ACKNOWLEDGED,
                reason=reason,
                cents=value.cents if isinstance(value, Receipt) else None,
                view=view,
                repeats=repeats,
                sent_s=sent_s,
                answered_s=time.monotonic(),
            )
        )


def _reason(refusal: ReplicatorError) -> str:
    """A refusal of the service by its reason; any other final error by its class, which no audit expects."""
    return refusal.reason if isinstance(refusal, Aborted) else f"{type(refusal).__name__}: {refusal}"


def _handler_name(send: object) -> str:
    spec = getattr(send, "spec", None)
    assert spec is not None, "send must be a handler of a client object"
    return str(spec.name)


class Caller:
    """Makes the calls of one card after another."""

    def __init__(self, prepaid: PrepaidCalls, journal: Journal) -> None:
        self._prepaid = prepaid
        self._journal = journal

    def run(self, groups: queue.SimpleQueue[Group]) -> None:
        """Play groups until there are no more, or the play is over."""
        try:
            while True:
                try:
                    group = groups.get_nowait()
                except queue.Empty:
                    return
                for call in group.calls:
                    with self._journal.call():
                        self.play(call, group.during)
        except GaveUp:
            return
        except Exception as failure:  # a bug, here or in the client: it ends the play and is raised by `finish`
            self._journal.note_failure(failure)
        finally:
            self._journal.note_leave()

    def play(self, row: Row, during: dict[str, list[Row]]) -> None:
        """Make one call, and those tried during it."""
        with transaction(self._prepaid) as call:
            line = Line(self._journal, row["call"])
            tranches = [int(tranche) for tranche in row["reserves"].split("+") if tranche]
            is_silent = row["ends"] == "silence"
            dialled = row["card"], row["pin"], row["origin"], row["destination"]
            if is_silent and not tranches:
                grant = line.ask(call.authorize, *dialled, silence_ms=SILENT_MS)
            else:
                grant = line.ask(call.authorize, *dialled)
            for other in during.get(row["call"], []):
                self.play(other, during)
            if grant is None:
                return
            grant, is_cut = self._reserve(line, call, grant, tranches, is_silent)
            if is_silent and not is_cut:
                self._await_hang_up(row["call"], row["card"])
            elif line.ask(call.terminate, seconds=int(row["seconds"])) is None:
                line.ask(call.terminate, seconds=grant.reserved_seconds)

    def _reserve(
        self, line: Line, call: PrepaidCalls, grant: Grant, tranches: Sequence[int], is_silent: bool
    ) -> tuple[Grant, bool]:
        """Send the reserve messages; return the last grant, and whether one was refused."""
        for index, seconds in enumerate(tranches):
            if is_silent and index == len(tranches) - 1:
                more = line.ask(call.reserve, seconds, silence_ms=SILENT_MS)
            else:
                more = line.ask(call.reserve, seconds)
            if more is None:
                return grant, True
            grant = more
        return grant, False

    def _await_hang_up(self, call: str, card: str) -> None:
        """Wait until the card is free again: its next call would be refused before."""
        while read(self._journal, self._prepaid.balance, card).call:
            self._journal.pause(SILENT_MS / 10_000)
        self._journal.note_hang_up(call)


def read(journal: Journal, query: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Ask a readonly handler, again and again if need be."""
    while True:
        try:
            return query(*args, **kwargs)
        except (OutcomeUnknown, Unavailable):
            journal.pause(REPEAT_PAUSE_S)


def make_groups(rows: Sequence[Row]) -> list[Group]:
    """Sort calls by card, in file order; those tried during another stay with that one."""
    during: dict[str, list[Row]] = {}
    by_card: dict[str, list[Row]] = {}
    for row in rows:
        if row["during"]:
            during.setdefault(row["during"], []).append(row)
        else:
            by_card.setdefault(row["card"], []).append(row)
    return [Group(tuple(calls), during) for calls in by_card.values()]


def load(prepaid: PrepaidCalls, journal: Journal, folder: Path = DATA) -> None:
    """Load tariffs and cards, as ordinary messages with names for ids: loading twice cannot do harm."""
    rates, surcharges = [], []
    for row in read_csv(folder / "tariffs.csv"):
        if row["plan"] == "origin":
            surcharges.append(NewSurcharge(row["prefix"], int(row["connection_cents"])))
        else:
            cents = int(row["connection_cents"]), int(row["unit_seconds"]), int(row["unit_cents"])
            rates.append(NewRate(row["plan"], row["prefix"], *cents))
    named = with_options(prepaid, txn_id="load-tariffs")
    _demand(Line(journal, "").ask(named.load_tariffs, rates=tuple(rates), surcharges=tuple(surcharges)))
    cards = [_new_card(row) for row in read_csv(folder / "cards.csv")]
    for start in range(0, len(cards), LOAD_CARDS):
        named = with_options(prepaid, txn_id=f"load-cards-{start}")
        _demand(Line(journal, "").ask(named.load_cards, cards=tuple(cards[start : start + LOAD_CARDS])))


def _demand(count: int | None) -> None:
    if count is None:
        raise GaveUp("cards or tariffs could not be loaded: is the database empty?")


def _new_card(row: Row) -> NewCard:
    salt = secrets.token_bytes(16)
    pin_hash = hash_pin(row["pin"], salt)
    return NewCard(row["card"], row["plan"], int(row["balance_cents"]), row["state"], salt, pin_hash)


@contextlib.contextmanager
def clients(target: str | Path, count: int, *, timeout_s: float) -> Iterator[list[PrepaidCalls]]:
    """Connect *count* clients, each to be shared by several callers."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(connect(PrepaidCalls, target)) for _ in range(count)]
        yield [with_options(client, timeout_s=timeout_s) for client in made]


def run_callers(
    prepaids: Sequence[PrepaidCalls], journal: Journal, rows: Sequence[Row], callers: int
) -> list[threading.Thread]:
    """Start *callers* threads that make all calls of *rows* between them; return the threads."""
    groups: queue.SimpleQueue[Group] = queue.SimpleQueue()
    for group in make_groups(rows):
        groups.put(group)
    threads = [
        threading.Thread(
            target=Caller(prepaids[index % len(prepaids)], journal).run,
            args=(groups,),
            name=f"caller-{index}",
            daemon=True,
        )
        for index in range(callers)
    ]
    journal.note_enter(callers)
    for thread in threads:
        thread.start()
    return threads


def read_end(prepaid: PrepaidCalls, journal: Journal) -> audit.EndState:
    """Read all cards and charges through the paged readonly handlers."""
    end = audit.EndState()
    after = ""
    while cards := read(journal, prepaid.cards_after, after, PAGE_ROWS):
        for card in cards:
            end.cards[card.number] = audit.SeenCard(card.balance_cents, card.reserved_cents, bool(card.call))
        after = cards[-1].number
    calls = journal.calls_by_txn
    after = ""
    while charges := read(journal, prepaid.charges_after, after, PAGE_ROWS):
        for line in charges:
            if line.call in calls:
                seen = audit.SeenCharge(line.card, line.seconds, line.cents, line.messages, line.ended_by)
                end.charges[calls[line.call]] = seen
            else:
                end.strangers.append(line.call)
        after = charges[-1].call
    return end


def summarize(journal: Journal, end: audit.EndState, folder: Path, count: int | None) -> dict[str, object]:
    """Audit the end against the CSV files; return the report of the issue, without the figures of a kill."""
    expected = audit.compute(folder, count)
    records = journal.records
    told = tell(records)
    effects = audit.count_effects(told, end, loaded=list(expected.balances))
    return {
        "calls": len(told),
        "messages": len(records),
        "acknowledged": sum(record.outcome == ACKNOWLEDGED for record in records),
        "refused": sum(record.outcome == REFUSED for record in records),
        "lost": effects.lost,
        "doubled": effects.doubled,
        "audit": audit.verdict([*effects.problems, *audit.find_wrong(expected, end, told)]),
    }


def play(
    target: str | Path,
    *,
    callers: int = 16,
    client_count: int = 4,
    count: int | None = None,
    folder: Path = DATA,
    timeout_s: float = 5.0,
    limit_s: float = 120.0,
) -> dict[str, object]:
    """Load the cards into an empty database at *target*, play the first *count* calls (None: all), audit.

    Returns `{calls, messages, acknowledged, refused, lost, doubled, audit}`. Raises GaveUp after *limit_s*, or what
    ended a caller.
    """
    journal = Journal()
    rows = read_csv(folder / "calls.csv")[:count]
    timer = threading.Timer(limit_s, journal.stop)
    timer.daemon = True
    timer.start()
    try:
        with clients(target, client_count, timeout_s=timeout_s) as prepaids:
            load(prepaids[0], journal, folder)
            for thread in run_callers(prepaids, journal, rows, callers):
                thread.join()
            finish(journal)
            return summarize(journal, read_end(prepaids[0], journal), folder, count)
    finally:
        timer.cancel()
        journal.stop()


def finish(journal: Journal) -> None:
    """Raise what ended a caller, or GaveUp if the play was stopped."""
    for failure in journal.failures:
        raise failure
    if journal.is_over:
        raise GaveUp("not all calls could be made in time; see the logs of the nodes")
