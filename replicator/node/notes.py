"""Own how a node speaks: one human sentence for each Note of the core, and for its status.

INFO is what an operator must see, WARNING needs a human today, ERROR precedes a halt, DEBUG is per transaction.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loguru import logger

_SENTENCES: dict[str, tuple[str, str]] = {
    "view_adopted": ("INFO", "view {view}: this node is {role}, the active is {active}"),
    "proposed": ("INFO", "proposes view {view} with {active} as the active: {why}"),
    "opened": ("INFO", "took over: open for messages in view {view} at seq {seq}, {open_txns} open transactions go on"),
    "formed": ("INFO", "formed the database in view {view}; it opens when a second node is level"),
    "stepped_down": ("WARNING", "stepped down: view {view} has {active} as the active"),
    "dropped_replies": ("WARNING", "dropped {count} held replies; their callers will repeat them at the new active"),
    "joining": ("INFO", "node {node} joins; it is sent what follows seq {after}"),
    "join_given_up": ("WARNING", "node {node} fell silent or too far behind while joining, at seq {at}"),
    "awaits_joiner": ("DEBUG", "replies wait for node {node} too, which lacks {lag} entries, so that it comes in"),
    "gives_up_awaiting": (
        "WARNING",
        "replies no longer wait for node {node}, which does not come nearer; again in {again_ms} ms",
    ),
    "return_is_slow": (
        "WARNING",
        "node {node} was given {rounds} sets and is still not level: what follows is kept for it",
    ),
    "slow_backup": ("WARNING", "backup {node} took {ms} ms to answer: every caller waited for it"),
    "stays_outside": ("WARNING", "stays outside: {because}"),
    "restored": ("INFO", "took up what its disk held: {rows} rows at seq {seq} of view {view}"),
    "catchup_begins": ("INFO", "catches up from {source}, beyond seq {after} (everything: {whole})"),
    "catchup_begun": ("INFO", "brings node {node} level, beyond seq {after} (everything: {whole})"),
    "catchup_captured": ("INFO", "node {node} has been given all, in {rounds} rounds"),
    "catchup_applied": (
        "INFO",
        "is level with {source} at seq {seq}: {rows} rows, {bytes} bytes, {ms} ms, {undone} of its own changes undone",
    ),
    "catchup_dropped": ("WARNING", "the catch-up from {node} broke off after {rows} rows: {why}"),
    "rolled_back": ("WARNING", "{count} changes beyond seq {after}, which nobody had acknowledged, are undone: {keys}"),
    "takes_over_tail": ("INFO", "takes over the tail of {node}: entries {after} to {to}"),
    "conflict": ("WARNING", "node {node} holds entry {seq} of view {view}, which this view does not have"),
    "backup_problem": ("WARNING", "backup {node} answers {problem} at seq {seq}"),
    "diverged": (
        "ERROR",
        "DIVERGED at seq {seq}: {message} of {txn} had another outcome than on the active, {times} times now; rows: {keys}",
    ),
    "rows_differ": (
        "ERROR",
        "DIVERGED: at seq {seq} its rows are not the active's; all are compared, and taken from it",
    ),
    "differs": (
        "WARNING",
        "node {node} holds another entry {seq} of view {view} than this one: it is brought level first",
    ),
    "believed": ("WARNING", "takes view {view} as its members tell it, as the arbiter does not answer"),
    "arbiter_silent": (
        "WARNING",
        "the arbiter has not answered for {ms} ms: service goes on, but a node that fails now cannot be replaced",
    ),
    "arbiter_back": ("INFO", "the arbiter answers again, after {ms} ms"),
    "arbiter_set_back": ("WARNING", "{problem}"),
    "refused_stale_frame": ("INFO", "refused a frame of {sender} from old view {view}; ours is {ours}"),
    "new_incarnation": ("INFO", "node {node} has restarted"),
    "woke_up": ("WARNING", "was stopped or starved for {gap_ms} ms"),
    "clock_ahead": (
        "WARNING",
        "this machine's clock is {ahead_ms} ms further ahead of the database's time than the {max_skew_ms} ms allowed; it is "
        "ignored until another node's clock says the same, or `replicator clock FILE NODE --confirm` does",
    ),
    "clock_confirmed": ("WARNING", "this machine's clock, {ahead_ms} ms ahead, is believed: a person has confirmed it"),
    "deadline": ("DEBUG", "transaction {txn} passed its deadline: {otherwise}"),
    "deadline_given_up": (
        "ERROR",
        "the deadline of transaction {txn} fails: {deaths} lives of this node ended while its handler {handler} ran, which is "
        "not run again; its transaction is over, and what the handler should have done is left to a person",
    ),
    "disk_hangs": (
        "ERROR",
        "the disk has not finished a write for {ms} ms: another node goes on if there is one; if this one is alone, replies wait "
        "for it, and what it holds may be the only copy: do not end it",
    ),
    "slow_disk": ("WARNING", "the disk took {ms} ms for a write"),
    "busy": ("WARNING", "node {node} is in handler {handler} since {ms} ms: it is busy, and not dead"),
    "handler_too_long": (
        "ERROR",
        "handler {handler} has run for {ms} ms, longer than handler_ms_max, and is ended: on the active its message fails; a "
        "backup then differs, and comes back. If it is said again, the handler cannot be ended: this node serves nobody until it "
        "is killed",
    ),
    "halted": ("ERROR", "halts: {reason}"),
    "stranger": (
        "WARNING",
        "what answers at the address of {whom} is nobody there: {problem}. The name server's entry may be old; or two "
        "databases have one name: then give one of them another; or the database was begun anew: then move this node's "
        "data folder, which holds the former one, elsewhere, and start it again",
    ),
    "name_taken": (
        "ERROR",
        "cannot be found: {problem}; two databases on one name server need different names: change [database] name of one",
    ),
    "peer_refused": ("WARNING", "refused what {peer} sent: {problem}"),
    "connection_refused": ("WARNING", "refused a connection from {peer}: {reason}, connections_max = {limit}"),
    "accept_paused": ("WARNING", "takes no connections for a moment: {reason}"),
    "handshake_refused": ("INFO", "refused the greeting of {peer}: {reason}"),
    "call_refused": ("INFO", "refused a call of {peer}: {reason}"),
    "connection_closed": ("DEBUG", "the connection of {peer} is closed: {reason}"),
}

#: Of one kind of line, so many are written within so many seconds; the others are counted, and the count is written. A
#: misconfiguration that repeats itself many times a second must not bury what else is said.
LINES_MAX = 10
LINES_S = 10.0


@dataclass(slots=True)
class _Written:
    """Lines of one kind since `since_s`, and how many were left out."""

    since_s: float
    lines: int = 0
    left_out: int = 0


#: A proposal that waits for longer than this is worth a word in the status.
ARBITER_SLOW_MS = 2_000
#: An answer of a backup that took longer is worth one, too: callers waited for it.
SLOW_ACK_MS = 200
#: A write of the disk that takes longer is, too.
DISK_SLOW_MS = 200


class Notes:
    """Logs and counts Notes."""

    def __init__(
        self, node: str, before: Callable[[], None] = lambda: None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """*before* is called before each line."""
        self._before = before
        self._now_s = now_s
        self._written: dict[str, _Written] = {}
        self.counts: Counter[str] = Counter()
        self._log = logger.bind(node=node).opt(capture=False)

    def take(self, event: str, facts: Mapping[str, Any]) -> None:
        """Log one Note."""
        self.counts[event] += 1
        if not self._may_write(event):
            return
        self._before()
        if event == "handler_failed":
            told = {name: facts[name] for name in ("handler", "seq", "txn")}
            log = self._log.opt(exception=facts["failure"], capture=False)
            log.warning("handler {handler} failed at seq {seq}, transaction {txn}", **told)
            return
        level, sentence = _SENTENCES.get(
            event, ("DEBUG", f"{event} {dict(facts)!r}".replace("{", "{{").replace("}", "}}"))
        )
        self._log.log(level, sentence, **facts)

    def _may_write(self, event: str) -> bool:
        """Whether there is room for one more line of this kind; what there was no room for is told when there is again."""
        now_s = self._now_s()
        written = self._written.get(event)
        if written is None or now_s - written.since_s >= LINES_S:
            if written is not None and written.left_out:
                self._before()
                self._log.warning(
                    "left out {count} more lines like the next one, of the last {seconds:.0f} s",
                    count=written.left_out,
                    seconds=now_s - written.since_s,
                )
            self._written[event] = written = _Written(now_s)
        written.lines += 1
        written.left_out += written.lines > LINES_MAX
        return written.lines <= LINES_MAX

    def say(self, status: Mapping[str, Any]) -> None:
        """Log how the node is, for somebody who asked by a signal."""
        self._before()
        told = {name: status[name] for name in ("role", "view", "seq", "open", "rows")}
        self._log.info(
            "asked how it is: {role} in view {view} at seq {seq}, {open} open transactions, {rows} rows: {says}",
            **told,
            says=status["says"],
        )


def says(status: Mapping[str, Any]) -> str:
    """Return one human sentence on a node's status; what is wrong with the arbiter behind it."""
    sentence = _role_says(status)
    if status.get("arbiter_problem"):
        return f"{sentence}; {status['arbiter_problem']}"
    if status.get("arbiter_silent"):
        return f"{sentence}; the arbiter has not answered for {status['arbiter_ms'] // 1000} s"
    return sentence + _disk_says(status.get("disk", {}))


def _disk_says(disk: Mapping[str, int]) -> str:
    if disk.get("waiting_ms", 0) >= DISK_SLOW_MS:
        return f"; its disk has not finished a write for {disk['waiting_ms']} ms"
    slowest_ms = disk.get("slowest_ms", 0)
    return f"; its disk took up to {slowest_ms} ms for a write" if slowest_ms >= DISK_SLOW_MS else ""


def _role_says(status: Mapping[str, Any]) -> str:
    role = status["role"]
    if role == "active":
        if not status["opened"]:
            return "waiting for a second node before the first message is accepted"
        if status["proposed_ms"] > ARBITER_SLOW_MS:
            return f"cannot go on without the arbiter, which has not answered for {status['proposed_ms'] // 1000} s"
        if status["mismatch"]:
            return "serving alone: its messages are held by one node only"
        if status["clock_ahead_ms"]:
            return "serving; its clock is too far ahead, and ignored: see `replicator clock`"
        slow = [
            f"{name} took up to {ms} ms to answer" for name, ms in status["slowest_ack_ms"].items() if ms >= SLOW_ACK_MS
        ]
        behind = [f"{name} is {count} behind" for name, count in status["behind"].items() if count]
        return "serving" + (f"; {', '.join(behind + slow)}" if behind or slow else "")
    if role == "backup":
        if status["active"] not in status["linked"]:
            return f"cannot reach {status['active']}, the active it was in step with, and waits to hear who goes on"
        return f"in step with {status['active']}"
    if role == "opening":
        return "promoted: brings all level before it opens"
    if role == "diverged":
        own = "stopped acking: its outcome of a message differed from the active's"
        if status["active"] in status["linked"]:
            return own
        return (
            f"{own}, which is not there: if no other node serves, start this one again, and those that were in sync with it: "
            "then the one that holds the most opens"
        )
    if role == "halted":
        return "halted"
    if status["catching_up"]:
        text = "catches up from {source}: {rows} rows, {bytes} bytes, about {left} left".format(**status["catching_up"])
        failed = status.get("catchups_failed", 0)
        return text + (f"; {failed} broke off, the last as {status['catchup_failed_because']}" if failed else "")
    if status["because"]:
        return f"outside: {status['because']}"
    if not status["active"]:
        return "waits for the database to be formed"
    if status["active"] == status["node"]:
        return (
            "outside: the view names this node's former life as the active, whose memory is lost; a backup that lives takes "
            "over; if none does, `replicator recover FILE` says what is left"
        )
    return f"outside: asks {status['active']} to join"
