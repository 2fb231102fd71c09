"""Train FaceNet: distil a teacher over unlabelled faces, classify labelled ones, or one after the other.

A run keeps everything needed to go on in ``checkpoint.pt``, and its curve in ``curve.csv``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.data.crops import LabelledCrops
from facesieve.errors import SettingError
from facesieve.hardware import choose_hardware
from facesieve.noise import derive_seed
from facesieve.recognition.crops import resized
from facesieve.recognition.facenet import SIDE, FaceNet
from facesieve.recognition.facenet_file import read_state
from facesieve.train.batches import Batch, Batches, Classifying, ClassifyingBatches, Indices, Optimising
from facesieve.train.checkpoints import append_row, check_settings, write_checkpoint
from facesieve.train.views import to_batch

Report = Callable[[str], None]


def new_network(classes: int | None, settings: Optimising, start: Path | None = None) -> FaceNet:
    """FaceNet with random weights, or with those at ``start`` but for the classifier."""
    torch.manual_seed(settings.seed)
    network = FaceNet(classes, dropout=settings.dropout)
    if start is not None:
        state = {name: value for name, value in read_state(start).items() if not name.startswith("logits.")}
        unknown = network.load_state_dict(state, strict=False).unexpected_keys
        if unknown:
            raise SettingError(f"{start}: not an Inception-ResNet-v1; it has {unknown[0]}")
    return network


def losses(network: FaceNet, projection: nn.Module | None, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a batch, and the mean of 1 - cosine with the teacher; zero where there is nothing to compare."""
    features = network.trunk(batch.images).float()  # (B, 512)
    cross_entropy = cosine = features.new_zeros(())
    if batch.labels is not None and network.logits is not None:
        cross_entropy = functional.cross_entropy(network.logits(features), batch.labels, label_smoothing=label_smoothing)
    if batch.rows is not None and projection is not None:
        cosine = 1 - functional.cosine_similarity(projection(features), batch.rows).mean()
    return cross_entropy, cosine


@torch.inference_mode()
def logits(network: FaceNet, crops: LabelledCrops, indices: Indices | None = None, *, size: int = SIDE) -> Tensor:
    """The classifier's logits (N, classes) of crops, at ``size`` pixels."""
    network.eval()
    assert network.logits is not None
    indices = np.arange(len(crops)) if indices is None else indices
    parts = []
    for chosen in np.array_split(indices, max(len(indices) // 32, 1)):
        images = resized(to_batch(crops.images[chosen]), size).to(network.last_linear.weight.device)
        parts.append(network.logits(network.trunk(images).float()).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def begin_at_class_means(network: FaceNet, crops: LabelledCrops, indices: Indices, *, size: int = SIDE) -> None:
    """Set the classifier to the nearest class mean of the features as they are, of the crops ``indices``.

    ``logit_c = s (x . m_c - |m_c|^2 / 2)``, with the s (a power of 2) under which these crops are likeliest:
    a warm start need not find out again, from a random classifier, what its features know already.
    """
    network.eval()
    assert network.logits is not None
    device, labels = network.last_linear.weight.device, torch.from_numpy(crops.labels[indices])
    parts = [to_batch(crops.images[chosen]) for chosen in np.array_split(indices, max(len(indices) // 32, 1))]
    features = torch.cat([network.trunk(resized(part, size).to(device)).float().cpu() for part in parts])  # (N, 512)
    members = functional.one_hot(labels, len(crops.people)).float()  # (N, classes)
    means = members.T @ features / members.sum(0)[:, None]  # (classes, 512)
    likeness = features @ means.T - means.square().sum(1) / 2
    scales = [2.0**power for power in range(-16, 9)]
    scale = min(scales, key=lambda scale: functional.cross_entropy(scale * likeness, labels).item())
    network.logits.weight.copy_(scale * means)
    network.logits.bias.copy_(-scale * means.square().sum(1) / 2)


class Run:
    """Network, optimiser and position of one training; what is in ``out`` is gone on with."""

    def __init__(self, network: FaceNet, batches: Batches, settings: Optimising, out: Path, teacher_width: int | None) -> None:
        self.network, self.batches, self.settings, self.out = network, batches, settings, out
        self.path = choose_hardware()
        self.network.to(self.path.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        width = FaceNet.dimensions
        self.projection = None if teacher_width is None else nn.Linear(width, teacher_width).to(self.path.device)
        self.optimiser = torch.optim.AdamW(self._groups(), settings.learning_rate, betas=(0.9, 0.99), fused=True)
        self.step, self.seconds, self.best = 0, 0.0, -1.0
        self.best_state: dict[str, Tensor] = {}
        out.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._load()

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def _groups(self) -> list[dict[str, Any]]:
        parameters = [*self.network.parameters(), *([] if self.projection is None else self.projection.parameters())]
        decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.settings.weight_decay}
        return [decayed, {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]

    def advance(self) -> dict[str, float]:
        """One step of the optimiser; returns the losses."""
        begun, device = time.monotonic(), self.path.device
        torch.manual_seed(derive_seed(self.settings.seed, self.step))  # for dropout: a run that goes on must draw the same
        warm = min(1.0, (self.step + 1) / max(self.settings.warmup_steps, 1))
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm * self.batches.rate(self.step)
        self.network.train()
        batch = self.batches(self.step)
        batch = Batch(*(None if part is None else part.to(device) for part in vars(batch).values()))  # type: ignore[arg-type]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.path.dtype == torch.bfloat16):
            cross_entropy, cosine = losses(self.network, self.projection, batch, self.settings.label_smoothing)
            loss = cross_entropy + self.settings.teacher_weight * cosine
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"loss is not finite at step {self.step}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for group in self.optimiser.param_groups for p in group["params"]], 5.0)
        self.optimiser.step()
        self.step += 1
        self.seconds += time.monotonic() - begun
        return {"cross_entropy": cross_entropy.item(), "one_minus_cosine": cosine.item()}

    def validate(self) -> float | None:
        """Top-1 on the held-out training images, if any; the best weights at full size are kept."""
        if not isinstance(self.batches, ClassifyingBatches):
            return None
        size, crops, held_out = self.batches.size(max(self.step - 1, 0)), self.batches.crops, self.batches.validation
        best = logits(self.network, crops, held_out, size=size).argmax(1).numpy()
        accuracy = float((best == crops.labels[held_out]).mean())
        if size == SIDE and accuracy >= self.best:
            self.best = accuracy
            self.best_state = {name: value.clone() for name, value in self.network.state_dict().items()}
        return accuracy

    def save(self) -> None:
        """Everything needed to go on, written whole."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "best_state": self.best_state,
            "settings": self.settings.model_dump(mode="json"),
            "network": self.network.state_dict(),
            "projection": None if self.projection is None else self.projection.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_checkpoint(self._checkpoint, state)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.path.device, weights_only=True)
        check_settings(self._checkpoint, state["settings"], self.settings.model_dump(mode="json"))
        self.network.load_state_dict(state["network"])
        if self.projection is not None:
            self.projection.load_state_dict(state["projection"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best, self.best_state = state["best"], state["best_state"]


def train(run: Run, *, report: Report = print, checkpoint_minutes: float = 5.0) -> FaceNet:
    """Run to the end, or go on to it; returns the network, with the weights that were best on held-out images if any."""
    shown = saved = time.monotonic()
    seen: list[dict[str, float]] = []
    while run.step < run.batches.total:
        seen.append(run.advance())
        ends_epoch, now = run.step % run.batches.per_epoch == 0, time.monotonic()
        if ends_epoch or now - shown > 30:
            _note(run, seen, now - shown, run.validate() if ends_epoch else None, report)
            shown, seen = time.monotonic(), []
        if now - saved > checkpoint_minutes * 60 or run.step == run.batches.total:
            run.save()
            saved = time.monotonic()
    if run.best_state:
        run.network.load_state_dict(run.best_state)
    return run.network.eval()


def _note(run: Run, seen: list[dict[str, float]], seconds: float, accuracy: float | None, report: Report) -> None:
    means = {name: sum(losses[name] for losses in seen) / len(seen) for name in seen[0]}
    size, left = run.batches.size(run.step - 1), (run.batches.total - run.step) * seconds / len(seen) / 60
    row = [run.step, size, *(f"{v:.5f}" for v in means.values()), "" if accuracy is None else f"{accuracy:.5f}"]
    append_row(run.out / "curve.csv", ["step", "size", *means, "held_out_top1"], row)
    text = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    held_out = "" if accuracy is None else f"  held-out top-1 {100 * accuracy:.1f} %"
    rate = f"{len(seen) * run.settings.batch / seconds:.1f} images/s  {left:.0f} min left at this size"
    report(f"step {run.step}/{run.batches.total}  {size} px  {text}{held_out}  {rate}")


__all__ = ["Classifying", "Report", "Run", "logits", "losses", "new_network", "train"]
