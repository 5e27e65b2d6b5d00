"""Own `replicator recover` and `replicator failover`: the ways back when the arbiter's record, or
too many nodes, are lost.

Both ask every node, or read its data folder if it is on this machine; say in sentences what was
found, what would be done and what that may cost; and write the arbiter's file only when told so.
They hold the file's lock, and the locks of the folders that they read, until they end: nothing
changes under them. Never do: delete or overwrite anything of a node.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.arbiter.embedded import PARTITION, Register
from replicator.cli_status import call_operator
from replicator.config import Config
from replicator.core.rebuilding import Findings, Holding, Plan, plan_failover, plan_recovery
from replicator.core.views import View
from replicator.errors import CorruptRecord, LinkLost, StorageError, UsageError
from replicator.node.holdings import from_told, lock_folder, read_folder

#: How long a node may still wait for an answer of an arbiter that is gone; its link ends as soon as it has noticed.
SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one node: its holding, or why there is none. `is_empty`: surely no data is there."""

    name: str
    holding: Holding | None
    problem: str = ""
    is_empty: bool = False


def look(config: Config, locks: ExitStack) -> list[Seen]:
    """Ask all nodes; read the folder of each that does not answer, kept locked by *locks*."""
    with ThreadPoolExecutor(max_workers=len(config.nodes)) as pool:
        told = list(pool.map(lambda name: _ask(config, name), config.nodes))
    seen = []
    for name, answer in zip(config.nodes, told, strict=True):
        seen.append(_seen(name, answer) if isinstance(answer, dict) else _from_folder(config, name, answer, locks))
    return seen


def _ask(config: Config, name: str) -> dict[str, Any] | str:
    """Return what a node tells, or why it does not."""
    end_s = time.monotonic() + SETTLE_S
    pause = threading.Event()
    while True:
        try:
            told: dict[str, Any] = call_operator(config, name, "holdings")
        except LinkLost as lost:
            return str(lost)
        if not told["calls"] or time.monotonic() >= end_s:
            return told
        pause.wait(config.timing.heartbeat_ms / 1000)


def _seen(name: str, told: dict[str, Any]) -> Seen:
    holding = from_told(name, told)
    if holding.role == "diverged":
        return Seen(name, None, "it has diverged, and is out until it is started again")
    if not holding.database_id:
        return Seen(name, None, "it runs, and its data folder is empty", is_empty=True)
    return Seen(name, holding)


def _from_folder(config: Config, name: str, silence: str, locks: ExitStack) -> Seen:
    path = config.nodes[name].data
    try:
        lock = lock_folder(path)
        if lock is not None:
            locks.callback(os.close, lock)
        holding = read_folder(name, path)
    except StorageError as error:
        return Seen(name, None, f"it does not answer ({silence}), and {error}")
    if holding is None:
        return Seen(
            name, None, f"it does not answer ({silence}), and on this machine {path} holds nothing", is_empty=True
        )
    return Seen(name, holding)


def refuse_if_held(config: Config) -> None:
    """Raise UsageError if a node or a folder holds data of a database: a new record beside it would give it up (E8)."""
    with ExitStack() as locks:
        seen = look(config, locks)
    held = []
    for each in seen:
        if each.holding is not None:
            found = each.holding
            held.append(f"{found.where} is of database {found.database_id}, at seq {found.seq} of view {found.view}")
        elif not each.is_empty:
            held.append(f"node {each.name}: {each.problem}")
    if held:
        raise UsageError(
            f"there is data: {'; '.join(held)}. A new database beside it would give it up. If the arbiter's record is lost or "
            f"old: `replicator recover {config.path}` rebuilds it from the nodes, and nothing is lost. To begin an empty "
            "database all the same: stop the nodes, and move their data folders away"
        )


def add_arguments(recover: argparse.ArgumentParser, failover: argparse.ArgumentParser) -> None:
    """Describe what the two commands take."""
    recover.add_argument(
        "--without", action="append", default=[], metavar="NODE", help="leave this node out: its data are lost for good"
    )
    failover.add_argument("node", metavar="NODE", help="the node that is to be active, alone")
    failover.add_argument("--force", action="store_true", help="needed: this is for disasters only")
    for command in (recover, failover):
        command.add_argument("--accept-loss", action="store_true", help="needed where something may be lost; says what")
        command.add_argument(
            "--yes", action="store_true", help="do it; without, it is only said, or asked at a terminal"
        )


def run_recover(config: Config, arguments: argparse.Namespace) -> int:
    """Run `replicator recover`. Raises UsageError, StorageError."""
    unknown = [name for name in arguments.without if name not in config.nodes]
    if unknown:
        raise UsageError(f"there is no node {unknown[0]}; nodes are: {', '.join(config.nodes)}")
    return _run(config, arguments, lambda found: plan_recovery(found, tuple(arguments.without)))


def run_failover(config: Config, arguments: argparse.Namespace) -> int:
    """Run `replicator failover`. Raises UsageError, StorageError."""
    config.node(arguments.node)
    if not arguments.force:
        raise UsageError(
            "failover without --force is not there: a backup takes over by itself. To move the work on purpose, stop the active "
            "with SIGTERM. With --force a node is made the active whatever the others hold: for disasters"
        )
    return _run(config, arguments, lambda found: plan_failover(found, arguments.node))


def _run(config: Config, arguments: argparse.Namespace, plan: Any) -> int:
    with ExitStack() as held:
        arbiter = _Arbiter(config.arbiter_file, held)
        found = _findings(look(config, held), arbiter)
        _say_found(found)
        made: Plan = plan(found)
        if made.refusal:
            raise UsageError(f"nothing is written: {made.refusal}")
        for sentence in made.does:
            print(f"to do: {sentence}")
        for sentence in made.losses:
            print(f"may be lost: {sentence}")
        if made.view is None:
            return 0
        if made.losses and not arguments.accept_loss:
            raise UsageError("nothing is written: if what may be lost may be lost, say --accept-loss")
        if not (arguments.yes or _is_agreed()):
            print("nothing is written; to do it, say --yes")
            return 1
        arbiter.write(made.view)
        print(
            f"written to {config.arbiter_file}: view {made.view.number}. Start the distributor process (or `replicator "
            "arbiter`) now, and every node that does not run"
        )
    return 0


class _Arbiter:
    """The arbiter's file, held as long as the command runs; a damaged one is moved aside, and never overwritten."""

    def __init__(self, path: Path, held: ExitStack) -> None:
        self.path = path
        self.view: View | None = None
        self.says = f"{path} holds no record"
        self._held = held
        self._register: Register | None = None
        try:
            self._register = held.enter_context(Register(path, create=True))
        except CorruptRecord as error:
            self.says = str(error)
            return
        with suppress(UsageError):
            self.view = View.from_bytes(self._register.read(PARTITION))
            self.says = f"{path} holds view {self.view.number}"

    def write(self, view: View) -> None:
        if self._register is None:
            aside = _free_name(self.path)
            os.rename(self.path, aside)
            print(f"the damaged file is kept as {aside}")
            self._register = self._held.enter_context(Register(self.path, create=True))
        self._register.put_rebuilt(PARTITION, view.to_bytes())


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _findings(seen: list[Seen], arbiter: _Arbiter) -> Findings:
    holdings = {each.name: each.holding for each in seen if each.holding is not None}
    missing = {each.name: each.problem for each in seen if each.holding is None}
    return Findings(tuple(each.name for each in seen), holdings, missing, arbiter.view, arbiter.says)


def _say_found(found: Findings) -> None:
    print(f"found: the arbiter: {found.arbiter_says}")
    for name in found.members:
        holding = found.holdings.get(name)
        if holding is None:
            print(f"found: node {name}: {found.missing[name]}")
            continue
        record = holding.record
        knows = "" if record is None else f", and the record of view {record.number} ({_told(record)})"
        print(f"found: {holding.where}: seq {holding.seq} of view {holding.view}{knows}")


def _told(record: View) -> str:
    active = "nobody" if record.active is None else record.active.name
    return f"active {active}, in sync {', '.join(each.name for each in record.in_sync) or 'nobody'}"


def _is_agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("write it? (yes/no) ").strip() == "yes"
    except EOFError:
        return False
