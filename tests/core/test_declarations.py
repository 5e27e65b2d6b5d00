"""What a user names and declares: refused at class creation, with advice, where a name or a kind would mean something else."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest

from replicator import Context, Service, Table, Tables, UsageError, handler
from replicator.testing import Local


class Ledger(Tables):
    rows: Table[int, int]


class Base(Service[Ledger]):
    @handler
    def put(self, ctx: Context[Ledger], key: int, value: int) -> int:
        ctx.tables.rows[key] = value
        return value


def tables_of(*names: str, **attributes: Any) -> type[Tables]:
    """A class of tables of these names."""
    return type("Rows", (Tables,), {"__annotations__": dict.fromkeys(names, Table[int, int]), **attributes})


def service_with(name: str, made: object, tables: type[Tables]) -> Any:
    """A service of one handler."""
    return types.new_class("Odd", (Service[tables],), exec_body=lambda body: body.update({name: made}))  # type: ignore[valid-type]


def handler_of_name(name: str, wrap: Callable[[Any], Any] = lambda made: made) -> Any:
    """A service with one more handler of this name."""

    def method(self: Any, ctx: Context[Ledger]) -> int:
        return 7

    method.__annotations__ = {"ctx": Context[Ledger], "return": int}
    made = handler(method)
    made.__set_name__(Base, name)
    return service_with(name, wrap(made), Ledger)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("Card", "card"), "by case only"),
        (("straße", "STRASSE"), "by case only"),
        (("_hidden",), "begin with _"),
        (("_schema_",), "begin with _"),
        (("two words",), "Python name"),
        (('quote"', "x"), "Python name"),
        (("",), "Python name"),
    ],
)
def test_a_tables_name_that_is_not_one_on_disk_is_refused(names: tuple[str, ...], word: str) -> None:
    """SQLite knows no case: `Card` and `card` would be one table, and what was acknowledged could not be read."""
    with pytest.raises(UsageError, match=word):
        tables_of(*names)


def test_a_table_that_is_an_attribute_of_its_class_is_refused() -> None:
    """A value, or a property, of the same name would hide it, or could not be set."""
    for value in (5, property(lambda self: 5)):
        with pytest.raises(UsageError, match="annotation only"):
            tables_of("rows", rows=value)


@pytest.mark.parametrize("name", sorted(name for name in Service.__dict__ if not name.startswith("_")))
def test_a_handler_of_a_name_that_every_service_has_is_refused(name: str) -> None:
    """`version` gave every process another fingerprint; the others failed where they were used."""
    with pytest.raises(UsageError, match=name):
        handler_of_name(name)


@pytest.mark.parametrize("name", ["_invoker", "_put", "__put__", "two words"])
def test_a_handler_whose_name_is_not_for_callers_is_refused(name: str) -> None:
    """A client object keeps what it needs under names that begin with an underscore."""
    with pytest.raises(UsageError, match="begin with _"):
        handler_of_name(name)


def test_every_other_name_of_a_handler_an_argument_and_a_table_works() -> None:
    """Names of builtins, of keywords of `submit`, of attributes of objects that stand between caller and handler."""
    names = ["items", "class_", "close", "client", "invoke", "name", "ctx_", "tables", "submit", "spec", "K", "k", "é"]
    assert [Local(handler_of_name(name)).client.__getattribute__(name)() for name in names] == [7] * len(names)
    rows = tables_of(
        "get", "keys", "items", "tables", "transactions", "meta", "gone", "rows_gone", "sqlite_master", "ё"
    )

    namespace: dict[str, Any] = {}
    arguments = (
        "this, ctx: Context[rows], self: int, args: int, kwargs: int, ctx_: int, method: int, name: int, txn_id: int"
    )
    exec(
        f"def put({arguments}) -> int:\n ctx.tables.gone[self] = args\n return self + txn_id",
        {**globals(), "rows": rows},
        namespace,
    )
    service = service_with("put", handler(namespace["put"]), rows)
    with Local(service) as odd:
        assert odd.put(1, 2, 3, 4, 5, 6, 7) == 8
        assert odd.put(self=1, args=2, kwargs=3, ctx_=4, method=5, name=6, txn_id=7) == 8


def test_a_handler_overridden_without_the_mark_is_refused() -> None:
    """It would be a handler no more, without a word; with the mark it is one, and may be readonly."""
    with pytest.raises(UsageError, match=r"Sub\.put: overrides a handler of Base .* mark it @handler"):

        class Sub(Base):
            def put(self, ctx: Context[Ledger], key: int, value: int) -> int:  # type: ignore[override]
                return 2

    with pytest.raises(UsageError, match="cannot take a handler away"):

        class Without(Base):
            put = None  # type: ignore[assignment]

    class Fine(Base):
        @handler(readonly=True)
        def put(self, ctx: Context[Ledger], key: int, value: int) -> int:
            return 3

    assert Local(Fine).client.put(1, 2) == 3


def logged(function: Any) -> Any:
    """A decorator as users write them."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_a_handler_below_another_decorator_is_refused_and_above_it_works() -> None:
    """What is not a handler to us, but was meant to be, is told."""
    for wrap in (staticmethod, classmethod, property, logged):
        with pytest.raises(UsageError, match="put @handler above"):
            handler_of_name("more", wrap)

    class Fine(Service[Ledger]):
        @handler
        @logged
        def put(self, ctx: Context[Ledger], key: int) -> int:
            return key

    assert Local(Fine).client.put(5) == 5
    with pytest.raises(UsageError, match="second name"):

        class Twice(Base):
            again = Base.put


async def _async(self: Any, ctx: Context[Ledger]) -> int:
    return 1


async def _async_yields(self: Any, ctx: Context[Ledger]) -> int:  # type: ignore[misc]
    yield 1


def _yields(self: Any, ctx: Context[Ledger]) -> int:  # type: ignore[misc]
    yield 1


def _no_ctx(self: Any) -> int:
    return 1


def _named_ctx(self: Any, *, ctx: Context[Ledger]) -> int:
    return 1


def _any(self: Any, ctx: Context[Ledger], value: Any) -> int:
    return 1


def _surrogate(self: Any, ctx: Context[Ledger], value: str = "\ud800") -> int:
    return 1


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (_async, "write def"),
        (_async_yields, "write def"),
        (logged(_async), "write def"),
        (_yields, "return a tuple"),
        (_no_ctx, "self and ctx first"),
        (_named_ctx, "self and ctx first"),
        (_any, "write object"),
        (_surrogate, "Unicode"),
        (staticmethod(_yields), "plain method"),
    ],
)
def test_what_cannot_run_as_a_handler_is_refused_at_class_creation(function: Any, advice: str) -> None:
    """An `async def` handler was accepted, and failed at every call."""
    with pytest.raises(UsageError, match=advice):
        service_with("odd", handler(function), Ledger)
