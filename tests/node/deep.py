"""A service that takes and returns what is deeply nested, and a record that refuses values in its own way."""

from __future__ import annotations

from dataclasses import dataclass

from replicator import Context, Service, Table, Tables, handler


class Shelf(Tables):
    values: Table[str, object]


@dataclass(frozen=True)
class Odd:
    """An odd number."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2 == 0:
            raise KeyError(self.number)


class Deep(Service[Shelf]):
    """Wraps values."""

    @handler
    def wrap(self, ctx: Context[Shelf], value: object) -> tuple[object, ...]:
        """Return *value* in one tuple more."""
        ctx.tables.values["last"] = value
        return (value,)

    @handler
    def keep(self, ctx: Context[Shelf], odd: Odd) -> int:
        """Return the number."""
        return odd.number
