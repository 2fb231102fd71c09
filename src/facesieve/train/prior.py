"""Train a face prior: a U-Net of ``diffusers`` with a v-target on aligned crops.

The batch of step ``n`` depends on the seed and ``n`` alone, so a run that was stopped goes on as
if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from facesieve.data.crops import FaceFolder
from facesieve.errors import InputError
from facesieve.hardware import choose_hardware
from facesieve.images import Photo, to_floats
from facesieve.priors.network import NetworkPrior
from facesieve.priors.schedule import Schedule
from facesieve.train.cards import export_prior, write_sheets
from facesieve.train.checkpoints import append_row, check_settings, write_checkpoint

HELD_OUT_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


class PriorTraining(BaseModel):
    """Everything that decides what is trained; written beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = 128
    patch: int = 2  # pixels folded into channels: a quarter of the cost at 2
    channels: tuple[int, ...] = (48, 64, 128, 192)
    layers: int = 1
    attention_levels: int = 1  # self-attention at this many of the coarsest levels
    images: int = Field(79_000, gt=0)  # seen in all; the learning rate falls over the last part
    batch: int = Field(16, gt=0)
    learning_rate: float = Field(8e-4, gt=0)
    warmup_steps: int = 100
    decay_fraction: float = Field(0.3, ge=0, le=1)
    ema_decay: float = Field(0.998, gt=0, lt=1)
    max_zoom: float = Field(1.25, ge=1)  # half of the crops are cut up to this much tighter
    log_sigma_mean: float = -0.4
    log_sigma_std: float = 1.4
    uniform_time_fraction: float = 0.15  # the rest of the noise levels: uniform over the steps
    held_out: int = 256
    seed: int = 0


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


class _Batches:
    """The batch of each step, made from (seed, step) alone."""

    def __init__(self, faces: FaceFolder, settings: PriorTraining, schedule: Schedule) -> None:
        order = np.random.default_rng(settings.seed).permutation(len(faces))
        held_out = min(settings.held_out, len(faces) // 4)
        if len(faces) - held_out < settings.batch:
            raise InputError(f"{len(faces)} faces are too few for batches of {settings.batch}; use more, or --set batch=1")
        self.held_out, self.train = order[:held_out], order[held_out:]
        self.faces, self.settings, self.schedule = faces, settings, schedule

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, noise and noise levels: (B, 3, H, W), (B, 3, H, W), (B,)."""
        rng = np.random.default_rng((self.settings.seed, step))
        count = self.settings.batch
        per_epoch = len(self.train) // count
        shuffled = np.random.default_rng((self.settings.seed, 1, step // per_epoch)).permutation(self.train)
        start = step % per_epoch * count
        crops = []
        for index in shuffled[start : start + count]:
            zoom = rng.uniform(1, self.settings.max_zoom) if rng.random() < 0.5 else 1.0
            crop = self.faces.crop(int(index), self.settings.size, zoom)
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        images = _tensor(crops)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(images.shape, generator=generator)
        return images, noise, self._noise_levels(generator)

    def _noise_levels(self, generator: torch.Generator) -> Tensor:
        count = self.settings.batch
        # Stratified: one level from each of `count` equal slices, which steadies the loss.
        quantile = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        log_sigma = self.settings.log_sigma_mean + self.settings.log_sigma_std * torch.special.ndtri(quantile.double())
        steps = torch.randint(len(self.schedule.sigmas), (count,), generator=generator)
        uniform = torch.rand(count, generator=generator) < self.settings.uniform_time_fraction
        sigmas = torch.where(uniform, self.schedule.sigmas[steps], log_sigma.exp())
        return sigmas.clamp(self.schedule.sigmas[0], self.schedule.sigmas[-1]).float()

    def held_out_images(self, count: int) -> Tensor:
        return _tensor([self.faces.crop(int(index), self.settings.size) for index in self.held_out[:count]])


def _tensor(crops: list[Photo]) -> Tensor:
    return torch.stack([torch.from_numpy(to_floats(crop)) for crop in crops]) * 2 - 1


def v_loss(prior: NetworkPrior, images: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Mean squared error of v = sqrt(abar) eps - sqrt(1 - abar) x0 for each image: (B,)."""
    scale = (1 + sigmas**2).rsqrt()[:, None, None, None]  # sqrt(abar)
    rest = sigmas[:, None, None, None] * scale  # sqrt(1 - abar)
    output = prior.output(scale * images + rest * noise, prior.schedule.time(sigmas.cpu()).to(sigmas.device))
    return functional.mse_loss(output, scale * noise - rest * images, reduction="none").mean((1, 2, 3))


@torch.no_grad()
def held_out_loss(prior: NetworkPrior, batches: _Batches, count: int) -> dict[float, float]:
    """The v-loss on held-out faces at each of ``HELD_OUT_SIGMAS``, with the same noise every time."""
    device = next(prior.parameters()).device
    images = batches.held_out_images(count).to(device)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(device)
    losses = {}
    for sigma in HELD_OUT_SIGMAS:
        parts = [
            v_loss(prior, *chunk, torch.full((len(chunk[0]),), sigma, device=device))
            for chunk in zip(torch.split(images, 16), torch.split(noise, 16), strict=True)
        ]
        losses[sigma] = float(torch.cat(parts).mean())
    return losses


def learning_rate_factor(settings: PriorTraining, step: int) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``decay_fraction``."""
    total = settings.images // settings.batch
    left = (total - step) / max(total * settings.decay_fraction, 1)
    return min(1.0, (step + 1) / max(settings.warmup_steps, 1), max(left, 0.0))


def train_prior(
    data: Path,
    out: Path,
    settings: PriorTraining,
    *,
    report: Callable[[str], None] = print,
    checkpoint_minutes: float = 5.0,
) -> Path:
    """Train, or go on with, the prior in ``out``; returns the folder with the finished prior.

    ``out`` receives ``checkpoint.pt`` (everything needed to go on), ``loss.csv``, ``held-out.csv``,
    sheets of denoised and sampled faces, and at the end ``prior-STEPS/`` in the folder format of
    ``diffusers`` with a card. Raises ``InputError`` for a folder without faces, ``SettingError``
    where the run in ``out`` was begun with other settings; ``images`` alone may change.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(FaceFolder(data, out / "landmarks.npz"), settings, out / "checkpoint.pt")
    counts = f"{len(run.batches.train)} faces to train on, {len(run.batches.held_out)} held out"
    report(f"{counts}, {run.parameters / 1e6:.1f} M parameters, on {run.path}")
    total = settings.images // settings.batch
    saved = shown = time.monotonic()
    losses: list[float] = []
    for step, loss in run.steps(total):
        losses.append(loss)
        now = time.monotonic()
        if now - shown > 20 or step + 1 == total:
            rate = len(losses) * settings.batch / max(now - shown, 1e-9)
            left = (total - step - 1) * settings.batch / rate / 60
            append_row(out / "loss.csv", ["step", "loss"], [step + 1, sum(losses) / len(losses)])
            report(f"step {step + 1}/{total}  loss {sum(losses) / len(losses):.4f}  {rate:.1f} images/s  {left:.0f} min left")
            shown, losses = now, []
        if now - saved > checkpoint_minutes * 60 or step + 1 == total:
            run.save(step + 1)
            with run.averaged() as prior:
                held_out = held_out_loss(prior, run.batches, 64 if step + 1 < total else settings.held_out)
                write_sheets(prior, run.batches.held_out_images(6).to(run.path.device), out / "sheets", step + 1)
            append_row(out / "held-out.csv", ["step", *held_out], [step + 1, *held_out.values()])
            report("held out  " + "  ".join(f"{sigma:g}: {loss:.4f}" for sigma, loss in held_out.items()))
            saved = shown = time.monotonic()
            losses = []
    folder = out / f"prior-{total:06d}"
    if folder.exists():
        return folder
    with run.averaged() as prior:
        held_out = held_out_loss(prior, run.batches, settings.held_out)
        return export_prior(prior, folder, settings, held_out, run.seconds, len(run.batches.train))


class _Run:
    """Network, optimiser and moving average of one training, saved and loaded as one."""

    def __init__(self, faces: FaceFolder, settings: PriorTraining, checkpoint: Path) -> None:
        from diffusers.training_utils import EMAModel

        torch.manual_seed(settings.seed)
        self.settings, self.checkpoint = settings, checkpoint
        self.path = choose_hardware()
        self.network = build_network(settings).to(self.path.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        schedule = Schedule.linear()
        self.prior = NetworkPrior(self.network, schedule, "v_prediction", (3, settings.size, settings.size))
        self.batches = _Batches(faces, settings, schedule)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.ema = EMAModel(self.network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.8)
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self.first, self.seconds = 0, 0.0
        if checkpoint.exists():
            self._load()

    def steps(self, total: int) -> Iterator[tuple[int, float]]:
        for step in range(self.first, total):
            begun = time.monotonic()
            for group in self.optimiser.param_groups:
                group["lr"] = self.settings.learning_rate * learning_rate_factor(self.settings, step)
            with torch.autocast(self.path.device.type, torch.bfloat16, enabled=self.path.dtype == torch.bfloat16):
                loss = v_loss(self.prior, *(part.to(self.path.device) for part in self.batches(step))).mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"loss is not finite at step {step}")
            self.optimiser.step()
            self.ema.step(self.network.parameters())
            self.seconds += time.monotonic() - begun
            yield step, loss.item()

    def averaged(self) -> _Averaged:
        return _Averaged(self)

    def save(self, step: int) -> None:
        state = {
            "step": step,
            "settings": self.settings.model_dump(mode="json"),
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
        }
        write_checkpoint(self.checkpoint, state)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.path.device, weights_only=True)
        given = self.settings.model_dump(mode="json")
        check_settings(self.checkpoint, state["settings"], given, free=frozenset({"images"}))
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load_state_dict(state["ema"])
        self.first, self.seconds = state["step"], state["seconds"]


class _Averaged:
    """The prior with its averaged weights, for as long as the block lasts."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def __enter__(self) -> NetworkPrior:
        parameters = list(self.run.network.parameters())
        self.run.ema.store(parameters)
        self.run.ema.copy_to(parameters)
        return self.run.prior

    def __exit__(self, *_: object) -> None:
        self.run.ema.restore(self.run.network.parameters())


__all__ = ["PriorTraining", "build_network", "held_out_loss", "train_prior", "v_loss"]
