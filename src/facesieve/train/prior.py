"""Train a face prior: a U-Net of ``diffusers`` with a v-target on aligned crops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.data.crops import Crops, FaceFolder, wide_crops
from facesieve.errors import SettingError
from facesieve.hardware import choose_hardware
from facesieve.priors.folder import load_prior, prior_hash, read_card, save_prior
from facesieve.priors.network import NetworkPrior
from facesieve.priors.schedule import Schedule
from facesieve.progress import Progress, Report, silent
from facesieve.train.average import MovingAverage
from facesieve.train.batches import NoisedBatches, ahead, split_in_words
from facesieve.train.cards import DataCard, card, write_sheets
from facesieve.train.loop import CHECKPOINT_MINUTES, Run, Task, kept, warm_up
from facesieve.train.settings import PriorTraining

HELD_OUT_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
MEASURED = 64  # held-out faces measured meanwhile; at the end all of them are


def build_network(settings: PriorTraining) -> nn.Module:
    """The U-Net, with random weights."""
    from diffusers import UNet2DModel  # slow to import

    levels = len(settings.channels)
    attends = [level >= levels - settings.attention_levels for level in range(levels)]
    network: nn.Module = UNet2DModel(
        sample_size=settings.size // settings.patch,
        in_channels=3 * settings.patch**2,
        out_channels=3 * settings.patch**2,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=math.gcd(64, settings.channels[-1]),
        norm_num_groups=16,
    )
    return network


def begin_at(network: nn.Module, start: Path, settings: PriorTraining) -> None:
    """Give the network the weights of the prior in a folder. Raises ``PriorError``, and ``SettingError`` where it is another."""
    prior = load_prior(start)
    ours, theirs = Schedule.linear().sigmas, prior.schedule.sigmas
    alike = prior.prediction == "v_prediction" and len(ours) == len(theirs) and torch.allclose(ours, theirs, rtol=1e-3)
    if not alike or prior.shape[-1] != settings.size:
        raise SettingError(f"not a prior of {settings.size} pixels with the target and schedule of this training", start)
    try:
        network.load_state_dict(prior.network.state_dict())
    except RuntimeError as error:
        raise SettingError("not the network that the settings describe", start, "set channels, layers ... as its card") from error


def v_loss(prior: NetworkPrior, images: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Mean squared error of v = sqrt(abar) eps - sqrt(1 - abar) x0 for each image: (B,)."""
    scale = (1 + sigmas**2).rsqrt()[:, None, None, None]  # sqrt(abar)
    rest = sigmas[:, None, None, None] * scale  # sqrt(1 - abar)
    output = prior.output(scale * images + rest * noise, prior.schedule.time(sigmas.cpu()).to(sigmas.device))
    return functional.mse_loss(output, scale * noise - rest * images, reduction="none").mean((1, 2, 3))


@torch.no_grad()
def held_out_loss(prior: NetworkPrior, images: Tensor) -> dict[str, float]:
    """The v-loss on held-out faces (N, 3, H, W) at each of ``HELD_OUT_SIGMAS``, with the same noise every time."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(images.device)
    losses = {}
    for sigma in HELD_OUT_SIGMAS:
        parts = [
            v_loss(prior, *chunk, torch.full((len(chunk[0]),), sigma, device=images.device))
            for chunk in zip(torch.split(images, 16), torch.split(noise, 16), strict=True)
        ]
        losses[f"{sigma:g}"] = float(torch.cat(parts).mean())
    return losses


def learning_rate_factor(settings: PriorTraining, step: int, total: int | None = None) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``decay_fraction`` of ``total`` steps."""
    total = settings.images // settings.batch if total is None else total
    left = (total - step) / max(total * settings.decay_fraction, 1)
    return min(warm_up(step, settings.warmup_steps), max(left, 0.0))


class PriorTask(Task):
    """The v-target on noised faces, with AdamW and a moving average; the average is what is kept."""

    settings: PriorTraining
    may_change = frozenset({"images"})
    average: MovingAverage

    def __init__(self, faces: Crops | FaceFolder, settings: PriorTraining, start: Path | None = None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.total = settings, settings.images // settings.batch
        self.hardware = choose_hardware(precision=settings.precision)
        network = build_network(settings)
        if start is not None:
            begin_at(network, start, settings)
        network = network.to(self.hardware.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        schedule = Schedule.linear()
        self.prior = NetworkPrior(network, schedule, "v_prediction", (3, settings.size, settings.size))
        self.batches = NoisedBatches(faces, settings, schedule)
        self.upcoming = ahead(self.batches, self.hardware.device)
        self.networks = {"network": network}
        self.optimiser = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.average = MovingAverage(network, settings.ema_decay)

    def rate(self, step: int) -> float:
        """As ``learning_rate_factor`` says."""
        return self.settings.learning_rate * learning_rate_factor(self.settings, step, self.total)

    def backward(self, step: int) -> dict[str, float]:
        """The mean v-loss."""
        with self.reduced():
            loss = v_loss(self.prior, *(part.to(self.hardware.device) for part in self.upcoming(step))).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.item()}

    def measure(self, step: int) -> dict[str, float]:
        """The averaged network's v-loss by noise level, on all held-out faces once training is over."""
        count = self.settings.held_out if step >= self.total else MEASURED
        with self.averaged() as prior:
            return held_out_loss(prior, self.held_out_images(count))

    def held_out_images(self, count: int) -> Tensor:
        """The first ``count`` held-out faces, in [-1, 1], on the device."""
        return self.batches.held_out_images(count).to(self.hardware.device)

    def in_words(self, held_out: Mapping[str, float]) -> dict[str, str]:
        """By noise level."""
        return {f"v-loss at {sigma}": f"{loss:.4f}" for sigma, loss in held_out.items()}

    @contextmanager
    def averaged(self) -> Iterator[NetworkPrior]:
        """The prior with its averaged weights, for as long as the block lasts."""
        with self.average.applied():
            yield self.prior


def train_prior(
    data: Path,
    out: Path,
    settings: PriorTraining,
    *,
    start: Path | None = None,
    data_card: Path | None = None,
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    stop_after_minutes: float = math.inf,
) -> Path:
    """Train, or resume, the prior in ``out`` on photographs with one face each; returns the folder with the finished prior.

    It begins from random weights, or from the prior in the folder ``start``, whose terms its card then has as well.
    ``out`` keeps ``checkpoint.pt``, ``loss.csv``, ``held-out.csv`` and sheets of denoised and sampled
    faces, and gets ``prior-STEPS/`` in the folder format of ``diffusers`` with a card at the end. ``data_card``
    is a TOML file with the terms of the photographs; without one, ``DATA.toml`` in ``data`` is read.
    Raises ``InputError`` for a folder without faces, ``SettingError`` where the run in ``out`` began
    with other settings; only ``images``, ``minutes`` and ``precision`` may change.
    """
    stated = DataCard.of(data_card, data)
    faces = wide_crops(data, out, report) if settings.views else FaceFolder(data, out / "landmarks.npz", report)
    task = PriorTask(faces, settings, start)
    run = Run(task, out)
    size = sum(parameter.numel() for parameter in task.prior.network.parameters()) / 1e6
    counts = split_in_words(task.batches.train, task.batches.held_out)
    report(Progress(run.step, task.total, f"{counts}, {size:.1f} M parameters, on {task.hardware}; {stated}"))
    measured = None
    times = {"checkpoint_minutes": checkpoint_minutes, "stop_after_minutes": stop_after_minutes}
    for record in kept(run, report, **times, curve="loss.csv"):
        measured = record.held_out
        if measured is not None:
            with task.averaged() as prior:
                write_sheets(prior, task.held_out_images(6), out / "sheets", record.step)
    folder = out / f"prior-{run.step:06d}"
    if not folder.exists():
        _export(run, folder, stated, start, task.measure(run.step) if measured is None else measured)
    return folder


def _export(run: Run[PriorTask], folder: Path, data: DataCard, start: Path | None, held_out: Mapping[str, float]) -> None:
    task, settings = run.task, run.task.settings
    begun = {} if start is None else {"start": {"name": read_card(start)["name"], "sha256": prior_hash(start)}}
    data = data if start is None else data.begun_from(read_card(start))
    about = {
        "name": f"facesieve face prior {settings.size}",
        "what": "an unconditional diffusion prior of aligned, tightly cropped faces; images in [-1, 1]",
        "data": f"{len(task.batches.train)} {data.what}, aligned to the template of facesieve.faces",
        **begun,
        **run.made,
    }
    figures = {"held_out_v_loss_by_sigma": {sigma: round(loss, 5) for sigma, loss in held_out.items()}}
    limits = (
        "faces far from the data (children, strong occlusion, extreme pose or light) are restored worse; "
        "skin tones of colorization are the prior's guess; it was not checked that it treats groups of people alike"
    )
    with task.averaged() as prior:
        save_prior(prior, folder, card=card(about, data, settings, run.seconds, figures, limits))


__all__ = ["PriorTask", "PriorTraining", "build_network", "held_out_loss", "train_prior", "v_loss"]
