"""Own how a node speaks: one human sentence for each Note of the core, and for its status.

INFO is what an operator must see, WARNING needs a human today, ERROR precedes a halt, DEBUG is per transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
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
    "deadline": ("DEBUG", "transaction {txn} passed its deadline: {otherwise}"),
    "halted": ("ERROR", "halts: {reason}"),
    "peer_refused": ("WARNING", "refused what {peer} sent: {problem}"),
}


#: A proposal that waits for longer than this is worth a word in the status.
ARBITER_SLOW_MS = 2_000


class Notes:
    """Logs and counts Notes."""

    def __init__(self, node: str, before: Callable[[], None] = lambda: None) -> None:
        """*before* is called before each line."""
        self._before = before
        self.counts: Counter[str] = Counter()
        self._log = logger.bind(node=node).opt(capture=False)

    def take(self, event: str, facts: Mapping[str, Any]) -> None:
        """Log one Note."""
        self.counts[event] += 1
        self._before()
        if event == "handler_failed":
            log = self._log.opt(exception=facts["failure"], capture=False)
            log.warning("a handler failed at seq {seq}, transaction {txn}", seq=facts["seq"], txn=facts["txn"])
            return
        level, sentence = _SENTENCES.get(
            event, ("DEBUG", f"{event} {dict(facts)!r}".replace("{", "{{").replace("}", "}}"))
        )
        self._log.log(level, sentence, **facts)


def says(status: Mapping[str, Any]) -> str:
    """Return one human sentence on a node's status; what is wrong with the arbiter behind it."""
    sentence = _role_says(status)
    if status.get("arbiter_problem"):
        return f"{sentence}; {status['arbiter_problem']}"
    if status.get("arbiter_silent"):
        return f"{sentence}; the arbiter has not answered for {status['arbiter_ms'] // 1000} s"
    return sentence


def _role_says(status: Mapping[str, Any]) -> str:
    role = status["role"]
    if role == "active":
        if not status["opened"]:
            return "waiting for a second node before the first message is accepted"
        if status["proposed_ms"] > ARBITER_SLOW_MS:
            return f"cannot go on without the arbiter, which has not answered for {status['proposed_ms'] // 1000} s"
        if status["mismatch"]:
            return "serving alone: its messages are held by one node only"
        behind = [f"{name} is {count} behind" for name, count in status["behind"].items() if count]
        return "serving" + (f"; {', '.join(behind)}" if behind else "")
    if role == "backup":
        return f"in step with {status['active']}"
    if role == "opening":
        return "promoted: brings all level before it opens"
    if role == "diverged":
        return "stopped acking: its outcome of a message differed from the active's"
    if role == "halted":
        return "halted"
    if status["catching_up"]:
        return "catches up from {source}: {rows} rows, {bytes} bytes, about {left} left".format(**status["catching_up"])
    if status["because"]:
        return f"outside: {status['because']}"
    if not status["active"]:
        return "waits for the database to be formed"
    if status["active"] == status["node"]:
        return (
            "outside: the view names this node's former life as the active, whose memory is lost; unless a backup takes over, "
            "`replicator init-database FILE --again` begins anew"
        )
    return f"outside: asks {status['active']} to join"
