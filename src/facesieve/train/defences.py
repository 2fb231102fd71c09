"""Train the defences that learn, on unlabelled faces: the sparse autoencoder, and FaceGuard.

The images and the random numbers of step ``n`` depend on the seed and ``n`` alone, so a run that was
stopped goes on as if it had not been. A run keeps ``checkpoint.pt``, ``curve.csv`` and
``held-out.csv`` in its folder, beside the finished weights and their card.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.data.crops import Crops, unlabelled_crops
from facesieve.defences.learning import DdsaTask, DdsaTraining, FaceGuardTask, FaceGuardTraining, Task, Training
from facesieve.errors import InputError
from facesieve.hardware import choose_hardware
from facesieve.images import Photo
from facesieve.noise import derive_seed
from facesieve.recognition.sface import load_sface
from facesieve.train.checkpoints import append_row, check_settings, write_checkpoint
from facesieve.train.views import to_batch, vary
from facesieve.weights import save_weights

Report = Callable[[str], None]

CROP = 160  # pixels of the crops that are kept on disk
TERMS = "the weights carry whatever limits the photographs carry"
LIMITS = (
    "A short training. Faces far from the data (children, strong occlusion, extreme pose or light) are restored worse. "
    "It was not checked that it treats groups of people alike. An attack that sees the network gets past it more easily."
)


def sharpened(images: Tensor, amounts: Tensor) -> Tensor:
    """``images`` (B, 3, H, W) in [0, 1] with ``amounts`` (B,) times their fine detail added: x + a (x - mean of 3 x 3)."""
    means = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (images + amounts[:, None, None, None] * (images - means)).clamp(0, 1)


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
        chosen = shuffled[start : start + self.settings.batch]
        # What is turned and zoomed becomes soft; without views that are not, and sharpened ones, sharp photographs would
        # look perturbed.
        plain = rng.random(len(chosen)) < 0.5
        views = to_batch(
            [self._plain(i) if p else vary(self.crops[i], self.settings.size, rng) for i, p in zip(chosen, plain, strict=True)]
        )
        amounts = self.settings.sharpness * rng.random(len(views)) * (rng.random(len(views)) < 0.5)
        return sharpened(views, torch.from_numpy(amounts).float())

    def held_out_images(self) -> Tensor:
        """The held-out faces as they are, at the size of the views."""
        return to_batch(np.stack([self._plain(i) for i in self.held_out]))

    def _plain(self, index: int) -> Photo:
        size = (self.settings.size, self.settings.size)
        resized: Photo = cv2.resize(self.crops[index], size, interpolation=cv2.INTER_AREA)
        return resized


class Run:
    """Networks, optimiser and position of one training; what is in ``out`` is gone on with."""

    def __init__(self, task: Task, views: Views, settings: Training, out: Path) -> None:
        self.task, self.views, self.settings, self.out = task, views, settings, out
        self.path = choose_hardware(precision="fp32")
        task.networks.to(self.path.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.Adam(task.networks.parameters(), settings.learning_rate, betas=(0.9, 0.99))
        self.checkpoint = out / "checkpoint.pt"
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location=self.path.device, weights_only=True)
            check_settings(self.checkpoint, state["settings"], settings.model_dump(mode="json"), free=frozenset({"steps"}))
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


def train_ddsa(data: Path, out: Path, settings: DdsaTraining, *, report: Report = print, checkpoint_minutes: float = 5.0) -> Path:
    """Train, or go on with, the autoencoder of ``Ddsa`` on a folder of photographs with one face each; returns its weights.

    Raises ``InputError`` for a folder with too few faces, ``SettingError`` where the run in ``out`` was
    begun with other settings; ``steps`` alone may change.
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
    path = choose_hardware(precision="fp32")
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


def _finished(network: nn.Module, run: Run, name: str, about: dict[str, str], report: Report, checkpoint_minutes: float) -> Path:
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


__all__ = ["DdsaTraining", "FaceGuardTraining", "Report", "Run", "Training", "Views", "train", "train_ddsa", "train_faceguard"]
