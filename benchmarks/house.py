"""Measure the structure of the package and record it in docs/results/targets.json.

    python benchmarks/house.py [--tests]

Rooms are the names right under ``facesieve``. An import runs up where it goes to a room that the layers of
``[tool.importlinter]`` put above, or beside with ``|``. ``--tests`` also times the README's test command, once, so the
machine has to be idle.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp

from facesieve.report.targets import Target, commit, keep_targets

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "facesieve"
TARGETS = ROOT / "docs" / "results" / "targets.json"
COMMAND = "python benchmarks/house.py"

# What behaves by kind answers for itself. Whose subclass would be a stand-in with most of it switched off:
WHOLE = {"Shield", "TorchRuntime", "LocalBatcher", "RayBatcher", "Identifier", "FaceCrops", "NetworkPrior", "Purifier"}


def room(module: str) -> str:
    """The room of a module: ``facesieve.jobs.run`` is in ``jobs``."""
    return module.split(".")[1] if "." in module else ""


def room_imports() -> set[tuple[str, str]]:
    """Which room imports from which, as (importer, imported)."""
    graph = grimp.build_graph("facesieve")
    pairs = {(room(one), room(other)) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)}
    return {(one, other) for one, other in pairs if one and other and one != other}


def circles(imports: set[tuple[str, str]]) -> int:
    """How many rooms reach themselves through others."""
    beyond: dict[str, set[str]] = {}
    for one, other in imports:
        beyond.setdefault(one, set()).add(other)

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), list(beyond.get(start, ()))
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += beyond.get(name, ())
        return found

    return sum(name in reached(name) for name in beyond)


def runs_up(imports: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Imports to a room above or beside."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    level = {
        name.strip().removeprefix("facesieve."): number
        for number, layer in enumerate(layers)
        for name in layer.replace("|", ":").split(":")
    }
    return [(one, other) for one, other in imports if level.get(one, -1) >= level.get(other, len(layers))]


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every file of the package with its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def subclasses(of: set[str]) -> dict[str, Path]:
    """Classes that derive, directly or through others, from one of these, and where they are."""
    bases = {
        node.name: ({base.id for base in node.bases if isinstance(base, ast.Name)}, path)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found: dict[str, Path] = {}
    while more := {n: path for n, (b, path) in bases.items() if b & (of | found.keys()) and n not in found}:
        found |= more
    return found


def asks_for_class() -> list[str]:
    """Places outside of ``purify`` and ``operators`` that ask by ``isinstance`` for a kind of stage or operator."""
    kinds = {"Stage", "Operator"} | subclasses({"Stage", "Operator"}).keys()
    return [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in trees()
        if path.relative_to(SOURCE).parts[0] not in {"purify", "operators.py"}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"isinstance", "issubclass"}
        if kinds & {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
    ]


def long_functions(most: int = 40) -> list[str]:
    """Functions with more than ``most`` lines, docstrings included."""
    return [
        f"{path.relative_to(SOURCE)}:{node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > most
    ]


def lines() -> int:
    """Lines of the package's Python files, all of them."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py"))


def test_seconds() -> float:
    """How long the README's test command takes; raises where a test fails."""
    begun = time.monotonic()
    subprocess.run(["make", "test"], cwd=ROOT, check=True)
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", action="store_true", help="time `make test` as well")
    wants_tests = parser.parse_args().tests
    imports = room_imports()
    found = {
        "rooms in an import circle": ("<= 0", circles(imports), len(imports)),
        "imports between rooms that run up": ("<= 0", len(up := runs_up(imports)), len(imports)),
        "places outside purify that ask for a stage's or an operator's class": ("<= 0", len(asks := asks_for_class()), 1),
        "subclasses of whole things that stand in for them": ("<= 0", len(fakes := subclasses(WHOLE)), len(WHOLE)),
        "lines of src": ("<= 16000", lines(), 1),
        "functions of more than 40 lines": ("<= 0", len(long := long_functions()), 1),
    }
    if wants_tests:
        found["make test, seconds"] = ("<= 180", round(test_seconds(), 1), 1)
    command = COMMAND + (" --tests" if wants_tests else "")
    for name, (wanted, value, _) in found.items():
        print(f"{name}: {value:g} (wanted {wanted})")
    for place in (*(f"{one} -> {other}" for one, other in up), *asks, *fakes, *long):
        print(f"  {place}")
    keep_targets(
        TARGETS,
        [
            Target(area="house", target=name, wanted=wanted, value=value, n=n, command=command, commit=commit())
            for name, (wanted, value, n) in found.items()
        ],
    )


if __name__ == "__main__":
    main()
