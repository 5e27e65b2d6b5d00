"""A caller is interrupted (Ctrl-C) wherever Python looks for signals, one place after the other: nobody else may feel it."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from distributor.embedded import Lane
from replicator.caller import Caller
from replicator.client import connect
from replicator.service import invoker_of
from tests.distributor.fakes import WAIT_S, Bank, FakeNode, write_config

FILES = ("distributor/embedded.py", "distributor/routing.py", "distributor/company.py")
#: After these CPython looks whether a signal has come.
LOOKED_AFTER = frozenset(("CALL", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"))
PATIENT_MS = 86_400_000

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


def call_from_another_thread(bank: Bank) -> object:
    results: list[object] = []

    def call() -> None:
        try:
            results.append(bank.deposit("z", cents=5))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(WAIT_S)
    return results


def call_traced(bank: Bank, interrupter: Interrupter) -> None:
    before = sys.gettrace()
    sys.settrace(interrupter.on_call)
    try:
        bank.deposit("x", cents=3)
    finally:
        sys.settrace(before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket that was just being made
@pytest.mark.parametrize("is_connected", [True, False])
def test_an_interrupt_anywhere_leaves_the_lane_in_order(node: FakeNode, tmp_path: Path, is_connected: bool) -> None:
    """Whatever the interrupted caller was about to send, connect or hand out, the next one is served at once."""
    config = write_config(tmp_path, {"a": node.address})
    points = 0
    while True:
        with connect(Bank, config, timeout_s=WAIT_S / 2) as bank:
            lane = impatient_only_by_deadline(bank)
            if is_connected:
                bank.deposit("x", cents=1)
            interrupter = Interrupter(points + 1)
            with suppress(Interrupted):
                call_traced(bank, interrupter)
            if interrupter.where is None:
                break
            points += 1
            assert call_from_another_thread(bank) == [5], interrupter.where
            assert (lane._host, lane._leader, lane._followers) == (None, None, {}), interrupter.where
            assert lane._routing.count == 0, interrupter.where
    assert points > 80
