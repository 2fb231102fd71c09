"""What a restoration does to clean images: consistency with its observation, super-resolution, time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facesieve.evaluate.defend import defend, make_defence
from facesieve.evaluate.experiment import DefenceSettings
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Means
from facesieve.noise import derive_seed, seeded_noise
from facesieve.recognition.sface import load_sface
from facesieve.sampling import last

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run
    from facesieve.purify import RestorationStage

FEW = 4  # faces that a network is looked at with
ROUNDS = 2


def consistency(run: Run) -> dict[str, Estimate]:
    """The largest |A x - y| of the experiment's presets that trust the observation, before clipping, in [-1, 1] units."""
    images, found = run.images[:FEW], {}
    noise = seeded_noise([derive_seed(run.settings.seed, "consistency", n) for n in range(len(images))], tuple(images.shape[1:]))
    for defence in run.defences:
        if defence.settings.preset is None:
            continue
        for stage in cast("tuple[RestorationStage, ...]", defence.purifier.stages):  # as every preset's
            if (restoration := stage.restoration).sigma_y > 0:
                continue
            with torch.inference_mode():
                y = restoration.observe(images)
                x = last(restoration.steps_from(stage.prior, y, noise))
                worst = float((restoration.operator(x) - y).abs().max())
            found[f"largest |A x - y|, {defence.name}, {restoration.name}"] = _single(worst, len(images))
    return found


def speed(run: Run) -> dict[str, Estimate]:
    """Time per face of each defence over that of the first, taken in turn within one run."""
    images, seconds = run.images[:FEW], {defence.name: list[float]() for defence in run.defences}
    for _ in range(ROUNDS):
        for defence in run.defences:
            begun = time.perf_counter()
            with torch.inference_mode():
                defence.purifier(images.to(run.context.hardware.device), seeds=range(len(images)))
            seconds[defence.name].append(time.perf_counter() - begun)
    first, *rest = seconds
    base = float(np.median(seconds[first]))
    return {f"time a face, {name} over {first}": _single(float(np.median(seconds[name])) / base, ROUNDS) for name in rest}


def _single(value: float, n: int) -> Estimate:
    """A value without an interval."""
    return Estimate(value, math.nan, math.nan, n, n)


# --- super-resolution --------------------------------------------------------------------------------

SCALES, STEPS, SEEDS = (2, 4), 25, 6


def super_resolution(run: Run) -> dict[str, Estimate]:
    """PSNR (dB) and perceptual distance of block means that are made large again: bicubic, restored once, mean of several."""
    images, found = run.images, {}
    means = Means(run.labels)
    for scale in SCALES:
        settings = DefenceSettings(preset="stage1", settings={"scale": scale, "eta": 0.0, "steps": STEPS})
        defence = make_defence(settings, run.context)
        draws = [defend(defence, images, run.context, "super-resolution", seed).images for seed in range(SEEDS)]
        bicubic = functional.interpolate(
            functional.avg_pool2d(images, scale), size=images.shape[-2:], mode="bicubic", align_corners=False
        )
        versions = {"bicubic": bicubic.clamp(0, 1), "restored": draws[0], "the mean of restorations": torch.stack(draws).mean(0)}
        for name, version in versions.items():
            found[f"PSNR x{scale}, {name}"] = means.estimate(means.of(psnr(version, images).numpy()))
            found[f"perceptual distance x{scale}, {name}"] = means.estimate(means.of(perceptual(version, images).numpy()))
    return found


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each image, dB: (N,)."""
    return -10 * ((a - b) ** 2).flatten(1).mean(1).log10()


@torch.inference_mode()
def perceptual(a: Tensor, b: Tensor) -> Tensor:
    """After LPIPS (Zhang et al. 2018), unweighted: squared distance of channel-normalised features, mean over layers: (N,).

    The features are SFace's after each of its strided convolutions, since no LPIPS weights ship with this project.
    """
    network = load_sface()
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)]
    kept: list[list[Tensor]] = []
    for images in (a, b):
        seen: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out)) for layer in layers]
        network.embed(images)
        for hook in hooks:
            hook.remove()
        kept.append([functional.normalize(features, dim=1) for features in seen])
    distances = [((p - q) ** 2).sum(1).flatten(1).mean(1) for p, q in zip(*kept, strict=True)]
    return torch.stack(distances).mean(0)


for _measure in (consistency, speed, super_resolution):
    MEASURES.register(_measure.__name__, _measure)
