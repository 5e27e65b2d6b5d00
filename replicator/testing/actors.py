"""Own simulated callers: scripts that send, wait, repeat and give up, each step in its client's own process.

A script is a generator. It yields a future of `submit(...)` and gets the result or the error; it yields a number and goes on
that many milliseconds later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from replicator.client import submit, transaction, with_options
from replicator.errors import OutcomeUnknown, Overloaded, ReplicatorError, Unavailable, UnknownHandler, UsageError
from replicator.testing.sim.process import Process

Step = Future[Any] | float
Script = Generator[Step, Any, Any]


class Abandoned(Exception):
    """A script gives a message up although its outcome is not known."""


@dataclass(slots=True)
class Caller:
    """What a script has at hand."""

    client: Any
    random: random.Random
    process: Any = None
    patience: int = 5  # tries of one message
    read_part: float = 0.3
    stale_part: float = 0.0
    repeat_part: float = 0.0
    named_part: float = 0.0  # of the transactions of one message, so many have names
    two_lives_part: float = 0.0  # of those of several, so many have names and are taken up; where names stay remembered
    keys: tuple[str, ...] = ("k0",)
    think_ms: float = 20.0
    nap_part: float = 0.0  # of the pauses, so many are long
    nap_ms: float = 0.0
    is_over: Callable[[], bool] = lambda: False
    gone: list[str] = field(default_factory=list)

    def say(self, method: Any, *args: Any, **kwargs: Any) -> Script:
        """Send a message, and repeat it while its outcome is unknown. Raises Abandoned, ReplicatorError."""
        for number in range(self.patience):
            try:
                return (yield submit(method, *args, **kwargs))
            except (OutcomeUnknown, Unavailable, Overloaded):
                if number + 1 == self.patience or self.is_over() or self.random.random() < 0.15:
                    raise Abandoned from None
                yield self.random.uniform(1, 4 * self.think_ms)
        raise Abandoned

    def once(self, name: str, /, **kwargs: Any) -> Script:
        """Send one message as a transaction of its own, as long as it takes."""
        is_named = self.named_part and self.random.random() < self.named_part
        txn_id = f"order {self.random.getrandbits(64)}" if is_named else None
        with transaction(self.client, txn_id=txn_id) as alone:
            return (yield from self.say(getattr(alone, name), **kwargs))

    def query(self, name: str, /, **kwargs: Any) -> Script:
        """Ask a readonly handler: of a backup, for the caller's part of stale reads."""
        is_stale = self.random.random() < self.stale_part
        client = with_options(self.client, stale=True) if is_stale else self.client
        return (yield from self.say(getattr(client, name), **kwargs))


def run(process: Process, script: Script, ended: Callable[[], None] = lambda: None) -> None:
    """Run a script in a process, until it ends or the process dies. What else it raises comes out where time is moved on."""

    def advance(send: Callable[[], Step]) -> None:
        try:
            step = send()
        except StopIteration:
            ended()
            return
        except Abandoned:
            ended()
            return
        if isinstance(step, Future):
            step.add_done_callback(lambda future: process.deliver(lambda: advance(lambda: _resume(script, future))))
        else:
            process.loop.call_later(step / 1000, lambda: advance(lambda: script.send(None)))

    process.deliver(lambda: advance(lambda: next(script)))


def _resume(script: Script, future: Future[Any]) -> Step:
    error = future.exception()
    return script.throw(error) if error is not None else script.send(future.result())


def caller_script(caller: Caller, conversation: Callable[[Caller], Script], until: Callable[[], bool]) -> Script:
    """One conversation after the other, with pauses; refusals and failures are part of the game."""
    while not until():
        try:
            yield from conversation(caller)
        except UsageError as error:
            if not (until() and isinstance(error, UnknownHandler)):  # it is over: then it is gone since the upgrade
                raise  # a mistake of the script
        except (Abandoned, ReplicatorError):
            caller.gone.append("")
        if caller.nap_part and caller.random.random() < caller.nap_part:
            yield caller.random.uniform(0.5, 1.5) * caller.nap_ms
        yield caller.random.expovariate(1 / caller.think_ms)
