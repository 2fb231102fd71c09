"""`evaluate` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesieve.cli.terminal import errors, out


def evaluate(
    experiment: Annotated[Path, typer.Argument(help="A TOML file, as in experiments/.")],
    source: Annotated[Path, typer.Option(help="The labelled data: a folder a person, train.rec, or a saved data set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; what is there already is not done again.")],
    manifest: Annotated[Path | None, typer.Option(help="A selection that `facesieve data select` made from the data.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of batches that several runs share.")] = None,
) -> None:
    """Attack, defend and score, as an experiment's file says; write the record."""
    import cv2

    from facesieve.evaluate.experiment import read_experiment
    from facesieve.evaluate.run import evaluate as run

    cv2.setNumThreads(1)
    run(read_experiment(experiment), source, output, manifest=manifest, cache=cache, say=_say)
    out.print(f"record in {output / 'report.json'}; draw it with `facesieve report {output}`", markup=False, soft_wrap=True)


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or its report.json.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the pages; the run's if not given.")] = None,
) -> None:
    """Draw a run's record: report.html, report.md and tables.json."""
    from facesieve.evaluate.drawing import draw
    from facesieve.evaluate.report import load_report

    folder = output or (run if run.is_dir() else run.parent)
    for path in draw(load_report(run), folder):
        out.print(str(path), markup=False, soft_wrap=True)


def _say(line: str) -> None:
    errors.print(line, markup=False, soft_wrap=True)
