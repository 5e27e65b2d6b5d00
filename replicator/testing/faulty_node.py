"""A node that can be told to die at a named point: for failover tests only; `replicator node` never looks at the variable.

    REPLICATOR_FAULT=POINT:HANDLER:COUNT python -m replicator.testing.faulty_node node FILE --name a

The process kills itself with SIGKILL at the COUNT-th message of HANDLER ("*": any), at POINT:

    before_execute   the message is admitted and stamped, its handler has not run
    after_execute    the handler has run and is committed here, nothing has been forwarded
    after_forward    the forward that carries it has been written to every backup's socket, nothing was answered
    before_ack       on a backup: the message is received, nothing was acked
    after_ack        on a backup: the ack has been written
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from loguru import logger

from replicator import cli
from replicator.config import Config, load
from replicator.core.effects import Execute, Send
from replicator.core.frames import Forward, ForwardAck
from replicator.core.messages import split_message
from replicator.errors import ConfigError, ReplicatorError
from replicator.node.node import Node, run_node
from replicator.node.stepping import Performers
from replicator.service import Service

VARIABLE = "REPLICATOR_FAULT"
POINTS = ("before_execute", "after_execute", "after_forward", "before_ack", "after_ack")


class Fault:
    """An armed fault point."""

    def __init__(self, text: str) -> None:
        parts = text.split(":")
        if len(parts) != 3 or parts[0] not in POINTS or not parts[2].isdigit():
            raise ConfigError(f"{VARIABLE}={text!r}: expected POINT:HANDLER:COUNT, POINT one of {', '.join(POINTS)}")
        self.point, self.handler, count = parts
        self.left = int(count)
        self.is_reached = False

    def sees(self, handler: str) -> bool:
        """Count a message; True at the one that was asked for, and from then on."""
        if not self.is_reached and self.handler in ("*", handler):
            self.left -= 1
            self.is_reached = self.left <= 0
        return self.is_reached


class FaultyNode(Node):
    """A node with an armed fault point."""

    fault: Fault | None = None

    def __init__(self, config: Config, name: str, service: Service[Any]) -> None:
        text = os.environ.get(VARIABLE, "")
        self.fault = Fault(text) if text else None
        super().__init__(config, name, service)

    def _make_performers(self) -> Performers:
        performers = super()._make_performers()
        self._execute = performers[Execute]
        return {**performers, Execute: self._perform_execute}

    def _perform_execute(self, effect: Execute) -> None:
        """Die before or after the handler, on the active."""
        fault = self.fault
        is_active = not effect.entry.digest
        hit = False
        if fault is not None and is_active and fault.point in ("before_execute", "after_execute", "after_forward"):
            hit = fault.sees(_handler_of(effect.entry.message))
            if hit and fault.point == "before_execute":
                die()
        self._execute(effect)
        if hit and fault is not None and fault.point == "after_execute":
            die()

    def perform_send(self, effect: Send) -> None:
        """Die around a forward or an ack."""
        fault = self.fault
        frame = effect.frame
        if fault is None:
            super().perform_send(effect)
            return
        if isinstance(frame, ForwardAck) and fault.point in ("before_ack", "after_ack") and frame.received:
            self._around_ack(effect, fault)
            return
        super().perform_send(effect)
        if isinstance(frame, Forward) and frame.entries and fault.point == "after_forward" and fault.is_reached:
            die()

    def _around_ack(self, effect: Send, fault: Fault) -> None:
        assert self.replica is not None
        assert isinstance(effect.frame, ForwardAck)
        entry = self.replica.state.fifo.get(effect.frame.received)
        hit = entry is not None and fault.sees(_handler_of(entry.message))
        if hit and fault.point == "before_ack":
            die()
        super().perform_send(effect)
        if hit:  # output is flushed at the end of this turn; the second hop is in the next one
            self.loop.call_soon(lambda: self.loop.call_soon(die))


def _handler_of(message: bytes) -> str:
    return str(split_message(message)[2])


def die() -> None:
    """End as by `kill -9`: nothing is flushed, nothing is said."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Take the arguments of the `replicator` command; `node` runs a node with its fault point armed."""
    if sys.argv[1:2] != ["node"]:
        return cli.main(sys.argv[1:])
    parser = argparse.ArgumentParser(prog="faulty_node", description=__doc__)
    parser.add_argument("command", choices=["node"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    logger.enable("replicator")
    try:
        run_node(load(arguments.file), arguments.name, make=FaultyNode)
    except ReplicatorError as error:
        sys.stderr.write(f"faulty_node: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
