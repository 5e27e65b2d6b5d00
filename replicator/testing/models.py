"""Own the checks against a sequential model: in the order of the log, in the order that callers were told, and in any order.

`replayed` needs the log of a node, `ordered` only what callers got, `linearizable` not even their seqs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

from replicator.testing.history import Call, Done, History
from replicator.testing.linearizability import is_linearizable, same_value
from replicator.values import unpack, unpack_wire

#: Of the keys of a history, so many may be given up by `linearizable` before that is a failure of its own.
GAVE_UP_MAX = 0.01
#: Deadlines due at about one time may come in another order than their transactions were heard of.
NEAR = 3
#: States of a key that `ordered` keeps in mind.
WAYS_MAX = 500


class Model(Protocol):
    """A sequential model of a service, written independently of it.

    `deadlines`: {handler that opens a transaction: handler of its deadline}; `ends`: handlers that end one when they are done.
    `key`: which part of the state a call touches, *opening* being message 1 of its transaction; None: none that can be
    foretold. `step`: what may follow: (next state, status, value), [] if the call cannot happen there. `audit`: what is wrong
    in the end, such as money that is not conserved; [] if all is well.
    """

    deadlines: ClassVar[Mapping[str, str]]
    ends: ClassVar[frozenset[str]]

    def key(self, call: Call, opening: Call) -> str | None:
        """Name the part of the state."""

    def initial(self, key: str) -> Hashable:
        """Return that part at the start."""

    def step(self, state: Any, call: Call) -> list[tuple[Hashable, str, Any]]:
        """Say what may follow."""

    def audit(self, history: History) -> list[str]:
        """Say what is wrong."""


def replayed(history: History, model: Model) -> Iterable[str]:
    """Every answer is what the model says, in the order of the log; every deadline could come where it came; every query shows
    the state at the seq that its answer tells."""
    openings = {done.txn_id: _call_of(done) for done in history.final if done.kind == "message" and done.msg_no == 1}
    states: dict[str, list[Any]] = {}  # of each key, those that it may be in: a model may allow several
    reads = _reads_by_key(history, model)
    for done in history.final:
        call = _call_of(done)
        opening = openings.get(done.txn_id)
        key = model.key(call, opening) if opening is not None else None
        if key is None or (done.kind == "deadline" and not done.body):
            continue
        possible = states.get(key) or [model.initial(key)]
        yield from _wrong_reads(model, possible, reads.get(key), done.seq)
        states[key] = _after(model, possible, call)
        if not states[key]:
            told = f"seq {done.seq}: {name_of(done)} gave {call.status} {call.value!r}"
            yield f"{told}, the model does not from {possible[0]!r:.200}"
            return
    for key, left in reads.items():
        yield from _wrong_reads(model, states.get(key) or [model.initial(key)], left, history.final[-1].seq + 1)


def _after(model: Model, possible: list[Any], call: Call) -> list[Any]:
    """Return the states that the model allows after an answered call, each once."""
    ways = [way for state in possible for way in model.step(state, call)]
    return list(dict.fromkeys(way[0] for way in ways if way[1] == call.status and same_value(way[2], call.value)))


def _reads_by_key(history: History, model: Model) -> dict[str, deque[Call]]:
    """Return each key's answered queries in the order of the seqs that they show."""
    by_key: dict[str, deque[Call]] = defaultdict(deque)
    for call in sorted((each for each in history.calls if each.readonly and each.is_final), key=lambda each: each.seq):
        key = model.key(call, call)
        if key is not None:
            by_key[key].append(call)
    return by_key


def _wrong_reads(model: Model, possible: list[Any], reads: deque[Call] | None, before_seq: int) -> Iterable[str]:
    """Take the queries that show a seq before this one; tell of those that the model does not answer so."""
    while reads and reads[0].seq < before_seq:
        call = reads.popleft()
        if not _after(model, possible, call):
            told = f"{name_of(call)} showed {call.status} {call.value!r} at seq {call.seq}"
            yield f"{told}, the model does not from {possible[0]!r:.200}"


def ordered(history: History, model: Model) -> Iterable[str]:
    """The same from the callers' side: in the order of the seqs that they were told, every answer is what the model says.

    A seq that nobody was told of may be a deadline of a transaction that nobody has ended.
    """
    if history.final:
        return
    told = {call.seq for call in history.calls if call.is_acknowledged}
    for key, calls in sorted(_told_by_key(history, model).items()):
        ways = _Ways(model, key, told)
        for call in calls:
            if not ways.take(call):
                yield f"{key}: {name_of(call)} at seq {call.seq} gave {call.status} {call.value!r}; possible: {ways.last!r:.300}"
                break


def _told_by_key(history: History, model: Model) -> dict[str, list[Call]]:
    """Return each key's answered calls in the order of their seqs, an id once, a query after what it shows."""
    openings = {call.txn_id: call for call in history.calls if call.msg_no == 1 and not call.readonly}
    seen: set[tuple[str, int]] = set()
    by_key: dict[str, list[Call]] = defaultdict(list)
    for call in sorted(history.calls, key=lambda each: (each.seq, each.readonly)):
        ids = (call.txn_id, call.msg_no)
        opening = call if call.readonly else openings.get(call.txn_id)
        if not call.is_final or opening is None or (not call.readonly and ids in seen):
            continue
        if not call.readonly:
            seen.add(ids)
        key = model.key(call, opening)
        if key is not None:
            by_key[key].append(call)
    return by_key


class _Ways:
    """The states that a key may be in, as far as its callers can tell.

    Deadlines come in the order in which their transactions were last heard of, as header times rise with the seqs; `NEAR` of
    them may change places. More than `WAYS_MAX` states: given up.
    """

    def __init__(self, model: Model, key: str, told: set[int]) -> None:
        self._model = model
        self._states: set[Any] = {model.initial(key)}
        self._told = told
        self._seq = 0
        self._late: dict[str, Call] = {}  # open transaction -> its deadline, the next to come first
        self.last: list[Any] = []
        self._has_given_up = False

    def take(self, call: Call) -> bool:
        """Take the next call; False if no state allows it."""
        step = self._model.step
        for seq in range(self._seq + 1, call.seq + 1):
            if seq not in self._told and self._late:
                self._states |= {after for state in self._states for after in self._after_a_deadline(state)}
                if len(self._states) > WAYS_MAX:
                    self._states = set(sorted(self._states, key=repr)[:WAYS_MAX])
                    self._has_given_up = True
        self._seq = max(self._seq, call.seq)
        self.last = list(self._states)[:3]
        fitting = {
            state
            for before in self._states
            for state, status, value in step(before, call)
            if status == call.status and same_value(value, call.value)
        }
        if not fitting and self._has_given_up:
            return True
        self._states = fitting
        self._note(call)
        return bool(self._states)

    def _after_a_deadline(self, state: Any) -> Iterable[Any]:
        found = 0
        for late in self._late.values():
            ways = self._model.step(state, late)
            if ways:
                yield ways[0][0]
                found += 1
                if found == NEAR:
                    return

    def _note(self, call: Call) -> None:
        if call.status != "done" or call.readonly:
            return
        late = self._late.pop(call.txn_id, None)
        if call.handler in self._model.deadlines:
            late = Call("", call.txn_id, 0, self._model.deadlines[call.handler], {}, 0.0)
        if late is not None and call.handler not in self._model.ends:
            self._late[call.txn_id] = late
        for txn_id in [each for each, gone in self._late.items() if self._is_over(gone)]:
            del self._late[txn_id]

    def _is_over(self, late: Call) -> bool:
        return not any(self._model.step(state, late) for state in self._states)


def linearizable(history: History, model: Model) -> Iterable[str]:
    """P3, P4 from the callers' side alone: per key, some order that keeps real time is what the model allows.

    Keys whose transactions may have been ended by a deadline are left to `replayed`: no caller saw when that was.
    """
    by_key = _by_key(history, model)
    gave_up = 0
    for key, calls in sorted(by_key.items()):
        verdict = is_linearizable(calls, model.initial(key), model.step)
        if verdict is None:
            gave_up += 1
        elif not verdict:
            yield f"the {len(calls)} calls on {key} have no order that the model allows"
    if gave_up > GAVE_UP_MAX * len(by_key) and gave_up > 1:
        yield f"gave up on {gave_up} of {len(by_key)} keys: fewer callers at once on a key, or fewer unknown outcomes"


def _by_key(history: History, model: Model) -> dict[str, list[Call]]:
    """Return each key's calls, an id once: the first with an outcome, else the first."""
    openings: dict[str, Call] = {}
    chosen: dict[tuple[str, int, int], Call] = {}
    for number, call in enumerate(history.calls):
        if call.msg_no == 1 and not call.readonly:
            openings.setdefault(call.txn_id, call)
        if call.stale or call.status == "refused":
            continue
        ids = (call.txn_id, call.msg_no, number if call.readonly else -1)
        present = chosen.get(ids)
        if present is None:
            chosen[ids] = call
        elif not present.is_final and call.is_final:  # known by a repeat: it happened some time since the first try
            chosen[ids] = _merged(present, call)
    by_key: dict[str, list[Call]] = defaultdict(list)
    silent = {done.txn_id for done in history.final if done.kind == "deadline" and done.body}
    if not history.final:
        ended = {call.txn_id for call in history.calls if call.status == "done" and call.handler in model.ends}
        silent = {each.txn_id for each in openings.values() if each.handler in model.deadlines} - ended
    skipped: set[str] = set()
    for call in chosen.values():
        opening = call if call.readonly else openings.get(call.txn_id)
        key = model.key(call, opening) if opening is not None else None
        if key is None or (call.readonly and not call.is_final):
            continue
        by_key[key].append(call)
        if call.txn_id in silent:
            skipped.add(key)
    return {key: calls for key, calls in by_key.items() if key not in skipped}


def _merged(first: Call, known: Call) -> Call:
    return Call(
        first.client,
        first.txn_id,
        first.msg_no,
        first.handler,
        first.arguments,
        first.invoked_ms,
        returned_ms=known.returned_ms,
        status=known.status,
        value=known.value,
        level=known.level,
    )


def audit(history: History, model: Model) -> Iterable[str]:
    """The end state adds up: conservation of money, and whatever else the model knows."""
    return model.audit(history)


def _call_of(done: Done) -> Call:
    value: Any = None
    if done.body:
        value = unpack(done.body) if done.status == "done" else list(unpack_wire(done.body))
    return Call(
        "", done.txn_id, done.msg_no, done.handler, done.arguments, 0.0, status=done.status, value=value, body=done.body
    )


def name_of(row: Call | Done) -> str:
    """Return how a message is called in violations: handler, end of the transaction id, number."""
    return f"{row.handler} {row.txn_id[-12:]}#{row.msg_no}"
