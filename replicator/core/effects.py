"""Own the inputs and outputs of a step: all that the core hears and says.

`replica.step(input) -> [effects]`. The shell performs effects in order; what follows a `WriteView` waits until that is
durable. Time enters as `Tick` only.

    input          meaning                                  | effect       meaning
    Started        the process is up                        | Execute      run this entry's handler, give Executed back
    Tick           time has passed                          | ExecuteRead  run this readonly handler, give ReadDone back
    Submitted      a client's message                       | Send         give this frame to that node
    Executed       an entry's outcome                       | Reply        answer a client
    ReadDone       a readonly handler's outcome             | WriteView    store the adopted view durably (V11)
    Received       a frame from a node                      | Propose      compare-and-set at the arbiter
    LinkUp         the link to a node is up                 | ReadView     ask the arbiter for the record
    LinkLost       it is lost, or refused                   | Connect      try the link to a node now
    ViewChanged    the arbiter's record                     | Note         the core's only voice
    ArbiterLost    no answer from the arbiter: unknown (V5) | Halt         stop this node, with the reason
    Written        a batch is on the disk                    | Write        store these rows durably, in one transaction
    TurnEnded      nothing more is ready: send what gathered |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replicator.core.frames import Frame
from replicator.core.messages import Answer, Entry
from replicator.core.persistence import Batch
from replicator.core.views import View


class Started:
    """The process is up; `highest_view` is the number its data folder remembers (V14)."""

    __slots__ = ("highest_view",)

    def __init__(self, highest_view: int) -> None:
        self.highest_view = highest_view


class Tick:
    """`now_ms`: wall clock, milliseconds since 1970, may jump. `elapsed_ms`: monotonic, never runs backwards."""

    __slots__ = ("elapsed_ms", "now_ms")

    def __init__(self, now_ms: int, elapsed_ms: int) -> None:
        self.now_ms = now_ms
        self.elapsed_ms = elapsed_ms


class Submitted:
    """A client's message: `token` comes back in the `Reply`; `level` may only strengthen the service's mode."""

    __slots__ = ("level", "message", "stale", "token")

    def __init__(self, token: object, message: bytes, level: int = 0, stale: bool = False) -> None:
        self.token = token
        self.message = message
        self.level = level
        self.stale = stale


class Executed:
    """The outcome of an `Execute`."""

    __slots__ = ("entry", "outcome")

    def __init__(self, entry: Entry, outcome: Any) -> None:
        self.entry = entry
        self.outcome = outcome


class ReadDone:
    """The outcome of an `ExecuteRead`."""

    __slots__ = ("outcome", "read")

    def __init__(self, read: ExecuteRead, outcome: Any) -> None:
        self.read = read
        self.outcome = outcome


class Received:
    """A frame from another node; the sender's name and incarnation are in the frame."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame = frame


class LinkUp:
    """The link to `node` is up."""

    __slots__ = ("node",)

    def __init__(self, node: str) -> None:
        self.node = node


class LinkLost:
    """The link to `node` broke or could not be made; `refused`: nothing listens there."""

    __slots__ = ("node", "refused")

    def __init__(self, node: str, refused: bool) -> None:
        self.node = node
        self.refused = refused


class ViewChanged:
    """The arbiter's present record, read or answered to a proposal; `asked` comes back from the effect that asked."""

    __slots__ = ("asked", "view")

    def __init__(self, view: View, asked: int = 0) -> None:
        self.view = view
        self.asked = asked


class ArbiterLost:
    """A call to the arbiter ended without an answer: whether it took effect is unknown (V5)."""

    __slots__ = ()


class Written:
    """The `Write` up to `seq` is on the disk, fsynced."""

    __slots__ = ("seq",)

    def __init__(self, seq: int) -> None:
        self.seq = seq


class ClockConfirmed:
    """A person says that this machine's wall clock is right, though it is far ahead of the database's time (V19)."""

    __slots__ = ()


class TurnEnded:
    """All that was ready has been given in: forward what has gathered."""

    __slots__ = ()


Input = (
    Started
    | Tick
    | Submitted
    | Executed
    | ReadDone
    | Received
    | LinkUp
    | LinkLost
    | ViewChanged
    | ArbiterLost
    | Written
    | TurnEnded
    | ClockConfirmed
)


class Execute:
    """Run the entry's handler and give the outcome back as `Executed`, before the next effect."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


class ExecuteRead:
    """Run a readonly handler on the committed tables and give the outcome back as `ReadDone`."""

    __slots__ = ("arguments", "spec", "stale", "token", "txn_id")

    def __init__(self, token: object, txn_id: bytes, spec: Any, arguments: dict[str, Any], stale: bool) -> None:
        self.token = token
        self.txn_id = txn_id
        self.spec = spec
        self.arguments = arguments
        self.stale = stale


class Send:
    """Give `frame` to `node`: an answer goes back on its request's call, a request out on the link."""

    __slots__ = ("frame", "node")

    def __init__(self, node: str, frame: Frame) -> None:
        self.node = node
        self.frame = frame


class Reply:
    """Answer the client behind `token`."""

    __slots__ = ("answer", "token")

    def __init__(self, token: object, answer: Answer) -> None:
        self.token = token
        self.answer = answer


@dataclass(frozen=True)
class WriteView:
    """Store the adopted view's number durably; effects after it wait (V11)."""

    view: View


@dataclass(frozen=True)
class Write:
    """Store a batch; `Written` follows when it is durable. Effects after it do not wait; one is under way at a time."""

    batch: Batch


@dataclass(frozen=True)
class Propose:
    """Ask the arbiter to put `view` in the place of the record numbered `base`."""

    base: int
    view: View
    asked: int


@dataclass(frozen=True)
class ReadView:
    """Ask the arbiter for its present record; `asked`: the highest view known now."""

    asked: int


@dataclass(frozen=True)
class Connect:
    """Try the link to `node` now; `LinkUp` or `LinkLost` follows."""

    node: str


@dataclass(frozen=True)
class Note:
    """Say what happened: logged and counted by the node, printed by the simulator, demanded by tests."""

    event: str
    facts: dict[str, object]


@dataclass(frozen=True)
class Halt:
    """Stop this node; it must not go on. `may_pass`: started again later, it may, with nothing changed by a person."""

    reason: str
    may_pass: bool = False


Effect = Execute | ExecuteRead | Send | Reply | WriteView | Write | Propose | ReadView | Connect | Note | Halt
