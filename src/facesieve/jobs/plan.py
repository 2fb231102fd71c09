"""Which photographs or shards there are among the inputs, and where their results go."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from facesieve.errors import InputError
from facesieve.files import identity_of
from facesieve.folders import Passed, files_below, is_image_name
from facesieve.jobs.formats import FORMATS, Unit

__all__ = ["Plan", "Unit", "names_a_file", "plan", "plan_one", "refuse_overwriting"]

_CROP = re.compile(r"(.+)\.face\d+\.(?:png|jpg|webp)")  # a name that the result of a face has


@dataclass(frozen=True)
class Plan(Sequence[Unit]):
    """Units, in order; ``passed`` counts what was left out of folders on purpose, by what it is."""

    units: tuple[Unit, ...]
    passed: Passed

    def __len__(self) -> int:
        return len(self.units)

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | Sequence[Unit]:
        return self.units[index]


def plan(inputs: Sequence[Path], out: Path, *, formats: Mapping[str, str] | None = None, suffix: str = ".png") -> Plan:
    """All photographs, or all shards, among files and folders (recursive), with targets that mirror the folders.

    ``formats`` are further formats of shards, ``package.module:object`` by suffix; results of photographs end with ``suffix``.
    Two photographs whose names differ only in the suffix keep it in their targets. What may be a photograph and cannot
    be taken (a link to nothing, a folder that may not be read, an archive) is a unit with its ``problem``, which a job lists.
    Raises ``InputError`` for a path that does not exist, a folder that holds none, photographs mixed with shards, two results
    of one name, and a result that would take the place of an input.
    """
    known = {name: name for name in FORMATS if name.startswith(".")} | dict(formats or {})
    found = files_below(inputs, out, "photographs", known.keys())
    shards = [(source, path) for source, path in found.files if source.suffix.lower() in known]
    if not shards:
        units = _photographs(found.files, out, suffix)
    elif len(shards) < len(found.files):
        raise InputError("there are shards and photographs among the inputs", advice="purify them in two calls")
    else:
        units = [Unit(source, out / path, str(path), known[source.suffix.lower()]) for source, path in shards]
    _refuse_clashes(units)
    refuse_overwriting(units)
    units += [Unit(source, out / path, str(source), problem=reason) for source, path, reason in found.troubles]
    return Plan(tuple(units), found.passed)


def names_a_file(out: Path) -> bool:
    """Whether a place for results is that of one picture, not of a folder."""
    return is_image_name(out.name) and not out.is_dir()


def plan_one(unit: Unit) -> Plan:
    """A single photograph. Raises ``InputError`` where its result would take its place."""
    refuse_overwriting([unit])
    return Plan((unit,), Passed())


def _photographs(found: Sequence[tuple[Path, Path]], out: Path, suffix: str) -> list[Unit]:
    stems = [path.with_suffix("") for _, path in found]
    count = Counter(stems)
    return [
        Unit(source, out / (path if count[stem] > 1 else stem), str(source), suffix=suffix)
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


def refuse_overwriting(units: Sequence[Unit]) -> None:
    """Raises ``InputError`` where a result would take the place of an input, whatever either is called."""
    files = [unit for unit in units if unit.data is None and unit.problem is None]
    sources = {place: unit.source for unit in files if (place := identity_of(unit.source)) is not None}
    crops = {(identity_of(s.parent), m[1]): s for s in sources.values() if (m := _CROP.fullmatch(s.name)) is not None}
    for unit in files:
        result = unit.target if unit.is_shard else unit.picture(None)
        here = identity_of(result)
        source = None if here is None else sources.get(here)
        if source is None and crops and not unit.is_shard:
            source = crops.get((identity_of(unit.target.parent), unit.target.name))
        if source is not None:
            raise InputError("a result would take its place", source, "write the results into another folder")
