"""Own the shape of what happened in a run: calls of clients, and, where a simulator watched, what nodes did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

R = TypeVar("R")


@dataclass(slots=True)
class Call:
    """One call of a client, from invocation to answer; a repeat with the same id is a Call of its own.

    Times are milliseconds of one monotonic clock for the whole history. `status`: done, aborted, failed, refused, unknown,
    unavailable, overloaded, too_late (whether it took effect will never be told). `value`: the result in plain values; of an
    aborted one [reason, facts]; of a refused one the name of the error. `body`: the outcome bytes, where they were seen.
    `view` to `mismatch`: the facts of the reply.
    """

    client: str
    txn_id: str
    msg_no: int
    handler: str
    arguments: Mapping[str, Any]
    invoked_ms: float
    readonly: bool = False
    stale: bool = False
    returned_ms: float | None = None
    status: str = "unknown"
    value: Any = None
    body: bytes = b""
    view: int = 0
    seq: int = 0
    level: str = ""
    copies: int = 0
    mismatch: bool = False
    node: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the caller has got an outcome."""
        return self.status in ("done", "aborted", "failed")

    @property
    def is_acknowledged(self) -> bool:
        """Whether it must survive the loss of a node (P1)."""
        return self.is_final and not self.readonly and self.level != "async"


@dataclass(slots=True)
class Done:
    """An entry as one node executed it; `digest`: of the whole state after it; `is_open`: its transaction, after it.

    `life`: the incarnation, and how many catch-ups it had taken: within one life a log rises by one.
    """

    node: str
    incarnation: str
    life: str
    view: int
    seq: int
    txn_id: str
    msg_no: int
    kind: str
    handler: str
    arguments: Mapping[str, Any]
    status: str
    body: bytes
    digest: int
    is_open: bool
    at_ms: float
    chain: bytes = b""  # of all entries up to this one
    before: bytes = b""  # the same before it


@dataclass(slots=True)
class Adopted:
    """A node took on a view."""

    node: str
    incarnation: str
    view: int
    role: str
    at_ms: float


@dataclass(slots=True)
class Released:
    """A reply left a node."""

    node: str
    incarnation: str
    view: int
    seq: int
    txn_id: str
    msg_no: int
    status: str
    level: str
    readonly: bool
    stale: bool
    at_ms: float

    @property
    def is_final(self) -> bool:
        """Whether it is an outcome."""
        return self.status in ("done", "aborted", "failed")


class History:
    """All that was recorded, in order of time. What nobody recorded stays empty.

    `final`: the log of the node that serves at the end, from seq 1. `final_state`: what the model's audit wants to see.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.done: list[Done] = []
        self.adopted: list[Adopted] = []
        self.released: list[Released] = []
        self.final: list[Done] = []
        #: What a watcher who sees all nodes at once has seen go wrong: (rule, text).
        self.witnessed: list[tuple[str, str]] = []
        self.final_state: Any = None

    def to_json(self) -> str:
        """Pack, bytes as hexadecimal digits."""
        rows = {name: [asdict(row) for row in getattr(self, name)] for name in _ROWS}
        more = {"final_state": self.final_state, "witnessed": self.witnessed}
        return json.dumps({**rows, **more}, default=_plain)

    @staticmethod
    def from_json(text: str) -> History:
        """Unpack what `to_json` made. Raises ValueError, KeyError or TypeError for anything else."""
        content = json.loads(text)
        history = History()
        for name, kind in _ROWS.items():
            getattr(history, name).extend(_row(kind, row) for row in content[name])
        history.final_state = content["final_state"]
        history.witnessed = [(rule, text) for rule, text in content["witnessed"]]
        return history


_ROWS: dict[str, type[Any]] = {"calls": Call, "done": Done, "adopted": Adopted, "released": Released, "final": Done}


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


def _row(kind: type[R], row: dict[str, Any]) -> R:
    made = {field.name: row[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    if "body" in made:
        made["body"] = bytes.fromhex(made["body"])
    return kind(**made)
