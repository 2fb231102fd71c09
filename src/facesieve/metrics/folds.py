"""Accuracy of verification by folds: in each, the threshold is the one that was best on all the others.

The protocol of Labeled Faces in the Wild (Huang et al. 2007) and of the sets after it. Folds are blocks of pairs in their order,
as ``sklearn.model_selection.KFold`` makes them without shuffling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facesieve.errors import InputError, SettingError


@dataclass(frozen=True)
class Folds:
    """What was right in each fold, and at which threshold, a cosine; a pair is of one person where its score >= threshold."""

    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean accuracy, in [0, 1]."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """The standard deviation of the folds' accuracies, which the field prints behind the mean."""
        return float(np.std(self.accuracies))


def accuracy_by_folds(scores: ArrayLike, same: ArrayLike, folds: int = 10) -> Folds:
    """Accuracy of ``scores`` (N,) of pairs, ``same`` (N,) true where they are of one person.

    Raises ``InputError`` for scores that are not finite, other shapes or fewer pairs than folds; ``SettingError`` for one fold.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(same, np.bool_)
    if folds < 2:
        raise SettingError(f"{folds} folds: two or more are needed")
    if values.ndim != 1 or values.shape != truth.shape or not np.isfinite(values).all():
        raise InputError(f"scores are finite numbers, one a pair; these have shape {values.shape} for {truth.shape} pairs")
    if len(values) < folds:
        raise InputError(f"{len(values)} pairs are fewer than {folds} folds")
    accuracies, thresholds = [], []
    for held_out in np.array_split(np.arange(len(values)), folds):
        others = np.ones(len(values), np.bool_)
        others[held_out] = False
        threshold = best_threshold(values[others], truth[others])
        accuracies.append(float(((values[held_out] >= threshold) == truth[held_out]).mean()))
        thresholds.append(threshold)
    return Folds(tuple(accuracies), tuple(thresholds))


def best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The threshold at which most pairs are right: half way between two scores, of several the lowest.

    Where nothing, or everything, is best accepted, it lies half a unit beyond the scores.
    """
    order = np.argsort(scores, kind="stable")
    ranked, truth = scores[order], same[order]
    # right[k]: pairs that are right where the k lowest are refused
    right = np.concatenate([[0], np.cumsum(~truth)]) + truth.sum() - np.concatenate([[0], np.cumsum(truth)])
    ends = np.concatenate([[ranked[0] - 1], ranked, [ranked[-1] + 1]])
    between = ends[1:] > ends[:-1]  # equal scores are refused or accepted together
    place = int(np.argmax(np.where(between, right, -1)))
    return float((ends[place] + ends[place + 1]) / 2)
