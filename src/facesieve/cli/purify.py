"""The command `purify`: photographs, shards, a stream; on this machine or on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from facesieve.cli import clips
from facesieve.cli.options import (
    Aligned,
    BatchSize,
    Cluster,
    Device,
    Eta,
    FinishName,
    Grid,
    ImageColumn,
    Inputs,
    KeepExif,
    MaxPixels,
    OnFailure,
    Overwrite,
    Paste,
    Precision,
    PresetName,
    PriorFolder,
    Quality,
    ResultFormat,
    Results,
    RuntimeName,
    Scale,
    Seed,
    ShardFormats,
    SigmaY,
    Steps,
    Strict,
    Tamper,
    Workers,
    encoding_of,
)
from facesieve.cli.summaries import print_doubts, print_failures, print_summary
from facesieve.cli.terminal import advised_line, errors, fail, progress_bar
from facesieve.errors import InputError
from facesieve.specs import DEFAULT_PRESET, MAX_PIXELS

if TYPE_CHECKING:
    from facesieve.faces import Crops
    from facesieve.jobs.cluster import Recipe
    from facesieve.jobs.formats import Unit
    from facesieve.jobs.record import Options
    from facesieve.jobs.run import Summary
    from facesieve.runtime import Trace


def purify(
    inputs: Inputs,
    output: Results,
    preset: PresetName = DEFAULT_PRESET,
    scale: Scale = None,
    steps: Steps = None,
    eta: Eta = None,
    sigma_y: SigmaY = None,
    seed: Seed = None,
    aligned: Aligned = False,
    paste: Paste = True,
    face: FinishName = "secure",
    grid: Grid = False,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 8,
    precision: Precision = "auto",
    device: Device = "auto",
    runtime: RuntimeName = "auto",
    prior: PriorFolder = None,
    image_column: ImageColumn = None,
    on_failure: OnFailure = None,
    format: ResultFormat = None,
    quality: Quality = None,
    keep_exif: KeepExif = False,
    tamper: Tamper = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    strict: Strict = False,
    shard_format: ShardFormats = None,
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Find the faces in photographs, in shards of them (.tar, .parquet) or in a clip, purify them, write the results."""
    from facesieve.faces import check_finish
    from facesieve.files import check_folder
    from facesieve.jobs.cluster import Recipe
    from facesieve.jobs.plan import names_a_file
    from facesieve.jobs.record import Options
    from facesieve.jobs.video import is_clip
    from facesieve.purify import chosen_preset

    encoding = encoding_of(format, quality, keep_exif, Path(output))
    options = Options(
        aligned, paste, overwrite, seed, batch_size, image_column, on_failure or "drop",  # type: ignore[arg-type]
        max_pixels=max_pixels, finish=check_finish(face), encoding=encoding, tamper=tamper,
    )  # fmt: skip
    chosen = chosen_preset(preset).changed(scale=scale, steps=steps, eta=eta, sigma_y=sigma_y)
    recipe = Recipe(chosen, prior, device, precision, runtime)
    of_shards = image_column is not None or on_failure is not None
    if any(is_clip(text) for text in inputs):
        others = bool(grid or tamper or image_column or shard_format or encoding.made_from or cluster or workers)
        clips.purify_alone(inputs, output, recipe, options, others=others, strict=strict)
        return
    if workers is not None and cluster is None:
        raise InputError("--workers goes with --cluster; without it there is one worker, this process")
    single = Path(output) if output != "-" and names_a_file(Path(output)) else None
    if single is not None:
        units, folder = _one_result(inputs, single, options, grid or of_shards or cluster is not None), single.parent
    else:
        units, folder = _planned(inputs, output, shard_format or [], grid, of_shards, options, cluster), Path(output)
    if output == "-":
        _write_to_output(units[0], recipe, options, strict=strict)
    else:
        check_folder(folder)
        purify_all(units, folder, recipe, options, grid=grid, cluster=cluster, workers=workers, strict=strict, single=single)


def purify_all(
    units: Sequence[Unit],
    folder: Path,
    recipe: Recipe,
    options: Options,
    *,
    grid: bool = False,
    cluster: str | None = None,
    workers: int | None = None,
    strict: bool = False,
    single: Path | None = None,
) -> None:
    """Purify units, here or on the cluster at an address; print a summary, and exit with code 1 if anything failed.

    ``single`` is the file of the one result, where it was named.

    Failures in shards and on a cluster, of which there may be many, are listed in ``failures.jsonl``.
    """
    from facesieve.folders import passed_over
    from facesieve.jobs.plan import Plan
    from facesieve.jobs.record import write_failures

    shards = any(unit.is_shard for unit in units)
    if cluster is None:
        summary, ran_on = _here(units, recipe, options, folder / "grid.png" if grid else None)
    else:
        from facesieve.jobs.cluster import purify_units_on

        with progress_bar("purifying") as report:
            summary = purify_units_on(cluster, folder, units, recipe, options, workers=workers, report=report)
        ran_on = "a cluster"
    if isinstance(units, Plan) and units.passed:
        errors.print(f"passed over: {passed_over(units.passed)}")
    failures = [replace(failure, reason=advised_line(failure.reason, failure.kind)) for failure in summary.failures]
    listed = shards or cluster is not None
    if listed:
        write_failures(folder, failures)
    elif failures and units[0].data is not None:
        fail(failures[0].reason)
    how = f"{recipe.preset.name} on {ran_on}"
    print_summary(summary, single or folder, how, shards=shards, single=single is not None)
    doubted = print_doubts(summary.doubts, strict=strict)
    print_failures(failures, folder if listed else None)
    if failures or doubted:
        raise typer.Exit(1)


def _planned(
    inputs: list[str], output: str, formats: list[str], grid: bool, of_shards: bool, options: Options, cluster: str | None
) -> Sequence[Unit]:
    """The units among files and folders, or of a stream. Raises ``InputError`` for options that do not go with them."""
    from facesieve.jobs.formats import FORMATS
    from facesieve.jobs.plan import plan

    if output == "-" or "-" in inputs:
        _check_stream(inputs, grid, of_shards, cluster)
        return _stream(inputs[0], output)
    folder = Path(output)
    paths, further = [Path(text) for text in inputs], dict(_format(text) for text in formats)
    _check_shards(of_shards, any(path.is_dir() or path.suffix.lower() in {*FORMATS, *further} for path in paths))
    for spec in further.values():
        FORMATS.load(spec)  # a mistake in it is one in the call
    units = plan(paths, folder, formats=further, suffix=options.encoding.suffix)
    shards = any(unit.is_shard for unit in units)
    _check_shards(of_shards, shards)
    if shards and not options.paste:
        raise InputError("--no-paste makes several pictures of a photograph, and a sample of a shard has one; leave it out")
    if shards and options.encoding.made_from:
        raise InputError("--format, --quality and --keep-exif go with photographs; results in shards are PNG")
    if grid and (shards or cluster is not None):
        raise InputError("--grid goes with photographs on this machine, not with shards or a cluster")
    if grid and any(unit.target == folder / "grid" for unit in units):
        raise InputError(f"a photograph named grid and --grid would both write {folder / 'grid.png'}; rename the photograph")
    return units


def _one_result(inputs: list[str], target: Path, options: Options, of_folders: bool) -> Sequence[Unit]:
    """The unit of the one photograph whose result is named. Raises ``InputError`` for what does not go with it."""
    from facesieve.jobs.formats import FORMATS
    from facesieve.jobs.plan import plan_one

    if len(inputs) != 1 or Path(inputs[0]).is_dir() or Path(inputs[0]).suffix.lower() in FORMATS:
        raise InputError("one photograph goes into a file; for several, name a folder", f"-o {target}")
    if of_folders or not options.paste:
        raise InputError("--no-paste, --grid, --cluster and what is of shards go with a folder for the results", f"-o {target}")
    if target.exists() and not options.overwrite:
        raise InputError("exists already", target, "use another name or --overwrite")
    (unit,) = _stream(inputs[0], str(target.parent))
    return plan_one(replace(unit, target=target.with_suffix(""), suffix=target.suffix))


def _check_shards(of_shards: bool, shards: bool) -> None:
    if of_shards and not shards:
        raise InputError("--image-column and --on-failure go with shards (.tar, .parquet); there are none among the inputs")


def _format(text: str) -> tuple[str, str]:
    suffix, _, spec = text.partition("=")
    if not suffix.startswith(".") or ":" not in spec:
        raise InputError("give a format as .suffix=package.module:object", f"--shard-format {text}")
    return suffix.lower(), spec


def _check_stream(inputs: list[str], grid: bool, of_shards: bool, cluster: str | None) -> None:
    _check_shards(of_shards, False)
    if len(inputs) != 1 or Path(inputs[0]).is_dir():
        raise InputError("with - for standard input or output, exactly one photograph is purified")
    if grid or cluster is not None:
        raise InputError("--grid and --cluster go with files and folders, not with standard input or output")


def _stream(source: str, output: str) -> list[Unit]:
    """The one photograph of standard input, or for standard output."""
    from facesieve.images import photo_bytes
    from facesieve.jobs.formats import Unit

    if source == "-":
        return [
            Unit(Path("standard input"), Path(output) / "stdin", "-", data=photo_bytes(sys.stdin.buffer, name="standard input"))
        ]
    if not Path(source).exists():
        raise InputError("no such file or folder", source)
    return [Unit(Path(source), Path(output) / Path(source).stem, source)]


def _write_to_output(unit: Unit, recipe: Recipe, options: Options, *, strict: bool) -> None:
    from facesieve.jobs.run import purify_alone

    doubts: list[str] = []
    pictures = purify_alone(unit, recipe.load(), options, doubts.append)
    if len(pictures) != 1:
        raise InputError(f"{len(pictures)} crops cannot go to standard output; leave --no-paste out or give a folder")
    sys.stdout.buffer.write(pictures[0])
    sys.stdout.buffer.flush()
    if print_doubts(doubts, strict=strict):
        raise typer.Exit(1)


def _here(units: Sequence[Unit], recipe: Recipe, options: Options, grid: Path | None) -> tuple[Summary, str]:
    """Purified in this process, and on what."""
    from facesieve.jobs.run import purify_units
    from facesieve.pictures import MAX_ROWS

    parts: list[tuple[Crops, Trace]] = []

    def keep(crops: Crops, trace: Trace) -> None:
        if grid is not None and sum(len(part) for part, _ in parts) < MAX_ROWS:
            parts.append((crops, trace))

    shield = recipe.load()
    with progress_bar("purifying") as report:
        summary = purify_units(units, shield, options, report=report, watch=report, keep=keep)
    if grid is not None and parts:
        _draw(grid, parts)
    return summary, shield.card.ran_on


def _draw(grid: Path, parts: list[tuple[Crops, Trace]]) -> None:
    import numpy as np

    from facesieve.images import write_photo
    from facesieve.pictures import columns, sheet
    from facesieve.runtime import Trace

    crops, traces = zip(*parts, strict=True)
    write_photo(grid, sheet(columns(np.concatenate(crops), Trace.joined(traces))))
