"""Adversarial sets: crafted once, kept by a hash of all that made them, saved as they are and as 8-bit PNG."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from facesieve.attacks import gradient, objectives
from facesieve.attacks.adaptive import Behind
from facesieve.attacks.objectives import Scores
from facesieve.evaluate.cache import Ingredients, Store, image_digest
from facesieve.evaluate.experiment import BLACK_BOX, AttackSettings
from facesieve.evaluate.recogniser import Recogniser
from facesieve.files import write_with_folder
from facesieve.images import encode_photo, read_photo, to_floats, to_photo
from facesieve.noise import derive_seed
from facesieve.purify import Purifier
from facesieve.report.record import AttackRecord

L2 = frozenset({"pgd-l2", "carlini-wagner-l2"})
FEW = 30  # images whose gradient is looked at


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """A set in both forms, and what is to be said of it."""

    images: dict[str, Tensor]  # by quantisation: (N, 3, S, S) in [0, 1]
    record: AttackRecord


@dataclass(frozen=True, eq=False)
class Seen:
    """A defence as an adaptive attack sees it."""

    name: str
    purifier: Purifier
    draws: int  # of its noise, that each step averages over
    device: torch.device  # where it runs
    made_from: list[Ingredients]  # its stages

    def before(self, recogniser: Recogniser, seeds: Sequence[int]) -> Recogniser:
        """The recogniser behind it, for an attacker of a batch with these seeds."""
        scores = Behind(recogniser.scores, self.purifier, seeds, self.draws, self.device)
        return replace(recogniser, name=f"{recogniser.name}, behind {self.name}", scores=scores)


def craft(attack: AttackSettings, recogniser: Recogniser, images: Tensor, labels: Tensor, seeds: Sequence[int]) -> Tensor:
    """Attack a batch (B, 3, S, S) in [0, 1] of the people ``labels`` (B,); image ``i`` depends on ``seeds[i]`` alone.

    Raises ``MissingExtraError`` for an attack whose library is not installed.
    """
    if attack.method in {"fgsm", "pgd", "pgd-l2"}:
        return _by_gradient(attack, recogniser, images, labels, seeds)
    from facesieve.attacks import libraries

    assert isinstance(attack.eps, float)
    eps, step, iterations = attack.eps / 255, attack.step / 255, attack.iterations
    run: dict[str, Callable[[Scores, Tensor, Tensor], Tensor]] = {
        "mi-fgsm": partial(libraries.mi_fgsm, eps=eps, step=step, iterations=iterations),
        "carlini-wagner-l2": partial(libraries.carlini_wagner_l2, eps=eps, iterations=iterations, seeds=seeds),
        "apgd-ce": partial(libraries.apgd_ce, eps=eps, iterations=iterations, seeds=seeds),
        "apgd-t": partial(libraries.apgd_t, eps=eps, iterations=iterations, seeds=seeds),
        "fab": partial(libraries.fab, eps=eps, iterations=iterations, seeds=seeds),
        "square": partial(libraries.square, eps=eps, queries=iterations, seeds=seeds),
        "auto-attack": partial(libraries.auto_attack, eps=eps, seeds=seeds),
    }
    return run[attack.method](recogniser.logits, images, labels)


def _by_gradient(attack: AttackSettings, recogniser: Recogniser, images: Tensor, labels: Tensor, seeds: Sequence[int]) -> Tensor:
    assert isinstance(attack.eps, float)
    objective = _objective(attack, recogniser, labels)
    eps, step, iterations = attack.eps / 255, attack.step / 255, attack.iterations
    starts = seeds if attack.random_start else None
    if attack.method == "fgsm":
        return gradient.fgsm(objective, images, eps=eps)
    ascend = gradient.pgd if attack.method == "pgd" else gradient.pgd_l2
    return ascend(objective, images, eps=eps, step=step, iterations=iterations, seeds=starts)


def _objective(attack: AttackSettings, recogniser: Recogniser, labels: Tensor) -> objectives.Objective:
    kind = objectives.CrossEntropy if attack.objective == "cross-entropy" else objectives.Margin
    return kind(recogniser.logits, labels)


def adversarial_set(
    attack: AttackSettings,
    recogniser: Recogniser,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    batch: int,
    store: Store,
    folder: Path,
    data: str,
    seen: Seen | None = None,
) -> AdversarialSet:
    """The adversarial images of ``images`` (N, 3, S, S), batch by batch from the store where they are there.

    ``folder`` gets them as ``float.npy``, ``uint8/*.png`` and ``set.json``, which says what made them;
    the 8-bit set is what is read back from those files. ``data`` is the hash of the manifest: mean
    templates hang on it. ``seen`` is the defence that the attack sees the recogniser behind.
    """
    parts, seconds = [], 0.0

    def before(seeds: Sequence[int]) -> Recogniser:
        return recogniser if seen is None else seen.before(recogniser, seeds)

    behind: Ingredients = {} if seen is None else {"behind": seen.made_from, "draws": seen.draws}
    for start in range(0, len(images), batch):
        part, people = images[start : start + batch], labels[start : start + batch]
        seeds = [derive_seed(seed, "attack", start + i) for i in range(len(part))]
        made_from = _ingredients(attack, recogniser.name, part, people, seeds, data) | behind
        kept = store.batch(made_from, partial(craft, attack, before(seeds), part, people, seeds))
        parts.append(kept.images)
        seconds += kept.seconds
    made = torch.cat(parts)
    saved = _saved(folder, made, attack, recogniser.name, data)
    record = _record(attack, before(range(min(FEW, len(images)))), images, labels, saved, seconds)
    return AdversarialSet({"float": made, "uint8": saved}, record)


def _ingredients(
    attack: AttackSettings, recogniser: str, images: Tensor, labels: Tensor, seeds: Sequence[int], data: str
) -> Ingredients:
    settings = attack.model_dump(mode="json", exclude={"name", "quantisation", "probes", "on"})
    return {
        "attack": settings,
        "recogniser": recogniser,
        "images": image_digest(images),
        "labels": labels.tolist(),
        "seeds": list(seeds),
        "data": data,
    }


def _saved(folder: Path, images: Tensor, attack: AttackSettings, recogniser: str, data: str) -> Tensor:
    """The images as 8-bit files have them, by writing and reading such files."""
    about = {"attack": attack.model_dump(mode="json"), "recogniser": recogniser, "data": data, "images": image_digest(images)}
    text = (json.dumps(about, indent=1) + "\n").encode()
    done, files = folder / "set.json", [folder / "uint8" / f"{number:05d}.png" for number in range(len(images))]
    if not done.exists() or done.read_bytes() != text:
        for path, image in zip(files, images, strict=True):
            write_with_folder(path, encode_photo(to_photo(image), "png"))
        np.save(folder / "float.npy", images.numpy())
        write_with_folder(done, text)
    return torch.stack([torch.from_numpy(to_floats(read_photo(path))) for path in files])


def _record(
    attack: AttackSettings, recogniser: Recogniser, images: Tensor, labels: Tensor, saved: Tensor, seconds: float
) -> AttackRecord:
    assert isinstance(attack.eps, float)
    norm: Literal["linf", "l2"] = "l2" if attack.method in L2 else "linf"
    difference = (saved - images).flatten(1)
    length = difference.norm(dim=1) if norm == "l2" else difference.abs().amax(1)
    return AttackRecord(
        name=attack.name,
        method=attack.method,
        eps=attack.eps,
        norm=norm,
        iterations=attack.iterations,
        sees=recogniser.name,
        black_box=attack.method in BLACK_BOX,
        left_ball=float((length > attack.eps / 255 + 1e-6).double().mean()),
        still=_still(attack, recogniser, images, labels),
        seconds=round(seconds / len(images), 3),
    )


def _still(attack: AttackSettings, recogniser: Recogniser, images: Tensor, labels: Tensor) -> float:
    """Share of (the first few) images at which the objective's gradient vanishes or is not finite."""
    x = images[:FEW].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(_objective(attack, recogniser, labels[:FEW])(x).sum(), x)
    steepest = slope.flatten(1).abs().amax(1)
    return float((~torch.isfinite(steepest) | (steepest == 0)).double().mean())
