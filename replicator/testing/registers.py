"""Own the simulator's own workload: numbered cells, small but with every kind of message that a service can have.

Single writes, sums that show a message lost or done twice, refusals, failures, transactions of several messages with a
deadline, random numbers and time, queries. `CellsModel` says what each must answer, independently of the service.
"""

from __future__ import annotations

from replicator.context import Abort, Context
from replicator.schema import Tables
from replicator.service import Service, handler
from replicator.tables import Table

#: What `begin` and `more` allow until the next message: milliseconds.
PATIENCE_MS = 1_500


class Cells(Tables):
    """The tables."""

    cells: Table[str, int]


def deepest(levels: int) -> int:
    """Go down until it is too deep; return how deep that was."""
    try:
        return deepest(levels + 1)
    except RecursionError:
        return levels


class Registers(Service[Cells]):
    """Cells that can be written, added to, taken from, and summed up over several messages."""

    @handler
    def write(self, ctx: Context[Cells], key: str, value: int) -> int:
        """Set a cell; return what was in it."""
        before = ctx.tables.cells.get(key, 0)
        ctx.tables.cells[key] = value
        return int(before)

    @handler
    def add(self, ctx: Context[Cells], key: str, count: int) -> int:
        """Add to a cell; return what is in it now."""
        ctx.tables.cells[key] = ctx.tables.cells.get(key, 0) + count
        return int(ctx.tables.cells[key])

    @handler
    def take(self, ctx: Context[Cells], key: str, count: int) -> int:
        """Take from a cell, unless it holds less."""
        left = ctx.tables.cells.get(key, 0) - count
        ctx.tables.cells[key] = left
        if left < 0:
            raise Abort("too little", missing=-left)
        return int(left)

    @handler
    def boom(self, ctx: Context[Cells], key: str) -> int:
        """Change a cell and fail, now and then for want of memory: nothing may be changed."""
        ctx.tables.cells[key] = 10**9
        if ctx.seq % 2:
            raise MemoryError
        raise KeyError(key)

    @handler
    def dice(self, ctx: Context[Cells], key: str) -> tuple[int, int]:
        """Put a random number into a cell; return it, and the time. Now and then the number is how deep we came."""
        ctx.tables.cells[key] = ctx.random.randrange(1_000) if ctx.seq % 4 else deepest(0)
        return (ctx.tables.cells[key], ctx.now_ms)

    @handler
    def begin(self, ctx: Context[Cells], key: str) -> int:
        """Open a sum for a cell; return what is in the cell."""
        ctx.tsd.update(key=key, total=0)
        ctx.expect("more", "end", within_ms=PATIENCE_MS, otherwise="give_up")
        return int(ctx.tables.cells.get(key, 0))

    @handler
    def more(self, ctx: Context[Cells], count: int) -> int:
        """Add to the sum; return it."""
        if count < 0:
            raise Abort("negative")
        ctx.tsd["total"] += count
        ctx.expect("more", "end", within_ms=PATIENCE_MS, otherwise="give_up")
        return int(ctx.tsd["total"])

    @handler
    def end(self, ctx: Context[Cells]) -> int:
        """Add the sum to the cell; return what is in it now."""
        key = str(ctx.tsd["key"])
        ctx.tables.cells[key] = ctx.tables.cells.get(key, 0) + int(ctx.tsd["total"])
        return int(ctx.tables.cells[key])

    @handler
    def give_up(self, ctx: Context[Cells]) -> None:
        """The deadline of a sum: take one from the cell, so that it shows."""
        key = str(ctx.tsd["key"])
        ctx.tables.cells[key] = ctx.tables.cells.get(key, 0) - 1

    @handler(readonly=True)
    def read(self, ctx: Context[Cells], key: str) -> int:
        """Return what is in a cell."""
        return int(ctx.tables.cells.get(key, 0))
