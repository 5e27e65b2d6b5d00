"""Own a driver for examples and users: many callers play a workload on a running deployment; an audit says what came of it."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from replicator.errors import ReplicatorError, UsageError
from replicator.testing.actors import Abandoned
from replicator.testing.calls import CallBook
from replicator.testing.checkers import Violation, check
from replicator.testing.traffic import RealCaller, real_book
from replicator.testing.workloads import Workload

#: A caller ends its conversation within so long.
LAST_S = 60.0


def play(
    workload: Workload,
    config: Path,
    *,
    seed: int,
    callers: int,
    seconds: float,
    on_half: Callable[[], None] | None = None,
) -> tuple[CallBook, list[Violation]]:
    """Fill the tables, let *callers* converse for *seconds*, repeat what is not known, audit; return the calls and what is wrong.

    *on_half* is called when half of the time is over: tests kill a node there. Raises ReplicatorError if the deployment cannot be
    reached or does not answer, UsageError for a mistake of the workload, and AssertionError if a caller hangs.
    """
    book, over = real_book(), threading.Event()

    def caller_of(name: str, timeout_s: float) -> RealCaller:
        return RealCaller(
            workload, config, book, name, f"{seed} {name}", over, timeout_s=timeout_s, patience=20, think_ms=5.0
        )

    first = caller_of("first", 10.0)
    first.play(workload.prepare(first.caller))
    everyone = [caller_of(f"caller{number}", 2.0) for number in range(callers)]
    mistakes: list[UsageError] = []

    def converse(caller: RealCaller) -> None:
        try:
            caller.converse(workload.converse)
        except UsageError as error:  # a thread's only way to tell
            mistakes.append(error)

    threads = [threading.Thread(target=converse, args=(each,), daemon=True) for each in everyone]
    for thread in threads:
        thread.start()
    over.wait(seconds / 2)
    if on_half is not None:
        on_half()
    over.wait(seconds / 2)
    over.set()
    for thread in threads:
        thread.join(LAST_S)
        assert not thread.is_alive(), "a caller hangs"
    if mistakes:
        raise mistakes[0]
    over.clear()
    known = {(call.txn_id, call.msg_no) for call in book.history.calls if call.is_final or call.status == "refused"}
    for ids, message in list(book.messages.items()):
        if ids not in known:
            first.repeat(message)
    over.wait(workload.patience_ms / 1_000 + 0.5)  # transactions that nobody ends meet their deadlines
    book.history.final_state = first.play(workload.audit(first.caller))
    for each in (first, *everyone):
        each.close()
    return book, check(book.history, workload.model)


def main(workload: Workload, name: str, arguments: list[str] | None, on_half: Callable[[], None] | None = None) -> int:
    """The command of an example; 0: all is well, 1: something is wrong, 2: wrong use or no answer."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}.play", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the deployment's TOML file; its nodes run already")
    parser.add_argument("--seed", type=int, default=0, help="feeds what the callers do (default 0)")
    parser.add_argument("--callers", type=int, default=8, help="callers at once (default 8)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long they call (default 10)")
    given = parser.parse_args(arguments)
    try:
        book, wrong = play(
            workload, given.config, seed=given.seed, callers=given.callers, seconds=given.seconds, on_half=on_half
        )
    except (ReplicatorError, Abandoned) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    calls = book.history.calls
    acknowledged = sum(call.is_acknowledged for call in calls)
    sys.stdout.write(
        f"{len(calls)} calls, {acknowledged} acknowledged, {sum(call.status == 'aborted' for call in calls)} refused by the "
        f"service; audit: {'ok' if not wrong else 'WRONG'}\n"
    )
    for violation in wrong:
        sys.stdout.write(f"  {violation}\n")
    return 1 if wrong else 0
