"""Which shards there are among the inputs, and where their results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facesieve.errors import InputError
from facesieve.jobs.work import SUFFIXES

SHARD_SUFFIXES = frozenset({".tar", ".parquet"})


@dataclass(frozen=True)
class Shard:
    """A shard and where its result goes; ``name`` is its path below the folder of results."""

    source: Path
    target: Path
    name: str


def holds_shards(inputs: Sequence[Path]) -> bool:
    """Whether the inputs are shards, and folders of them. Raises ``InputError`` where shards and photographs are mixed."""
    kinds = {True: False, False: False}
    for path in inputs:
        for inside in path.rglob("*") if path.is_dir() else [path]:
            suffix = inside.suffix.lower()
            if suffix in SHARD_SUFFIXES or not path.is_dir() or suffix in SUFFIXES:
                kinds[suffix in SHARD_SUFFIXES] = True
    if all(kinds.values()):
        raise InputError("there are shards and photographs among the inputs; purify them in two calls")
    return kinds[True]


def plan_shards(inputs: Sequence[Path], out: Path) -> list[Shard]:
    """All shards among files and folders (recursive), with targets that mirror the folders.

    Raises ``InputError`` for a path that does not exist, a folder without shards, two shards of one
    name, and a result that would take the place of its source.
    """
    found: list[tuple[Path, Path]] = []
    for path in inputs:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SHARD_SUFFIXES and p.is_file()]
            inside = [p for p in inside if not p.name.startswith(".")]
            if not inside:
                raise InputError(f"{path}: no shards in this folder; known suffixes are {' '.join(sorted(SHARD_SUFFIXES))}")
            found += [(p, p.relative_to(path)) for p in inside if out.resolve() not in p.resolve().parents]
        elif path.exists():
            found.append((path, Path(path.name)))
        else:
            raise InputError(f"{path}: no such file or folder")
    shards = [Shard(source, out / name, str(name)) for source, name in dict.fromkeys(found)]
    targets: dict[Path, Path] = {}
    for shard in shards:
        other = targets.setdefault(shard.target, shard.source)
        if other != shard.source:
            raise InputError(f"{other} and {shard.source} would both be written to {shard.target}; purify them into two folders")
        if shard.target.resolve() == shard.source.resolve():
            raise InputError(f"{shard.source}: the result would take its place; use another folder")
    return shards
