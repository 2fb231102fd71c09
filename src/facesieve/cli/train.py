"""The commands under `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from facesieve.cli.terminal import errors, out
from facesieve.errors import InputError, SettingError
from facesieve.progress import Progress

if TYPE_CHECKING:
    from facesieve.train.settings import Training

train_app = typer.Typer(no_args_is_help=True, help="Train your own prior, purifier, recogniser or defence.")

Kind = TypeVar("Kind", bound="Training")

Data = Annotated[Path, typer.Option(help="Folder of photographs with one face each.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the checkpoint, the curves and the result.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting as name=value, as in `--set batch=32`.")]
Stated = Annotated[
    Path | None, typer.Option(help="TOML file with the terms of the photographs; else DATA.toml beside them is read.")
]


def _minutes(value: float | None) -> float | None:
    """Typer's limits let NaN through; only --stop-after-minutes may be infinite, which is its default."""
    if value is not None and not value >= 0:
        raise typer.BadParameter(f"{value:g} is no time in minutes")
    return value


Minutes = Annotated[float, typer.Option(callback=_minutes, help="How often to save.")]
Stop = Annotated[float, typer.Option(callback=_minutes, help="Stop and save after so long; the same command resumes.")]
Limit = Annotated[
    float | None,
    typer.Option(
        callback=_minutes, help="Train for so long in all; the learning rate falls in time, whatever the steps or images."
    ),
]
Manifest = Annotated[Path, typer.Option(help="What `facesieve data select` wrote.")]
Source = Annotated[Path, typer.Option(help="The data that the manifest was made from.")]


@train_app.command("prior")
def train_prior_command(
    data: Data,
    output: Output,
    start: Annotated[Path | None, typer.Option(help="A prior to start from, in place of random weights.")] = None,
    minutes: Limit = None,
    data_card: Stated = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
    stop_after_minutes: Stop = math.inf,
) -> None:
    """Train a face prior, or resume a training."""
    from facesieve.train.prior import train_prior
    from facesieve.train.settings import PriorTraining

    chosen = _chosen(PriorTraining, _limited(settings, minutes))
    _run(
        "prior",
        partial(train_prior, data, output, chosen, start=start, data_card=data_card),
        checkpoint_minutes,
        stop_after_minutes,
    )


@train_app.command("distil")
def distil_command(
    unlabelled: Data,
    output: Output,
    teacher: Annotated[str, typer.Option(help="The embedder to learn from, as `--embedder` names it elsewhere.")] = "sface",
    manifest: Annotated[Path | None, typer.Option(help="Add the training images of a manifest, without their labels.")] = None,
    source: Annotated[Path | None, typer.Option(help="The data that the manifest was made from.")] = None,
    start: Annotated[Path | None, typer.Option(help="Start from a FaceNet folder or a published .pt file.")] = None,
    data_card: Stated = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Teach FaceNet to imitate another embedder, on faces without labels: a warm start for `recogniser`."""
    from facesieve.train.recogniser import distil
    from facesieve.train.settings import Distilling

    chosen = _chosen(Distilling, settings)
    if (manifest is None) != (source is None):
        raise InputError("--manifest and --source go together")
    also = None if manifest is None or source is None else (manifest, source)
    times = {"checkpoint_minutes": checkpoint_minutes}
    folder = distil(unlabelled, output, teacher, chosen, also=also, start=start, data_card=data_card, report=_Teller(), **times)
    out.print(f"finished network in {folder}")


@train_app.command("recogniser")
def recogniser_command(
    manifest: Manifest,
    source: Source,
    output: Output,
    start: Annotated[
        Path | None, typer.Option(help="Warm start: a FaceNet folder, as of `train distil`, or a published .pt file.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="An embedder to learn from besides the labels, such as sface.")] = None,
    data_card: Stated = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """Train FaceNet to tell the people of a data set apart, or resume a training."""
    from facesieve.train.recogniser import classify
    from facesieve.train.settings import Classifying

    chosen = _chosen(Classifying, settings)
    folder, test = classify(
        manifest,
        source,
        output,
        chosen,
        start=start,
        teacher=teacher,
        data_card=data_card,
        report=_Teller(),
        checkpoint_minutes=checkpoint_minutes,
    )
    out.print(f"top-1 on the test images {test}")
    out.print(f"finished network in {folder}")


@train_app.command("ddsa")
def ddsa_command(
    data: Data,
    output: Output,
    data_card: Stated = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
    stop_after_minutes: Stop = math.inf,
) -> None:
    """Train the denoising sparse autoencoder, one of the baseline defences, or resume a training."""
    from facesieve.train.ddsa import train_ddsa
    from facesieve.train.settings import DdsaTraining

    chosen = _chosen(DdsaTraining, settings)
    _run("weights", partial(train_ddsa, data, output, chosen, data_card=data_card), checkpoint_minutes, stop_after_minutes)


@train_app.command("faceguard")
def faceguard_command(
    data: Data,
    output: Output,
    data_card: Stated = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
    stop_after_minutes: Stop = math.inf,
) -> None:
    """Train the detector and purifier after FaceGuard, with SFace in the loop, or resume a training."""
    from facesieve.train.faceguard import train_faceguard
    from facesieve.train.settings import FaceGuardTraining

    chosen = _chosen(FaceGuardTraining, settings)
    _run("weights", partial(train_faceguard, data, output, chosen, data_card=data_card), checkpoint_minutes, stop_after_minutes)


@train_app.command("purifier")
def purifier_command(
    data: Data,
    output: Output,
    start: Annotated[Path | None, typer.Option(help="The prior to start from; the embedded one if not given.")] = None,
    recogniser: Annotated[
        list[str] | None, typer.Option(help="A recogniser that must recognise the person; may be given more than once.")
    ] = None,
    minutes: Limit = None,
    data_card: Stated = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
    stop_after_minutes: Stop = math.inf,
) -> None:
    """Train a purifier against attacks through itself, or resume a training: what the preset `robust` restores with."""
    from facesieve.priors.embedded import embedded_prior_folder
    from facesieve.train.purifier import train_purifier
    from facesieve.train.settings import PurifierTraining

    chosen = _chosen(PurifierTraining, _limited(settings, minutes))
    begun, names = start or embedded_prior_folder(), recogniser or ["sface", "dlib"]
    train = partial(train_purifier, data, output, chosen, start=begun, recognisers=names, data_card=data_card)
    _run("purifier", train, checkpoint_minutes, stop_after_minutes)


@train_app.command("tuned-prior", hidden=True)
def tuned_prior_command(
    data: Data,
    output: Output,
    start: Annotated[Path | None, typer.Option(help="As of `train purifier`.")] = None,
    recogniser: Annotated[list[str] | None, typer.Option(help="As of `train purifier`.")] = None,
    settings: Settings = None,
    checkpoint_minutes: Minutes = 5.0,
) -> None:
    """The name that `train purifier` had before."""
    errors.print("`facesieve train tuned-prior` is called `facesieve train purifier` now, and trains that; the old name goes")
    purifier_command(data, output, start, recogniser, settings=settings, checkpoint_minutes=checkpoint_minutes)


def _run(what: str, train: Callable[..., Path], checkpoint_minutes: float, stop_after_minutes: float) -> None:
    """Train, and say whether that ended and where the result is."""
    told = _Teller()
    written = train(report=told, checkpoint_minutes=checkpoint_minutes, stop_after_minutes=stop_after_minutes)
    out.print(f"{told.state} {what} in {written}")


def _limited(pairs: list[str] | None, minutes: float | None) -> list[str]:
    return [*(pairs or []), *([] if minutes is None else [f"minutes={minutes:g}"])]


def _chosen(kind: type[Kind], pairs: list[str] | None) -> Kind:
    import cv2

    from facesieve.train.settings import parse_settings

    cv2.setNumThreads(1)  # crops are small; the threads belong to the network
    try:
        return parse_settings(kind, pairs or [])
    except SettingError as error:
        where = "--set" if error.where is None else f"--set {error.where}"
        raise SettingError(error.what, where, error.advice) from error


class _Teller:
    """Prints how far a training is, and how long it will take at the speed since it began."""

    def __init__(self) -> None:
        self._begun, self._first = time.monotonic(), 0.0
        self._last = Progress(0, 0)

    @property
    def state(self) -> str:
        """Whether the training that was told of has ended."""
        ended = self._last.done >= self._last.total
        return "finished" if ended else f"stopped at step {self._last.done:g} of {self._last.total:g}, the same command resumes;"

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        facts = [f"{name} {value}" for name, value in progress.facts.items()]
        if progress.what:  # what begins, or what was measured
            if not facts:
                self._begun, self._first = time.monotonic(), progress.done
            return out.print("  ".join([progress.what, *facts]))
        minutes = (time.monotonic() - self._begun) / 60
        rate = (progress.done - self._first) / max(minutes, 1e-9)
        left = (progress.total - progress.done) / max(rate, 1e-9)
        line = [f"step {progress.done}/{progress.total}", *facts, f"{rate:.1f} steps/min", f"{left:.0f} min left"]
        return out.print("  ".join(line))
