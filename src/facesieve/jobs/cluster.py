"""The same jobs on many machines, by Ray Data: one model an actor, one shard or a few photographs a task.

Paths mean the same on every machine: sources and results lie on a file system that all of them see.
A result is written whole by the worker that made it, so a task can be done twice without harm, and
Ray repeats the tasks of a worker that dies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facesieve.errors import InputError
from facesieve.jobs.crash_log import Trail
from facesieve.jobs.local import Item, purify_files
from facesieve.jobs.plan import Shard
from facesieve.jobs.shards import Failure, Result, ShardOptions, purify_shard
from facesieve.jobs.work import Options
from facesieve.purify import Preset
from facesieve.ray_cluster import joined, models_that_fit
from facesieve.shield import Shield, load_shield

MOST_PHOTOGRAPHS = 64  # in a task


@dataclass(frozen=True)
class Recipe:
    """How each worker loads its shield; see ``load_shield``."""

    preset: Preset
    prior: Path | None = None
    device: str = "auto"
    precision: str = "auto"

    def load(self) -> Shield:
        """The shield. Raises ``SettingError`` or ``PriorError``."""
        return load_shield(self.preset, prior=self.prior, device=self.device, precision=self.precision)


def purify_shards_on(
    address: str,
    out: Path,
    shards: Sequence[Shard],
    recipe: Recipe,
    options: ShardOptions,
    *,
    workers: int | None = None,
    advance: Callable[[Result], None] = lambda _: None,
) -> Result:
    """``purify_shards`` on a cluster, with the same files as the result. ``advance`` is called after each shard.

    ``out`` is the folder of the results. ``workers`` is the number of models, by default as many as
    there are GPUs, or CPUs if there are none. Raises ``InputError`` for an address without a Ray, and
    what loading the shield raises.
    """
    options.check()
    units = [json.dumps([str(shard.source.resolve()), str(shard.target.resolve()), shard.name]) for shard in shards]
    with _trails(out) as trails:
        work = _ShardWork(options, trails)
        return _run(address, units, [shard.name for shard in shards], recipe, work, workers, advance)


def purify_files_on(
    address: str,
    out: Path,
    items: Sequence[Item],
    recipe: Recipe,
    options: Options,
    *,
    workers: int | None = None,
    advance: Callable[[Result], None] = lambda _: None,
) -> Result:
    """``purify_files`` on a cluster, a few photographs a task; see ``purify_shards_on``."""
    size = max(1, min(MOST_PHOTOGRAPHS, len(items) // 16))  # several tasks a worker, so that they end together
    chunks = [items[begin : begin + size] for begin in range(0, len(items), size)]
    units = [json.dumps([[str(i.source.resolve()), str(i.target.resolve()), i.name or str(i.source)] for i in c]) for c in chunks]
    names = [f"{chunk[0].source} and {len(chunk) - 1} more" if len(chunk) > 1 else str(chunk[0].source) for chunk in chunks]
    with _trails(out) as trails:
        return _run(address, units, names, recipe, _FileWork(options, trails), workers, advance)


@dataclass(frozen=True)
class _ShardWork:
    options: ShardOptions
    trails: Path

    def __call__(self, unit: str, shield: Shield) -> Result:
        source, target, name = json.loads(unit)
        shard = Shard(Path(source), Path(target), name)
        with Trail(_note(self.trails, unit)).work(name) as trail:
            return purify_shard(shard, shield, self.options, trail.reading)


@dataclass(frozen=True)
class _FileWork:
    options: Options
    trails: Path

    def __call__(self, unit: str, shield: Shield) -> Result:
        items = [Item(Path(source), Path(target), name) for source, target, name in json.loads(unit)]
        with Trail(_note(self.trails, unit)).work(items[0].name) as trail:
            summary = purify_files(items, shield, self.options, guard=trail.reading)
        names = {item.source: item.name for item in items}
        failures = [Failure(names[p], None, line) for p, line in zip(summary.failed, summary.failures, strict=True)]
        return Result(0, summary.skipped, summary.done, summary.faces, summary.seconds, failures)


@contextmanager
def _trails(out: Path) -> Iterator[Path]:
    """A folder for the trails of this run; of runs that were killed they say nothing any more and are removed."""
    for old in out.glob(".*.trails"):
        shutil.rmtree(old, ignore_errors=True)
    trails = out.resolve() / f".{secrets.token_hex(4)}.trails"
    trails.mkdir(parents=True)
    try:
        yield trails
    finally:
        shutil.rmtree(trails, ignore_errors=True)


def _note(trails: Path, unit: str) -> Path:
    return trails / hashlib.sha256(unit.encode()).hexdigest()


class _Worker:
    """One model, in an actor."""

    def __init__(self, recipe: Recipe, work: Callable[[str, Shield], Result]) -> None:
        self._shield, self._work = recipe.load(), work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result = self._work(row["unit"], self._shield)
        except InputError as error:
            result = Result(failures=[Failure(row["name"], None, str(error))])
        return {"unit": row["unit"], "result": json.dumps(asdict(result))}


def _run(
    address: str,
    units: Sequence[str],
    names: Sequence[str],
    recipe: Recipe,
    work: Callable[[str, Shield], Result],
    workers: int | None,
    advance: Callable[[Result], None],
) -> Result:
    total, open_ = Result(), dict(zip(units, names, strict=True))
    with joined(address):
        for row in _results(open_, recipe, work, workers):
            found = json.loads(row["result"])
            total.add(Result(**{**found, "failures": [Failure(**failure) for failure in found["failures"]]}))
            del open_[row["unit"]]
            advance(total)
    reason = "its worker failed; Ray's log says how"
    total.failures += [Failure(name, None, f"{name}: {reason}") for name in open_.values()]
    return total


def _results(
    units: Mapping[str, str], recipe: Recipe, work: Callable[[str, Shield], Result], workers: int | None
) -> Iterator[dict[str, Any]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a task that cannot be done is missing from the results; the others go on
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    count, needs = models_that_fit(recipe.device, workers)
    pool = ray.data.ActorPoolStrategy(size=min(count, len(units)), max_tasks_in_flight_per_actor=1)
    tasks = ray.data.from_items([{"unit": unit, "name": name} for unit, name in units.items()], override_num_blocks=len(units))
    # An actor that dies is started again, and its task given to one that lives, without end; see ``Trail`` for the end.
    yield from tasks.map(_Worker, fn_constructor_args=(recipe, work), compute=pool, **needs).iter_rows()
