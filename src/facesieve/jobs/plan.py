"""Which shards there are among the inputs, and where their results go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from facesieve.errors import InputError
from facesieve.files import IMAGE_SUFFIXES, files_below

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
        folder = path.is_dir()
        for inside in path.rglob("*") if folder else [path]:
            suffix = inside.suffix.lower()
            if suffix in SHARD_SUFFIXES or not folder or suffix in IMAGE_SUFFIXES:
                kinds[suffix in SHARD_SUFFIXES] = True
    if all(kinds.values()):
        raise InputError("there are shards and photographs among the inputs; purify them in two calls")
    return kinds[True]


def plan_shards(inputs: Sequence[Path], out: Path) -> list[Shard]:
    """All shards among files and folders (recursive), with targets that mirror the folders.

    Raises ``InputError`` for a path that does not exist, a folder without shards, two shards of one
    name, and a result that would take the place of its source.
    """
    found = files_below(inputs, out, "shards", SHARD_SUFFIXES, fits=lambda path: not path.name.startswith("."))
    shards = [Shard(source, out / name, str(name)) for source, name in found]
    refuse_clashes((shard.source, shard.target) for shard in shards)
    for shard in shards:
        if shard.target.resolve() == shard.source.resolve():
            raise InputError(f"{shard.source}: the result would take its place; use another folder")
    return shards


def refuse_clashes(targets: Iterable[tuple[Path, Path]]) -> None:
    """Raises ``InputError`` where two sources, of pairs (source, target), would be written to one target."""
    taken: dict[Path, Path] = {}
    for source, target in targets:
        other = taken.setdefault(target, source)
        if other != source:
            raise InputError(f"{other} and {source} would both be written to {target}; purify them into two folders")
