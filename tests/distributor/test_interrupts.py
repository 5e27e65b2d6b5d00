"""A caller is interrupted (Ctrl-C) wherever Python looks for signals, one place after the other: nobody else may feel it."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from distributor.lane import Lane
from replicator.caller import Caller
from replicator.client import connect, submit, transaction
from replicator.errors import TransactionError
from replicator.service import invoker_of
from tests.distributor.fakes import WAIT_S, Bank, FakeNode, write_config

FILES = tuple(f"distributor/{name}.py" for name in ("lane", "routing", "company", "links", "tickets"))
#: After these CPython looks whether a signal has come.
LOOKED_AFTER = frozenset(("CALL", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"))
PATIENT_MS = 86_400_000
#: One call of a bank; returns the cents.
Way = Callable[[Bank, int], int]

pytestmark = pytest.mark.skipif(not hasattr(Lane.call, "__code__"), reason="compiled code has no frames to trace")


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


class Interrupter:
    """Raises `Interrupted` at the *at*-th place; `where` is None if there were fewer."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where: tuple[str, int] | None = None

    def on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.on_opcode

    def on_opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and self.where is None and self._opcode_before(frame) in LOOKED_AFTER:
            self.left -= 1
            if not self.left:
                self.where = (frame.f_code.co_name, frame.f_lineno)
                raise Interrupted
        return self.on_opcode

    @staticmethod
    def _opcode_before(frame: FrameType) -> str:
        code, index = frame.f_code.co_code, frame.f_lasti - 2
        while index >= 0 and dis.opname[code[index]] == "CACHE":
            index -= 2
        return dis.opname[code[index]] if index >= 0 else ""


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as node:
        yield node


def impatient_only_by_deadline(bank: Bank) -> Lane:
    """As with a distributor process: nothing but an answer or a deadline ends a call that is under way."""
    caller = invoker_of(bank)
    assert isinstance(caller, Caller)
    lane = caller.embedded.lane(0)
    assert isinstance(lane, Lane)
    lane._routing._rules = replace(lane._routing._rules, silence_ms=PATIENT_MS)
    return lane


def call(bank: Bank, cents: int) -> int:
    return bank.deposit("x", cents=cents)


def call_by_a_future(bank: Bank, cents: int) -> int:
    return submit(bank.deposit, "x", cents=cents).result(WAIT_S)


def from_another_thread(way: Way, bank: Bank) -> list[object]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(way(bank, 5))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(WAIT_S)
    return results


def interrupted(interrupter: Interrupter, way: Way, bank: Bank) -> None:
    before = sys.gettrace()
    sys.settrace(interrupter.on_call)
    try:
        with suppress(Interrupted):
            way(bank, 3)
    finally:
        sys.settrace(before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket that was just being made
@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("way", [call, call_by_a_future])
def test_an_interrupt_anywhere_leaves_the_lane_in_order(
    node: FakeNode, tmp_path: Path, way: Way, is_connected: bool
) -> None:
    """Whatever the interrupted caller was about to send, connect or hand out, the next one is served at once."""
    config = write_config(tmp_path, {"a": node.address})
    points = 0
    while True:
        with connect(Bank, config, timeout_s=WAIT_S / 2) as bank:
            lane = impatient_only_by_deadline(bank)
            if is_connected:
                assert way(bank, 1) == 1
            interrupter = Interrupter(points + 1)
            interrupted(interrupter, way, bank)
            if interrupter.where is None:
                break
            points += 1
            assert from_another_thread(way, bank) == [5], interrupter.where
            assert (lane._host, lane._followers) == (None, {}), interrupter.where
            assert way is call_by_a_future or lane._leader is None, interrupter.where
            assert lane._routing.count == 0, interrupter.where
    assert points > (80 if way is call else 10)


def test_a_message_whose_sender_was_interrupted_is_repeated_or_not_followed(node: FakeNode, tmp_path: Path) -> None:
    """It may be on its way, so its number in the transaction is not for another message."""
    with connect(Bank, write_config(tmp_path, {"a": node.address}), timeout_s=WAIT_S) as bank:
        lane = impatient_only_by_deadline(bank)
        lane._check_process = interrupt  # type: ignore[method-assign]
        with transaction(bank) as talk:
            with pytest.raises(Interrupted):
                submit(talk.deposit, "x", cents=3)
            del lane._check_process
            with pytest.raises(TransactionError, match="repeat it"):
                submit(talk.deposit, "x", cents=4)
            assert submit(talk.deposit, "x", cents=3).result(WAIT_S) == 3


def interrupt() -> None:
    raise Interrupted
