"""A service of large rows."""

from __future__ import annotations

from replicator import Context, Service, Table, Tables, handler


class Texts(Tables):
    """Its rows."""

    texts: Table[int, bytes]


class Large(Service[Texts]):
    """Rows that grow."""

    @handler
    def grow(self, ctx: Context[Texts], key: int, size: int) -> int:
        ctx.tables.texts[key] = ctx.tables.texts.get(key, b"") + bytes(size)
        return len(ctx.tables.texts[key])

    @handler
    def fetch(self, ctx: Context[Texts], key: int) -> bytes:
        return ctx.tables.texts[key]

    @handler(readonly=True)
    def look(self, ctx: Context[Texts], key: int) -> bytes:
        return ctx.tables.texts[key]
