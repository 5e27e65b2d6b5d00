"""Own what simulated callers do: a workload names a service, its model, and how a conversation goes."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from replicator.client import transaction
from replicator.errors import Aborted, StaleMessage, UsageError
from replicator.service import Service
from replicator.testing.actors import Abandoned, Caller, Script
from replicator.testing.history import Call, History
from replicator.testing.registers import PATIENCE_MS, Registers

#: What `--service` knows by a short name.
KNOWN = {
    "registers": "replicator.testing.workloads:REGISTERS",
    "prepaid": "examples.prepaid.simulated:WORKLOAD",
    "bank": "examples.bank.simulated:WORKLOAD",
    "airline": "examples.airline.simulated:WORKLOAD",
}


@dataclass(frozen=True, slots=True)
class Workload:
    """*service* and its *model* (see `checkers.Model`); *prepare* fills the tables, *converse* is one conversation, *audit*
    returns what becomes `history.final_state`; after *patience_ms* of silence its deadlines have ended every transaction."""

    service: type[Service[Any]]
    model: Any
    prepare: Callable[[Caller], Script]
    converse: Callable[[Caller], Script]
    audit: Callable[[Caller], Script]
    patience_ms: int = PATIENCE_MS
    gone: tuple[str, ...] = ()  # handlers that the next version of the service no longer has

    def next_version(self) -> type[Service[Any]]:
        """Return the service as it is after an upgrade: another fingerprint, and without what is gone."""
        former = self.service
        changed: type[Service[Any]] = type(former.__name__, (former,), {"__doc__": former.__doc__, "version": "next"})
        kept = {name: spec for name, spec in former.handlers().items() if name not in self.gone}
        type.__setattr__(changed, "_handlers", kept)  # past the guard: no service does this
        return changed


def find(name: str) -> Workload:
    """Return a workload by its short name or as "module:NAME", on the Python path or in this folder. Raises UsageError."""
    where, _, attribute = KNOWN.get(name, name).partition(":")
    if name not in KNOWN and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        workload = getattr(importlib.import_module(where), attribute) if where and attribute else None
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--service {name}: {error}") from error
    if not isinstance(workload, Workload):
        raise UsageError(f"--service {name}: give one of {', '.join(KNOWN)}, or module:NAME of a Workload")
    return workload


def _prepare(caller: Caller) -> Script:
    for key in caller.keys:
        yield from caller.once("write", key=key, value=100)


def _converse(caller: Caller) -> Script:
    chance = caller.random
    key = chance.choice(caller.keys)
    if chance.random() < caller.read_part:
        yield from caller.query("read", key=key)
        return
    kind = chance.choice(("add", "add", "add", "write", "take", "boom", "dice", "sum", "sum"))
    if kind == "sum":
        yield from _sum(caller, key)
    elif kind == "write":
        yield from caller.once("write", key=key, value=chance.randrange(1_000))
    elif kind == "dice":
        yield from caller.once("dice", key="d" + key)
    elif kind == "boom":
        yield from caller.once("boom", key=key)
    else:
        yield from caller.once(kind, key=key, count=chance.randrange(1, 100))


def _sum(caller: Caller, key: str) -> Script:
    chance = caller.random
    if caller.two_lives_part and chance.random() < caller.two_lives_part:
        yield from _sum_of_two_lives(caller, key)
        return
    with transaction(caller.client) as talk:
        yield from caller.say(talk.begin, key=key)
        for _ in range(chance.randrange(4)):
            yield chance.expovariate(1 / (2 * caller.think_ms))
            with contextlib.suppress(Aborted):  # a refusal: the sum goes on as it was
                yield from caller.say(talk.more, count=chance.randrange(-20, 100))
        if chance.random() < 0.15:
            return  # never ended: its deadline has to
        yield chance.expovariate(1 / (2 * caller.think_ms))
        yield from caller.say(talk.end)


def _sum_of_two_lives(caller: Caller, key: str) -> Script:
    """A caller that dies anywhere in a named transaction; its next life repeats it from the first message, and ends it."""
    chance = caller.random
    name = f"sum {chance.getrandbits(64)}"
    steps: list[tuple[str, dict[str, Any]]] = [("begin", {"key": key})]
    steps += [("more", {"count": chance.randrange(-20, 100)}) for _ in range(chance.randrange(4))]
    steps.append(("end", {}))
    for length in (chance.randrange(1, len(steps) + 1), len(steps)):
        with transaction(caller.client, txn_id=name) as talk:
            yield from _say_all(caller, talk, steps[:length])


def _say_all(caller: Caller, talk: Any, steps: list[tuple[str, dict[str, Any]]]) -> Script:
    for handler, arguments in steps:
        try:
            yield from caller.say(getattr(talk, handler), **arguments)
        except Abandoned:
            return
        except Aborted:
            pass  # a refusal: the sum goes on as it was
        except StaleMessage as error:
            raise AssertionError(f"P2: a named transaction does not answer again: {error}") from error
        yield caller.random.expovariate(1 / (2 * caller.think_ms))


def _audit(caller: Caller) -> Script:
    state: dict[str, int] = {}
    for key in caller.keys:
        state[key] = yield from caller.query("read", key=key)
    return state


class CellsModel:
    """What `Registers` must answer, cell by cell; a state is (value, ((transaction, sum), ...))."""

    deadlines: ClassVar[Mapping[str, str]] = {"begin": "give_up"}
    ends: ClassVar[frozenset[str]] = frozenset(("end",))

    def key(self, call: Call, opening: Call) -> str | None:
        """A cell; what dice throw cannot be foretold."""
        key = str(opening.arguments.get("key", ""))
        return None if key.startswith("d") or not key else key

    def initial(self, key: str) -> Hashable:
        """Nothing, and no sum."""
        return (0, ())

    def step(self, state: Any, call: Call) -> list[tuple[Hashable, str, Any]]:
        """What may follow."""
        value, sums = state
        arguments = call.arguments
        match call.handler:
            case "write":
                return [((arguments["value"], sums), "done", value)]
            case "add":
                return [((value + arguments["count"], sums), "done", value + arguments["count"])]
            case "take":
                left = value - arguments["count"]
                if left < 0:
                    return [(state, "aborted", ["too little", {"missing": -left}])]
                return [((left, sums), "done", left)]
            case "boom":
                return [(state, "failed", ["boom", kind]) for kind in ("KeyError", "MemoryError")]
            case "read":
                return [(state, "done", value)]
        return self._step_of_sum(value, dict(sums), call)

    def _step_of_sum(self, value: int, sums: dict[str, int], call: Call) -> list[tuple[Hashable, str, Any]]:
        txn = call.txn_id
        match call.handler:
            case "begin":
                return [(_state(value, {**sums, txn: 0}), "done", value)]
            case "more" if txn in sums and call.arguments["count"] < 0:
                return [(_state(value, sums), "aborted", ["negative", {}])]
            case "more" if txn in sums:
                sums[txn] += call.arguments["count"]
                return [(_state(value, sums), "done", sums[txn])]
            case "end" if txn in sums:
                total = value + sums.pop(txn)
                return [(_state(total, sums), "done", total)]
            case "give_up" if txn in sums:
                del sums[txn]
                return [(_state(value - 1, sums), "done", None)]
        return []

    def audit(self, history: History) -> list[str]:
        """The cells at the end are what the log comes to."""
        states: dict[str, Any] = {}
        openings: dict[str, str] = {}
        for done in history.final:
            key = str(done.arguments.get("key", openings.get(done.txn_id, "")))
            openings[done.txn_id] = key
            if key.startswith("d"):
                continue
            call = Call("", done.txn_id, done.msg_no, done.handler, done.arguments, 0.0)
            ways = self.step(states.get(key, self.initial(key)), call)
            if not ways:
                return [f"entry {done.seq}, {done.handler} of {done.txn_id[:12]}, cannot follow in cell {key}"]
            states[key] = ways[0][0]
        wanted = {key: state[0] for key, state in states.items()}
        found = {key: value for key, value in (history.final_state or {}).items() if key in wanted}
        return [] if found == {key: wanted[key] for key in found} else [f"cells are {found}, the log comes to {wanted}"]


def _state(value: int, sums: dict[str, int]) -> Hashable:
    return (value, tuple(sorted(sums.items())))


REGISTERS = Workload(Registers, CellsModel(), _prepare, _converse, _audit, gone=("boom", "dice"))
