"""Own what a user's service is: its handlers, their arguments and results, and the client object that mirrors it.

A handler is one transaction step: it commits on return and changes nothing on `Abort` or any other exception. State lives
in tables and TSD only; `Service.__setattr__` refuses state on `self`. Never does: run a handler (the core's executor
does) or talk to a node (the client's invoker does).
"""

from __future__ import annotations

import inspect
import typing
from abc import ABCMeta
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

from replicator.errors import UnknownHandler, UsageError
from replicator.handlers import HandlerSpec
from replicator.schema import T, Tables
from replicator.shape import fingerprint_of, record_lines, rule_lines
from replicator.values import shown

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Service[Any]")


class Invoker(Protocol):
    """What a client object calls: sends one message, waits for its reply."""

    def invoke(self, spec: HandlerSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Send the message, return its result or raise its error."""


class Handler(Generic[P, R]):
    """A method marked `@handler`; on a client it shows the signature without `ctx` and sends a message."""

    def __init__(self, function: Callable[..., R], *, readonly: bool) -> None:
        self.function = function
        self.readonly = readonly
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Handler[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Handler[P, R] | Callable[P, R]:
        if instance is None:
            return self
        invoker = instance.__dict__.get("_invoker")
        if invoker is None:
            return self._refuse_direct_call
        return BoundHandler(invoker, instance.handlers()[self.name])

    def _refuse_direct_call(self, /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        raise UsageError(
            f"handler {self.name!r} cannot be called on a service: connect() makes a client; "
            "between handlers share code in plain functions"
        )


class BoundHandler:
    """A handler of a client object: call it, or give it to `submit` and `reply`."""

    __slots__ = ("invoker", "spec")

    def __init__(self, invoker: Invoker, spec: HandlerSpec) -> None:
        self.invoker = invoker
        self.spec = spec

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.invoker.invoke(self.spec, args, kwargs)

    def __repr__(self) -> str:
        return f"<handler {self.spec.signature}>"


@overload
def handler(function: Callable[Concatenate[Any, Any, P], R], /) -> Handler[P, R]: ...
@overload
def handler(*, readonly: bool = ...) -> Callable[[Callable[Concatenate[Any, Any, P], R]], Handler[P, R]]: ...
def handler(function: Callable[..., Any] | None = None, /, *, readonly: bool = False) -> Any:
    """Mark a method of a `Service` as a message handler.

    With `readonly=True` it may not change anything; it runs on the active behind a barrier (linearizable), outside the
    FIFO. See `Service` for an example.
    """
    if function is not None:
        return Handler(function, readonly=False)
    return lambda function: Handler(function, readonly=readonly)


class ServiceClass(ABCMeta):
    """What a class of handlers is: fixed once it is made, as what a handler sets there is on one node, and in no table."""

    def __setattr__(cls, name: str, value: object) -> None:
        if "_handlers" in cls.__dict__ and not name.startswith(("__", "_abc_")):
            raise UsageError(f"{cls.__name__}.{name} cannot be set: a service keeps no state on its class; use a table")
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        raise UsageError(f"{cls.__name__}.{name} cannot be deleted: a class of handlers is fixed")


class Service(Generic[T], metaclass=ServiceClass):
    """A user's service: a class of message handlers over declared tables.

        class Bank(Service[Ledger]):
            @handler
            def deposit(self, ctx: Context[Ledger], owner: str, cents: int) -> int:
                balances = ctx.tables.balances
                balances[owner] = balances.get(owner, 0) + cents
                return balances[owner]

    Raises UsageError at class creation for handlers that cannot be called from afar. `version` is part of the
    fingerprint that nodes compare: raise it whenever a handler, or what it uses, comes to other outcomes.
    """

    version: ClassVar[str] = "1"
    _tables_class: ClassVar[type[Tables]]
    _handlers: ClassVar[Mapping[str, HandlerSpec]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        tables_class = _declared_tables(cls)
        if tables_class is None:
            raise UsageError(f"{cls.__name__}: name its tables: class {cls.__name__}(Service[YourTables])")
        cls._tables_class = tables_class
        if type(cls.version) is not str:
            raise UsageError(f'{cls.__name__}.version: must be text, such as "2"; no handler can have this name')
        specs: dict[str, HandlerSpec] = {}
        for name in dir(cls):
            member = inspect.getattr_static(cls, name)
            where = f"{cls.__name__}.{name}"
            if isinstance(member, Handler):
                _check_handler(cls, name, member, where)
                specs[name] = HandlerSpec(name, member.function, readonly=member.readonly, where=where)
            else:
                _refuse_hidden_handler(cls, name, member, where)
        cls._tables_class = tables_class
        cls._handlers = specs

    def __setattr__(self, name: str, value: object) -> None:
        raise UsageError(f"{type(self).__name__}.{name}: a service keeps no state on self; use a table or ctx.tsd")

    @classmethod
    def handlers(cls) -> Mapping[str, HandlerSpec]:
        """Return `{name: HandlerSpec}` of all handlers, in order of name."""
        return cls._handlers

    @classmethod
    def tables_class(cls) -> type[Tables]:
        """Return the declared `Tables` class."""
        return cls._tables_class

    @classmethod
    def fingerprint(cls, rules: Mapping[str, object] = MappingProxyType({})) -> bytes:
        """Hash, into 8 bytes, what must be equal on all nodes: handlers, records, tables, `version`, *rules* (U1).

        Two nodes whose fingerprints differ never replicate to each other (RELIABILITY.md, fault 67). No code is in it, so
        that one source is one service under every Python version.
        """
        return fingerprint_of(service_lines(cls, rules))


def service_lines(service_class: type[Service[Any]], rules: Mapping[str, object]) -> tuple[str, ...]:
    """Describe all of a service that must be equal on all nodes (shape.py)."""
    cls = service_class
    handlers = sorted(cls._handlers.items())
    tables = cls._tables_class._schema
    codecs = [codec for _, key_codec, row_codec in tables for codec in (key_codec, row_codec)]
    codecs += [codec for _, spec in handlers for codec in spec.codecs]
    return (
        f"service: {cls.__name__}, version {cls.version!a}",
        *(f"table {name}: {key_codec.name} -> {row_codec.name}" for name, key_codec, row_codec in tables),
        *record_lines(codecs, cls.__name__, defaults=True),
        *(line for _, spec in handlers for line in spec.lines()),
        *rule_lines(rules),
    )


def _check_handler(cls: type[Service[Any]], name: str, member: Handler[..., Any], where: str) -> None:
    """Refuse names that a client object, or a service, has for something else."""
    if not name.isidentifier() or name.startswith("_"):
        raise UsageError(f"{where}: a handler's name must be a Python name that does not begin with _")
    if name in Service.__dict__:
        raise UsageError(f"{where}: every service has an attribute of this name: give the handler another")
    if member.name != name:
        raise UsageError(f"{where}: is the handler {member.name!r} under a second name: declare it once")


def _refuse_hidden_handler(cls: type[Service[Any]], name: str, member: object, where: str) -> None:
    """Refuse what looks like a handler and is none: it would be gone without a word."""
    inner = getattr(member, "__wrapped__", None) or getattr(member, "__func__", None) or getattr(member, "fget", None)
    if isinstance(inner, Handler):
        raise UsageError(f"{where}: put @handler above the other decorators")
    for base in cls.__mro__:
        if isinstance(base.__dict__.get(name), Handler):
            if name in Service.__dict__:
                raise UsageError(f"{where}: every service has an attribute of this name: give the handler another")
            raise UsageError(
                f"{where}: overrides a handler of {base.__name__} and is none itself: mark it @handler (or "
                "@handler(readonly=True)); a subclass cannot take a handler away"
            )


def _declared_tables(cls: type[Any]) -> type[Tables] | None:
    for base in cls.__mro__:
        for generic in getattr(base, "__orig_bases__", ()):
            origin = typing.get_origin(generic)
            if isinstance(origin, type) and issubclass(origin, Service):
                for argument in typing.get_args(generic):
                    if isinstance(argument, type) and issubclass(argument, Tables):
                        return argument
    return None


def handler_of(service_class: type[Service[Any]], name: object) -> HandlerSpec:
    """Return the handler named *name*. Raises UnknownHandler listing those there are."""
    spec = service_class._handlers.get(name) if isinstance(name, str) else None
    if spec is None:
        known = ", ".join(service_class._handlers)
        raise UnknownHandler(f"{service_class.__name__} has no handler {shown(name)}; it has: {known}")
    return spec


def is_readonly(service_class: type[Service[Any]], name: object) -> bool:
    """Whether *name* is a readonly handler of this version of the service."""
    spec = service_class._handlers.get(name) if isinstance(name, str) else None
    return spec is not None and spec.readonly


def make_client(service_class: type[S], invoker: Invoker) -> S:
    """Make an object that claims to be the service and sends each call through *invoker*."""
    client = object.__new__(service_class)
    client.__dict__["_invoker"] = invoker
    return client


def invoker_of(client: object) -> Invoker:
    """Return the invoker of a client object. Raises UsageError for anything else."""
    invoker = getattr(client, "__dict__", {}).get("_invoker")
    if invoker is None:
        raise UsageError(f"expected a client made by connect(), got {client!r:.80}")
    return typing.cast(Invoker, invoker)
