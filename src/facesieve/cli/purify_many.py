"""What `purify` does with shards, and with anything on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from facesieve.cli.terminal import out as printed
from facesieve.errors import InputError

if TYPE_CHECKING:
    from facesieve.jobs.cluster import Recipe
    from facesieve.jobs.shards import Result, ShardOptions

console = Console(stderr=True, highlight=False)


def purify_many(
    inputs: list[Path],
    out: Path,
    recipe: Recipe,
    options: ShardOptions,
    *,
    shards: bool,
    cluster: str | None = None,
    workers: int | None = None,
) -> None:
    """Purify shards on this machine, or shards (``shards``) or photographs on the cluster at an address.

    Lists what failed in ``failures.jsonl``, prints a summary, and leaves with code 1 if anything failed.
    """
    from facesieve.jobs.shards import write_failures

    if workers is not None and cluster is None:
        raise InputError("--workers goes with --cluster; without it there is one worker, this process")
    result = (
        _shards(inputs, out, recipe, options, cluster, workers)
        if shards
        else _files(inputs, out, recipe, options, cluster, workers)
    )
    write_failures(out, result.failures)
    _report(result, out, recipe.preset.name, "shards" if shards else "photographs")
    if result.failures:
        raise typer.Exit(1)


def _shards(
    inputs: list[Path], out: Path, recipe: Recipe, options: ShardOptions, cluster: str | None, workers: int | None
) -> Result:
    from facesieve.jobs.cluster import purify_shards_on
    from facesieve.jobs.plan import plan_shards
    from facesieve.jobs.shards import purify_shards

    shards = plan_shards(inputs, out)
    with _progress(len(shards), lambda result: result.shards + result.skipped) as advance:
        if cluster is None:
            return purify_shards(shards, recipe.load(), options, advance=advance)
        return purify_shards_on(cluster, out, shards, recipe, options, workers=workers, advance=advance)


def _files(
    inputs: list[Path], out: Path, recipe: Recipe, options: ShardOptions, cluster: str | None, workers: int | None
) -> Result:
    from facesieve.jobs.cluster import purify_files_on
    from facesieve.jobs.local import plan

    if cluster is None:
        raise InputError("there are no shards among the inputs; photographs come here with --cluster alone")
    items = plan(inputs, out)
    with _progress(len(items), lambda result: result.photographs + result.skipped + len(result.failures)) as advance:
        return purify_files_on(cluster, out, items, recipe, options.photographs, workers=workers, advance=advance)


@contextmanager
def _progress(total: int, done: Callable[[Result], int]) -> Iterator[Callable[[Result], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    faces = TextColumn("{task.fields[faces]} faces")
    with Progress(BarColumn(), MofNCompleteColumn(), faces, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("purifying", total=total, faces=0)
        yield lambda result: bar.update(task, completed=done(result), faces=result.faces)


def _report(result: Result, out: Path, preset: str, what: str) -> None:
    skipped = f", {result.skipped} {what} there already" if result.skipped else ""
    shards = f"{result.shards} shards, " if what == "shards" else ""
    printed.print(f"{shards}{result.photographs} photographs, {result.faces} faces purified{skipped}; {preset}")
    printed.print(f"results in {out}")
    if result.failures:
        console.print(f"[bold red]{len(result.failures)} failed[/], listed in {out / 'failures.jsonl'}:")
        for failure in result.failures[:20]:
            console.print(f"  {failure.source}: {failure.reason}", markup=False, soft_wrap=True)
        if len(result.failures) > 20:
            console.print("  ...")
