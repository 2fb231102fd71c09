"""Train FaceNet as a closed-set classifier, from scratch or after a warm start.

Two phases, either of which may be left out. *Distilling*: over unlabelled faces and the labelled
ones together, the network learns to point where a teacher's embedding points. *Classifying*: over
the labelled faces, each batch holding as many people as it can, evenly. The image size grows over
the second phase; small images cost less and teach most of what there is to learn.

The batch of step ``n`` depends on the seed and ``n`` alone, so a run that was stopped goes on as
if it had not been.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from facesieve.errors import InputError, SettingError
from facesieve.hardware import choose_path
from facesieve.recognition.facenet import SIDE, FaceNet
from facesieve.train.faces import Crops, LabelledCrops, resized, to_batch, vary


class RecogniserTraining(BaseModel):
    """Everything that decides what is trained; written beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(64, gt=1)
    epochs: int = Field(30, ge=0)  # passes over the labelled training images in the classifying phase
    sizes: tuple[int, ...] = (96, 128, 160)  # of the images in the classifying phase, one after the other
    size_shares: tuple[float, ...] = (0.6, 0.2, 0.2)  # of the steps of that phase
    distil_epochs: int = Field(0, ge=0)  # passes over all images in the distilling phase; needs a teacher
    distil_size: int = Field(96, ge=75)
    distil_weight: float = Field(4.0, ge=0)  # of 1 - cosine beside the cross-entropy, in both phases
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    warmup_steps: int = 200
    validation: int = Field(2, ge=1)  # training images of each person that are held out to keep the best by
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if len(self.sizes) != len(self.size_shares) or min(self.sizes) < 75 or self.sizes[-1] != SIDE:
            raise SettingError(f"sizes {self.sizes}: one share each, at least 75 pixels, the last {SIDE}")


@dataclass(frozen=True, eq=False)
class Teaching:
    """Unlabelled crops, and the teacher's unit rows of them and of the labelled crops after them: (N + M, D)."""

    unlabelled: Crops
    rows: Tensor


@dataclass(frozen=True, eq=False)
class _Batch:
    images: Tensor  # (B, 3, S, S) in [0, 1]
    labels: Tensor  # (B,), -1 where the person is not known
    rows: Tensor | None  # the teacher's


class _Batches:
    """The batch of each step, made from (seed, step) alone."""

    def __init__(self, crops: LabelledCrops, teaching: Teaching | None, settings: RecogniserTraining) -> None:
        self.crops, self.teaching, self.settings = crops, teaching, settings
        self.train, self.validation = _split(crops.labels, settings.validation, settings.seed)
        self.unlabelled = 0 if teaching is None else len(teaching.unlabelled)
        self.per_epoch = max(len(self.train) // settings.batch, 1)
        self.distil_steps = settings.distil_epochs * ((self.unlabelled + len(self.train)) // settings.batch)
        self.total = self.distil_steps + settings.epochs * self.per_epoch

    def size(self, step: int) -> int:
        if step < self.distil_steps:
            return self.settings.distil_size
        share = (step - self.distil_steps) / max(self.total - self.distil_steps, 1)
        ends = np.cumsum(self.settings.size_shares) / sum(self.settings.size_shares)
        return self.settings.sizes[min(int(np.searchsorted(ends, share, side="right")), len(ends) - 1)]

    def __call__(self, step: int) -> _Batch:
        rng = np.random.default_rng((self.settings.seed, step))
        chosen = self._mixed(step) if step < self.distil_steps else self._balanced(rng)
        size, images, labels = self.size(step), [], []
        for index in chosen:  # below `unlabelled`: of that set; from there on: of the labelled one
            own = int(index) - self.unlabelled
            crop = self.teaching.unlabelled[index] if self.teaching is not None and own < 0 else self.crops.images[own]
            images.append(vary(crop, size, rng))
            labels.append(int(self.crops.labels[own]) if own >= 0 else -1)
        rows = None if self.teaching is None else self.teaching.rows[torch.from_numpy(chosen)]
        return _Batch(to_batch(images), torch.tensor(labels), rows)

    def _mixed(self, step: int) -> NDArray[np.int64]:
        everything = np.concatenate([np.arange(self.unlabelled), self.unlabelled + self.train])
        per_epoch = len(everything) // self.settings.batch
        shuffled = np.random.default_rng((self.settings.seed, 1, step // per_epoch)).permutation(everything)
        start = step % per_epoch * self.settings.batch
        return shuffled[start : start + self.settings.batch]

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every person equally often, whatever the number of their images."""
        labels = self.crops.labels[self.train]
        rounds = -(-self.settings.batch // len(self.crops.people))
        people = np.concatenate([rng.permutation(len(self.crops.people)) for _ in range(rounds)])
        chosen = [rng.choice(self.train[labels == person]) for person in people[: self.settings.batch]]
        return self.unlabelled + np.array(chosen, dtype=np.int64)


def _split(labels: NDArray[np.int64], held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on, and of ``held_out`` images a person to choose the best weights by."""
    train, validation = [], []
    for person in range(int(labels.max()) + 1):
        own = np.random.default_rng((seed, 2, person)).permutation(np.flatnonzero(labels == person))
        if len(own) <= held_out:
            raise InputError(f"person {person} has {len(own)} training images; more than validation={held_out} are needed")
        validation.append(own[:held_out])
        train.append(own[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def losses(network: FaceNet, projection: nn.Module | None, batch: _Batch, settings: RecogniserTraining) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the labelled images of a batch, and 1 - cosine with the teacher over all; scalars."""
    features = network.trunk(batch.images).float()  # (B, 512)
    known = batch.labels >= 0
    cross_entropy = cosine = features.new_zeros(())
    if known.any() and network.logits is not None:
        logits = network.logits(features[known])
        cross_entropy = functional.cross_entropy(logits, batch.labels[known], label_smoothing=settings.label_smoothing)
    if projection is not None and batch.rows is not None:
        cosine = 1 - functional.cosine_similarity(projection(features), batch.rows).mean()
    return cross_entropy, cosine


@torch.inference_mode()
def top1(network: FaceNet, crops: LabelledCrops, indices: NDArray[np.int64] | None = None, *, size: int = SIDE) -> float:
    """The share of crops whose highest logit is their own person's, at ``size`` pixels."""
    network.eval()
    assert network.logits is not None
    indices = np.arange(len(crops)) if indices is None else indices
    right = 0
    for part in np.array_split(indices, max(len(indices) // 32, 1)):
        images = resized(to_batch(crops.images[part]), size).to(network.last_linear.weight.device)
        best = network.logits(network.trunk(images).float()).argmax(1).cpu().numpy()
        right += int((best == crops.labels[part]).sum())
    return right / len(indices)


def learning_rate_factor(step: int, batches: _Batches) -> float:
    """Linear warm-up; constant while distilling; a half cosine to zero over the classifying phase."""
    done = (step - batches.distil_steps) / max(batches.total - batches.distil_steps, 1)
    falling = 0.5 * (1 + math.cos(math.pi * max(done, 0.0)))
    return min(1.0, (step + 1) / max(batches.settings.warmup_steps, 1)) * falling


class RecogniserRun:
    """Network, optimiser and position of one training; what is in ``checkpoint.pt`` is gone on with."""

    def __init__(
        self, crops: LabelledCrops, teaching: Teaching | None, settings: RecogniserTraining, out: Path, start: Path | None = None
    ) -> None:
        torch.manual_seed(settings.seed)
        if settings.distil_epochs and teaching is None:
            raise SettingError("distil_epochs needs unlabelled faces and a teacher; give --unlabelled")
        self.settings, self.out, self.path = settings, out, choose_path()
        self.batches = _Batches(crops, teaching, settings)
        self.network = FaceNet(len(crops.people), dropout=settings.dropout)
        if start is not None:
            from facesieve.recognition.facenet_file import read_state

            state = {name: value for name, value in read_state(start).items() if not name.startswith("logits.")}
            self.network.load_state_dict(state, strict=False)
        self.network.to(self.path.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        width = None if teaching is None else teaching.rows.shape[1]
        self.projection = None if width is None else nn.Linear(FaceNet.dimensions, width).to(self.path.device)
        both = nn.ModuleList([self.network, *([self.projection] if self.projection is not None else [])])
        self.parameters = list(both.parameters())
        decayed = [p for p in self.parameters if p.ndim > 1]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.99), fused=True)
        self.step, self.seconds, self.best = 0, 0.0, -1.0
        self.best_state: dict[str, Tensor] = {}
        if self._checkpoint.exists():
            self._load()

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def advance(self) -> dict[str, float]:
        """One step of the optimiser; returns the losses."""
        begun = time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * learning_rate_factor(self.step, self.batches)
        self.network.train()
        batch, device = self.batches(self.step), self.path.device
        rows = None if batch.rows is None else batch.rows.to(device)
        batch = _Batch(batch.images.to(device), batch.labels.to(device), rows)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.path.dtype == torch.bfloat16):
            cross_entropy, cosine = losses(self.network, self.projection, batch, self.settings)
            loss = cross_entropy + self.settings.distil_weight * cosine
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"loss is not finite at step {self.step}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimiser.step()
        self.step += 1
        self.seconds += time.monotonic() - begun
        return {"cross_entropy": float(cross_entropy), "one_minus_cosine": float(cosine)}

    def validate(self) -> float:
        """Top-1 on the held-out training images; the best weights at full size are kept."""
        size = self.batches.size(self.step - 1)
        accuracy = top1(self.network, self.batches.crops, self.batches.validation, size=size)
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
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.path.device, weights_only=True)
        for name, value in self.settings.model_dump(mode="json").items():
            if state["settings"][name] != value:
                raise SettingError(
                    f"{self._checkpoint}: this run has {name} {state['settings'][name]}, not {value}; use another folder"
                )
        self.network.load_state_dict(state["network"])
        if self.projection is not None:
            self.projection.load_state_dict(state["projection"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best, self.best_state = state["best"], state["best_state"]


def train_recogniser(run: RecogniserRun, *, report: Callable[[str], None] = print, checkpoint_minutes: float = 5.0) -> FaceNet:
    """Run to the end, or go on to it; returns the network with the weights that were best on the held-out images.

    ``run.out`` receives ``checkpoint.pt`` and ``curve.csv``: step, image size, the two losses, and
    the held-out accuracy at the end of each epoch.
    """
    batches, shown, seen = run.batches, time.monotonic(), 0
    saved, sums = shown, dict.fromkeys(("cross_entropy", "one_minus_cosine"), 0.0)
    while run.step < batches.total:
        for name, value in run.advance().items():
            sums[name] += value
        seen += 1
        within = run.step - batches.distil_steps
        ends_epoch = within >= 0 and within % batches.per_epoch == 0
        now = time.monotonic()
        if ends_epoch or now - shown > 30:
            means = {name: value / seen for name, value in sums.items()}
            accuracy = run.validate() if ends_epoch else None
            _note(run, means, accuracy, seen / max(now - shown, 1e-9), report)
            shown, seen, sums = time.monotonic(), 0, dict.fromkeys(sums, 0.0)
        if now - saved > checkpoint_minutes * 60 or run.step == batches.total:
            run.save()
            saved = time.monotonic()
    if run.best_state:
        run.network.load_state_dict(run.best_state)
    return run.network.eval()


def _note(
    run: RecogniserRun, means: dict[str, float], accuracy: float | None, rate: float, report: Callable[[str], None]
) -> None:
    size, left = run.batches.size(run.step - 1), (run.batches.total - run.step) / rate / 60
    row: list[Any] = [run.step, size, *(round(value, 5) for value in means.values()), "" if accuracy is None else accuracy]
    path = run.out / "curve.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "size", *means, "held_out_top1"])
        writer.writerow(row)
    losses_text = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    held_out = "" if accuracy is None else f"  held-out top-1 {100 * accuracy:.1f} %"
    rate_text = f"{rate * run.settings.batch:.1f} images/s  {left:.0f} min left at this size"
    report(f"step {run.step}/{run.batches.total}  {size} px  {losses_text}{held_out}  {rate_text}")
