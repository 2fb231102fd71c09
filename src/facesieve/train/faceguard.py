"""Train FaceGuard's generator, detector and purifier on unlabelled faces, with a recogniser in the loop."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from facesieve.defences.faceguard import EncoderDecoder, Guard, seen
from facesieve.hardware import choose_hardware
from facesieve.progress import Report, silent
from facesieve.recognition import TorchEmbedder
from facesieve.recognition.sface import load_sface
from facesieve.train.cards import DataCard
from facesieve.train.lessons import ViewTask, drawn, train_defence, uniform, views_of
from facesieve.train.loop import CHECKPOINT_MINUTES
from facesieve.train.settings import FaceGuardTraining


class FaceGuardLesson:
    """A generator of perturbations, a detector of them, and a purifier that removes them, all at once."""

    def __init__(self, settings: FaceGuardTraining, embedder: TorchEmbedder) -> None:
        self.settings, self.embedder = settings, embedder
        torch.manual_seed(settings.seed)
        self.guard = Guard(settings.width)
        self.generator = EncoderDecoder(6, settings.width)  # a face, and noise that makes perturbations differ
        self.networks = nn.ModuleDict({"guard": self.guard, "generator": self.generator})

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """The generator's losses, then the detector's and the purifier's on what it made."""
        first, others = images[: self.settings.recognised], images[self.settings.recognised :]
        with torch.no_grad():
            rows = self.embedder.embed(first)  # (recognised, D)
        eps = uniform(images, 0.5 / 255, self.settings.eps, generator)
        pattern, other = self.patterns(first, generator)
        fake = (first + eps[: len(first)] * pattern).clamp(0, 1)
        fake.retain_grad()
        cosine = (self.embedder.embed(fake) * rows).sum(1).mean()
        diversity = (pattern - other).abs().mean()
        (cosine - self.settings.diversity_weight * diversity).backward()  # type: ignore[no-untyped-call]
        assert fake.grad is not None
        with torch.no_grad():
            made = torch.cat([pattern, self.patterns(others, generator)[0]]) if len(others) else pattern
            # The gradient costs nothing extra, and its sign is an attack in itself; faces beyond the first borrow another's.
            signs = -fake.grad.sign()[torch.arange(len(images)) % len(first)]
            chosen = uniform(images, 0, 1, generator) < self.settings.gradient_share
            attacked = (images + eps * torch.where(chosen, signs, made)).clamp(0, 1)
            # Half of them saved as 8 bits: the detector must not rely on fractions of a level.
            saved = uniform(images, 0, 1, generator) < 0.5
            attacked = torch.where(saved, (255 * attacked).round() / 255, attacked)
        return {"cosine_generated": cosine.item(), "diversity": diversity.item(), **self._defend(images, attacked, rows)}

    def patterns(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two perturbations of each image in units of eps, from smooth to nearly the two values -1 and 1."""
        gain = uniform(images, math.log(0.5), math.log(8), generator).exp()
        first, second = (self._pattern(images, gain, generator) for _ in range(2))
        return first, second

    def _pattern(self, images: Tensor, gain: Tensor, generator: torch.Generator) -> Tensor:
        raw = self.generator(torch.cat([2 * images - 1, drawn(images, generator)], 1))
        # Of root mean square 1: without that it grows until every tanh is flat, and learning stops.
        return torch.tanh(gain * raw / (raw.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt())

    def _defend(self, images: Tensor, attacked: Tensor, rows: Tensor) -> dict[str, float]:
        scores = self.guard.detect(torch.cat([images, attacked]))
        labels = torch.cat([torch.zeros(len(images)), torch.ones(len(images))]).to(scores)
        detection = functional.binary_cross_entropy_with_logits(scores, labels)
        mask = self.guard.mask(attacked)
        missed = functional.l1_loss(mask, attacked - images) / self.settings.eps
        purified = (attacked - mask)[: len(rows)].clamp(0, 1)
        identity = 1 - (self.embedder.embed(purified) * rows).sum(1).mean()
        judge = {name: value.detach() for name, value in self.guard.detector.named_parameters()}  # it must not learn from this
        bonafide = functional.softplus(functional_call(self.guard.detector, judge, (seen(purified),))).mean()
        weights = self.settings
        loss = detection + missed + weights.identity_weight * identity + weights.bonafide_weight * bonafide
        loss.backward()  # type: ignore[no-untyped-call]
        return {"detection": detection.item(), "missed": missed.item(), "identity": identity.item(), "bonafide": bonafide.item()}

    def measure(self, images: Tensor) -> dict[str, float]:
        """Cosines with the clean faces, and the share of correct detections, at half of the strongest perturbation."""
        draws = torch.Generator().manual_seed(1)
        sums = {"generated_cosine": 0.0, "purified_cosine": 0.0, "detector_accuracy": 0.0}
        with torch.no_grad():
            for part in torch.split(images, 16):
                rows = self.embedder.embed(part)
                fake = (part + self.settings.eps / 2 * self.patterns(part, draws)[0]).clamp(0, 1)
                sums["generated_cosine"] += (self.embedder.embed(fake) * rows).sum().item()
                sums["purified_cosine"] += (self.embedder.embed(self.guard.purify(fake)) * rows).sum().item()
                correct = (self.guard.detect(part) <= 0).sum() + (self.guard.detect(fake) > 0).sum()
                sums["detector_accuracy"] += correct.item() / 2
        return {name: total / len(images) for name, total in sums.items()}


def train_faceguard(
    data: Path,
    out: Path,
    settings: FaceGuardTraining,
    *,
    data_card: Path | None = None,
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    stop_after_minutes: float = math.inf,
) -> Path:
    """Train, or resume, the networks of ``FaceGuard``, with SFace as the recogniser in the loop; returns their weights.

    The weights hold detector and purifier; the generator stays in ``checkpoint.pt``. Files and errors as ``train_ddsa``.
    """
    stated = DataCard.of(data_card, data)
    device = choose_hardware(precision="fp32").device
    lesson = FaceGuardLesson(settings, load_sface(device).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    task = ViewTask(lesson, views_of(data, out, settings, report), settings)
    times = {"checkpoint_minutes": checkpoint_minutes, "stop_after_minutes": stop_after_minutes}
    return train_defence(task, lesson.guard, out, _ABOUT, stated, report, **times)


_ABOUT = {
    "name": "faceguard",
    "what": "a detector of perturbed faces and a purifier; faces aligned to the template of facesieve.faces, RGB in [0, 1]",
    "source": "after Deb, Liu and Jain, FaceGuard, 2020",
    "recogniser": "sface-2021dec",
}

__all__ = ["FaceGuardLesson", "FaceGuardTraining", "train_faceguard"]
