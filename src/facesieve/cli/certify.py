"""`certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facesieve.cli.evaluate import lines
from facesieve.cli.terminal import out


def certify(
    source: Annotated[Path, typer.Option(help="The labelled data: one folder per person, train.rec, or a saved data set.")],
    manifest: Annotated[Path, typer.Option(help="A selection made from the data by `facesieve data select`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; finished work in it is not repeated.")],
    embedder: Annotated[list[str] | None, typer.Option(help="A recogniser, as for `enrol`; may be repeated. Else sface.")] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="Standard deviation of the noise, of pixels in [0, 1]; may be repeated. Else 0.06 to 0.5."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of noise that are counted, each image.")] = 1000,
    alpha: Annotated[float, typer.Option(help="Probability, at most, that a certificate is wrong.")] = 0.001,
    patch: Annotated[
        list[float] | None, typer.Option(help="A patch's part of the crop, percent: certify by masking as well; may be repeated.")
    ] = None,
    smoothing: Annotated[bool, typer.Option(help="Certify by noise.")] = True,
    probes: Annotated[int | None, typer.Option(help="The first so many of the test images, people in turn.")] = None,
    templates: Annotated[int, typer.Option(help="Training images that each person is enrolled with.")] = 10,
    seed: Annotated[int, typer.Option(help="Makes the draws repeatable.")] = 0,
    targets: Annotated[
        Path | None, typer.Option(help="A JSON list of targets, in which the certified accuracy at L2 0.25 is recorded.")
    ] = None,
) -> None:
    """Prove which names no attacker can change: by noise within an L2 radius, by masks for a patch."""
    from pydantic import ValidationError

    from facesieve.data.manifest import load_manifest
    from facesieve.data.sources import open_source
    from facesieve.errors import SettingError
    from facesieve.evaluate.certify import Settings
    from facesieve.evaluate.certify import certify as run
    from facesieve.files import first_problem
    from facesieve.report.certificates import draw
    from facesieve.report.certificates import targets as wanted_of
    from facesieve.report.targets import keep_targets

    given: dict[str, Any] = {"draws": draws, "alpha": alpha, "templates": templates, "seed": seed, "probes": probes}
    given |= {"embedders": embedder, "sigmas": sigma if smoothing else (), "patches": patch and [part / 100 for part in patch]}
    try:
        settings = Settings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingError("{}: {}".format(*first_problem(error))) from error
    words = [
        f"--{name} {value:g}" for name, value in (("draws", draws), ("alpha", alpha), ("templates", templates), ("seed", seed))
    ]
    words += [f"--embedder {each}" for each in settings.embedders] + [f"--sigma {each:g}" for each in settings.sigmas]
    words += [f"--patch {100 * each:g}" for each in settings.patches] + ["--no-smoothing"] * (not smoothing)
    words += [f"--probes {probes}"] * (probes is not None)
    command = f"facesieve certify --source DATA --manifest {manifest} -o RUN {' '.join(words)}"
    with lines("certifying") as tell:
        figures = run(settings, load_manifest(manifest), open_source(source), output, report=tell, command=command)
    if targets is not None:
        keep_targets(targets, wanted_of(figures))
    for path in draw(figures, output):
        out.print(str(path))
