"""The service of `run.py bench catchup`: one large table, loaded and changed by many rows a message; a small one for calls."""

from __future__ import annotations

from replicator import Context, Service, Table, Tables, handler

ROW_BYTES = 64


class Large(Tables):
    rows: Table[str, bytes]  # row-00000000 ... -> 64 bytes
    calls: Table[str, int]  # caller -> how often it has called


class Rows(Service[Large]):
    """Rows by number."""

    @handler
    def put(self, ctx: Context[Large], first: int, step: int, count: int, generation: int) -> int:
        """Put *count* rows, every *step*-th from *first* on; return how many there are."""
        rows = ctx.tables.rows
        for number in range(first, first + step * count, step):
            rows[f"row-{number:08d}"] = (number * 1_000 + generation).to_bytes(8, "big") * (ROW_BYTES // 8)
        return len(rows)

    @handler
    def call(self, ctx: Context[Large], caller: str) -> int:
        """One call of the live traffic: return how many it is."""
        calls = ctx.tables.calls
        calls[caller] = calls.get(caller, 0) + 1
        return calls[caller]
