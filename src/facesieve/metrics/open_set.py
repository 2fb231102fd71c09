"""The threshold under which a best match is `unknown`, chosen from photographs of known people.

Leave one person out: what a probe scores against the templates of everyone else is what it would
score if its person were unknown. The threshold is chosen from those best scores for a desired
false-accept rate (``metrics.threshold_at_far``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facesieve.errors import InputError
from facesieve.metrics.intervals import Estimate, bootstrap, of_share
from facesieve.metrics.rates import far, frr, identification_rate, threshold_at_far
from facesieve.rows import unit_rows

Floats = NDArray[np.float64]

CHUNK = 1024  # probes at a time: bounds the memory for their cosines with all templates


@dataclass(frozen=True)
class OpenSet:
    """A threshold and what it does; intervals are over the people of the probes."""

    threshold: Estimate  # cosine; its interval is over thresholds chosen from resampled people
    wanted: float  # desired false-accept rate
    reached: Estimate  # false-accept rate of the probes as unknowns, at the threshold
    dir: Estimate | None  # known probes whose best match is correct and at or above the threshold
    frr: Estimate | None  # known probes that are answered `unknown`; 1 - DIR - FRR get a wrong name


def calibrate_threshold(
    probes: ArrayLike,
    probe_people: Sequence[str],
    templates: ArrayLike,
    template_people: Sequence[str],
    wanted: float,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> OpenSet:
    """The open-set threshold for a ``wanted`` false-accept rate, with DIR and FRR against the full gallery.

    ``probes`` (N, D) and ``templates`` (M, D): unit rows of one embedder, and whose each is. A probe
    must not be of a photograph that a template was made from, or DIR and FRR flatter. Probes of people
    who have no template are unknown as they are. DIR and FRR are of the others, at the threshold as
    it is; they are None where fewer than two people are among those.

    The gallery is taken as it is, not resampled; each probe is left out against one person fewer
    than a true unknown would meet. Raises ``InputError`` for rows that are not finite unit rows of
    one length, probes without a template of anybody else, fewer than 1 / wanted probes, probes of one
    person only; ``SettingError`` for a rate outside (0, 1).
    """
    people = np.asarray(probe_people, np.str_)
    genuine, impostor = best_scores(probes, probe_people, templates, template_people)
    chosen = threshold_at_far(impostor, wanted)
    order = np.argsort(-impostor)  # in order, each draw's threshold is found in linear time
    ordered = impostor[order]
    threshold = bootstrap(lambda w: threshold_at_far(ordered, wanted, w).value, people[order], draws=draws, seed=seed)
    reached = of_share(bootstrap(lambda w: far(impostor, chosen.value, w), people, draws=draws, seed=seed))
    known = np.isfinite(genuine)
    if len(np.unique(people[known])) < 2:
        return OpenSet(threshold, wanted, reached, None, None)
    best, correct = np.maximum(genuine, impostor)[known], (genuine > impostor)[known]  # a tie counts against
    found = bootstrap(lambda w: identification_rate(best, correct, chosen.value, w), people[known], draws=draws, seed=seed)
    missed = bootstrap(lambda w: frr(best, chosen.value, w), people[known], draws=draws, seed=seed)
    return OpenSet(threshold, wanted, reached, of_share(found), of_share(missed))


def best_scores(
    probes: ArrayLike, probe_people: Sequence[str], templates: ArrayLike, template_people: Sequence[str]
) -> tuple[Floats, Floats]:
    """Each probe's best cosine with the templates of its own person (N,), and with those of everyone else (N,).

    The first is -inf for a person without templates. Raises as ``calibrate_threshold``.
    """
    rows, owners = _unit_rows(probes, "probes", probe_people)
    gallery, enrolled = _unit_rows(templates, "templates", template_people)
    if rows.shape[1] != gallery.shape[1]:
        raise InputError(f"probes have {rows.shape[1]} dimensions and templates {gallery.shape[1]}: two embedders do not compare")
    genuine, impostor = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        cosines = rows[part] @ gallery.T  # (chunk, M)
        same = owners[part, None] == enrolled
        genuine[part] = np.where(same, cosines, -np.inf).max(1)
        impostor[part] = np.where(same, -np.inf, cosines).max(1)
    if not np.isfinite(impostor).all():
        raise InputError("the templates are all of one person: leaving one person out takes templates of at least two")
    return genuine, impostor


def _unit_rows(values: ArrayLike, what: str, people: Sequence[str]) -> tuple[Floats, NDArray[np.str_]]:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.size == 0 or len(rows) != len(people):
        raise InputError(
            f"{what} are rows (N, D), not empty, and a name for each; these are {rows.shape} with {len(people)} names"
        )
    unit_rows(rows, what)
    return rows, np.asarray(people, np.str_)
