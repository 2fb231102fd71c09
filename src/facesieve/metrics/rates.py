"""How well people are identified, as numbers: plain arrays in, float64 inside.

Verification (1:1) compares two photographs: a pair is genuine (one person) or impostor (two people).
Identification (1:N) compares a probe with everyone in a gallery; a probe is known or unknown there.
A comparison is accepted where its score >= threshold. The terms are those of ISO/IEC 19795-1:2021,
"Biometric performance testing and reporting"; for identification of Grother, Ngan, Hanaoka, "Face
Recognition Vendor Test Part 2: Identification", NISTIR 8271, 2019; DIR is of Phillips, Grother,
Micheals, "Evaluation Methods in Face Recognition", Handbook of Face Recognition, 2005.

Functions take ``weights``, one >= 0 for each observation, 1 where none are given: an observation of
weight 2 counts as if it were there twice. That is how ``intervals.bootstrap`` resamples. Where the
weights leave nothing to count, the answer is nan. Empty and non-finite data are an ``InputError``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facesieve.errors import InputError, SettingError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """A threshold that was chosen from impostor scores for a false-accept rate."""

    value: float  # accepted where score >= value
    wanted: float  # false-accept rate that was asked for
    reached: float  # share of the impostor scores >= value; at most ``wanted``
    impostors: int  # scores that it was chosen from


# --- closed set: one score for each of C classes ------------------------------------------------


def ranks(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """The place of the correct class among all, from 1 (best) to C: (N,), of ``scores`` (N, C) and ``labels`` (N,).

    A tie counts against: the correct class stands behind every class with the same score. Raises
    ``InputError`` for shapes that do not fit and for labels outside 0 ... C - 1.
    """
    table, correct = _table(scores, labels)
    places: NDArray[np.int64] = (table >= correct[:, None]).sum(1, dtype=np.int64)
    return places


def rank_accuracy(scores: ArrayLike, labels: ArrayLike, k: int, weights: ArrayLike | None = None) -> float:
    """Top-k accuracy in [0, 1]: how often the correct class is among the ``k`` best; a tie counts against.

    For an interval compute ``ranks`` once, and bootstrap ``mean(ranks <= k, weights)``. Raises
    ``SettingError`` for a ``k`` outside 1 ... C.
    """
    places = ranks(scores, labels)
    classes = np.shape(scores)[1]
    if not 1 <= k <= classes:
        raise SettingError(f"top-{k} of {classes} classes: k goes from 1 to {classes}")
    return mean(places <= k, weights)


def correct_probability(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """The softmax probability of the correct class, (N,) in [0, 1], of ``logits`` (N, C) and ``labels`` (N,)."""
    table, correct = _table(logits, labels)
    highest = table.max(1)
    # p = exp(l_y) / sum_c exp(l_c), all l less the highest: nothing overflows
    probability: Floats = np.exp(correct - highest) / np.exp(table - highest[:, None]).sum(1)
    return probability


# --- verification: scores of pairs --------------------------------------------------------------


def threshold_at_far(impostor_scores: ArrayLike, far: float, weights: ArrayLike | None = None) -> Threshold:
    """The smallest threshold at which the share of ``impostor_scores`` (N,) at or above it is at most ``far``.

    "Smallest" in the type of the scores: the next number above the highest score that must be
    refused. So it serves both the scores in their own type and in float64. Raises ``SettingError``
    for a ``far`` outside (0, 1); ``InputError`` for fewer than 1 / far scores, of which not one could
    be accepted, and for scores that are all the same.
    """
    _check_far(far)
    own_type = np.asarray(impostor_scores).dtype
    scores = _finite(impostor_scores, "impostor scores")
    check_count(len(scores), far)
    if scores.min() == scores.max():
        raise InputError(f"all {len(scores)} impostor scores are {scores[0]:g}: no threshold can be chosen from them")
    order = np.argsort(-scores, kind="stable")  # linear in time where the scores come in order
    share = np.cumsum(_weights(weights, scores)[order])
    if share[-1] == 0:
        return Threshold(math.nan, far, math.nan, len(scores))
    refused = scores[order][np.argmax(share / share[-1] > far)]
    kind = own_type if np.issubdtype(own_type, np.floating) else np.dtype(np.float64)
    value = float(np.nextafter(kind.type(refused), kind.type(np.inf)))
    return Threshold(value, far, mean(scores >= value, weights), len(scores))


def check_count(count: int, far: float, what: str = "impostor scores") -> None:
    """Raises ``InputError`` for fewer than 1 / ``far``, of which not one could be accepted, ``SettingError`` for a wrong rate."""
    _check_far(far)
    if count * far < 1 - 1e-9:
        needed = math.ceil(1 / far - 1e-9)
        raise InputError(f"{count} {what} cannot resolve a false-accept rate of {far:g}: it takes {needed} or more")


def _check_far(far: float) -> None:
    if not 0 < far < 1:
        raise SettingError(f"false-accept rate {far}: it lies between 0 and 1, both left out")


def far(impostor_scores: ArrayLike, threshold: float, weights: ArrayLike | None = None) -> float:
    """False-accept rate in [0, 1]: the share of impostor scores (N,) >= ``threshold``.

    Of the best scores of unknown probes it is the FPIR of open-set identification.
    """
    return mean(_finite(impostor_scores, "impostor scores") >= threshold, weights)


def frr(genuine_scores: ArrayLike, threshold: float, weights: ArrayLike | None = None) -> float:
    """False-reject rate in [0, 1]: the share of genuine scores (N,) < ``threshold``."""
    return mean(_finite(genuine_scores, "genuine scores") < threshold, weights)


def tar_at_far(scores: ArrayLike, genuine: ArrayLike, far: float, weights: ArrayLike | None = None) -> float:
    """True-accept rate in [0, 1], 1 - FRR, at the threshold that the impostors among the pairs give for ``far``.

    ``scores`` (N,); ``genuine`` (N,), true for pairs of one person. Raises as ``threshold_at_far``.
    """
    values, of_one = _split(scores, genuine, "pairs of one person", "pairs of two people")
    counts = _weights(weights, values)
    threshold = threshold_at_far(np.asarray(scores)[~of_one], far, counts[~of_one]).value
    return math.nan if math.isnan(threshold) else 1 - frr(values[of_one], threshold, counts[of_one])


def eer(scores: ArrayLike, genuine: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Equal error rate in [0, 1]: where the false-accept and the false-reject rate are the same.

    Between the thresholds that the data know, both rates are interpolated linearly: it is the point
    FAR = FRR on the polyline through (FAR(t), FRR(t)) of every distinct score t, from (0, 1) where
    nothing is accepted to (1, 0). ``scores`` (N,); ``genuine`` (N,), true for pairs of one person.
    Raises ``InputError`` where either kind of pair is missing and where all scores are the same.
    """
    values, of_one = _split(scores, genuine, "pairs of one person", "pairs of two people")
    if values.min() == values.max():
        raise InputError(f"all {len(values)} scores are {values[0]:g}: they tell nobody from anybody")
    order = np.argsort(-values, kind="stable")
    counts, of_one, values = _weights(weights, values)[order], of_one[order], values[order]
    genuine_sum, impostor_sum = np.cumsum(counts * of_one), np.cumsum(counts * ~of_one)
    if genuine_sum[-1] == 0 or impostor_sum[-1] == 0:
        return math.nan
    ends = np.append(values[:-1] > values[1:], True)  # equal scores are accepted together
    accepts = np.append(0.0, impostor_sum[ends] / impostor_sum[-1])
    rejects = np.append(1.0, 1 - genuine_sum[ends] / genuine_sum[-1])
    excess = accepts - rejects  # rises from -1 to 1
    after = int(np.argmax(excess >= 0))
    step = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(accepts[after - 1] + step * (accepts[after] - accepts[after - 1]))


# --- identification: the best match of each probe -----------------------------------------------


def identification_rate(scores: ArrayLike, correct: ArrayLike, threshold: float, weights: ArrayLike | None = None) -> float:
    """Detection and identification rate (DIR) in [0, 1] of known probes at a given threshold.

    The share of probes whose best match is the correct person and has a score >= ``threshold``:
    1 - FNIR at rank 1. ``scores`` (N,) of the best matches; ``correct`` (N,), whether it is the person.
    """
    values = _finite(scores, "best scores")
    return mean(_flags(correct, values, "correct") & (values >= threshold), weights)


def dir_at_far(scores: ArrayLike, correct: ArrayLike, known: ArrayLike, far: float, weights: ArrayLike | None = None) -> float:
    """DIR of the known probes at the threshold that the unknown probes' best scores give for ``far`` (FPIR).

    ``scores`` (N,) of the best matches of all probes; ``known`` (N,), whether the probe's person is
    in the gallery; ``correct`` (N,), whether the best match is that person (not looked at for unknown
    probes). Raises as ``threshold_at_far``.
    """
    values, enrolled = _split(scores, known, "known probes", "unknown probes", "known")
    matched, counts = _flags(correct, values, "correct"), _weights(weights, values)
    threshold = threshold_at_far(np.asarray(scores)[~enrolled], far, counts[~enrolled]).value
    if math.isnan(threshold):
        return math.nan
    return identification_rate(values[enrolled], matched[enrolled], threshold, counts[enrolled])


# --- what they share ----------------------------------------------------------------------------


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The weighted mean of ``values`` (N,): of true and false a share, of probabilities their mean."""
    numbers = _finite(values, "values")
    if weights is None:
        return float(numbers.mean())
    counts = _weights(weights, numbers)
    total = float(counts.sum())
    return float(numbers @ counts) / total if total > 0 else math.nan


def quantile(values: ArrayLike, share: float, weights: ArrayLike | None = None) -> float:
    """The smallest of ``values`` (N,) at or under which this share of the weights lies; nan where these sum to nothing."""
    found = _finite(values, "values")
    order = np.argsort(found)
    below = np.cumsum(_weights(weights, found)[order])
    return float(found[order][np.searchsorted(below, share * below[-1] - 1e-9)]) if below[-1] > 0 else math.nan


def median(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """``quantile`` of one half."""
    return quantile(values, 0.5, weights)


def _finite(values: ArrayLike, what: str, axes: int = 1) -> Floats:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != axes or numbers.size == 0:
        wanted = "(N,)" if axes == 1 else "(N, C)"
        raise InputError(f"{what} have shape {wanted} and are not empty; these are {numbers.shape}")
    if not (finite := np.isfinite(numbers)).all():
        raise InputError(f"{(~finite).sum()} of {numbers.size} are not finite", what, "look at how they were computed")
    return numbers


def _table(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Scores (N, C), and of them those of the correct classes (N,)."""
    table, correct = _finite(scores, "scores of classes", axes=2), np.asarray(labels)
    count, classes = table.shape
    if correct.shape != (count,) or not np.issubdtype(correct.dtype, np.integer):
        raise InputError(
            f"labels are {count} integers, one for each row of scores; these are {correct.dtype} of shape {correct.shape}"
        )
    if correct.min() < 0 or correct.max() >= classes:
        raise InputError(f"labels from {correct.min()} to {correct.max()} do not fit {classes} classes: they count from 0")
    return table, table[np.arange(count), correct]


def _flags(values: ArrayLike, scores: Floats, what: str) -> Flags:
    flags = np.asarray(values)
    if flags.shape != scores.shape or flags.dtype != np.bool_:
        raise InputError(
            f"`{what}` is true or false for each of {len(scores)} scores; this is {flags.dtype} of shape {flags.shape}"
        )
    return flags


def _split(scores: ArrayLike, flags: ArrayLike, true: str, false: str, what: str = "genuine") -> tuple[Floats, Flags]:
    """Scores and flags of which both kinds are there."""
    values = _finite(scores, "scores")
    chosen = _flags(flags, values, what)
    if not chosen.any() or chosen.all():
        raise InputError(f"there are no {false if chosen.all() else true} among {len(values)} scores; both kinds are needed")
    return values, chosen


def _weights(weights: ArrayLike | None, values: Floats) -> Floats:
    if weights is None:
        return np.ones(len(values))
    counts = np.asarray(weights, np.float64)
    if counts.shape != values.shape or not (counts >= 0).all():
        raise InputError(f"weights are {len(values)} numbers, none below 0; these have shape {counts.shape}")
    return counts
