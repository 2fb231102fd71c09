"""Tune a prior for recognition: fine-tune it until what it restores is taken for the same person, attacked or not.

The prior is trained through one short restoration, as the preset ``tuned`` uses it, against the
features of recognisers, on faces that are under attack. After Salman et al., "Denoised Smoothing",
NeurIPS 2020 (a denoiser in front of a fixed recogniser, trained through it, with noise); Liao et al.,
"Defense against Adversarial Attacks Using High-Level Representation Guided Denoiser", CVPR 2018 (the
loss on features); Lin et al., "Adversarial Training on Purification", ICLR 2024.

The attacks of the training see the recogniser alone, as the oblivious attacker does. What it does
against an attacker who sees the purifier is not trained for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import Objective
from facesieve.attacks.quantise import as_uint8
from facesieve.errors import InputError, SettingError
from facesieve.hardware import choose_hardware
from facesieve.operators import MeanPool
from facesieve.priors.folder import load_prior, prior_hash, read_card, save_prior
from facesieve.priors.network import NetworkPrior
from facesieve.progress import Progress, Report, silent
from facesieve.recognition import TorchEmbedder
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.embedders import load_embedder
from facesieve.train.cards import card
from facesieve.train.lessons import ViewTask, drawn, uniform, views_of
from facesieve.train.loop import CHECKPOINT_MINUTES, Run, finish
from facesieve.train.settings import TunedTraining

SHARPNESS = 32.0  # of the cross-entropy over cosines


class TunedLesson:
    """The same person behind one short restoration, for every one of the ``embedders``."""

    def __init__(self, settings: TunedTraining, prior: NetworkPrior, embedders: Sequence[TorchEmbedder], others: Tensor) -> None:
        """``others`` (M, 3, H, W) in [0, 1] are faces that are not trained on."""
        if settings.attacked * len(embedders) > settings.batch or not embedders:
            raise SettingError(f"a batch of {settings.batch} has no room for {settings.attacked} images of each recogniser")
        self.settings, self.prior, self.embedders = settings, prior, tuple(embedders)
        self.operator = MeanPool(settings.scale)
        prior.requires_grad_(True)
        self.networks: nn.Module = nn.ModuleDict({"network": prior.network})
        self.others = [self._rows(embedder, others) for embedder in self.embedders]  # (M, D) each

    @staticmethod
    @torch.no_grad()
    def _rows(embedder: TorchEmbedder, images: Tensor) -> Tensor:
        return torch.cat([embedder.embed(part) for part in torch.split(images, 16)])

    def restored(self, images: Tensor, sigmas: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of what the preset averages: (B, 3, H, W), near [0, 1]. ``sigmas`` (B, 1, 1, 1)."""
        start = self.operator.Ap(self.operator(2 * images - 1)) + sigmas * drawn(images, generator)
        return self.prior(start, sigmas.flatten()) / 2 + 0.5  # type: ignore[no-any-return]

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Distance of pixels; for each embedder one minus the cosine with the clean face, and being taken for somebody else."""
        settings = self.settings
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            with torch.no_grad():
                rows = [embedder.embed(images) for embedder in self.embedders]
            attacked = self.attacked(images, rows, generator)
            span = uniform(images, math.log(settings.sigma_low), math.log(settings.sigma_high), generator)
            restored = self.restored(attacked, span.exp(), generator)
            pixel = (restored - images).abs().mean()
            seen = restored.clamp(0, 1)
            losses = {"pixel": pixel}
            loss = settings.pixel_weight * pixel
            for embedder, own, others in zip(self.embedders, rows, self.others, strict=True):
                found = embedder.embed(seen).float()
                cosine = (found * own).sum(1)  # (B,)
                scores = SHARPNESS * torch.cat([cosine[:, None] - settings.margin, found @ others.T], 1)  # (B, 1 + M)
                taken = functional.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))
                losses |= {f"{embedder.name}, distance": 1 - cosine.mean(), f"{embedder.name}, taken for another": taken}
                loss = loss + (1 - cosine.mean()) + settings.name_weight * taken
            loss.backward()  # type: ignore[no-untyped-call]
        return {name: value.item() for name, value in losses.items()}

    def attacked(self, images: Tensor, rows: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """The batch (B, 3, H, W), the first images under an attack on the first embedder, the next on the second, and so on.

        Each is attacked away from itself and toward the nearest of the held-out faces. Half of the
        batch is saved with 8 bits.
        """
        settings, done = self.settings, images.clone()
        for number, (embedder, own, others) in enumerate(zip(self.embedders, rows, self.others, strict=True)):
            first, end = number * settings.attacked, (number + 1) * settings.attacked
            if first == end:
                break
            objective = away_from(embedder, own[first:end], others)
            span = uniform(images[:1], math.log(settings.eps_low), math.log(settings.eps_high), generator)
            eps = float(span.exp()) / 255
            step = eps * float(uniform(images[:1], 0.3, 1, generator))
            seeds = torch.randint(2**62, (end - first,), generator=generator).tolist()
            done[first:end] = pgd(objective, images[first:end], eps=eps, step=step, iterations=settings.iterations, seeds=seeds)
        return torch.where(uniform(images, 0, 1, generator) < 0.5, as_uint8(done), done)

    def measure(self, images: Tensor, eps: float = 8 / 255, sigma: float = 0.1) -> dict[str, float]:
        """Mean cosines with the clean faces: of attacked ones, of restored clean ones and of restored attacked ones.

        ``nearest`` is the share whose clean face is nearer than each of the held-out ones that are not measured.
        """
        images, found = images[: min(self.settings.measured, len(images) // 2)], {}
        draws = torch.Generator().manual_seed(1)
        for embedder, others in zip(self.embedders, self.others, strict=True):
            rows, elsewhere = self._rows(embedder, images), others[len(images) :]
            attacked = pgd(
                away_from(embedder, rows, elsewhere), images, eps=eps, step=eps / 4, iterations=10, seeds=range(len(images))
            )
            with torch.no_grad():
                for name, batch in (("attacked", attacked), ("clean, restored", None), ("attacked, restored", attacked)):
                    shown = images if batch is None else batch
                    if "restored" in name:
                        sigmas = shown.new_full((len(shown), 1, 1, 1), sigma)
                        shown = torch.cat([self.restored(*part, draws) for part in _parts(shown, sigmas)]).clamp(0, 1)
                    seen = self._rows(embedder, shown)
                    cosines = (seen * rows).sum(1)
                    found[f"{embedder.name}, {name}"] = cosines.mean().item()
                    correct = cosines > (seen @ elsewhere.T).amax(1)
                    found[f"{embedder.name}, {name}, nearest"] = correct.double().mean().item()
        return found


def away_from(embedder: TorchEmbedder, own: Tensor, others: Tensor) -> Objective:
    """Best cosine with one of ``others`` (M, D) minus the cosine with oneself, ``own`` (B, D)."""

    def objective(images: Tensor) -> Tensor:
        found = embedder.embed(images)
        return (found @ others.T).amax(1) - (found * own).sum(1)

    return objective


def _parts(images: Tensor, sigmas: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(images, 16), torch.split(sigmas, 16), strict=True))


def train_tuned(
    data: Path,
    out: Path,
    settings: TunedTraining,
    *,
    start: Path,
    recognisers: Sequence[str] = ("sface",),
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
) -> Path:
    """Tune, or resume tuning, the prior in the folder ``start`` on photographs with one face each; returns the new folder.

    Raises ``InputError`` for a folder with too few faces, ``PriorError`` and ``EmbedderError`` for
    what cannot be loaded, ``SettingError`` where the run in ``out`` began with other settings
    (``steps`` alone may change) or the prior's size is not the views'.
    """
    prior = load_prior(start)
    if prior.shape[-1] != settings.size:
        raise SettingError(f"restores {prior.shape[-1]} pixels, not {settings.size}", start, f"set size={prior.shape[-1]}")
    device = choose_hardware(precision="fp32").device
    embedders = [_loaded(spec, device) for spec in recognisers]
    views = views_of(data, out, settings)
    if len(views.held_out) < 2:
        count = len(views.train) + len(views.held_out)
        raise InputError(f"{count} faces are too few to hold two of them out", data, "use eight or more")
    run = Run(ViewTask(TunedLesson(settings, prior, embedders, views.held_out_images().to(device)), views, settings), out)
    names = [embedder.name for embedder in embedders]
    report(Progress(run.step, run.task.total, f"{run.task.faces}, against {', '.join(names)}"))
    held_out = finish(run, report, checkpoint_minutes=checkpoint_minutes)
    folder = out / f"prior-{run.step:06d}"
    if not folder.exists():
        save_prior(prior, folder, card=_card(run, start, names, held_out))
    return folder


def _card(run: Run[ViewTask], start: Path, recognisers: Sequence[str], held_out: Mapping[str, float]) -> dict[str, object]:
    begun = read_card(start)
    about = {
        "what": "a prior of aligned faces tuned for one short restoration of the block mean, against attacks on recognisers; "
        "images in [-1, 1]",
        "start": {"name": begun["name"], "sha256": prior_hash(start)},
        "recognisers": list(recognisers),
        "data": f"{run.task.faces}; photographs of faces, aligned to the template",
    }
    figures = {"held_out_cosine": {measure: round(value, 4) for measure, value in held_out.items()}}
    return card(f"{begun['name']}, tuned", about, run.task.settings, run.seconds, figures, _LIMITS)


def _loaded(spec: str, device: torch.device) -> TorchEmbedder:
    """A recogniser on that device. Raises ``EmbedderError`` for one that gives no gradients."""
    embedder = differentiable(load_embedder(spec))
    if isinstance(embedder, nn.Module):
        embedder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return embedder


_LIMITS = (
    "It was tuned against attacks that see the recogniser alone, on the recognisers named here, and is no longer a "
    "prior to draw faces from: at noise levels outside of sigma_low to sigma_high it is not meant to be used. What it makes "
    "of other recognisers' attacks has to be measured. Faces far from the data (children, strong occlusion, extreme pose or "
    "light) are restored worse; it was not checked that it treats groups of people alike."
)

__all__ = ["TunedLesson", "TunedTraining", "train_tuned"]
