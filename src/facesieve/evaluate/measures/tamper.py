"""What the tamper scores tell apart, images as they are from attacked ones, and what each policy gives, behind each defence.

The scores are the product's, ``recognition.tampering``: the raw crop has 160 pixels, the purified one has the size of the
experiment. A perturbation, made on the small crop, is enlarged onto the large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from facesieve.errors import InputError, SettingError
from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.measures import MEASURES
from facesieve.identification import CROP
from facesieve.metrics.intervals import Estimate, Means, bootstrap, of_share
from facesieve.metrics.rates import quantile, threshold_at_far
from facesieve.recognition import Embedder
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.tampering import disagreements, tamper_scores
from facesieve.tamper_policy import Limits, TamperPolicy, TamperScore, second_of

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]
ALARMS = (0.01, 0.05)  # false alarms
SCORES: tuple[TamperScore, ...] = ("change", "disagreement", "both")


@dataclass(frozen=True, eq=False)
class _Judge:
    """The recogniser, and the second beside it."""

    embedder: Embedder
    second: Embedder

    def limits(self, score: TamperScore, defence: Defence) -> Limits | None:
        """The default thresholds behind a defence; None where there are none."""
        with suppress(SettingError):
            return TamperPolicy("refuse", score).limits(self.embedder.name, self.second.name, defence.label)
        return None


@dataclass(frozen=True, eq=False)
class _Faces:
    """Images behind a defence, N of them."""

    scores: dict[str, Floats]  # by name, (N,); "both" only where there are default thresholds
    over: dict[str, Flags]  # by name, whether the default threshold is exceeded; where there is one
    people: Labels
    table: Floats  # (N, people), the recogniser's

    @property
    def right(self) -> Flags:
        """Whether the best match is the person."""
        found: Flags = self.table.argmax(1) == self.people
        return found

    def impostors(self) -> Floats:
        """The best score of anybody else: (N,)."""
        rest = self.table.copy()
        rest[np.arange(len(rest)), self.people] = -np.inf
        best: Floats = rest.max(1)
        return best


def tamper(run: Run) -> dict[str, Estimate]:
    """For each defence, attack and score: medians, the area under the ROC curve, what is found at 1 and 5 % of false alarms.

    Also what is above the product's default threshold, and what each policy gives at the experiment's ``run.far``: clean images
    that are not named as who they show, attacked ones that are named as somebody else, and as who they show. Attacked
    images are those saved as 8 bit; clean ones are all that the defence faces. Scores are of the recogniser's embedder.
    """
    embedder = load_embedder(run.experiment.recogniser.embedder, gradients=False)
    judge = _Judge(embedder, load_embedder(second_of(embedder.name), gradients=False))
    large, found = torch.from_numpy(run.test_crops(CROP)), dict[str, Estimate]()
    of_clean: dict[str, _Faces] = {}
    for defence, n in run.plan.faced_by(None):
        clean = of_clean[defence.name] = _faces(run, judge, defence, large[:n], run.images[:n])
        found |= {f"{what}, {defence.name}": estimate for what, estimate in _alarms(clean).items()}
        found |= {f"FRR clean, {what}, {defence.name}": e for what, e in _refused(clean, _threshold(run, clean)).items()}
    for attack in run.attacks:
        for defence, n in run.plan.faced_by(attack):
            images, clean = run.faced(attack, defence, n), of_clean[defence.name]
            change = functional.interpolate(images - run.images[:n], size=CROP, mode="bicubic", align_corners=False)
            attacked = _faces(run, judge, defence, (large[:n] + change).clamp(0, 1), images, *run.plan.noise(attack))
            told = {
                f"{score}: {what}": estimate
                for score in attacked.scores
                for what, estimate in _told_apart(
                    clean.scores[score], attacked.scores[score], clean.people, attacked.people
                ).items()
            }
            told |= {
                f"{score}: attacked images above the default threshold": _share(o, attacked) for score, o in attacked.over.items()
            }
            told |= _named(attacked, _threshold(run, clean))
            found |= {f"{what}, {defence.name}, {attack.name}": estimate for what, estimate in told.items()}
    return found


def _faces(run: Run, judge: _Judge, defence: Defence, large: Tensor, images: Tensor, *own: str) -> _Faces:
    """Of images (N, 3, S, S) and their larger raw crops."""
    purified = defend(defence, images, run.context, *own).images
    rows = judge.embedder.rows(purified.numpy())
    other = tamper_scores(judge.second.rows(large.numpy()), judge.second.rows(purified.numpy()))
    each = tamper_scores(judge.embedder.rows(large.numpy()), rows), other
    scores: dict[str, Floats] = {"change": np.array(each[0]), "disagreement": np.array(disagreements(*each))}
    over: dict[str, Flags] = {}
    for name in SCORES:
        if (limits := judge.limits(name, defence)) is not None:
            parts = [scores[one] / limit for one, limit in zip(SCORES, limits, strict=False) if limit is not None]
            over[name] = np.max(parts, 0) > 1
            if name == "both":
                scores["both"] = np.max(parts, 0)
    recogniser = run.recogniser_for(defence)
    known = recogniser.templates  # of the same embedder: its rows are there
    table = recogniser.table(purified) if known is None else (rows @ known.numpy().T).astype(np.float64)
    return _Faces(scores, over, run.labels[: len(images)], table)


def _threshold(run: Run, clean: _Faces) -> float | None:
    """Of names, as the tables have it; None where so few images cannot resolve the rate."""
    with suppress(InputError):
        return threshold_at_far(clean.impostors(), run.settings.far).value
    return None


def _share(flags: Flags, faces: _Faces) -> Estimate:
    return Means(faces.people).share(flags)


def _alarms(clean: _Faces) -> dict[str, Estimate]:
    return {f"{score}: false alarms at the default threshold": _share(over, clean) for score, over in clean.over.items()}


def _policies(faces: _Faces) -> dict[str, Flags]:
    """By policy, who is refused. Flagged faces are answered as purified ones are."""
    return {"purify": np.zeros(len(faces.people), bool)} | {f"refuse by {score}": over for score, over in faces.over.items()}


def _refused(clean: _Faces, threshold: float | None) -> dict[str, Estimate]:
    """Genuine clean images that are refused, unknown or named as somebody else, by policy."""
    if threshold is None:
        return {}
    known = clean.right & (clean.table.max(1) >= threshold)
    return {policy: _share(~known | refused, clean) for policy, refused in _policies(clean).items()}


def _named(attacked: _Faces, threshold: float | None) -> dict[str, Estimate]:
    """Attacked images by what they are named as, and by policy."""
    if threshold is None:
        return {}
    known, right, found = attacked.table.max(1) >= threshold, attacked.right, {}
    for policy, refused in _policies(attacked).items():
        found[f"named as somebody else, {policy}"] = _share(known & ~right & ~refused, attacked)
        found[f"named as who it shows, {policy}"] = _share(known & right & ~refused, attacked)
    return found


def _told_apart(clean: Floats, tampered: Floats, people: Labels, of_tampered: Labels | None = None) -> dict[str, Estimate]:
    """Scores of clean images, of ``people``, and of attacked ones, of ``of_tampered``, if those are others or fewer."""
    shown = people if of_tampered is None else of_tampered
    above = tampered[None] > clean[:, None]  # (clean, tampered)
    owners, cut = np.concatenate([people, shown]), len(clean)

    def estimate(statistic: Callable[[Floats, Floats], float], n: int, *, share: bool = False) -> Estimate:
        found = replace(bootstrap(lambda w: statistic(w[:cut], w[cut:]), owners), n=n)
        return of_share(found, people=len(np.unique(shown))) if share else found

    def detected(c: Floats, t: Floats, alarms: float) -> float:
        return float(t @ (tampered > quantile(clean, 1 - alarms, c)) / t.sum()) if t.sum() else math.nan

    def limit(c: Floats, _: Floats, alarms: float) -> float:
        return quantile(clean, 1 - alarms, c)

    def area(c: Floats, t: Floats) -> float:
        return float(c @ above @ t / (c.sum() * t.sum())) if t.sum() else math.nan

    found = {
        "median of clean images": estimate(lambda c, _: quantile(clean, 0.5, c), cut),
        "median of attacked images": estimate(lambda _, t: quantile(tampered, 0.5, t), len(tampered)),
        "area under the ROC curve": estimate(area, len(tampered), share=True),
    }
    for rate in ALARMS:
        alarms = f"{100 * rate:g} % false alarms"
        found[f"threshold for {alarms}"] = estimate(partial(limit, alarms=rate), cut)
        found[f"attacked images found at {alarms}"] = estimate(partial(detected, alarms=rate), len(tampered), share=True)
    return found


MEASURES.register("tamper", tamper)
