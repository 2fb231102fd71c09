"""The commands under `train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesieve.cli.terminal import out
from facesieve.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

train_app = typer.Typer(no_args_is_help=True, help="Train a prior or a recogniser of your own.")

Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting as name=value, as in `--set batch=32`.")]
Minutes = Annotated[float, typer.Option(help="How often to save.")]


@train_app.command("prior")
def train_prior_command(
    data: Annotated[Path, typer.Option(help="Folder of photographs with one face each.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for checkpoints, curves, sheets and the finished prior.")
    ],
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Train a face prior, or go on with one that was stopped; the defaults made the embedded one."""
    import cv2

    from facesieve.train.prior import PriorTraining, train_prior
    from facesieve.train.settings import parse_settings

    cv2.setNumThreads(1)  # crops are small; the threads belong to the network
    folder = train_prior(
        data, output, parse_settings(PriorTraining, settings or []), report=out.print, checkpoint_minutes=checkpoint_minutes
    )
    out.print(f"finished prior in {folder}")


@train_app.command("distil")
def distil_command(
    unlabelled: Annotated[Path, typer.Option(help="Folder of photographs with one face each.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the checkpoint, the curve and the finished network.")
    ],
    teacher: Annotated[str, typer.Option(help="The embedder to learn from: sface, or a FaceNet or ONNX file.")] = "sface",
    manifest: Annotated[Path | None, typer.Option(help="Add the training images of a manifest, without their labels.")] = None,
    source: Annotated[Path | None, typer.Option(help="The data that the manifest was made from.")] = None,
    start: Annotated[Path | None, typer.Option(help="Go on from a FaceNet folder or a published .pt file.")] = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Teach FaceNet what another embedder knows, over faces of nobody in particular: a warm start for `recogniser`."""
    import cv2

    from facesieve.train.batches import Distilling
    from facesieve.train.finish import distil
    from facesieve.train.settings import parse_settings

    cv2.setNumThreads(1)
    chosen = parse_settings(Distilling, settings or [])
    if (manifest is None) != (source is None):
        raise InputError("--manifest and --source go together")
    also = None if manifest is None or source is None else (manifest, source)
    report = out.print
    folder = distil(
        unlabelled, output, teacher, chosen, also=also, start=start, report=report, checkpoint_minutes=checkpoint_minutes
    )
    out.print(f"finished network in {folder}")


@train_app.command("recogniser")
def recogniser_command(
    manifest: Annotated[Path, typer.Option(help="What `facesieve data select` wrote.")],
    source: Annotated[Path, typer.Option(help="The data that the manifest was made from.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the checkpoint, the curve and the finished network.")
    ],
    start: Annotated[
        Path | None, typer.Option(help="Warm start: a FaceNet folder, as of `train distil`, or a published .pt file.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="An embedder to learn from beside the labels: sface, say.")] = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Train FaceNet to tell the people of a data set apart, or go on with a training that was stopped."""
    import cv2

    from facesieve.train.batches import Classifying
    from facesieve.train.finish import classify
    from facesieve.train.settings import parse_settings

    cv2.setNumThreads(1)
    chosen = parse_settings(Classifying, settings or [])
    report = out.print
    folder, test = classify(
        manifest, source, output, chosen, start=start, teacher=teacher, report=report, checkpoint_minutes=checkpoint_minutes
    )
    out.print(f"top-1 on the test images {test}")
    out.print(f"finished network in {folder}")


@train_app.command("ddsa")
def ddsa_command(
    data: Annotated[Path, typer.Option(help="Folder of photographs with one face each.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the checkpoint, the curves and the weights.")],
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Train the denoising sparse autoencoder, one of the defences to compare with."""
    from facesieve.defences.learning import DdsaTraining
    from facesieve.train.defences import train_ddsa

    _train_defence(train_ddsa, DdsaTraining, data, output, settings, checkpoint_minutes)


@train_app.command("faceguard")
def faceguard_command(
    data: Annotated[Path, typer.Option(help="Folder of photographs with one face each.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the checkpoint, the curves and the weights.")],
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Train the detector and purifier after FaceGuard, one of the defences to compare with; SFace is in the loop."""
    from facesieve.defences.learning import FaceGuardTraining
    from facesieve.train.defences import train_faceguard

    _train_defence(train_faceguard, FaceGuardTraining, data, output, settings, checkpoint_minutes)


@train_app.command("tuned-prior")
def tuned_prior_command(
    data: Annotated[Path, typer.Option(help="Folder of photographs with one face each.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the checkpoint, the curves and the finished prior.")],
    start: Annotated[Path | None, typer.Option(help="The prior to begin with; the embedded one if not given.")] = None,
    recogniser: Annotated[
        list[str] | None, typer.Option(help="A recogniser that must know the person again; may be given more than once.")
    ] = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Tune a prior until recognisers know the person again, attacked or not: what the preset `tuned` restores with."""
    import cv2

    from facesieve.priors.embedded import embedded_prior_folder
    from facesieve.train.settings import parse_settings
    from facesieve.train.tuned import TunedTraining, train_tuned

    cv2.setNumThreads(1)
    folder = train_tuned(
        data,
        output,
        parse_settings(TunedTraining, settings or []),
        start=start or embedded_prior_folder(),
        recognisers=recogniser or ["sface"],
        report=out.print,
        checkpoint_minutes=checkpoint_minutes,
    )
    out.print(f"finished prior in {folder}")


def _train_defence(
    train: Callable[..., Path],
    kind: type[BaseModel],
    data: Path,
    output: Path,
    settings: list[str] | None,
    checkpoint_minutes: float,
) -> None:
    import cv2

    from facesieve.train.settings import parse_settings

    cv2.setNumThreads(1)  # crops are small; the threads belong to the network
    weights = train(data, output, parse_settings(kind, settings or []), report=out.print, checkpoint_minutes=checkpoint_minutes)
    out.print(f"finished weights in {weights}")
