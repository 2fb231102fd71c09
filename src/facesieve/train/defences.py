"""Train the defences that learn, on unlabelled faces: the sparse autoencoder, and FaceGuard.

The images and the random numbers of step ``n`` depend on the seed and ``n`` alone, so a run that was
stopped goes on as if it had not been. A run keeps ``checkpoint.pt`` and ``curve.csv`` in its folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from facesieve.defences.ddsa import SparseAutoencoder, sparsity
from facesieve.defences.faceguard import EncoderDecoder, Guard
from facesieve.defences.weights import save_weights
from facesieve.errors import InputError, SettingError
from facesieve.hardware import choose_path
from facesieve.noise import derive_seed
from facesieve.recognition import Embedder
from facesieve.recognition.sface import load_sface
from facesieve.train.faces import Crops, to_batch, unlabelled_crops, vary
from facesieve.train.keeping import append_row, check_settings, write_checkpoint

Report = Callable[[str], None]

CROP = 160  # pixels of the crops that are kept on disk
TERMS = "the weights carry whatever limits the photographs carry"
LIMITS = (
    "A short training. Faces far from the data (children, strong occlusion, extreme pose or light) are restored worse. "
    "It was not checked that it treats groups of people alike. An attack that sees the network gets past it more easily."
)


class Training(BaseModel):
    """What both trainings share; written beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4000, gt=0)
    batch: int = Field(16, gt=0)
    size: int = Field(128, ge=32)  # pixels of the views
    learning_rate: float = Field(1e-3, gt=0)  # after the warm-up it falls to 0 along a half cosine
    warmup_steps: int = Field(100, ge=0)
    held_out: int = Field(64, gt=0)  # faces that are never trained on
    seed: int = 0


class DdsaTraining(Training):
    """The denoising sparse autoencoder's."""

    patch: int = Field(64, ge=8)  # pixels of the squares that are cut out of the views
    noise: float = Field(0.06, gt=0)  # standard deviation of the strongest noise, images in [0, 1]
    active: float = Field(0.05, gt=0, lt=1)  # the wanted mean of a unit of the code
    sparsity_weight: float = Field(1e-2, ge=0)

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if self.patch % 4 or self.patch > self.size:
            raise SettingError(f"patch {self.patch} must be a multiple of 4, and at most size {self.size}")


class FaceGuardTraining(Training):
    """FaceGuard's."""

    steps: int = Field(700, gt=0)
    batch: int = Field(8, gt=0)
    warmup_steps: int = Field(30, ge=0)
    width: int = Field(32, gt=0)  # channels of the finest level
    eps: float = Field(8 / 255, gt=0)  # the strongest perturbation, images in [0, 1]
    gradient_share: float = Field(0.5, ge=0, le=1)  # of the perturbed images: the gradient's sign in place of the generator's
    diversity_weight: float = Field(0.1, ge=0)
    identity_weight: float = Field(0.5, ge=0)
    bonafide_weight: float = Field(0.02, ge=0)


class Views:
    """Views of faces in random order, each face once an epoch, but for those that are held out."""

    def __init__(self, crops: Crops, settings: Training) -> None:
        order = np.random.default_rng(settings.seed).permutation(len(crops))
        held_out = min(settings.held_out, len(crops) // 4)
        if len(crops) - held_out < settings.batch or held_out < 1:
            raise InputError(f"{len(crops)} faces are too few for batches of {settings.batch}; use more, or --set batch=1")
        self.held_out, self.train = np.sort(order[:held_out]), order[held_out:]
        self.crops, self.settings = crops, settings

    def __call__(self, step: int) -> Tensor:
        """The views of this step: (B, 3, S, S) in [0, 1]."""
        rng = np.random.default_rng((self.settings.seed, step))
        per_epoch = len(self.train) // self.settings.batch
        shuffled = np.random.default_rng((self.settings.seed, 1, step // per_epoch)).permutation(self.train)
        start = step % per_epoch * self.settings.batch
        return to_batch([vary(self.crops[i], self.settings.size, rng) for i in shuffled[start : start + self.settings.batch]])

    def held_out_images(self) -> Tensor:
        """The held-out faces as they are, at the size of the views."""
        size = (self.settings.size, self.settings.size)
        return to_batch(np.stack([cv2.resize(self.crops[i], size, interpolation=cv2.INTER_AREA) for i in self.held_out]))


class Task(Protocol):
    """What is trained: its networks, and what one step does to their gradients."""

    networks: nn.Module

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Add the gradients of a batch (B, 3, S, S); returns its losses."""

    def measure(self, images: Tensor) -> dict[str, float]:
        """How well it does on held-out images, with the same random numbers every time."""


def drawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise like ``images``, drawn on the CPU whatever the device."""
    return torch.randn(images.shape, generator=generator).to(images.device)


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number in [low, high] for each image: (B, 1, 1, 1)."""
    return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)


class DdsaTask:
    """Clean patches back from noised ones, by a sparse code."""

    def __init__(self, settings: DdsaTraining) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.network = self.networks = SparseAutoencoder()

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Mean squared error, and the penalty on the code."""
        room = self.settings.size - self.settings.patch + 1
        tops, lefts = torch.randint(room, (2, len(images)), generator=generator).tolist()
        side = self.settings.patch
        cut = [image[:, top : top + side, left : left + side] for image, top, left in zip(images, tops, lefts, strict=True)]
        patches = torch.stack(cut)
        noised = patches + uniform(patches, 0, self.settings.noise, generator) * drawn(patches, generator)
        code = self.network.encode(noised)
        error = functional.mse_loss(self.network.decode(code), patches)
        penalty = sparsity(code, self.settings.active)
        (error + self.settings.sparsity_weight * penalty).backward()  # type: ignore[no-untyped-call]
        return {"squared_error": error.item(), "sparsity": penalty.item()}

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, float]:
        """Mean squared errors before and after, at half of the strongest noise."""
        noised = images + self.settings.noise / 2 * drawn(images, torch.Generator().manual_seed(1))
        restored = torch.cat([self.network(part) for part in torch.split(noised, 16)]).clamp(0, 1)
        before = functional.mse_loss(noised.clamp(0, 1), images)
        return {"noised_error": before.item(), "restored_error": functional.mse_loss(restored, images).item()}


class FaceGuardTask:
    """A generator of perturbations, a detector of them, and a purifier that takes them off, all at once."""

    def __init__(self, settings: FaceGuardTraining, embedder: Embedder) -> None:
        self.settings, self.embedder = settings, embedder
        torch.manual_seed(settings.seed)
        self.guard = Guard(settings.width)
        self.generator = EncoderDecoder(6, settings.width)  # a face, and noise that makes perturbations differ
        self.networks = nn.ModuleDict({"guard": self.guard, "generator": self.generator})

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """The generator's losses, then the detector's and the purifier's on what it made."""
        with torch.no_grad():
            rows = self.embedder.embed(images)  # (B, D)
        eps = uniform(images, 0.5 / 255, self.settings.eps, generator)
        pattern, other = self.patterns(images, generator)
        fake = (images + eps * pattern).clamp(0, 1)
        fake.retain_grad()
        cosine = (self.embedder.embed(fake) * rows).sum(1).mean()
        diversity = (pattern - other).abs().mean()
        (cosine - self.settings.diversity_weight * diversity).backward()  # type: ignore[no-untyped-call]
        assert fake.grad is not None
        # The generator's gradient costs nothing more, and its sign is an attack of its own.
        by_gradient = (images - eps * fake.grad.sign()).clamp(0, 1)
        chosen = uniform(images, 0, 1, generator) < self.settings.gradient_share
        attacked = torch.where(chosen, by_gradient, fake.detach())
        # Half of them saved as 8 bits: the detector must not go by what is no whole level.
        saved = uniform(images, 0, 1, generator) < 0.5
        attacked = torch.where(saved, (255 * attacked).round() / 255, attacked)
        return {"cosine_generated": cosine.item(), "diversity": diversity.item(), **self._defend(images, attacked, rows)}

    def patterns(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two perturbations of each image in units of eps, from smooth to nearly the two values -1 and 1."""
        gain = (uniform(images, 0, math.log(20), generator)).exp()
        raw = [self.generator(torch.cat([2 * images - 1, drawn(images, generator)], 1)) for _ in range(2)]
        return torch.tanh(gain * raw[0]), torch.tanh(gain * raw[1])

    def _defend(self, images: Tensor, attacked: Tensor, rows: Tensor) -> dict[str, float]:
        scores = self.guard.detect(torch.cat([images, attacked]))
        labels = torch.cat([torch.zeros(len(images)), torch.ones(len(images))]).to(scores)
        detection = functional.binary_cross_entropy_with_logits(scores, labels)
        mask = self.guard.mask(attacked)
        missed = functional.l1_loss(mask, attacked - images) / self.settings.eps
        purified = (attacked - mask).clamp(0, 1)
        identity = 1 - (self.embedder.embed(purified) * rows).sum(1).mean()
        judge = {name: value.detach() for name, value in self.guard.detector.named_parameters()}  # it must not learn from this
        bonafide = functional.softplus(functional_call(self.guard.detector, judge, (purified,))).mean()
        weights = self.settings
        loss = detection + missed + weights.identity_weight * identity + weights.bonafide_weight * bonafide
        loss.backward()  # type: ignore[no-untyped-call]
        return {"detection": detection.item(), "missed": missed.item(), "identity": identity.item(), "bonafide": bonafide.item()}

    def measure(self, images: Tensor) -> dict[str, float]:
        """Cosines with the clean faces, and the share that the detector gets right, at half of the strongest perturbation."""
        draws = torch.Generator().manual_seed(1)
        sums = {"generated_cosine": 0.0, "purified_cosine": 0.0, "detector_accuracy": 0.0}
        with torch.no_grad():
            for part in torch.split(images, 16):
                rows = self.embedder.embed(part)
                fake = (part + self.settings.eps / 2 * self.patterns(part, draws)[0]).clamp(0, 1)
                sums["generated_cosine"] += (self.embedder.embed(fake) * rows).sum().item()
                sums["purified_cosine"] += (self.embedder.embed(self.guard.purify(fake)) * rows).sum().item()
                right = (self.guard.detect(part) <= 0).sum() + (self.guard.detect(fake) > 0).sum()
                sums["detector_accuracy"] += right.item() / 2
        return {name: total / len(images) for name, total in sums.items()}


class Run:
    """Networks, optimiser and position of one training; what is in ``out`` is gone on with."""

    def __init__(self, task: Task, views: Views, settings: Training, out: Path) -> None:
        self.task, self.views, self.settings, self.out = task, views, settings, out
        self.path = choose_path(precision="fp32")
        task.networks.to(self.path.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(task.networks.parameters(), settings.learning_rate, betas=(0.9, 0.99))
        self.checkpoint = out / "checkpoint.pt"
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=self.path.device, weights_only=True)
            check_settings(self.checkpoint, state["settings"], settings.model_dump(mode="json"))
            task.networks.load_state_dict(state["networks"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = state["step"], state["seconds"]

    def advance(self) -> dict[str, float]:
        """One step of the optimiser; returns the losses."""
        begun = time.monotonic()
        warm = min(1.0, (self.step + 1) / max(self.settings.warmup_steps, 1))
        for group in self.optimiser.param_groups:
            falling = 0.5 * (1 + math.cos(math.pi * self.step / self.settings.steps))
            group["lr"] = self.settings.learning_rate * warm * falling
        self.optimiser.zero_grad(set_to_none=True)
        draws = torch.Generator().manual_seed(derive_seed(self.settings.seed, self.step))
        losses = self.task.backward(self.views(self.step).to(self.path.device), draws)
        if not all(math.isfinite(loss) for loss in losses.values()):
            raise RuntimeError(f"a loss is not finite at step {self.step}: {losses}")
        for network in self.task.networks.children():  # each by itself: one must not drown the others
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self.seconds += time.monotonic() - begun
        return losses

    def measure(self) -> dict[str, float]:
        """The task's, on the held-out faces."""
        return self.task.measure(self.views.held_out_images().to(self.path.device))

    def save(self) -> None:
        """Everything needed to go on, written whole."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": self.settings.model_dump(mode="json"),
            "networks": self.task.networks.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_checkpoint(self.checkpoint, state)


def train(run: Run, *, report: Report = print, checkpoint_minutes: float = 5.0) -> dict[str, float]:
    """Run to the end, or go on to it; returns what was measured on the held-out faces."""
    total = run.settings.steps
    shown = saved = time.monotonic()
    seen: list[dict[str, float]] = []
    while run.step < total:
        seen.append(run.advance())
        now, ends = time.monotonic(), run.step == total
        saves = ends or now - saved > checkpoint_minutes * 60
        if saves or now - shown > 30:
            _note(run, seen, now - shown, run.measure() if saves else None, report)
            shown, seen = time.monotonic(), []
        if saves:
            run.save()
            saved = shown = time.monotonic()
    return run.measure()


def _note(run: Run, seen: list[dict[str, float]], seconds: float, held_out: dict[str, float] | None, report: Report) -> None:
    means = {name: sum(losses[name] for losses in seen) / len(seen) for name in seen[0]}
    row = [run.step, *(f"{value:.6f}" for value in means.values())]
    append_row(run.out / "curve.csv", ["step", *means], row)
    text = "  ".join(f"{name} {value:.5f}" for name, value in means.items())
    left = (run.settings.steps - run.step) * seconds / len(seen) / 60
    report(f"step {run.step}/{run.settings.steps}  {text}  {left:.0f} min left")
    if held_out is not None:
        append_row(run.out / "held-out.csv", ["step", *held_out], [run.step, *(f"{value:.6f}" for value in held_out.values())])
        report("held out  " + "  ".join(f"{name} {value:.5f}" for name, value in held_out.items()))


def train_ddsa(
    data: Path, out: Path, settings: DdsaTraining, *, report: Report = print, checkpoint_minutes: float = 5.0
) -> Path:
    """Train, or go on with, the autoencoder of ``Ddsa`` on a folder of photographs with one face each; returns its weights.

    Raises ``InputError`` for a folder with too few faces, ``SettingError`` where the run in ``out`` was
    begun with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    views = Views(unlabelled_crops(data, out, CROP), settings)
    task = DdsaTask(settings)
    return _finished(task.network, Run(task, views, settings, out), "ddsa", _DDSA, report, checkpoint_minutes)


def train_faceguard(
    data: Path, out: Path, settings: FaceGuardTraining, *, report: Report = print, checkpoint_minutes: float = 5.0
) -> Path:
    """Train, or go on with, the networks of ``FaceGuard``, with SFace as the recogniser in the loop; returns their weights.

    The weights hold detector and purifier; the generator stays in ``checkpoint.pt``. Errors as ``train_ddsa``.
    """
    out.mkdir(parents=True, exist_ok=True)
    views = Views(unlabelled_crops(data, out, CROP), settings)
    path = choose_path(precision="fp32")
    task = FaceGuardTask(settings, load_sface(path.device).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return _finished(task.guard, Run(task, views, settings, out), "faceguard", _FACEGUARD, report, checkpoint_minutes)


_DDSA = {
    "what": "a denoising sparse autoencoder for faces aligned to the template of facesieve.faces; RGB in [0, 1], any size",
    "source": "after Bakhti et al., DDSA, IEEE Access 2019",
}
_FACEGUARD = {
    "what": "a detector of perturbed faces and a purifier; faces aligned to the template of facesieve.faces, RGB in [0, 1]",
    "source": "after Deb, Liu and Jain, FaceGuard, 2020",
    "recogniser": "sface-2021dec",
}


def _finished(
    network: nn.Module, run: Run, name: str, about: dict[str, str], report: Report, checkpoint_minutes: float
) -> Path:
    counts = f"{len(run.views.train)} faces to train on, {len(run.views.held_out)} held out"
    size = sum(parameter.numel() for parameter in network.parameters())
    report(f"{counts}, {size / 1e6:.2f} M parameters, on {run.path}")
    held_out = train(run, report=report, checkpoint_minutes=checkpoint_minutes)
    card: dict[str, Any] = {
        "name": name,
        **about,
        "data": f"{counts}; photographs of faces, aligned to the template",
        "terms": TERMS,
        "training": run.settings.model_dump(mode="json"),
        "training_hours": round(run.seconds / 3600, 2),
        "held_out": {measure: round(value, 6) for measure, value in held_out.items()},
        "limits": LIMITS,
    }
    weights = run.out / f"{name}.safetensors"
    save_weights(network, weights, card)
    return weights
