"""Accuracy by folds, against a closed form, every threshold tried, and scikit-learn's folds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facesieve.errors import InputError, SettingError
from facesieve.metrics.folds import accuracy_by_folds


def by_trying(scores, same, folds):
    """Every threshold half way between two scores, one after the other."""
    from sklearn.model_selection import KFold

    accuracies = []
    for others, held_out in KFold(folds, shuffle=False).split(scores):
        known = sorted(set(scores[others]))
        tried = [known[0] - 0.5, *((a + b) / 2 for a, b in pairwise(known)), known[-1] + 0.5]
        right = [
            sum((score >= threshold) == truth for score, truth in zip(scores[others], same[others], strict=True))
            for threshold in tried
        ]
        threshold = tried[right.index(max(right))]
        accuracies.append(
            np.mean([(score >= threshold) == truth for score, truth in zip(scores[held_out], same[held_out], strict=True)])
        )
    return accuracies


@given(st.lists(st.tuples(st.integers(-8, 8), st.booleans()), min_size=10, max_size=40), st.sampled_from([2, 5, 10]))
@settings(max_examples=80)
def test_against_every_threshold_tried(pairs, folds):
    scores = np.array([score / 8 for score, _ in pairs])
    same = np.array([truth for _, truth in pairs])
    np.testing.assert_allclose(accuracy_by_folds(scores, same, folds).accuracies, by_trying(scores, same, folds))


def test_two_kinds_apart_are_told_apart_half_way():
    scores, same = np.tile([0.2, 0.7, 0.1, 0.9], 10), np.tile([False, True, False, True], 10)
    found = accuracy_by_folds(scores, same)
    assert found.mean == 1
    assert found.deviation == 0
    np.testing.assert_allclose(found.thresholds, np.full(10, 0.45))


def test_one_fold_that_goes_against_the_others():
    """By hand: nine folds of four are all right, in the tenth labels are exchanged; it gets nothing right."""
    scores, same = np.tile([0.2, 0.7, 0.1, 0.9], 10), np.tile([False, True, False, True], 10)
    same[-4:] ^= True
    found = accuracy_by_folds(scores, same)
    assert found.accuracies == (1,) * 9 + (0,)
    assert found.mean == pytest.approx(0.9)
    assert found.deviation == pytest.approx(0.3)


def test_equal_scores_are_decided_together():
    """Seven genuine and three impostor pairs of one score: all are accepted."""
    assert accuracy_by_folds(np.full(20, 0.5), np.tile([True] * 7 + [False] * 3, 2), 2).accuracies == (0.7, 0.7)


def test_what_cannot_be_folded():
    with pytest.raises(InputError, match="fewer than 10 folds"):
        accuracy_by_folds([0.1, 0.2], [True, False])
    with pytest.raises(InputError, match="finite"):
        accuracy_by_folds([np.nan] * 10, [True] * 10)
    with pytest.raises(InputError, match="finite"):
        accuracy_by_folds([0.5] * 10, [True] * 9)
    with pytest.raises(SettingError, match="two or more"):
        accuracy_by_folds([0.1] * 10, [True] * 10, 1)
