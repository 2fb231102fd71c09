"""Which photographs or shards there are among the inputs, and where their results go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from facesieve.errors import InputError
from facesieve.files import IMAGE_SUFFIXES, files_below
from facesieve.jobs.formats import FORMATS, Unit

__all__ = ["Unit", "plan"]


def plan(inputs: Sequence[Path], out: Path, *, formats: Mapping[str, str] | None = None) -> list[Unit]:
    """All photographs, or all shards, among files and folders (recursive), with targets that mirror the folders.

    ``formats`` are further formats of shards, ``package.module:object`` by suffix. Two photographs whose names
    differ only in the suffix keep it in their targets. Raises ``InputError`` for a path that does not exist, a
    folder that holds none, photographs mixed with shards, two results of one name, and a shard whose result
    would take its place.
    """
    known = {name: name for name in FORMATS if name.startswith(".")} | dict(formats or {})
    suffixes = IMAGE_SUFFIXES | known.keys()
    found = files_below(
        inputs, out, "photographs", suffixes, fits=lambda path: path.suffix.lower() not in known or _is_seen(path)
    )
    shards = [(source, path) for source, path in found if source.suffix.lower() in known]
    if not shards:
        units = _photographs(found, out)
    elif len(shards) < len(found):
        raise InputError("there are shards and photographs among the inputs", advice="purify them in two calls")
    else:
        units = [Unit(source, out / path, str(path), known[source.suffix.lower()]) for source, path in shards]
    _refuse_clashes(units)
    return units


def _is_seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _photographs(found: Sequence[tuple[Path, Path]], out: Path) -> list[Unit]:
    stems = [path.with_suffix("") for _, path in found]
    count = Counter(stems)
    return [
        Unit(source, out / (path if count[stem] > 1 else stem), str(source))
        for (source, path), stem in zip(found, stems, strict=True)
    ]


def _refuse_clashes(units: Sequence[Unit]) -> None:
    taken: dict[Path, Path] = {}
    for unit in units:
        other = taken.setdefault(unit.target, unit.source)
        if other != unit.source:
            raise InputError(
                f"it and {other} would both be written to {unit.target}", unit.source, "purify them into two folders"
            )
        if unit.is_shard and unit.target.resolve() == unit.source.resolve():
            raise InputError("the result would take its place", unit.source, "use another folder")
