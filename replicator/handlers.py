"""Own what is known of one handler: its name, its arguments and result, and how they travel as plain values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from replicator.errors import BadArguments, UsageError
from replicator.records import hints_of, shown_value
from replicator.values import Codec, codec_for, pack_checked, shown


class HandlerSpec:
    """What is known of one handler: `name`, `readonly`, `parameters` (ordered names), codecs of arguments and result.

    `is_positional`: it can be called by position, as names cost half a microsecond more.
    """

    __slots__ = (
        "_arguments",
        "_codecs",
        "_defaults",
        "_shown_defaults",
        "function",
        "is_positional",
        "name",
        "parameters",
        "readonly",
        "result",
        "signature",
    )

    def __init__(self, name: str, function: Callable[..., Any], *, readonly: bool, where: str) -> None:
        self.name = name
        self.function = function
        self.readonly = readonly
        _check_function(function, where)
        hints = hints_of(function, where)
        parameters = list(inspect.signature(function).parameters.values())[2:]
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise UsageError(f"{where}: parameter {parameter} is not supported; name every argument")
            if parameter.name not in hints:
                raise UsageError(f"{where}: parameter {parameter.name!r} needs a type annotation")
        if "return" not in hints:
            raise UsageError(f"{where}: annotate what it returns (None if nothing)")
        self.parameters = tuple(parameter.name for parameter in parameters)
        self.is_positional = _takes_by_position(function, self.parameters)
        self._codecs: dict[str, Codec] = {name: codec_for(hints[name], f"{where}({name})") for name in self.parameters}
        self._arguments = tuple(
            (argument, codec, codec.exact_type, f"{name}: argument {argument!r}")
            for argument, codec in self._codecs.items()
        )
        self.result = codec_for(hints["return"], f"{where} result")
        self._defaults: dict[str, Any] = {}
        self._shown_defaults: dict[str, str] = {}
        for parameter in parameters:
            if parameter.default is not parameter.empty:
                plain = self._codecs[parameter.name].to_plain(parameter.default, f"{where}({parameter.name})")
                pack_checked(plain)  # refuses text that is not valid Unicode
                self._defaults[parameter.name] = plain
                self._shown_defaults[parameter.name] = shown_value(parameter.default)
        listed = ", ".join(f"{name}: {self._codecs[name].name}" for name in self.parameters)
        self.signature = f"{name}({listed}) -> {self.result.name}"

    @property
    def codecs(self) -> list[Codec]:
        """Those of its arguments, in order, and of its result."""
        return [*self._codecs.values(), self.result]

    def lines(self) -> list[str]:
        """Describe it, for comparison with another node's (shape.py): one line for each argument, one for the rest."""
        lines = []
        for name, codec in self._codecs.items():
            default = f" = {self._shown_defaults[name]}" if name in self._shown_defaults else ""
            lines.append(f"handler {self.name}.{name}: {codec.name}{default}")
        return [*lines, f"handler {self.name}: {'readonly ' if self.readonly else ''}-> {self.result.name}"]

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a call's arguments into `{name: plain value}`, defaults filled in.

        Raises BadArguments naming the argument that is missing, unknown, doubled or of a wrong type.
        """
        if not args:
            return self._complete(kwargs)
        self._refuse_unknown(kwargs)
        parameters = self.parameters
        if len(args) > len(parameters):
            raise BadArguments(
                f"{self.name}: {len(args)} arguments given, it takes {len(parameters)}: {self.signature}"
            )
        given = dict(zip(parameters, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise BadArguments(f"{self.name}: argument {name!r} given twice: {self.signature}")
            given[name] = value
        return self._complete(given)

    def _complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        found = 0
        for name, codec, exact_type, where in self._arguments:
            if name in given:
                found += 1
                value = given[name]
                plain[name] = value if type(value) is exact_type else self._to_plain(codec, value, where)
            elif name in self._defaults:
                plain[name] = self._defaults[name]
            else:
                self._refuse_unknown(given)  # misspelt, most likely
                raise BadArguments(f"{where} is missing: {self.signature}")
        if found != len(given):
            self._refuse_unknown(given)
        return plain

    def _refuse_unknown(self, names: Iterable[object]) -> None:
        for name in names:
            if name not in self._codecs:
                raise BadArguments(f"{self.name}: unknown argument {shown(name)}: {self.signature}")

    @staticmethod
    def _to_plain(codec: Codec, value: Any, where: str) -> Any:
        try:
            return codec.to_plain(value, where)
        except UsageError as error:
            raise BadArguments(str(error)) from error

    def arguments_from_plain(self, plain: object) -> dict[str, Any]:
        """Turn what came off the wire into typed arguments, in its place. Raises BadArguments; trusts nothing."""
        if not isinstance(plain, dict):
            raise BadArguments(f"{self.name}: arguments must be a map of names to values: {self.signature}")
        if plain.keys() != self._codecs.keys():
            plain = self._with_defaults(plain)
        for name, codec, exact_type, where in self._arguments:
            value = plain[name]
            if type(value) is exact_type:
                continue
            try:
                if codec.is_plain:
                    plain[name] = codec.to_plain(value, name)
                else:
                    plain[name] = typed = codec.from_plain(value)
                    codec.to_plain(typed, name)
            except Exception as error:  # a record may refuse its values by any
                raise BadArguments(f"{where} does not fit {codec.name}: {error}") from error
        return plain

    def _with_defaults(self, plain: dict[Any, Any]) -> dict[str, Any]:
        """Fill in what is missing. Raises BadArguments for what is unknown, or missing without a default."""
        self._refuse_unknown(plain)
        filled = {**self._defaults, **plain}
        for name, _, _, where in self._arguments:
            if name not in filled:
                raise BadArguments(f"{where} is missing: {self.signature}")
        return filled

    def result_from_plain(self, plain: Any) -> Any:
        """Build the declared result type from a reply's plain value."""
        return self.result.from_plain(plain)


def _check_function(function: Callable[..., Any], where: str) -> None:
    """Refuse what cannot be run as a handler. Raises UsageError."""
    if not inspect.isroutine(function) or isinstance(function, (staticmethod, classmethod)):
        raise UsageError(f"{where}: mark a plain method with @handler, and put @handler above other decorators")
    inner = inspect.unwrap(function)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise UsageError(
            f"{where}: a handler cannot be async, as nothing may happen between its beginning and its end: write def, and "
            "wait for other systems in the caller, before the call"
        )
    if inspect.isgeneratorfunction(inner):
        raise UsageError(f"{where}: a handler cannot yield: return a tuple of all its results")
    own = list(inspect.signature(function).parameters.values())[:2]
    if len(own) < 2 or any(each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in own):
        raise UsageError(f"{where}: a handler takes self and ctx first: def {function.__name__}(self, ctx, ...)")


def _takes_by_position(function: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether *function* itself takes these, in this order: what wraps a handler may show its signature and take another way."""
    own = list(inspect.signature(function, follow_wrapped=False).parameters.values())[2:]
    return [each.name for each in own] == list(names) and all(each.kind is each.POSITIONAL_OR_KEYWORD for each in own)
