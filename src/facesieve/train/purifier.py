"""Train a purifier through itself: a prior fine-tuned for one evaluation, against an attacker who differentiates through it.

    y  = 2 x - 1
    f(x; z) = clip(D(Ap A y + sigma z, sigma) / 2 + 1/2, 0, 1)

``D`` is the prior, ``A`` the block mean and ``z`` unit noise. Each step attacks most of its batch through ``f`` and one
frozen recogniser, then lowers the distance between what the recogniser says of the purified face and of the clean one. After
Salman et al., "Denoised Smoothing", NeurIPS 2020 (a denoiser in front of a fixed classifier, trained through it, with noise);
Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (the attacker inside the training);
Wong, Rice and Kolter, "Fast is Better than Free", ICLR 2020 (one inner step from a random start).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.attacks.gradient import pgd
from facesieve.data.crops import wide_crops
from facesieve.errors import InputError, SettingError, many
from facesieve.hardware import Hardware, choose_hardware
from facesieve.noise import derive_seed
from facesieve.operators import MeanPool
from facesieve.priors.folder import load_prior, prior_hash, read_card, save_prior
from facesieve.priors.network import NetworkPrior
from facesieve.progress import Progress, Report, silent
from facesieve.recognition import TorchEmbedder
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.embedders import load_embedder
from facesieve.train.average import MovingAverage
from facesieve.train.batches import WideBatches, ahead, split_in_words
from facesieve.train.cards import DataCard, card
from facesieve.train.lessons import drawn
from facesieve.train.loop import CHECKPOINT_MINUTES, Run, Task, finish, half_cosine, warm_up
from facesieve.train.settings import PurifierTraining

LEAST_SIGMA = 0.02  # the network is evaluated at no less: its schedule has no 0
CLOSE = 0.5  # norm of the mean row above which a recogniser's rows lie so close together that the mean is removed
SHARPNESS, SHARPNESS_CENTRED = 32.0, 20.0  # of the cross-entropy over cosines: of rows as they are, and without their mean
MEASURED_EPS = 2 / 255  # of the held-out figures
MEASURING = 9  # times as long as measuring takes is trained before it is done again


@dataclass(frozen=True, eq=False)
class Witness:
    """A frozen recogniser in the loop, with the crowd that a face can be mistaken for."""

    name: str
    embed: Callable[[Tensor], Tensor]  # (B, 3, S, S) in [0, 1] to unit rows (B, D), differentiable
    crowd: Tensor  # (M, D), of faces that are never trained on
    sharpness: float

    @classmethod
    @torch.no_grad()
    def of(cls, embedder: TorchEmbedder, others: Tensor) -> Witness:
        """``others`` (M, 3, S, S) are the crowd's faces. If all rows lie close together, their mean is removed."""
        rows = torch.cat([embedder.embed(part).float() for part in torch.split(others, 32)])
        mean = rows.mean(0)
        if float(mean.norm()) < CLOSE:
            return cls(embedder.name, lambda images: embedder.embed(images).float(), rows, SHARPNESS)

        def centred(images: Tensor) -> Tensor:
            return functional.normalize(embedder.embed(images).float() - mean)

        return cls(embedder.name, centred, functional.normalize(rows - mean), SHARPNESS_CENTRED)

    def margin(self, rows: Tensor, own: Tensor) -> Tensor:
        """What the attack raises: a soft maximum over the crowd's cosines minus the cosine with oneself, (B,)."""
        half = self.sharpness / 2
        return torch.logsumexp(half * (rows @ self.crowd.T), 1) / half - (rows * own).sum(1)

    def naming(self, rows: Tensor, own: Tensor, margin: float) -> Tensor:
        """Cross-entropy of oneself, whose cosine must lead by ``margin``, among the crowd: (B,)."""
        cosines = torch.cat([(rows * own).sum(1, keepdim=True) - margin, rows @ self.crowd.T], 1)
        return functional.cross_entropy(
            self.sharpness * cosines, cosines.new_zeros(len(rows), dtype=torch.long), reduction="none"
        )


class PurifierTask(Task):
    """The prior's network, with AdamW on a half cosine; its moving average is what is kept."""

    settings: PurifierTraining
    may_change = frozenset({"steps"})
    average: MovingAverage

    def __init__(
        self, prior: NetworkPrior, embedders: Sequence[TorchEmbedder], batches: WideBatches, settings: PurifierTraining
    ) -> None:
        self.settings, self.batches, self.total = settings, batches, settings.steps
        self.hardware: Hardware = choose_hardware(precision=settings.precision)
        self.upcoming = ahead(self.batches, self.hardware.device)
        self.prior = prior.to(self.hardware.device).to(memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
        self.operator = MeanPool(settings.scale)
        self.others = batches.held_out_images().to(self.hardware.device)
        self.witnesses = [Witness.of(embedder, self.others) for embedder in embedders]
        self.networks = {"network": prior.network}
        self.optimiser = torch.optim.AdamW(
            prior.network.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.average = MovingAverage(prior.network, settings.ema_decay)
        self.measured_at = -math.inf  # seconds: when the last held-out figures were ready
        self.measuring = 0.0  # seconds that they took

    def rate(self, step: int) -> float:
        """A linear warm-up, times a half cosine to 0."""
        return self.settings.learning_rate * warm_up(step, self.settings.warmup_steps) * half_cosine(step, self.total)

    def purify(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """``f``: images (B, 3, S, S) in [0, 1] to the same, one evaluation, with fresh noise."""
        sigma = self.settings.sigma
        start = self.operator.Ap(self.operator(2 * images - 1)) + sigma * drawn(images, generator)
        return (self.prior(start, max(sigma, LEAST_SIGMA)) / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]

    def backward(self, step: int) -> dict[str, float]:
        """Attack through the purifier, then the distance to the clean face, its name, and its pixels."""
        settings, device = self.settings, self.hardware.device
        rng = np.random.default_rng((settings.seed, 11, step))
        generator = torch.Generator(device).manual_seed(derive_seed(settings.seed, step))
        witness = self.witnesses[int(rng.integers(len(self.witnesses)))]
        images = self.upcoming(step).to(device)
        with self.reduced():
            own = self._meant(witness, images, step, generator)
            attacked = self.attacked(images[: settings.attacked], own[: settings.attacked], witness, rng, generator)
            purified = self.purify(torch.cat([attacked, images[settings.attacked :]]), generator)
            rows = witness.embed(purified)
            cosine = (rows * own).sum(1)
            named = witness.naming(rows, own, settings.margin)
            pixels = (purified - images).abs().mean((1, 2, 3))
            weights = torch.ones_like(cosine)
            weights[settings.attacked :] = settings.clean_weight
            loss = (weights * (1 - cosine) + settings.naming_weight * named + settings.pixel_weight * pixels).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        parts = {"attacked": slice(None, settings.attacked), "clean": slice(settings.attacked, None)}
        cosines = {f"cosine, {name}": cosine[part].mean().item() for name, part in parts.items() if len(cosine[part])}
        return {**cosines, "taken for another": named.mean().item(), "pixels": pixels.mean().item()}

    @torch.no_grad()
    def _meant(self, witness: Witness, images: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """The rows that purified faces should have: the clean faces', or those of other views of them behind the purifier."""
        if not self.settings.other_views:
            return witness.embed(images)
        return witness.embed(self.purify(self.batches(step, again=True).to(images.device), generator))

    def attacked(
        self, images: Tensor, own: Tensor, witness: Witness, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        """Images (B, 3, S, S) under an attack that sees purifier and recogniser, each in a ball of its own log-uniform size."""
        if not len(images):
            return images
        settings = self.settings
        spans = rng.uniform(math.log(settings.eps_low), math.log(settings.eps_high), (len(images), 1, 1, 1))
        eps = torch.from_numpy(np.exp(spans)).float().to(images.device) / 255
        length = 1.0 if settings.inner_steps == 1 else 0.75
        drawn_evenly = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
        delta = (2 * drawn_evenly - 1) * eps
        # Not attacks.pgd: a ball for each image, fresh noise at each step, and a delta that may leave [0, 1] on the way.
        for _ in range(settings.inner_steps):
            seen = (images + delta).clamp(0, 1).requires_grad_(True)
            raised = witness.margin(witness.embed(self.purify(seen, generator)), own).sum()
            (slope,) = torch.autograd.grad(raised, seen)
            delta = torch.maximum(torch.minimum(delta + length * eps * slope.sign(), eps), -eps)
        return (images + delta).clamp(0, 1)

    def is_measured(self, step: int, saves: bool) -> bool:
        """With a checkpoint, but for those that come too soon after the last time: most of the time is for training."""
        return saves and (step >= self.total or time.monotonic() - self.measured_at >= MEASURING * self.measuring)

    def in_words(self, held_out: Mapping[str, float]) -> dict[str, str]:
        """Each margin with the share of faces that are named."""
        margins = {name: value for name, value in held_out.items() if not name.endswith(", named")}
        return {name: f"{value:.3f} ({100 * held_out[f'{name}, named']:.0f} % named)" for name, value in margins.items()}

    def measure(self, step: int) -> dict[str, float]:
        """Held-out faces behind the averaged network: mean margin and share named, clean and attacked.

        The attacks are PGD of 10 steps at 2/255: ``oblivious`` on the recogniser alone, ``adaptive`` through the purifier
        with the mean of two draws a step. The margin is the cosine with oneself minus the best of the
        crowd that is not measured.
        """
        begun = time.monotonic()
        count = min(self.settings.measured, len(self.others) // 2)
        found: dict[str, float] = {}
        with self.average.applied():
            for witness in self.witnesses:
                for name, margins in self._margins(witness, count).items():
                    found[f"{witness.name}, {name}"] = float(margins.mean())
                    found[f"{witness.name}, {name}, named"] = float((margins > 0).double().mean())
        self.measured_at = time.monotonic()
        self.measuring = self.measured_at - begun
        return found

    def _margins(self, witness: Witness, count: int) -> dict[str, Tensor]:
        images, crowd = self.others[:count], witness.crowd[count:]
        with torch.no_grad():
            own = witness.embed(images)

        def lead(rows: Tensor) -> Tensor:
            return (rows * own).sum(1) - (rows @ crowd.T).amax(1)

        draws = torch.Generator().manual_seed(1)

        def through(x: Tensor) -> Tensor:
            return -(lead(witness.embed(self.purify(x, draws))) + lead(witness.embed(self.purify(x, draws))))

        shown = {"clean": images}
        for name, goal in (("oblivious", lambda x: -lead(witness.embed(x))), ("adaptive", through)):
            with self.reduced():
                shown[name] = pgd(goal, images, eps=MEASURED_EPS, step=MEASURED_EPS / 4, iterations=10, seeds=range(count))
        with torch.no_grad():
            return {name: lead(witness.embed(self.purify(x, torch.Generator().manual_seed(2)))) for name, x in shown.items()}


def train_purifier(
    data: Path,
    out: Path,
    settings: PurifierTraining,
    *,
    start: Path,
    recognisers: Sequence[str] = ("sface", "dlib"),
    data_card: Path | None = None,
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    stop_after_minutes: float = math.inf,
) -> Path:
    """Train, or resume, a purifier from the prior in the folder ``start`` on photographs with one face each; returns its folder.

    Raises ``InputError`` for a folder with too few faces, ``PriorError`` and ``EmbedderError`` for
    what cannot be loaded, ``SettingError`` where the run in ``out`` began with other settings
    (``steps``, ``minutes`` and ``precision`` may change) or the prior's size is not the views'.
    ``data_card`` is a TOML file with the terms of the photographs; without one, ``DATA.toml`` in ``data`` is read.
    """
    stated = DataCard.of(data_card, data)
    prior = load_prior(start)
    if prior.shape[-1] != settings.size:
        raise SettingError(f"restores {prior.shape[-1]} pixels, not {settings.size}", start, f"set size={prior.shape[-1]}")
    embedders = [_loaded(spec) for spec in recognisers]
    if not embedders:
        raise SettingError("a purifier is trained against at least one recogniser")
    batches = WideBatches(wide_crops(data, out, report), settings)
    if len(batches.held_out) < 2:
        count = len(batches.train) + len(batches.held_out)
        raise InputError(f"{many(count, 'face is', 'faces are')} too few to hold two of them out", data, "use eight or more")
    task = PurifierTask(prior, embedders, batches, settings)
    run = Run(task, out)
    faces = split_in_words(batches.train, batches.held_out)
    names = [embedder.name for embedder in embedders]
    report(Progress(run.step, task.total, f"{faces}, against {', '.join(names)}, on {task.hardware}; {stated}"))
    held_out = finish(run, report, checkpoint_minutes=checkpoint_minutes, stop_after_minutes=stop_after_minutes)
    folder = out / f"purifier-{run.step:06d}"
    if not folder.exists():
        with task.average.applied():
            save_prior(prior, folder, card=_card(run, start, faces, names, stated, held_out))
    return folder


def _card(
    run: Run[PurifierTask], start: Path, faces: str, names: Sequence[str], data: DataCard, held_out: Mapping[str, float]
) -> dict[str, object]:
    settings, begun = run.task.settings, read_card(start)
    about = {
        "name": f"{begun['name']}, purifier",
        "what": f"a prior of aligned faces trained for one evaluation at sigma {settings.sigma:g} on the block mean of scale "
        f"{settings.scale}, against attacks through itself; images in [-1, 1]; at other noise levels it is not meant to be used",
        "start": {"name": begun["name"], "sha256": prior_hash(start)},
        "recognisers": list(names),
        "data": f"{faces}; {data.what}, aligned to the template",
        **run.made,
        "attacked": run.step * settings.attacked,
    }
    figures = {"held_out": {name: round(value, 4) for name, value in held_out.items()}}
    return card(about, data.begun_from(begun), settings, run.seconds, figures, _LIMITS)


def _loaded(spec: str) -> TorchEmbedder:
    """A recogniser on the device of the training. Raises ``EmbedderError`` for one that gives no gradients."""
    embedder = differentiable(load_embedder(spec))
    if isinstance(embedder, nn.Module):
        embedder.to(choose_hardware(precision="fp32").device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return embedder


_LIMITS = (
    "It was trained against attacks through itself and the recognisers named here; attacks on other recognisers have to be "
    "measured. It is no prior to draw faces from. Faces far from the data (children, strong occlusion, extreme pose or light) "
    "are restored worse; it was not checked that it treats groups of people alike."
)

__all__ = ["PurifierTask", "PurifierTraining", "Witness", "train_purifier"]
