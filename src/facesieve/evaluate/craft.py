"""Adversarial sets: crafted once, kept under a hash of everything that made them, saved as they are and as 8-bit PNG."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facesieve.attacks import ATTACKS, Budget, Goal
from facesieve.attacks.adaptive import EotScores, KnownSeedScores
from facesieve.attacks.joint import jointly
from facesieve.attacks.objectives import OBJECTIVES, Objective, Scores, Together
from facesieve.evaluate.cache import Ingredients
from facesieve.evaluate.defend import Defence, RunContext
from facesieve.evaluate.evading import Evasion
from facesieve.evaluate.experiment import AttackSettings
from facesieve.evaluate.recogniser import Recogniser
from facesieve.files import draft, sha256_of_pixels, write_with_folder
from facesieve.images import encode_photo, read_photo, to_floats, to_photo
from facesieve.noise import derive_seed
from facesieve.purify import Purifier, View
from facesieve.report.record import AttackRecord

# Settings of an attack that are no part of it, or the victim's.
NOT_OF_IT = {"name", "quantisation", "probes", "surrogate", "through", "eot_samples", "evades", "cascade", "known_seed"}
FEW = 30  # images whose gradient is looked at


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """A set in both forms, and facts about it."""

    images: dict[str, Tensor]  # by quantisation: (N, 3, S, S) in [0, 1]
    record: AttackRecord


@dataclass(frozen=True, eq=False)
class Victim:
    """What an attack sees: a recogniser, alone or behind a defence."""

    recogniser: Recogniser
    data: str  # the hash of the manifest, on which mean templates depend
    context: RunContext
    defence: Defence | None = None
    view: View = "gradient"  # of the defence's stages
    wanted_samples: int | None = None  # draws of noise; None: as the run's settings say
    evasion: Evasion | None = None  # what it keeps low beside
    noise: tuple[str, ...] | None = None  # what the seeds are derived from that the defence will have, where it knows them

    @cached_property
    def _purifier(self) -> Purifier | None:
        return None if self.defence is None else self.defence.purifier.for_attacker(self.context.settings.size, self.view)

    @property
    def eot_samples(self) -> int:
        """Draws of the defence's noise that each step averages over."""
        wanted = self.wanted_samples or self.context.settings.eot_samples
        return wanted if self._purifier is not None and self._purifier.draws_noise and self.noise is None else 1

    def known(self, images: Tensor, places: Sequence[int] | None) -> Iterator[Sequence[int] | None]:
        """For each batch of images (N, 3, S, S) the seeds that the defence will have, where the attacker knows them."""
        if self.noise is None:
            return itertools.repeat(None)
        return (seeds for _, seeds in self.context.batches(images, *self.noise, places=places))

    def seen_with(self, seeds: Sequence[int], known: Sequence[int] | None = None) -> Recogniser:
        """The recogniser as an attacker of a batch with these seeds sees it; ``known`` are the defence's, where it knows them."""
        seen = self.recogniser if self.evasion is None else replace(self.recogniser, scores=self.evasion.rows)
        if self.defence is not None and self._purifier is not None:
            device, name = self.context.hardware.device, f"{seen.name}, behind {self.defence.name}"
            scores: Scores
            if known is None:
                scores = EotScores(seen.scores, self._purifier, seeds, self.eot_samples, device)
            else:
                scores, name = KnownSeedScores(seen.scores, self._purifier, known, device), f"{name}, whose noise it knew"
            seen = replace(seen, name=name, scores=scores)
        return seen if self.context.settings.gradients is None else replace(seen, scores=_reduced(seen.scores))

    def identity(self) -> Ingredients:
        """Everything about it that a crafted image depends on."""
        made_from: Ingredients = {"recogniser": self.recogniser.name, "data": self.data}
        if self.context.settings.gradients is not None:
            made_from["gradients"] = self.context.settings.gradients
        if self.defence is None:
            return made_from
        return {
            **made_from,
            "behind": self.defence.purifier.identity(),
            "dtype": str(self.context.hardware.dtype),
            "eot_samples": self.eot_samples,
            **({} if self.view == "gradient" else {"view": self.view}),
            **({} if self.noise is None else {"noise": list(self.noise)}),
            **({} if self.evasion is None else {"evades": self.evasion.identity()}),
        }


def _reduced(scores: Scores) -> Scores:
    """The scores with gradients in bf16, by autocast; where no gradient is wanted they are as they were."""

    def reduced(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.requires_grad):
            return scores(images).float()

    return reduced


def craft(
    attack: AttackSettings,
    recogniser: Recogniser,
    images: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    evasion: Evasion | None = None,
) -> Tensor:
    """Attack a batch (B, 3, S, S) in [0, 1] of the people ``labels`` (B,); image ``i`` depends only on itself and ``seeds[i]``.

    Of several starts each image keeps the one for which the objective is highest. With an ``evasion``, whose rows are
    the recogniser's scores then, it keeps the least suspicious of those that succeed.
    Raises ``MissingExtraError`` for an attack whose library is not installed.
    """
    kind, budget = ATTACKS.load(attack.method), _budget(attack)
    if evasion is not None:
        parts = evasion.parts(OBJECTIVES.load(attack.objective), recogniser.scores, labels)

        def alone(objective: Objective) -> Tensor:
            return kind.craft(Goal(recogniser.scores, labels, objective), images, budget, seeds)

        return jointly(alone, parts, rounds=attack.rounds)
    goal = goal_of(attack, recogniser, labels)
    best = kind.craft(goal, images, budget, seeds)
    for start in range(1, attack.starts):
        other = kind.craft(goal, images, budget, [derive_seed(seed, "start", start) for seed in seeds])
        with torch.no_grad():
            better = goal.objective(other) > goal.objective(best)
        best = torch.where(better[:, None, None, None], other, best)
    return best


def _crafted(
    attack: AttackSettings,
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    known: Sequence[int] | None,
) -> Tensor:
    """A batch; one image after the other where the attack's library decides over a batch, since noise goes by place in it."""
    if victim.defence is None or not ATTACKS.load(attack.method).alone:
        return craft(attack, victim.seen_with(seeds, known), images, labels, seeds, victim.evasion)
    own = [None] * len(seeds) if known is None else [[seed] for seed in known]
    each = zip(torch.split(images, 1), torch.split(labels, 1), seeds, own, strict=True)
    return torch.cat([craft(attack, victim.seen_with([seed], one), image, label, [seed]) for image, label, seed, one in each])


def goal_of(attack: AttackSettings, recogniser: Recogniser, labels: Tensor) -> Goal:
    """What an attack raises over the recogniser that it sees, for images of the people ``labels`` (B,)."""
    kind, logits = OBJECTIVES.load(attack.objective), recogniser.logits
    if recogniser.parts > 1:
        return Goal(logits, labels, Together(kind, logits, labels, len(recogniser.people)))
    return Goal(logits, labels, kind(logits, labels))


def _budget(attack: AttackSettings) -> Budget:
    eps = _eps(attack) / 255
    step, last = (attack.step / 255, None) if attack.relative_steps is None else [part * eps for part in attack.relative_steps]
    # A random start would leave the range of what the defence observes, and nothing would bring the image back.
    return Budget(eps, step, attack.iterations, attack.random_start and attack.through != "range", last)


def _eps(attack: AttackSettings) -> float:
    assert isinstance(attack.eps, float)  # one of ``AttackSettings.each``
    return attack.eps


def adversarial_set(
    attack: AttackSettings,
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    folder: Path,
    places: Sequence[int] | None = None,
) -> AdversarialSet:
    """The adversarial images of ``images`` (N, 3, S, S), batch by batch, from the cache where possible.

    ``places`` are theirs among the images of the run, where they are not the first: of a cascade.

    ``folder`` gets them as ``float.npy``, ``uint8/*.png`` and ``set.json``, which says what made them;
    the 8-bit set is what is read back from those files.
    """
    if not len(images):
        return AdversarialSet({"float": images, "uint8": images}, _record(attack, victim, images, labels, images, 0.0, places))
    parts, seconds = [], 0.0
    settings = attack.model_dump(mode="json", exclude=NOT_OF_IT | ({"rounds"} if attack.evades is None else set()))
    known = victim.known(images, places)
    for (part, seeds), own in zip(victim.context.batches(images, "attack", places=places), known, strict=False):
        made_from = {
            "attack": settings, **victim.identity(), "images": sha256_of_pixels(images[part].numpy()),
            "labels": labels[part].tolist(), "seeds": seeds,
        }  # fmt: skip
        make = partial(_crafted, attack, victim, images[part], labels[part], seeds, own)
        kept = victim.context.cache.batch(made_from, make)
        parts.append(kept.images)
        seconds += kept.seconds
    made = torch.cat(parts)
    saved = _saved(folder, made, attack, victim)
    return AdversarialSet({"float": made, "uint8": saved}, _record(attack, victim, images, labels, saved, seconds, places))


def _saved(folder: Path, images: Tensor, attack: AttackSettings, victim: Victim) -> Tensor:
    """The images as 8-bit files have them, by writing and reading such files."""
    about = {
        "attack": attack.model_dump(mode="json"), "recogniser": victim.recogniser.name, "data": victim.data,
        "images": sha256_of_pixels(images.numpy()),
    }  # fmt: skip
    text = (json.dumps(about, indent=1) + "\n").encode()
    done, files = folder / "set.json", [folder / "uint8" / f"{number:05d}.png" for number in range(len(images))]
    if not done.exists() or done.read_bytes() != text:
        for path, image in zip(files, images, strict=True):
            write_with_folder(path, encode_photo(to_photo(image), "png"))
        with draft(folder / "float.npy") as (file, _):
            np.save(file, images.numpy())
        write_with_folder(done, text)
    return torch.stack([torch.from_numpy(to_floats(read_photo(path))) for path in files])


def _record(
    attack: AttackSettings,
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    saved: Tensor,
    seconds: float,
    places: Sequence[int] | None,
) -> AttackRecord:
    kind = ATTACKS.load(attack.method)
    few = range(min(FEW, len(images)))
    recogniser = victim.seen_with(few, None if victim.noise is None else few)
    difference = (saved - images).flatten(1)
    length = difference.norm(dim=1) if kind.norm == "l2" else difference.abs().amax(1)
    return AttackRecord(
        name=attack.name,
        method=attack.method,
        eps=_eps(attack),
        norm=kind.norm,
        iterations=attack.iterations,
        sees=recogniser.name,
        black_box=not kind.needs_gradient,
        left_ball=float((length > _eps(attack) / 255 + 1e-6).double().sum()) / max(1, len(images)),
        still=_still(None if victim.evasion or not len(images) else goal_of(attack, recogniser, labels[:FEW]), images[:FEW]),
        seconds=round(seconds / max(1, len(images)), 3),
        starts=attack.starts,
        draws=victim.eot_samples,
        made_for=None if places is None else len(places),
        view="" if victim.defence is None else victim.view,
    )


def _still(goal: Goal | None, images: Tensor) -> float:
    """Share of the images at which the objective's gradient vanishes or is not finite; 0 where there is none to look at."""
    if goal is None:
        return 0.0
    x = images.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(goal.objective(x).sum(), x)
    steepest = slope.flatten(1).abs().amax(1)
    return float((~torch.isfinite(steepest) | (steepest == 0)).double().mean())
