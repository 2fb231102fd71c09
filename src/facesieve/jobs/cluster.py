"""The same jobs on many machines, by Ray Data: one model per actor, one shard or a few photographs per task.

Paths mean the same on every machine: sources and results lie on a file system that all of them see.
A result is written atomically by the worker that made it, so a task can be done twice without harm, and
Ray repeats the tasks of a worker that dies.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facesieve.errors import FacesieveError, InputError
from facesieve.files import sha256_of
from facesieve.jobs.crash_log import CrashLog
from facesieve.jobs.formats import Unit
from facesieve.jobs.record import Failure, Options
from facesieve.jobs.run import Summary, check, purify_units
from facesieve.progress import Report, silent
from facesieve.ray_cluster import joined, models_that_fit
from facesieve.shield import Shield, load_shield

if TYPE_CHECKING:
    from facesieve.purify import Preset

MOST_PHOTOGRAPHS = 64  # in a task


@dataclass(frozen=True)
class Recipe:
    """How each worker loads its shield; see ``load_shield``."""

    preset: Preset
    prior: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"

    def load(self) -> Shield:
        """The shield. Raises ``SettingError`` or ``PriorError``."""
        return load_shield(self.preset, prior=self.prior, device=self.device, precision=self.precision, runtime=self.runtime)


def purify_units_on(
    address: str,
    out: Path,
    units: Sequence[Unit],
    recipe: Recipe,
    options: Options,
    *,
    workers: int | None = None,
    report: Report = silent,
) -> Summary:
    """``purify_units`` on the Ray at ``address``, with the same files as the result; ``report`` is called after each task.

    ``out`` is the folder of the results. ``workers`` is the number of models, by default as many as
    there are GPUs, or CPUs if there are none. Raises ``InputError`` for an address without a Ray, and where
    a worker cannot load its shield.
    """
    check(units, options)
    tasks = {_packed(part): part for part in _parts(units)}
    total, ended = Summary(), 0
    with _crash_logs(out) as logs, joined(address):
        for task, summary in _results(list(tasks), recipe, options, logs, workers):
            part = tasks.pop(task)
            total.add(summary)
            ended += len(part)
            report(total.progress(ended, len(units), part[-1].name))
    for part in tasks.values():
        total.failures.append(Failure.of(InputError("its worker failed", _name(part), "Ray's log says how"), _name(part)))
    return total


def _parts(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """The units of each task: one shard, or so many photographs that every worker has several tasks and all finish together."""
    size = 1 if any(unit.is_shard for unit in units) else max(1, min(MOST_PHOTOGRAPHS, len(units) // 16))
    return (units[begin : begin + size] for begin in range(0, len(units), size))


def _name(part: Sequence[Unit]) -> str:
    return part[0].name if len(part) == 1 else f"{part[0].name} and {len(part) - 1} more"


def _packed(part: Sequence[Unit]) -> str:
    return json.dumps(
        [
            {
                "source": os.path.realpath(unit.source), "target": os.path.realpath(unit.target), "name": unit.name,
                "format": unit.format, "problem": unit.problem, "suffix": unit.suffix,
            }
            for unit in part
        ]
    )  # fmt: skip


@contextmanager
def _crash_logs(out: Path) -> Iterator[Path]:
    """A folder for the crash logs of this run; those of runs that were killed are of no use any more and are removed."""
    for old in out.glob(".*.crashes"):
        shutil.rmtree(old, ignore_errors=True)
    logs = out.resolve() / f".{secrets.token_hex(4)}.crashes"
    logs.mkdir(parents=True)
    try:
        yield logs
    finally:
        shutil.rmtree(logs, ignore_errors=True)


class _Worker:
    """One model, in an actor. It is loaded with the first task: for an actor whose making fails Ray may wait without an end."""

    def __init__(self, recipe: Recipe, options: Options, logs: Path) -> None:
        self._recipe, self._options, self._logs = recipe, options, logs
        self._shield: Shield | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        task, wrong, summary = row["task"], "", Summary()
        plain = json.loads(task)
        units = [Unit(**{**unit, "source": Path(unit["source"]), "target": Path(unit["target"])}) for unit in plain]
        try:
            with CrashLog(self._logs / sha256_of(task.encode())).work(_name(units)) as log:
                try:
                    self._shield = self._shield or self._recipe.load()
                except FacesieveError as error:
                    wrong = str(error)
                else:
                    summary = purify_units(units, self._shield, self._options, guard=log.reading)
        except FacesieveError as error:
            summary = Summary(failures=[Failure.of(error, _name(units))])
        return {"task": task, "summary": json.dumps(asdict(summary)), "wrong": wrong}


def _results(
    tasks: Sequence[str], recipe: Recipe, options: Options, logs: Path, workers: int | None
) -> Iterator[tuple[str, Summary]]:
    """Each task that was done, and what became of it."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a task that cannot be done is missing from the results; the others continue
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    count, needs = models_that_fit(recipe.device, workers)
    pool = ray.data.ActorPoolStrategy(size=min(count, len(tasks)), max_tasks_in_flight_per_actor=1)
    rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    # An actor that dies is started again, and its task given to a live one, without end; ``CrashLog`` puts an end to it.
    for row in rows.map(_Worker, fn_constructor_args=(recipe, options, logs), compute=pool, **needs).iter_rows():
        if row["wrong"]:
            raise InputError(
                f"a worker has no shield ({row['wrong']})", advice="what is done stays; mend it, then run this again"
            )
        found = json.loads(row["summary"])
        yield row["task"], Summary(**{**found, "failures": [Failure(**failure) for failure in found["failures"]]})
