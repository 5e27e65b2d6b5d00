"""A caller is interrupted (Ctrl-C) wherever Python looks for signals, one place after the other: nobody else may feel it."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType
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
LOOKED_AFTER = frozenset(("CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"))
PATIENT_MS = 86_400_000
MONITORING_ID = 4
#: One call of a bank; returns the cents.
Way = Callable[[Bank, int], int]

pytestmark = pytest.mark.skipif(not hasattr(Lane.call, "__code__"), reason="compiled code has no frames to trace")


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


@cache
def places(code: CodeType) -> frozenset[int]:
    """Return the offsets in *code* before which CPython has just looked for signals."""
    found, looked = set(), False
    raw = code.co_code
    for offset in range(0, len(raw), 2):
        name = dis.opname[raw[offset]]
        if name == "CACHE":
            continue
        if looked:
            found.add(offset)
        looked = name in LOOKED_AFTER
    return frozenset(found)


class Interrupter:
    """Raises `Interrupted` at the *at*-th place; `where` is None if there were fewer."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where: tuple[str, int] | None = None
        self._thread = threading.get_ident()

    def on_place(self, code: CodeType, offset: int) -> None:
        if self.where is not None or offset not in places(code) or threading.get_ident() != self._thread:
            return
        self.left -= 1
        if not self.left:
            lines = [line for begin, end, line in code.co_lines() if begin <= offset < end and line is not None]
            self.where = (code.co_name, lines[0] if lines else 0)
            raise Interrupted

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every instruction of `FILES` that this thread runs."""
        with self._monitoring() if sys.version_info >= (3, 12) else self._tracing():
            yield

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        def on_call(frame: FrameType, event: str, argument: Any) -> Any:
            if not frame.f_code.co_filename.endswith(FILES):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return on_opcode

        def on_opcode(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "opcode":
                self.on_place(frame.f_code, frame.f_lasti)
            return on_opcode

        before = sys.gettrace()
        sys.settrace(on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    @contextmanager
    def _monitoring(self) -> Iterator[None]:
        """From 3.12 on: its emulation of opcode tracing leaves instructions out, its own way does not."""
        monitoring = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
        kind = monitoring.events.INSTRUCTION
        monitoring.use_tool_id(MONITORING_ID, "interrupts")
        monitoring.register_callback(MONITORING_ID, kind, self.on_place)
        for code in all_code():
            monitoring.set_local_events(MONITORING_ID, code, kind)
        try:
            yield
        finally:
            for code in all_code():
                monitoring.set_local_events(MONITORING_ID, code, 0)
            monitoring.register_callback(MONITORING_ID, kind, None)
            monitoring.free_tool_id(MONITORING_ID)


@cache
def all_code() -> tuple[CodeType, ...]:
    """Return the code of every function in `FILES`."""
    found: list[CodeType] = []
    for module in list(sys.modules.values()):
        if not (getattr(module, "__file__", None) or "").endswith(FILES):
            continue
        waiting: list[object] = list(vars(module).values())
        while waiting:
            item = waiting.pop()
            if isinstance(item, type) and item.__module__ == module.__name__:
                waiting += vars(item).values()
            elif isinstance(item, property):
                waiting.append(item.fget)
            elif isinstance(item, CodeType) and item.co_filename.endswith(FILES):
                found.append(item)
                waiting += item.co_consts
            elif isinstance(item, staticmethod | classmethod):
                waiting.append(item.__func__)
            elif isinstance(item, FunctionType):
                waiting.append(item.__code__)
    return tuple(found)


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
    with suppress(Interrupted), interrupter.watching():
        way(bank, 3)


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
