"""House rules as tests: layers, purity of the core, sizes. Read from the syntax trees, so nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 50

#: A module imports only from its own layer and those before it.
LAYERS = (
    ("replicator.errors", "replicator.ids"),
    ("replicator.records",),
    ("replicator.values",),
    ("replicator.shape",),
    ("replicator.config", "replicator.files"),
    ("replicator.running", "replicator.rows"),
    ("replicator.tables",),
    ("replicator.schema",),
    ("replicator.database",),
    ("replicator.context",),
    ("replicator.handlers",),
    ("replicator.service",),
    ("replicator.core",),
    ("replicator.wire",),
    ("replicator.store",),
    ("replicator.transport",),
    ("replicator.meeting",),
    ("replicator.claiming",),
    ("replicator.arbiter",),
    ("replicator.watch", "replicator.answers"),
    ("replicator.node",),
    ("distributor",),
    ("replicator.caller",),
    ("replicator.client",),
    (
        "replicator.cli_common",
        "replicator.cli_status",
        "replicator.cli_clock",
        "replicator.cli_events",
        "replicator.cli_difference",
        "replicator.cli_recover",
        "replicator.cli",
        "replicator.__main__",
    ),
    ("replicator.testing",),
)
#: The distributor's own command sits above the layer of its package.
EXCEPTIONS = {
    ("distributor.cli", "replicator.cli_common"),
    ("distributor.__main__", "distributor.cli"),
    ("replicator.cli_common", "replicator"),  # the version is the door's
    (
        "distributor",
        "replicator",
    ),  # its __init__ lets the door be first: replicator.client imports parts of distributor
}
#: What the core may import besides itself and the layers before it.
CORE_MAY_IMPORT = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "enum", "hashlib", "heapq", "itertools",
    "random", "struct", "typing", "zlib",
}  # fmt: skip
PACKAGES = ("replicator", "distributor")
CHECKED = (*PACKAGES, "examples", "benchmarks", "tests")


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, path) of every module."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of every import of a file, those in functions too."""
    return imports_of(path.read_text(), str(path))


def imports_of(text: str, where: str = "") -> Iterator[tuple[str, int]]:
    """Yield (module, line); `from replicator import errors` is an import of replicator.errors."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            if node.module not in PACKAGES:
                yield node.module, node.lineno
                continue
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if layer(inner) is not None and is_module(inner) else node.module, node.lineno


def is_module(name: str) -> bool:
    """Whether the tree holds a module or package of that name."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer(module: str) -> int | None:
    """Return the number of a module's layer; None if it has none."""
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return number
    return None


def test_a_module_imports_only_from_layers_before_it() -> None:
    """The order of DESIGN.md section 5; the package's own __init__ is the one door and may import all."""
    wrong = []
    for module, path in modules(*PACKAGES):
        if module == "replicator":
            continue
        assert layer(module) is not None, f"{module} is in no layer: name one in LAYERS"
        for imported, line in imports(path):
            if not may_import(module, imported):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def may_import(module: str, imported: str) -> bool:
    """Whether the layers allow it. The door imports all layers, so going through it would go round them."""
    if (module, imported) in EXCEPTIONS:
        return True
    if imported == "replicator" or imported.split(".")[0] in ("examples", "benchmarks", "tests"):
        return False
    mine, theirs = layer(module), layer(imported)
    return mine is None or theirs is None or theirs <= mine


@pytest.mark.parametrize(
    "line",
    [
        "import replicator.node",
        "from replicator.transport import Loop",
        "from replicator import client",
        "from replicator import Service",
        "def late():\n    from distributor.routing import Routing",
        "import examples.prepaid",
    ],
)
def test_the_layer_rule_finds_what_it_forbids(line: str) -> None:
    """A planted import upwards, in every way to write it, is found in a module of the core."""
    assert not all(may_import("replicator.core.active", imported) for imported, _ in imports_of(line))


def test_the_layer_rule_allows_what_is_below() -> None:
    """An import downwards is no fault."""
    text = "from replicator import errors\nfrom replicator.values import pack\nimport struct"
    assert all(may_import("replicator.core.active", imported) for imported, _ in imports_of(text))


def test_the_core_is_pure() -> None:
    """No clock, thread, socket, file or log can even be named in core/, and no set is iterated by accident."""
    wrong = []
    for module, path in modules("replicator"):
        if not module.startswith("replicator.core"):
            continue
        for imported, line in imports(path):
            if not imported.startswith("replicator.") and imported not in CORE_MAY_IMPORT:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {imported}")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Set | ast.SetComp):
                wrong.append(f"{path.relative_to(ROOT)}: iterates over a set")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("hash", "open", "id")
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: calls {node.func.id}()")
    assert not wrong, "\n".join(wrong)


def test_randomness_in_the_library_is_seeded_or_the_systems() -> None:
    """`random.Random(seed)` and `random.SystemRandom()` only: never the module's own hidden generator."""
    wrong = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for _, path in modules(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if is_unseeded_random(node)
    ]
    assert not wrong, "\n".join(wrong)


def is_unseeded_random(node: ast.AST) -> bool:
    """Whether *node* calls a function of the random module, or makes a Random without a seed."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "random":
        return function.attr != "SystemRandom" and not (function.attr == "Random" and node.args)
    return isinstance(function, ast.Name) and function.id == "Random" and not node.args


def test_only_transport_imports_pyro() -> None:
    """Pyro5 is behind transport/, so that it can be pinned, hardened, replaced."""
    wrong = [
        f"{path}:{line}"
        for module, path in modules(*PACKAGES)
        for imported, line in imports(path)
        if imported.split(".")[0] == "Pyro5" and not module.startswith("replicator.transport")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", CHECKED)
def test_files_and_functions_are_short(package: str) -> None:
    """Under 500 lines a file, under 50 a function."""
    wrong = []
    for _, path in modules(package):
        text = path.read_text()
        lines = text.count("\n")
        if lines >= FILE_LINES_MAX:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                start = first.end_lineno if isinstance(first, ast.Expr) and len(node.body) > 1 else node.lineno
                length = (node.end_lineno or 0) - (start or 0)
                if length >= FUNCTION_LINES_MAX:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_owns() -> None:
    """A module docstring everywhere, a docstring on every public class and function of the library."""
    wrong = []
    for module, path in modules(*PACKAGES):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            wrong.append(f"{module}: no docstring")
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            is_overload = any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)
            if not is_overload and not ast.get_docstring(node) and node.name != "handler":
                wrong.append(f"{module}.{node.name}: no docstring")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_for_later() -> None:
    """No reminders and no sleeping for luck in the library."""
    words = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "time.sleep(")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for _, path in modules(*PACKAGES, "examples")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for word in words
        if word in line
    ]
    assert not wrong, "\n".join(wrong)
