"""Own `replicator clock`: show how a node's clock stands to the database's time, and take a person's word for it (V19)."""

from __future__ import annotations

import time
from typing import Any

from replicator.cli_status import call_operator
from replicator.config import Config
from replicator.errors import LinkLost, Unavailable, UsageError


def shown_ms(ms: int) -> str:
    """Return a time of the wall clock as a person reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def lines(status: dict[str, Any], file: str) -> list[str]:
    """Return what to say of the active's clock."""
    name, ahead_ms = status["node"], status["clock_ahead_ms"]
    told = [f"database  {shown_ms(status['time_ms'])}", f"node {name:<4} {shown_ms(status['wall_ms'])}"]
    if not ahead_ms:
        return [*told, "the clock of the active is believed"]
    return [
        *told,
        f"the clock of {name} is further ahead than time can have passed, and no other node's clock says the same: it is "
        "ignored, and callers whose clocks agree with it are refused",
        f"if it is right: replicator clock {file} {name} --confirm (what handlers see as the time never runs back again); if "
        "not: set it",
    ]


def run_clock(config: Config, name: str, *, confirm: bool) -> int:
    """Show the clock of the active, and with *confirm* have it believed. Raises ConfigError, Unavailable.

    Returns 0 if the clock is believed, else 1.
    """
    config.node(name)
    try:
        status: dict[str, Any] = call_operator(config, name, "status")
        if status["role"] != "active":
            raise UsageError(
                f"node {name} is {status['role']}: it follows the clock of the active, {status['active'] or 'none now'}"
            )
        if confirm:
            status = call_operator(config, name, "confirm_clock")
    except LinkLost as lost:
        raise Unavailable(f"node {name} does not answer: {lost}") from lost
    print("\n".join(lines(status, config.path.name)))
    return 1 if status["clock_ahead_ms"] else 0
