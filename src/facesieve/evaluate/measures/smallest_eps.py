"""The smallest eps at which each image is given a wrong name, by bisection with an experiment's attacks; its median.

An attack's ``eps`` is the largest that is tried. The images are those that it makes, before they are saved: rounding to 8 bits
would hide whatever is below half a level. They are judged behind a defence with noise that the attack has not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.attacks.gradient import pgd
from facesieve.attacks.smallest import smallest_eps as bisected
from facesieve.errors import SettingError
from facesieve.evaluate.craft import Victim, goal_of
from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.experiment import AttackSettings
from facesieve.evaluate.measures import MEASURES
from facesieve.files import sha256_of_pixels
from facesieve.metrics.intervals import Estimate, Means, bootstrap
from facesieve.metrics.rates import median
from facesieve.report.record import NONE

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

Floats = NDArray[np.float64]
STEPS = 5  # of the bisection, between an attack's eps and
RANGE = 64  # so many times less: found within 14 %


def smallest_eps(run: Run) -> dict[str, Estimate]:
    """For each defence (or none) and attack ``median smallest eps``, in levels of 255, and the share that it did not fool.

    Where an image stands against the largest eps, that eps is counted, so that a median may be too low and never too high.
    For each defence also ``smallest eps over none's``: the medians' ratio on the same images, if no defence was attacked, too.
    Raises ``SettingError`` for an attack that is not PGD with steps as parts of eps, and for one on other recognisers.
    """
    found: dict[str, Estimate] = {}
    bare: Floats | None = None
    for attack in sorted(run.attacks, key=lambda each: not run.plan.is_oblivious(each)):
        if attack.method != "pgd" or attack.relative_steps is None or attack.surrogates:
            raise SettingError("smallest_eps takes pgd with relative_steps, on the experiment's recogniser", attack.name)
        alone = [(None, run.plan.count(attack))] if run.plan.is_oblivious(attack) else run.plan.faced_by(attack)
        for defence, n in alone:
            own, people = _of_images(run, attack, defence, n), run.labels[:n]
            name = f"{NONE if defence is None else defence.name}, {attack.name}"
            most = float(attack.eps)  # type: ignore[arg-type]  # one of ``AttackSettings.each``
            found[f"median smallest eps, {name}"] = bootstrap(partial(median, own), people)
            found[f"not fooled, {name}"] = Means(people).share(own >= most)
            if defence is None:
                bare = own
            elif bare is not None and len(bare) >= n:
                found[f"smallest eps over none's, {name}"] = _ratio(own, bare[:n], people)
    return found


def _ratio(own: Floats, bare: Floats, people: NDArray[np.int64]) -> Estimate:
    """Of the medians."""
    return bootstrap(lambda w: median(own, w) / median(bare, w), people)


def _of_images(run: Run, attack: AttackSettings, defence: Defence | None, n: int) -> Floats:
    """Of the first ``n`` images, in levels of 255: (n,)."""
    victim, parts = run.victim(attack, defence), []
    labels = torch.from_numpy(run.labels[:n])
    cell = run.record.cell(attack.name, attack.quantisation[0], NONE if defence is None else defence.name)
    assert cell is not None  # measures are taken when all cells are there
    fooled = torch.tensor(cell.predicted) != labels
    settings = attack.model_dump(mode="json", include={"eps", "relative_steps", "iterations", "objective", "random_start"})
    for part, seeds in run.context.batches(run.images[:n], "smallest"):
        made_from = {
            "smallest": settings, "steps": STEPS, "range": RANGE, **victim.identity(), "seeds": seeds,
            "images": sha256_of_pixels(run.images[part].numpy()), "labels": labels[part].tolist(),
            "fooled": fooled[part].tolist(),
        }  # fmt: skip
        batch = _Batch(run, attack, victim, run.images[part], labels[part], seeds, ~fooled[part])
        parts.append(run.context.cache.batch(made_from, batch.smallest).images)
    found: Floats = torch.cat(parts).double().numpy()
    return found


@dataclass(frozen=True, eq=False)
class _Batch:
    """Images (B, 3, S, S) of the people ``labels`` (B,), each attacked at an eps of its own."""

    run: Run
    attack: AttackSettings
    victim: Victim
    images: Tensor
    labels: Tensor
    seeds: Sequence[int]
    stand: Tensor  # (B,): which of them the attack does not fool at its own eps
    asked: Iterator[int] = field(default_factory=count)

    def smallest(self) -> Tensor:
        """In levels of 255: (B,)."""
        most = float(self.attack.eps)  # type: ignore[arg-type]
        return bisected(self._fools, len(self.images), most=most, least=most / RANGE, steps=STEPS, stand=self.stand)

    def _fools(self, eps: Tensor) -> Tensor:
        attack, radius = self.attack, (eps / 255)[:, None, None, None]
        assert attack.relative_steps is not None
        first, last = (part * radius for part in attack.relative_steps)
        goal = goal_of(attack, self.victim.seen_with(self.seeds), self.labels)
        starts = self.seeds if attack.random_start else None
        made = pgd(
            goal.objective, self.images, eps=radius, step=first, last_step=last, iterations=attack.iterations, seeds=starts
        )
        return torch.from_numpy(self._named(made)) != self.labels

    def _named(self, images: Tensor) -> NDArray[np.int64]:
        """Whom each is taken for, behind the defence with fresh noise."""
        defence, asked = self.victim.defence, next(self.asked)
        if defence is not None:
            images = defend(defence, images, self.run.context, "smallest", asked, *map(str, self.seeds[:1])).images
        found: NDArray[np.int64] = self.run.recogniser_for(defence).table(images).argmax(1)
        return found


MEASURES.register("smallest_eps", smallest_eps)
