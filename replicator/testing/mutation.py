"""Own the planting of bugs in memory, and the run that demands that each is found.

A function is compiled again from its source with the edit made, and put in the place of the first, in its class and wherever it
was imported. Nothing is written to disk. What is planted in a worker process is taken out before the next.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from typing import Any, NamedTuple

from replicator.errors import UsageError
from replicator.testing.faults import draw
from replicator.testing.mutants import MUTANTS
from replicator.testing.planting import Edit, Mutant
from replicator.testing.simulate import workers
from replicator.testing.simulator import simulate
from replicator.testing.workloads import find


class Found(NamedTuple):
    """What became of a mutant: after how many seeds it was found and by what; `checker` is "" if it was not."""

    mutant: Mutant
    seeds: int
    checker: str
    text: str
    elapsed_s: float


class _Function(NamedTuple):
    """A function of a module, or of its class *owner*."""

    module: str
    owner: str | None
    name: str


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a mutant for the time of the block. Raises UsageError if an edit does not fit the source any more."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for function, source in _edited(mutant.edits).items():
            undo += _plant(function, source)
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def _edited(edits: tuple[Edit, ...]) -> dict[_Function, str]:
    """Return the new source of each function that the edits touch; several edits of one function are all made."""
    sources: dict[_Function, str] = {}
    for edit in edits:
        function, source = _function(edit.module, edit.old)
        source = sources.get(function, source)
        if source.count(edit.old) != 1:
            raise UsageError(f"a mutant of {edit.module} does not fit: {edit.old!r} is gone after an edit before it")
        sources[function] = source.replace(edit.old, edit.new)
    return sources


def _plant(function: _Function, source: str) -> list[tuple[Any, str, Any]]:
    module, name = importlib.import_module(function.module), function.name
    space: dict[str, Any] = {}
    exec(compile(source, f"<mutant of {function.module}>", "exec"), module.__dict__, space)
    holder = module if function.owner is None else getattr(module, function.owner)
    former = inspect.getattr_static(holder, name)
    undo = [(holder, name, former)]
    setattr(holder, name, space[name])
    for other in list(sys.modules.values()) if function.owner is None else ():
        if other is not module and getattr(other, "__dict__", {}).get(name) is former:
            undo.append((other, name, former))
            setattr(other, name, space[name])
    return undo


@functools.cache
def _tree(module: str) -> tuple[str, ast.Module]:
    loaded = importlib.import_module(module)
    if not str(loaded.__file__).endswith(".py"):
        raise UsageError(f"{module} is compiled, and a bug can only be planted in its source: leave out --compiled")
    source = inspect.getsource(loaded)
    return source, ast.parse(source)


def _function(module: str, old: str) -> tuple[_Function, str]:
    """Return the function that holds *old*, and its source moved to the left margin.

    Text of an edit keeps the indentation of the file, so the source is put into an `if` as deep as it stood.
    """
    source, tree = _tree(module)
    if source.count(old) != 1:
        raise UsageError(f"a mutant of {module} does not fit: {old!r} stands there {source.count(old)} times")
    line = source[: source.index(old)].count("\n") + 1 + (len(old) - len(old.lstrip("\n")))
    for owner in [None, *[node for node in tree.body if isinstance(node, ast.ClassDef)]]:
        for node in tree.body if owner is None else owner.body:
            if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
                first = min([node.lineno, *[each.lineno for each in node.decorator_list]])
                lines = source.splitlines()[first - 1 : node.end_lineno]
                text = "\n".join(lines) + "\n"
                depth = len(lines[0]) - len(lines[0].lstrip())
                wrapped = f"if True:\n{text}" if depth else text
                function = _Function(module, owner.name if owner else None, node.name)
                return function, "from __future__ import annotations\n" + wrapped
    raise UsageError(f"a mutant of {module} does not fit: {old!r} is in no function")


def hunt(mutant: Mutant, seeds: int, until_s: float) -> Found:
    """Plant a mutant and play seeds until one fails, or there are no more, or the time is over."""
    began_s = time.monotonic()
    workload = find("registers")
    with planted(mutant):
        for seed in range(seeds):
            report = simulate(draw(seed), workload)
            if report.failures:
                return Found(mutant, seed + 1, report.checker, report.failures[0], time.monotonic() - began_s)
            if time.time() > until_s:
                return Found(mutant, seed + 1, "", "out of time", time.monotonic() - began_s)
    return Found(mutant, seeds, "", "", time.monotonic() - began_s)


def run_mutants(seeds: int, minutes: float, jobs: int, only: str) -> int:
    """Hunt all mutants whose names contain *only*; print the table; 0 if each was found."""
    mutants = [mutant for mutant in MUTANTS if only.lower() in f"{mutant.rule} {mutant.name}".lower()]
    if not mutants:
        raise UsageError(f"--only {only}: no planted bug has that in its rule or name")
    until_s = time.time() + minutes * 60
    found: list[Found] = []
    with workers(jobs) as pool:
        futures = [pool.submit(hunt, mutant, seeds, until_s) for mutant in mutants]
        for future in as_completed(futures):
            each = future.result()
            found.append(each)
            print(_row(each), flush=True)
    survivors = [each for each in found if not each.checker]
    print(f"{len(found) - len(survivors)} of {len(found)} planted bugs found, within {seeds} seeds each")
    for each in survivors:
        print(f"SURVIVED: {each.mutant.rule} {each.mutant.name} ({each.seeds} seeds)")
    return 1 if survivors else 0


def _row(found: Found) -> str:
    outcome = f"found after {found.seeds:>4} seeds by {found.checker}" if found.checker else "NOT FOUND"
    text = textwrap.shorten(found.text, 100)
    return f"{found.mutant.rule:<4} {found.mutant.name:<72} {outcome:<44} {found.elapsed_s:6.1f} s  {text}"
