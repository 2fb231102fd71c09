"""`evaluate`, `report` and `choose-scale`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facesieve.cli.options import Embedding
from facesieve.cli.terminal import counted, errors, out, progress_bar
from facesieve.errors import many
from facesieve.limits import number

if TYPE_CHECKING:
    from facesieve.progress import Progress, Report
    from facesieve.report.record import Record

Results = Annotated[Path | None, typer.Option(help="Folder for a result of each defence, for `facesieve board`.")]


def evaluate(
    experiment: Annotated[Path, typer.Argument(help="A TOML file, as in experiments/.")],
    source: Annotated[Path, typer.Option(help="The labelled data: one folder per person, train.rec, or a saved data set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; finished work in it is not repeated.")],
    manifest: Annotated[Path | None, typer.Option(help="A selection made from the data by `facesieve data select`.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of batches that several runs share.")] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Photographs that may be shown: the report has them behind each defence. Else run.samples."),
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(help="A JSON list of targets, in which the figures that the experiment asks for are recorded.")
    ] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            help="Alone, of the experiment's defences or in their place: one that it names, a preset, a baseline, or "
            "package.module:factory, which makes a function of crops and is code that will run. May be given several times."
        ),
    ] = None,
    results: Results = None,
) -> None:
    """Attack, defend and score, as an experiment's file says; write the record."""
    import cv2

    from facesieve.evaluate.experiment import read_experiment
    from facesieve.evaluate.run import evaluate as run
    from facesieve.report.targets import keep_targets, measured

    cv2.setNumThreads(1)
    settings = read_experiment(experiment, note=errors.print)
    given = "" if manifest is None else f" --manifest {manifest}"
    if defence:
        settings, given = settings.with_defences(defence), given + "".join(f" --defence {quote(name)}" for name in defence)
    command = f"facesieve evaluate {experiment} --source DATA{given} -o RUN"
    with lines("evaluating") as tell:
        record = run(settings, source, output, manifest=manifest, cache=cache, samples=samples, report=tell, command=command)
    if targets is not None:
        keep_targets(targets, measured(record))
    _write_results(record, results)
    out.print(f"record in {output / 'report.json'}; draw it with `facesieve report {output}`")


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or its report.json.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the pages; the run's if not given.")] = None,
    targets: Annotated[
        Path | None,
        typer.Option(help="A JSON list of targets, in which figures are recorded that a run came to before it stopped."),
    ] = None,
    results: Results = None,
) -> None:
    """Draw a run's record, finished or not: report.html, report.md and tables.json."""
    from facesieve.report.pages import draw
    from facesieve.report.record import load_record
    from facesieve.report.targets import keep_targets, measured

    record, folder = load_record(run), output or (run if run.is_dir() else run.parent)
    with progress_bar("drawing"):
        drawn = draw(record, folder)
    for path in drawn:
        out.print(str(path))
    if targets is not None:
        keep_targets(targets, measured(record))
    _write_results(record, results)


def _write_results(record: Record, folder: Path | None) -> None:
    from facesieve.report.result import write_results

    for path in [] if folder is None else write_results(record, folder):
        out.print(str(path))


def board(
    results: Annotated[list[Path], typer.Argument(help="Folders of results, results, or records of runs.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for board.md and board.html.")] = None,
) -> None:
    """Draw results side by side, each with its intervals; say why a result is refused."""
    from facesieve.files import write_with_folder
    from facesieve.report.board import Entry, html, markdown
    from facesieve.report.result import read_results

    folder = output or (results[0] if results[0].is_dir() else results[0].parent)
    found, command = read_results(results), f"facesieve board {' '.join(map(str, results))}"
    command += "" if output is None else f" -o {output}"
    with counted((("board.md", markdown), ("board.html", html)), "drawing") as pages:
        for name, page in pages:
            write_with_folder(folder / name, page(found, command).encode())
            out.print(str(folder / name))
    for entry in map(Entry, found):
        for reason in entry.refusals:
            errors.print(f"refused: {entry.result.defence.name} before {entry.result.recogniser}: {reason}")


def choose_scale(
    clean: Annotated[Path, typer.Option(help="Clean sample photographs: one folder per person, two or more photographs each.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the profile, the indicators and the pictures.")],
    adversarial: Annotated[
        Path | None, typer.Option(help="The same photographs under attack, with the same names; made here if not given.")
    ] = None,
    eps: Annotated[float, typer.Option(help="Strength of the attack made here, in levels of 255.")] = 2.0,
    preset: Annotated[str, typer.Option(help="The preset whose scale is chosen.")] = "paper",
    embedder: Embedding = "sface",
    most_lost: Annotated[float, typer.Option(help="Points of clean accuracy that may be lost, in percent.")] = 2.25,
    seed: Annotated[int, typer.Option(help="Makes the indicators repeatable.")] = 0,
) -> None:
    """Choose the resolution scale on your own samples: indicators at 2, 4 and 8, pictures, a profile for the shield."""
    from facesieve.evaluate.choose_scale import attacked, check_attack, read_samples
    from facesieve.evaluate.choose_scale import choose_scale as choose
    from facesieve.evaluate.profile import write_choice
    from facesieve.purify import preset as preset_named
    from facesieve.recognition.embedders import load_embedder
    from facesieve.runtime.torch import load_runtime

    number(eps, "--eps", 0, 255)
    number(most_lost, "--most-lost", 0, 100)
    # A preset, not a profile: what is written names a preset and the scale, and would lose a profile's other settings.
    runtime, recogniser = load_runtime(preset_named(preset)), load_embedder(embedder)
    with progress_bar("reading photographs"):
        samples = read_samples(clean, adversarial, runtime.size)
    if adversarial is None:
        errors.print(f"attacking {many(len(samples.clean), 'face')} at eps {eps:g}/255 ...")
        with progress_bar("attacking") as tell:
            samples = attacked(samples, recogniser, eps / 255, seed=seed, report=tell)
    check_attack(samples, recogniser)
    with lines("scales") as tell:
        choice = choose(samples, runtime, recogniser, most_lost=most_lost / 100, seed=seed, report=tell)
    paths = write_choice(output, choice)
    out.print(f"recommended: {choice.reason}")
    out.print(f"look at {', '.join(path.name for path in paths[2:])} in {output} before you take it")
    out.print(f"profile in {paths[0]}: facesieve purify PHOTO -o OUT --preset {paths[0]}")


@wraps(choose_scale)
def calibrate(**options: Any) -> None:
    """The former name of `choose-scale`."""
    errors.print("`facesieve calibrate` is called `facesieve choose-scale` now; the old name works in this release")
    choose_scale(**options)


@contextmanager
def lines(title: str) -> Iterator[Report]:
    """A line for each piece of work; on a terminal also how far all of it is, and the time left."""
    with progress_bar(title, lines=False) as bar:

        def tell(progress: Progress) -> None:
            share = (
                "" if errors.is_terminal or not progress.done else f" ({100 * progress.done / progress.total:.0f} % of the work)"
            )
            if progress.what:
                errors.print(progress.what + share)
            bar(progress)

        yield tell
