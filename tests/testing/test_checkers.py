"""Every checker passes a good history and finds what was planted in it; linearizability against brute force."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator import transaction, with_options
from replicator.testing import CHECKERS, Call, Cluster, History, check
from replicator.testing.checkers import MODEL_CHECKERS, skipped
from replicator.testing.history import Released
from replicator.testing.linearizability import is_linearizable
from replicator.testing.registers import Registers
from replicator.testing.workloads import CellsModel
from replicator.values import pack

MODEL = CellsModel()


@pytest.fixture
def history() -> History:
    """A true history: writes, a transaction, a deadline, a failover, a repeat, reads."""
    with Cluster(Registers, nodes=3, seed=21) as cluster:
        client, other = cluster.connect(), cluster.connect()
        client.write(key="k", value=10)
        with transaction(client) as talk:
            talk.begin(key="k")
            talk.more(count=5)
            talk.end()
        with transaction(other) as talk:
            talk.begin(key="j")
        with_options(client, txn_id="again").add(key="k", count=1)
        cluster.crash(cluster.active)
        with_options(other, txn_id="again").add(key="k", count=1)
        cluster.run(2_000)
        assert other.read(key="k") == 16
        assert client.read(key="j") == -1
        cluster.settle()
        cluster.history.final_state = {"k": 16, "j": -1}
        return cluster.history


def call_of(history: History, handler: str) -> Call:
    """The last call of a handler."""
    return next(call for call in reversed(history.calls) if call.handler == handler)


def test_a_true_history_passes_every_checker(history: History) -> None:
    """And none is left out for lack of data, but the two that have their own case."""
    assert check(history, MODEL) == []
    assert set(skipped(history, MODEL)) <= {"witnessed"}
    history.final = []
    assert check(history, MODEL) == []


def lose(history: History) -> None:
    seq = call_of(history, "write").seq
    history.final = [done for done in history.final if done.seq != seq]


def double(history: History) -> None:
    first = next(done for done in history.done if done.handler == "write")
    history.done.append(replace(first, seq=max(done.seq for done in history.done) + 1))


def answer_twice(history: History) -> None:
    call = call_of(history, "add")
    call.value, call.body = 99, pack(99)


def refuse(history: History) -> None:
    call_of(history, "write").status = "refused"


def forget_the_handler(history: History) -> None:
    call = call_of(history, "add")  # the repeat
    call.status, call.value, call.seq = "refused", "UnknownHandler", 0


def refuse_as_finished(history: History) -> None:
    call = call_of(history, "more")
    call.status, call.value = "refused", "TransactionFinished"


def swap(history: History) -> None:
    one = next(done for done in history.done if done.handler == "write")
    one.txn_id = "f" * 32


def be_two_actives(history: History) -> None:
    reply = next(each for each in history.released if each.is_final and not each.stale)
    history.released.append(replace(reply, incarnation="another", txn_id="0" * 32))


def go_back(history: History) -> None:
    history.adopted.append(replace(history.adopted[-1], view=1))


def read_old(history: History) -> None:
    call_of(history, "read").seq = 1


def read_future(history: History) -> None:
    call_of(history, "read").seq = 10_000


def use_after_end(history: History) -> None:
    end = next(done for done in history.done if done.handler == "end")
    history.done.append(replace(end, seq=end.seq + 50, msg_no=4))


def differ(history: History) -> None:
    history.done[-1].digest ^= 1


def lie(history: History) -> None:
    call = call_of(history, "end")
    call.value, call.body = 1, b""


def lie_in_the_log(history: History) -> None:
    done = next(done for done in history.final if done.handler == "end")
    history.final[history.final.index(done)] = replace(done, body=pack(1))


def lose_money(history: History) -> None:
    history.final_state = {"k": 15, "j": -1}


def see(history: History) -> None:
    history.witnessed.append(("V1", "seen"))


def forget_the_log_and_lie(history: History) -> None:
    history.final = []
    lie(history)


def release_what_is_lost(history: History) -> None:
    last = max(done.seq for done in history.final) + 1
    history.released.append(Released("a", "a1", 9, last, "0" * 32, 1, "done", "applied", False, False, 0.0))


@pytest.mark.parametrize(
    ("plant", "checker"),
    [
        (lose, "lost"),
        (release_what_is_lost, "lost"),
        (double, "exactly_once"),
        (refuse, "nothing_taken"),
        (refuse_as_finished, "rightly_refused"),
        (answer_twice, "same_reply"),
        (forget_the_handler, "known_repeats"),
        (swap, "one_order"),
        (be_two_actives, "one_active"),
        (go_back, "views_grow"),
        (read_old, "no_stale_answer"),
        (read_old, "sessions"),
        (read_future, "stale_reads_hold"),
        (use_after_end, "tsd_lifecycle"),
        (differ, "digests"),
        (lie, "linearizable"),
        (lie_in_the_log, "replayed"),
        (forget_the_log_and_lie, "ordered"),
        (lose_money, "audit"),
        (see, "witnessed"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_planted_is_found_by_its_checker(
    history: History, plant: Callable[[History], None], checker: str
) -> None:
    """One lie at a time."""
    plant(history)
    assert checker in {violation.checker for violation in check(history, MODEL)}


def test_every_checker_has_its_case() -> None:
    """The list above names all."""
    marks = test_what_is_planted_is_found_by_its_checker.pytestmark  # type: ignore[attr-defined]
    cases = {checker for mark in marks for _, checker in mark.args[1]}
    assert cases == {*CHECKERS, *MODEL_CHECKERS}


def test_a_history_can_be_kept_in_a_file(history: History) -> None:
    """And gives the same verdict when it is read back."""
    again = History.from_json(history.to_json())
    assert len(again.calls) == len(history.calls)
    assert check(again, MODEL) == []
    lose(again)
    assert check(again, MODEL)


# -- linearizability ----------------------------------------------------------------------------------------------------


def step(state: Any, call: Call) -> list[tuple[Any, str, Any]]:
    """A register: write and read."""
    if call.handler == "write":
        return [(call.arguments["value"], "done", None)]
    return [(state, "done", state)]


def op(handler: str, value: int | None, begin: float, end: float | None) -> Call:
    """A call of the register; without an end its outcome is unknown."""
    arguments = {"value": value} if handler == "write" else {}
    result = value if handler == "read" else None
    status = "unknown" if end is None else "done"
    return Call("c", "", 0, handler, arguments, begin, returned_ms=end, status=status, value=result)


def brute_force(calls: list[Call]) -> bool:
    """Try every order of every choice of the unknown ones."""
    unknown = [call for call in calls if not call.is_final]
    known = [call for call in calls if call.is_final]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(fits(order) for order in itertools.permutations([*known, *chosen])):
                return True
    return False


def fits(order: tuple[Call, ...]) -> bool:
    """Whether an order keeps real time and is what the register does."""
    state: Any = 0
    for position, call in enumerate(order):
        for later in order[position + 1 :]:
            if later.returned_ms is not None and later.is_final and later.returned_ms < call.invoked_ms:
                return False
        [(state, _, value)] = step(state, call)
        if call.is_final and value != call.value:
            return False
    return True


@st.composite
def small_histories(draw: st.DrawFn) -> list[Call]:
    """Up to six calls with small values and any overlap."""
    calls = []
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, 12))
        end = draw(st.one_of(st.none(), st.integers(begin, begin + 6)))
        calls.append(op(draw(st.sampled_from(["read", "write"])), draw(st.integers(0, 2)), begin, end))
    return [call for call in calls if call.is_final or call.handler == "write"]


@settings(max_examples=300)
@given(small_histories())
def test_the_search_agrees_with_brute_force(calls: list[Call]) -> None:
    """On histories small enough to try every order."""
    assert is_linearizable(calls, 0, step) == brute_force(calls)


def long_history(seed: int, count: int, callers: int) -> list[Call]:
    """What *callers* see of a true register."""
    chance = random.Random(seed)
    free = [0.0] * callers
    state, now, calls = 0, 0.0, []
    for _ in range(count):
        caller = chance.randrange(callers)
        begin = max(free[caller], now - chance.random())
        now = max(now, begin) + chance.random() * 0.2
        free[caller] = now + chance.random()
        if chance.random() < 0.5:
            state = chance.randrange(1_000)
            calls.append(op("write", state, begin, free[caller]))
        else:
            calls.append(op("read", state, begin, free[caller]))
    return calls


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_calls_of_five_callers_are_checked_quickly(seed: int) -> None:
    """The cost that the docstring promises, with room for a loaded machine; and a wrong read in them is found."""
    calls = long_history(seed, 1_000, 5)
    began_s = time.process_time()
    assert is_linearizable(calls, 0, step) is True
    assert time.process_time() - began_s < 0.5
    wrong = next(call for call in calls[500:] if call.handler == "read")
    wrong.value = 5_000
    assert is_linearizable(calls, 0, step) is False


def test_the_search_gives_up_in_the_end() -> None:
    """Beyond its budget the verdict is "not known", never a guess."""
    assert is_linearizable(long_history(1, 200, 5), 0, step, steps_max=50) is None
