"""Own what the logs of the nodes tell about their returns: which have begun, and how those that ended went."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

_BEGINS = re.compile(r"catches up from (\w+), beyond seq \d+ \(everything: (\w+)\)")
_ROLE = re.compile(r"view \d+: this node is (\w+),")
#: A set that would not have given the active's digest: the change list, or the comparison, was wrong.
REFUSED = "sets refused for their digest"
_KINDS = {"no": "catch-ups by list", "compared": "catch-ups by comparison", "yes": "catch-ups of everything"}
_COUNTED = {
    "it would not have the active's digest": REFUSED,
    "took up what its disk held": "disks taken up",
    "which nobody had acknowledged, are undone": "rolled back",
    "the catch-up from": "broken off",
    "takes over the tail of": "tails taken over",
}


class Logs(Protocol):
    """Where the output of a process is read."""

    def log_text(self, name: str) -> str:
        """Return the output of a process so far."""


class Watch:
    """Reads the nodes' logs from where they stood when it was made."""

    def __init__(self, logs: Logs, nodes: Sequence[str]) -> None:
        self._logs = logs
        self._began = {node: len(logs.log_text(node)) for node in nodes}
        self._seen = dict(self._began)

    def catch_ups(self) -> list[tuple[str, str]]:
        """Return (node, source) of the catch-ups that have begun since this was asked last."""
        found: list[tuple[str, str]] = []
        for node, seen in self._seen.items():
            new = self._logs.log_text(node)[seen:]
            whole_lines = new[: new.rfind("\n") + 1]
            self._seen[node] = seen + len(whole_lines)
            found += [(node, begun[1]) for begun in _BEGINS.finditer(whole_lines)]
        return found

    def returns(self) -> Counter[str]:
        """Count how the nodes have come back."""
        counts: Counter[str] = Counter()
        for node, began in self._began.items():
            counts += returns_in(self._logs.log_text(node)[began:])
        return counts


def returns_in(text: str) -> Counter[str]:
    """Count the returns that one node's log tells of.

    A return ends when the node is in a view again: behind a catch-up (by the change list, by comparison or of everything), or,
    without one, by the entries alone; or when it opens the database itself, after an outage.
    """
    counts: Counter[str] = Counter()
    is_outside = has_caught_up = False
    kind = ""
    for line in text.splitlines():
        begins, role = _BEGINS.search(line), _ROLE.search(line)
        counts.update(name for words, name in _COUNTED.items() if words in line)
        if begins is not None:
            kind = _KINDS[begins[2]]
        elif "is level with" in line:
            counts[kind] += 1
            has_caught_up = True
        elif role is not None and role[1] == "outside":
            is_outside, has_caught_up = True, False
        elif role is not None and is_outside:
            how = "in sync after a catch-up" if has_caught_up else "in sync by entries"
            counts[how if role[1] == "backup" else "opened from its disk"] += 1
            is_outside = False
    return counts
