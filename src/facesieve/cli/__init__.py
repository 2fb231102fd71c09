"""The command line: thin commands over the library. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from facesieve import __version__
from facesieve.cli.data import data_app
from facesieve.cli.evaluate import calibrate, evaluate, report
from facesieve.cli.gallery import gallery_app
from facesieve.cli.identify import enrol, identify, verify
from facesieve.cli.serve import serve_app
from facesieve.cli.terminal import out
from facesieve.cli.train import train_app
from facesieve.cli.ui import ui
from facesieve.errors import FacesieveError, InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from facesieve.jobs.local import Item, Options, Summary
    from facesieve.purify import Preset, Stage
    from facesieve.shield import Shield

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
prior_app = typer.Typer(no_args_is_help=True, help="Face priors: import public checkpoints, look at one.")
app.add_typer(prior_app, name="prior")
app.add_typer(train_app, name="train")
app.add_typer(gallery_app, name="gallery")
app.add_typer(data_app, name="data")
app.add_typer(serve_app, name="serve")
app.command()(enrol)
app.command()(identify)
app.command()(verify)
app.command()(calibrate)
app.command()(evaluate)
app.command()(report)
app.command()(ui)

console = Console(stderr=True, highlight=False)


def main() -> None:
    """Entry point: errors of the user become one line and exit code 2."""
    try:
        app()
    except FacesieveError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print one line and leave."""
    console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"facesieve {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Remove adversarial perturbations from face photographs before they are identified."""


@app.command()
def purify(
    inputs: Annotated[list[str], typer.Argument(help="Photographs and folders of photographs; - reads one from standard input.")],
    output: Annotated[
        str, typer.Option("-o", "--output", help="Folder for the results; - writes the picture to standard output.")
    ],
    preset: Annotated[
        str, typer.Option(help="A preset (see `facesieve presets`), or a profile of `facesieve calibrate`.")
    ] = "fast",
    scale: Annotated[int | None, typer.Option(help="Resolution scale: 2, 4 or 8.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Evaluations of the prior in each restoration, times its samples where it averages.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="Share of fresh noise in each step, 0 to 1.")] = None,
    sigma_y: Annotated[float | None, typer.Option(help="Noise level assumed in the photograph, for images in [-1, 1].")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes results repeatable; leave it out where an attacker might guess it.")
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The inputs are aligned face crops already.")] = False,
    paste: Annotated[
        bool, typer.Option("--paste/--no-paste", help="Put faces back into the photo, or write the aligned crops.")
    ] = True,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also write grid.png: each face, each stage, the amplified difference.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make again what is there already.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces that are purified together, across photographs.")] = 8,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    prior: Annotated[Path | None, typer.Option(help="Folder of another prior.")] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Of shards: the column, or the suffix of the members, that holds the images.")
    ] = None,
    on_failure: Annotated[
        str | None,
        typer.Option(help="Of shards: drop a photograph that cannot be purified (the default), or keep it as it was."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Purify on a Ray cluster: its address, auto for the one that runs here, or local.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers on the cluster; as many as fit if not given.")] = None,
) -> None:
    """Find the faces in photographs, or in shards of them (.tar, .parquet), purify them, write the results."""
    from facesieve.jobs.local import Options, plan
    from facesieve.jobs.plan import holds_shards
    from facesieve.purify import chosen_preset

    options = Options(aligned, paste, overwrite, seed, batch_size)
    chosen = chosen_preset(preset).changed(scale=scale, steps=steps, eta=eta, sigma_y=sigma_y)
    paths = [Path(text) for text in inputs]
    streamed = "-" in inputs or output == "-"
    shards = not streamed and holds_shards(paths)
    if not shards and (image_column is not None or on_failure is not None):
        raise InputError("--image-column and --on-failure go with shards (.tar, .parquet); there are none among the inputs")
    if streamed:
        _check_stream(inputs, grid)
        _purify_stream(inputs[0], output, _shield(chosen, prior, device, precision), options)
        return
    if cluster is not None or workers is not None or shards:
        if grid:
            raise InputError("--grid goes with photographs on this machine, not with shards or a cluster")
        from facesieve.cli.purify_many import purify_many
        from facesieve.jobs.cluster import Recipe
        from facesieve.jobs.shards import ShardOptions

        recipe = Recipe(chosen, prior, device, precision)
        how = ShardOptions(options, image_column, on_failure or "drop")  # type: ignore[arg-type]  # it checks
        purify_many(paths, Path(output), recipe, how, shards=shards, cluster=cluster, workers=workers)
        return
    items = plan(paths, Path(output))
    if grid and any(item.target == Path(output) / "grid" for item in items):
        raise InputError(
            f"a photograph named grid and --grid would both write {Path(output) / 'grid.png'}; rename the photograph"
        )
    shield = _shield(chosen, prior, device, precision)
    summary = _run(items, shield, options, Path(output) / "grid.png" if grid else None)
    _report(summary, Path(output), shield)
    if summary.failures:
        raise typer.Exit(1)


def _shield(chosen: Preset, prior: Path | None, device: str, precision: str) -> Shield:
    from facesieve.shield import load_shield

    return load_shield(chosen, prior=prior, device=device, precision=precision)


def _check_stream(inputs: list[str], grid: bool) -> None:
    if len(inputs) != 1 or Path(inputs[0]).is_dir():
        raise InputError("with - for standard input or output, exactly one photograph is purified")
    if grid:
        raise InputError("--grid goes with files and folders, not with standard input or output")
    if inputs[0] != "-" and not Path(inputs[0]).exists():
        raise InputError(f"{inputs[0]}: no such file or folder")


def _purify_stream(source: str, output: str, shield: Shield, options: Options) -> None:
    """One photograph by standard input or output; purified by the same code as any file."""
    import tempfile

    from facesieve.jobs.local import Item, purify_files

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "standard input" if source == "-" else Path(source)
        if source == "-":
            path.write_bytes(sys.stdin.buffer.read())
        target = (folder / "out" if output == "-" else Path(output)) / ("stdin" if source == "-" else path.stem)
        summary = purify_files([Item(path, target, source)], shield, options)
        if summary.failures:
            raise InputError(summary.failures[0].replace(f"{folder}/", ""))
        if output == "-":
            if len(summary.written) != 1:
                raise InputError(
                    f"{len(summary.written)} crops cannot go to standard output; leave --no-paste out or give a folder"
                )
            sys.stdout.buffer.write(summary.written[0].read_bytes())
            sys.stdout.buffer.flush()


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True) as bar:
        yield bar


def _run(items: list[Item], shield: Shield, options: Options, grid: Path | None) -> Summary:
    import torch

    from facesieve.images import write_photo
    from facesieve.jobs.local import purify_files
    from facesieve.pictures import MAX_ROWS, Column, columns, sheet

    parts: list[list[Column]] = []

    def keep(crops: torch.Tensor, stages: list[tuple[Stage, torch.Tensor]]) -> None:
        if grid is not None and sum(len(part[0].images) for part in parts) < MAX_ROWS:
            parts.append(columns(crops, stages))

    with _progress() as progress:
        task = progress.add_task("purifying", total=len(items), rate="")

        def advance(summary: Summary) -> None:
            rate = f"{summary.faces / summary.seconds:.1f} faces/s" if summary.seconds else ""
            progress.update(task, advance=1, rate=rate)

        summary = purify_files(items, shield, options, advance=advance, keep=keep)
    if grid is not None and parts:
        joined = [Column(c[0].title, torch.cat([column.images for column in c])) for c in zip(*parts, strict=True)]
        write_photo(grid, sheet(joined))
    return summary


def _report(summary: Summary, folder: Path, shield: Shield) -> None:
    per_face = f", {1000 * summary.seconds / summary.faces:.0f} ms a face" if summary.faces else ""
    skipped = f", {summary.skipped} there already" if summary.skipped else ""
    out.print(
        f"{summary.done} photographs, {summary.faces} faces purified{skipped}{per_face}; {shield.preset.name} on {shield.path}"
    )
    if summary.done or summary.skipped:
        out.print(f"results in {folder}")
    if summary.failures:
        console.print(f"[bold red]{len(summary.failures)} failed:[/]")
        for line in summary.failures:
            console.print(f"  {line}", markup=False, soft_wrap=True)


@app.command()
def presets(json_: Annotated[bool, typer.Option("--json", help="As JSON, with every setting.")] = False) -> None:
    """List the presets: what each does and what it costs."""
    from facesieve.purify import PRESETS

    if json_:
        import json

        out.print_json(json.dumps([preset.as_dict() for preset in PRESETS.values()]))
        return
    from rich.table import Table

    table = Table("preset", "what it does", "restorations", "evaluations")
    for preset in PRESETS.values():
        stages = "\n".join(
            f"{r['name']}: {r['operator']}, eta {r['eta']:g}" + (f", {r['samples']} samples" if r["samples"] > 1 else "")
            for r in preset.as_dict()["restorations"]
        )
        table.add_row(preset.name, preset.summary, stages, str(preset.evaluations))
    out.print(table)


@app.command()
def info() -> None:
    """Say what this machine offers, which path will run, and which prior ships with the package."""
    from facesieve.hardware import summary
    from facesieve.priors.embedded import EMBEDDED, embedded_prior_folder
    from facesieve.priors.folder import read_card

    cards = [read_card(embedded_prior_folder(name)) for name in EMBEDDED]
    priors = [("prior", f"{card['name']}, sha256 {str(card['sha256'])[:16]}") for card in cards]
    for name, value in [("facesieve", __version__), *summary().items(), *priors]:
        out.print(f"{name:10s} {value}", markup=False)


@prior_app.command("import")
def prior_import(
    source: Annotated[Path, typer.Argument(help="A diffusers folder, celeba_hq.ckpt, or 256x256_diffusion_uncond.pt.")],
    destination: Annotated[Path, typer.Argument(help="Folder for the converted prior; must not exist yet.")],
) -> None:
    """Convert a public checkpoint into a prior that `purify --prior` takes."""
    from facesieve.priors.importing import import_prior

    prior = import_prior(source, destination)
    parameters = sum(p.numel() for p in prior.network.parameters())
    out.print(
        f"{destination}: {parameters:,} parameters, images of {prior.shape[-1]} x {prior.shape[-2]}, target {prior.prediction}"
    )


@prior_app.command("show")
def prior_show(
    folder: Annotated[
        Path | None, typer.Argument(help="A prior's folder, or prior-128-tuned of those that ship; prior-128 if not given.")
    ] = None,
) -> None:
    """Print a prior's card."""
    import json

    from facesieve.priors.embedded import EMBEDDED, PRIOR, embedded_prior_folder
    from facesieve.priors.folder import read_card

    shipped = {Path(name): embedded_prior_folder(name) for name in EMBEDDED}
    out.print_json(json.dumps(read_card(shipped.get(folder or Path(PRIOR), folder or Path()))))
