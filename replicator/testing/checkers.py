"""Own the checks of a history: each promise that can be seen from outside, and, where nodes were watched, from inside.

`check(history, model)` runs all that the history has data for; `CHECKERS` names them. All are linear, or n log n, but
`linearizable` (see linearizability.py). Invariants: RELIABILITY.md, I1 to I22.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from replicator.testing.history import Call, Done, History, Released
from replicator.testing.linearizability import same_value
from replicator.testing.models import Model, audit, linearizable, name_of, ordered, replayed

#: Violations told of one checker.
TOLD_MAX = 5
#: Refusals that look at a message alone, not at the state of its transaction.
_ABOUT_CONTENTS = ("UnknownHandler", "BadArguments", "MessageTooLarge", "UsageError")


@dataclass(frozen=True, slots=True)
class Violation:
    """What a checker has found."""

    checker: str
    text: str

    def __str__(self) -> str:
        return f"{self.checker}: {self.text}"


def lost(history: History) -> Iterable[str]:
    """P1: every acknowledged message is in the final log, at its place, with its outcome."""
    at = {done.seq: done for done in history.final}
    for call in history.calls:
        if not call.is_acknowledged:
            continue
        done = at.get(call.seq)
        if done is None or (done.txn_id, done.msg_no) != (call.txn_id, call.msg_no):
            yield f"{name_of(call)} was acknowledged at seq {call.seq}, where the log has {name_of(done) if done else 'nothing'}"
        elif done.status != call.status or (call.body and done.body != call.body):
            yield f"{name_of(call)} was answered {call.status} {call.value!r}, the log has {done.status}"
    for reply in history.released:
        done = at.get(reply.seq)
        is_here = done is not None and (done.txn_id, done.msg_no) == (reply.txn_id, reply.msg_no)
        if reply.is_final and not reply.readonly and reply.level != "async" and not is_here:
            yield f"{reply.node} let a reply to {reply.txn_id[-12:]}#{reply.msg_no} at seq {reply.seq} go, and it is lost"


def exactly_once(history: History) -> Iterable[str]:
    """P2: a message is at most once in a log; all its answers tell of one place."""
    for incarnation, log in _logs(history).items():
        seen: dict[tuple[str, int], int] = {}
        for done in log:
            ids = (done.txn_id, done.msg_no)
            if done.kind == "message" and seen.setdefault(ids, done.seq) != done.seq:
                yield f"{name_of(done)} was done at seq {seen[ids]} and at seq {done.seq} by {incarnation}"
    places: dict[tuple[str, int], int] = {}
    for call in history.calls:
        if call.is_acknowledged and places.setdefault((call.txn_id, call.msg_no), call.seq) != call.seq:
            yield f"{name_of(call)} has answers of seq {places[call.txn_id, call.msg_no]} and of seq {call.seq}"


def nothing_taken(history: History) -> Iterable[str]:
    """Refused, overloaded or unavailable says that nothing was accepted: then it is in no log, unless it was sent again."""
    lasting = {(done.seq, done.txn_id, done.msg_no) for done in history.final if done.kind == "message"}
    first: dict[tuple[str, int], Done] = {}
    for done in history.done:
        if (done.seq, done.txn_id, done.msg_no) in lasting:
            first.setdefault((done.txn_id, done.msg_no), done)
    said: dict[tuple[str, int], set[str]] = defaultdict(set)
    for call in history.calls:
        ids = (call.txn_id, call.msg_no)
        if not call.readonly and ids in first and call.invoked_ms <= first[ids].at_ms:
            said[ids].add(call.status)
    for ids, statuses in said.items():
        if statuses <= {"refused", "overloaded", "unavailable"}:
            yield f"{name_of(first[ids])} was done at seq {first[ids].seq}, its caller was told {', '.join(sorted(statuses))}"


def rightly_refused(history: History) -> Iterable[str]:
    """P5: what is refused for the state of its transaction was in that state, at the seq that the refusal tells."""
    lines: dict[str, list[Done]] = defaultdict(list)
    for done in history.final:
        lines[done.txn_id].append(done)
    for call in history.calls:
        if call.status != "refused" or call.readonly or not call.seq:
            continue
        past = [done for done in lines[call.txn_id] if done.seq <= call.seq]
        last = max((done.msg_no for done in past if done.kind == "message"), default=0)
        is_open = bool(past) and past[-1].is_open
        problem = str(call.value)
        is_wrong = (
            (problem == "TransactionFinished" and is_open)
            or (problem == "UnknownTransaction" and is_open)
            or (problem == "StaleMessage" and call.msg_no >= last)
            or (problem == "MessageGap" and call.msg_no <= last + 1)
        )
        if is_wrong:
            where = f"message {last} of it was done, and it is {'open' if is_open else 'over'}"
            yield f"{name_of(call)} was refused as {problem} at seq {call.seq}, where {where}"


def known_repeats(history: History) -> Iterable[str]:
    """U5: a message that was answered as processed is not refused for what is in it, whatever the version or limits of today."""
    answered_ms: dict[tuple[str, int], float] = {}
    for call in history.calls:
        if call.is_acknowledged and call.returned_ms is not None:
            ids = (call.txn_id, call.msg_no)
            answered_ms[ids] = min(call.returned_ms, answered_ms.get(ids, call.returned_ms))
    for call in history.calls:
        is_later = call.invoked_ms >= answered_ms.get((call.txn_id, call.msg_no), float("inf"))
        if call.status == "refused" and is_later and str(call.value) in _ABOUT_CONTENTS:
            yield f"{name_of(call)} was processed, its repeat was refused as {call.value}: as if nothing had been accepted"


def same_reply(history: History) -> Iterable[str]:
    """P2: every repeat gets the same outcome, byte for byte where bytes were seen."""
    first: dict[tuple[str, int], Call] = {}
    for call in history.calls:
        if not call.is_acknowledged:
            continue
        other = first.setdefault((call.txn_id, call.msg_no), call)
        is_equal = other.body == call.body if other.body and call.body else same_value(other.value, call.value)
        if other.status != call.status or not is_equal:
            yield f"{name_of(call)} was answered {other.status} {other.value!r} and {call.status} {call.value!r}"


def one_order(history: History) -> Iterable[str]:
    """P3: what was answered stands at one place on every node, and every log rises by one.

    Every node in sync in the view in which an answer left holds what it tells of, so no node of that view or a later one has
    anything else there. (One of a view between the message's own and that may have: a node alone, whose disk was not level
    yet, loses what it had told nobody when all die.)
    """
    answered: dict[int, tuple[str, int, int]] = {}
    told: list[Call | Released] = [call for call in history.calls if call.is_acknowledged]
    told += [each for each in history.released if each.is_final and not each.readonly and each.level != "async"]
    for each in told:
        if each.seq not in answered or each.view < answered[each.seq][2]:
            answered[each.seq] = (each.txn_id, each.msg_no, each.view)
    for incarnation, log in _logs(history).items():
        for before, done in zip([None, *log], log, strict=False):
            if before is not None and done.seq != before.seq + 1:
                yield f"{incarnation} did seq {done.seq} after seq {before.seq}"
            if before is not None and done.view < before.view:
                yield f"{incarnation} did an entry of view {done.view} after one of view {before.view}"
    for done in history.done:
        known = answered.get(done.seq)
        if known is not None and known[:2] != (done.txn_id, done.msg_no) and done.view >= known[2]:
            yield f"seq {done.seq} is {name_of(done)} on {done.node}, another message was acknowledged there"


def one_active(history: History) -> Iterable[str]:
    """P4: the replies of one view come from one incarnation."""
    who: dict[int, str] = {}
    for reply in history.released:
        if reply.is_final and not reply.stale and who.setdefault(reply.view, reply.incarnation) != reply.incarnation:
            yield f"view {reply.view} has replies of {who[reply.view]} and of {reply.incarnation}"


def views_grow(history: History) -> Iterable[str]:
    """A node's view only grows; so does that of the answers that one client gets one after the other.

    Repeats aside: a replaced node may still give an answer that its successor holds too (P4).
    """
    views: dict[str, int] = defaultdict(lambda: -1)
    for adopted in history.adopted:
        if adopted.view <= views[adopted.incarnation]:
            yield f"{adopted.incarnation} adopted view {adopted.view} after {views[adopted.incarnation]}"
        views[adopted.incarnation] = max(views[adopted.incarnation], adopted.view)
    fresh = _fresh(history)
    yield from _grows(history, lambda call: call.view, "view", lambda call: id(call) in fresh)


def sessions(history: History) -> Iterable[str]:
    """A client that waits for each answer sees seqs that never fall, repeats aside."""
    fresh = _fresh(history)
    yield from _grows(history, lambda call: call.seq, "seq", lambda call: id(call) in fresh)


def _fresh(history: History) -> set[int]:
    """Return the `id()` of every call that is not stale and no repeat."""
    sent: set[tuple[str, int]] = set()
    fresh: set[int] = set()
    for call in history.calls:
        if not call.stale and (call.readonly or (call.txn_id, call.msg_no) not in sent):
            fresh.add(id(call))
        sent.add((call.txn_id, call.msg_no))
    return fresh


def _grows(history: History, value: Callable[[Call], int], what: str, counts: Callable[[Call], bool]) -> Iterable[str]:
    highest: dict[str, list[tuple[float, int]]] = defaultdict(list)  # of each client: (returned, highest until then)
    finished = sorted(
        (call for call in history.calls if call.is_final and call.returned_ms is not None and counts(call)),
        key=lambda call: call.returned_ms or 0.0,
    )
    for call in finished:
        line = highest[call.client]
        line.append((call.returned_ms or 0.0, max(value(call), line[-1][1] if line else 0)))
    for call in finished:
        before = _highest_before(highest[call.client], call.invoked_ms)
        if value(call) < before:
            yield f"{call.client} got {what} {value(call)} for {name_of(call)}, having had {before} before it asked"


def _highest_before(line: list[tuple[float, int]], at_ms: float) -> int:
    low, high = 0, len(line)
    while low < high:
        middle = (low + high) // 2
        if line[middle][0] < at_ms:
            low = middle + 1
        else:
            high = middle
    return line[low - 1][1] if low else 0


def no_stale_answer(history: History) -> Iterable[str]:
    """V9, V10: what is not asked for as stale shows every write that was acknowledged before the asking, of anybody."""
    line: list[tuple[float, int]] = []
    for call in sorted(
        (each for each in history.calls if each.is_acknowledged), key=lambda each: each.returned_ms or 0.0
    ):
        line.append((call.returned_ms or 0.0, max(call.seq, line[-1][1] if line else 0)))
    for call in history.calls:
        if call.is_final and call.readonly and not call.stale:
            before = _highest_before(line, call.invoked_ms)
            if call.seq < before:
                yield f"{name_of(call)} shows seq {call.seq}, asked for after seq {before} was acknowledged"


def tsd_lifecycle(history: History) -> Iterable[str]:
    """P5: a transaction begins with message 1, goes on one by one, ends once, and nothing comes after its end."""
    for incarnation, log in _logs(history).items():
        numbers: dict[str, int] = {}
        ended: set[str] = set()
        for done in log:
            txn_id = done.txn_id
            if log[0].seq > 1 and txn_id not in numbers:  # begun before this life, as far as this log can tell
                numbers[txn_id] = done.msg_no - 1 if done.kind == "message" else 0
            if done.kind == "deadline" and txn_id not in numbers:
                yield f"a deadline of {txn_id[:16]}, which never began, at seq {done.seq} of {incarnation}"
            if done.kind == "deadline":
                if txn_id in ended and done.body:
                    yield f"a deadline of {txn_id[:16]} acted after its end at seq {done.seq} of {incarnation}"
                if not done.is_open:
                    ended.add(txn_id)
                continue
            if txn_id in ended:
                yield f"{name_of(done)} after the end of its transaction, seq {done.seq} of {incarnation}"
            if done.msg_no != numbers.get(txn_id, 0) + 1:
                yield f"{name_of(done)} after message {numbers.get(txn_id, 0)}, seq {done.seq} of {incarnation}"
            numbers[txn_id] = done.msg_no
            if not done.is_open:
                ended.add(txn_id)


def digests(history: History) -> Iterable[str]:
    """P7, P10: the same log gives the same state: equal digests after equal (view, seq) of one history."""
    final = {done.seq: done for done in history.final}
    for done in history.done:
        other = final.get(done.seq)
        if other is None or (other.view, other.txn_id, other.msg_no, other.kind) != (
            done.view,
            done.txn_id,
            done.msg_no,
            done.kind,
        ):
            continue
        if other.digest != done.digest:
            yield f"after seq {done.seq} ({name_of(done)}) {done.incarnation} differs from {other.incarnation}"


def stale_reads_hold(history: History) -> Iterable[str]:
    """V10: even a stale read shows only what is in the final log: its seq was never rolled away."""
    last = max((done.seq for done in history.final), default=0)
    for call in history.calls:
        if call.is_final and call.readonly and call.seq > last:
            yield f"{name_of(call)} shows seq {call.seq}, the log ends at {last}"


def _logs(history: History) -> dict[str, list[Done]]:
    logs: dict[str, list[Done]] = defaultdict(list)
    for done in history.done:
        logs[done.life].append(done)
    if history.final:
        logs["the final log"] = history.final
    return logs


def witnessed(history: History) -> Iterable[str]:
    """V1, V5, V7, V12: what only a watcher of all nodes at one moment can see."""
    return (f"{rule}: {text}" for rule, text in history.witnessed)


Check = Callable[[History], Iterable[str]]
#: name -> (check, what the history must hold for it).
CHECKERS: dict[str, tuple[Check, str]] = {
    "witnessed": (witnessed, "witnessed"),
    "lost": (lost, "final"),
    "exactly_once": (exactly_once, "calls"),
    "nothing_taken": (nothing_taken, "final"),
    "rightly_refused": (rightly_refused, "final"),
    "same_reply": (same_reply, "calls"),
    "known_repeats": (known_repeats, "calls"),
    "one_order": (one_order, "final"),
    "one_active": (one_active, "released"),
    "views_grow": (views_grow, "calls"),
    "sessions": (sessions, "calls"),
    "no_stale_answer": (no_stale_answer, "calls"),
    "stale_reads_hold": (stale_reads_hold, "final"),
    "tsd_lifecycle": (tsd_lifecycle, "done"),
    "digests": (digests, "final"),
}
#: The same for those that need a model.
MODEL_CHECKERS: dict[str, tuple[Callable[[History, Model], Iterable[str]], str]] = {
    "replayed": (replayed, "final"),
    "ordered": (ordered, "calls"),
    "linearizable": (linearizable, "calls"),
    "audit": (audit, "final_state"),
}


def skipped(history: History, model: Model | None = None) -> list[str]:
    """Return the names of the checkers that this history has no data for."""
    wanted = {**CHECKERS, **MODEL_CHECKERS}
    return [
        name
        for name, (_, needs) in wanted.items()
        if not getattr(history, needs) or (name in MODEL_CHECKERS and model is None)
    ]


def check(history: History, model: Model | None = None) -> list[Violation]:
    """Run every checker that the history has data for; return what they found, `TOLD_MAX` of each at most."""
    found: list[Violation] = []
    left_out = set(skipped(history, model))
    for name, (plain, _) in CHECKERS.items():
        if name not in left_out:
            found += [Violation(name, text) for text in list(plain(history))[:TOLD_MAX]]
    for name, (with_model, _) in MODEL_CHECKERS.items():
        if name not in left_out and model is not None:
            found += [Violation(name, text) for text in list(with_model(history, model))[:TOLD_MAX]]
    return found
