"""Metrics against cases worked by hand, scikit-learn, and Gaussian scores whose rates are known in closed form."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_curve, top_k_accuracy_score

from facesieve.errors import InputError, SettingError
from facesieve.metrics.rates import (
    correct_probability,
    dir_at_far,
    eer,
    far,
    frr,
    identification_rate,
    mean,
    rank_accuracy,
    ranks,
    tar_at_far,
    threshold_at_far,
)

PHI = NormalDist()


def quantiles(count, centre=0.0):
    """The ``count`` middle quantiles of a Gaussian: its distribution without the chance."""
    return centre + np.array([PHI.inv_cdf((i + 0.5) / count) for i in range(count)])


def pairs(seed, count=400, ties=False):
    """Scores and whether each is genuine, in no order."""
    rng = np.random.default_rng(seed)
    genuine = rng.random(count) < 0.3
    scores = rng.normal(size=count) + 1.5 * genuine
    return (np.round(scores, 0) if ties else scores), genuine


# --- closed set ---------------------------------------------------------------------------------


def test_ranks_by_hand():
    scores = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.2, 0.1], [3, 3, 3]]
    assert ranks(scores, [0, 2, 0, 1]).tolist() == [1, 3, 2, 3]  # a tie counts against
    assert rank_accuracy(scores, [0, 2, 0, 1], 1) == 0.25
    assert rank_accuracy(scores, [0, 2, 0, 1], 2) == 0.5
    assert rank_accuracy(scores, [0, 2, 0, 1], 3) == 1
    assert rank_accuracy(scores, [0, 2, 0, 1], 1, weights=[3, 1, 0, 0]) == 0.75


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_scikit_learns(k):
    rng = np.random.default_rng(k)
    scores, labels = rng.normal(size=(200, 12)), rng.integers(12, size=200)
    assert rank_accuracy(scores, labels, k) == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(12)))


def test_probability_of_the_right_class():
    logits = [[0, math.log(3)], [1e4, -1e4], [1e4, -1e4], [-1e4, -1e4]]
    assert correct_probability(logits, [1, 0, 1, 0]) == pytest.approx([0.75, 1, 0, 0.5])


@pytest.mark.parametrize("labels", [[0], [0, 3], [-1, 0], [0.0, 1.0]])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(InputError, match="labels"):
        ranks([[1, 2, 3], [1, 2, 3]], labels)


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_classes(k):
    with pytest.raises(SettingError, match="from 1 to 3"):
        rank_accuracy([[1, 2, 3]], [0], k)


# --- thresholds ---------------------------------------------------------------------------------


def test_the_threshold_by_hand():
    scores = [0.1, 0.2, 0.3, 0.3, 0.5]
    chosen = threshold_at_far(scores, 0.2)
    assert (chosen.value, chosen.wanted, chosen.reached, chosen.impostors) == (np.nextafter(0.3, 1), 0.2, 0.2, 5)
    assert threshold_at_far(scores, 0.59).value == np.nextafter(0.3, 1)  # both 0.3 or none
    assert threshold_at_far(scores, 0.6).value == np.nextafter(0.2, 1)
    assert threshold_at_far(scores, 0.2, weights=[1, 1, 1, 1, 6]).value == np.nextafter(0.5, 1)
    assert threshold_at_far(scores, 0.2, weights=[0, 1, 1, 1, 0]).reached == 0


@pytest.mark.parametrize("wanted", [0.01, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("ties", [False, True])
def test_the_threshold_is_the_smallest_that_will_do(wanted, kind, ties):
    scores = pairs(1, ties=ties)[0].astype(kind)
    chosen = threshold_at_far(scores, wanted)
    below = np.nextafter(kind(chosen.value), kind(-np.inf))
    assert kind(chosen.value) == chosen.value  # it is a number of the scores' own type
    assert far(scores, chosen.value) == np.mean(scores >= kind(chosen.value)) == chosen.reached <= wanted < far(scores, below)


def test_too_few_impostors_for_a_rate():
    with pytest.raises(InputError, match="1000 or more"):
        threshold_at_far(np.arange(999), 0.001)
    assert threshold_at_far(np.arange(1000), 0.001).reached == 0.001


@pytest.mark.parametrize("wanted", [0, 1, -0.1, 2, math.nan])
def test_rates_outside_their_range(wanted):
    with pytest.raises(SettingError, match="between 0 and 1"):
        threshold_at_far(np.arange(9), wanted)


# --- verification -------------------------------------------------------------------------------


def test_rates_by_hand():
    assert far([0.1, 0.4, 0.6, 0.8], 0.6) == 0.5  # at the threshold is accepted
    assert frr([0.5, 0.6, 0.7, 0.9], 0.6) == 0.25
    assert far([0.1, 0.6], 0.6, weights=[3, 1]) == 0.25
    scores, genuine = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([True, False, True, True, False, False])
    assert tar_at_far(scores, genuine, 0.34) == 1  # one impostor of three may pass: 0.8
    assert tar_at_far(scores, genuine, 1 / 3) == 1
    assert tar_at_far(scores[:-1], genuine[:-1], 0.5) == 1
    # FAR and FRR from the highest score on: (0, 2/3), (1/3, 2/3), (1/3, 1/3): they meet there.
    assert eer(scores, genuine) == pytest.approx(1 / 3)


@pytest.mark.parametrize("overlap", [-1, 1])
def test_the_best_and_the_worst(overlap):
    scores, genuine = np.arange(40) * overlap, np.arange(40) < 20
    assert eer(scores, genuine) == (overlap > 0)
    assert tar_at_far(scores, genuine, 0.05) == (overlap < 0)


def test_equal_scores_are_interpolated():
    # FAR and FRR: (0, 1), (0, 1/2), (1, 0): FAR = t, FRR = (1 - t) / 2 meet at t = 1/3.
    assert eer([2, 1, 1], [True, True, False]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed, ties):
    scores, genuine = pairs(seed, ties=ties)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(float)
    accepts, true_accepts, _ = roc_curve(genuine, scores, sample_weight=weights, drop_intermediate=False)
    for wanted in (0.01, 0.1, 0.3):
        assert tar_at_far(scores, genuine, wanted, weights) == pytest.approx(true_accepts[accepts <= wanted].max())
    low, high = 0.0, 1.0  # FRR - FAR along the polyline, by bisection over its length
    along = np.linspace(0, 1, len(accepts))
    for _ in range(60):
        middle = (low + high) / 2
        ahead = np.interp(middle, along, accepts) < 1 - np.interp(middle, along, true_accepts)
        low, high = (middle, high) if ahead else (low, middle)
    assert eer(scores, genuine, weights) == pytest.approx(np.interp(low, along, accepts))


@pytest.mark.parametrize("apart", [0.5, 2.0, 4.0])
def test_gaussian_scores(apart):
    """Of N(0, 1) and N(d, 1): EER = Phi(-d / 2), TAR at FAR = Phi(d - Phi^-1(1 - FAR))."""
    scores, genuine = np.concatenate([quantiles(20_000), quantiles(20_000, apart)]), np.arange(40_000) >= 20_000
    assert eer(scores, genuine) == pytest.approx(PHI.cdf(-apart / 2), abs=1e-4)
    for wanted in (0.001, 0.01, 0.1):
        assert tar_at_far(scores, genuine, wanted) == pytest.approx(PHI.cdf(apart - PHI.inv_cdf(1 - wanted)), abs=2e-3)


def test_a_weight_of_two_is_the_observation_twice():
    scores, genuine = pairs(3)
    weights = np.random.default_rng(3).integers(0, 3, len(scores))
    twice, of_one = np.repeat(scores, weights), np.repeat(genuine, weights)
    assert eer(scores, genuine, weights) == pytest.approx(eer(twice, of_one))
    assert tar_at_far(scores, genuine, 0.05, weights) == pytest.approx(tar_at_far(twice, of_one, 0.05))
    assert dir_at_far(scores, scores > 1, genuine, 0.05, weights) == pytest.approx(dir_at_far(twice, twice > 1, of_one, 0.05))


# --- identification -----------------------------------------------------------------------------


def test_detection_and_identification_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.6, 0.5, 0.4, 0.2])
    known = np.array([True, True, True, True, False, False, False, False])
    correct = np.array([True, False, True, True, False, False, False, False])
    assert identification_rate(scores[known], correct[known], 0.7) == 0.5  # one is somebody else, one under the threshold
    assert dir_at_far(scores, correct, known, 0.25) == 0.5  # the threshold just above 0.5
    assert dir_at_far(scores, correct, known, 0.99) == 0.75  # just above 0.2: only the wrong name is left


def test_detection_and_identification_of_gaussian_scores():
    """DIR = share of correct names x TAR, where the name does not depend on the score."""
    scores = np.concatenate([quantiles(10_000), np.repeat(quantiles(5_000, 2.0), 4)])
    known, correct = np.arange(30_000) >= 10_000, np.arange(30_000) % 4 > 0
    assert dir_at_far(scores, correct, known, 0.01) == pytest.approx(0.75 * PHI.cdf(2 - PHI.inv_cdf(0.99)), abs=2e-3)


# --- refused ------------------------------------------------------------------------------------

BOTH = np.arange(8) % 2 == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite(wrong):
    scores = np.array([*np.linspace(0, 1, 7), wrong])
    for measured in [
        lambda: threshold_at_far(scores, 0.5),
        lambda: far(scores, 0.5),
        lambda: frr(scores, 0.5),
        lambda: eer(scores, BOTH),
        lambda: tar_at_far(scores, BOTH, 0.5),
        lambda: dir_at_far(scores, BOTH, BOTH, 0.5),
        lambda: identification_rate(scores, BOTH, 0.5),
        lambda: ranks(scores.reshape(4, 2), [0, 1, 0, 1]),
        lambda: correct_probability(scores.reshape(4, 2), [0, 1, 0, 1]),
        lambda: mean(scores),
    ]:
        with pytest.raises(InputError, match="not finite"):
            measured()


def test_nothing_to_measure():
    for measured in [
        lambda: threshold_at_far([], 0.5),
        lambda: far([], 0.5),
        lambda: frr([], 0.5),
        lambda: eer([], []),
        lambda: identification_rate([], [], 0.5),
        lambda: ranks(np.zeros((0, 3)), []),
        lambda: mean([]),
    ]:
        with pytest.raises(InputError, match="not empty"):
            measured()


def test_scores_that_are_all_the_same():
    for measured in [
        lambda: threshold_at_far(np.ones(8), 0.5),
        lambda: eer(np.ones(8), BOTH),
        lambda: tar_at_far(np.ones(8), BOTH, 0.5),
        lambda: dir_at_far(np.ones(8), BOTH, BOTH, 0.5),
    ]:
        with pytest.raises(InputError, match="all . .*scores are 1"):
            measured()


def test_only_one_kind_of_pair():
    for flags, missing in [(np.ones(8, bool), "pairs of two people"), (np.zeros(8, bool), "pairs of one person")]:
        with pytest.raises(InputError, match=f"no {missing}"):
            eer(np.arange(8), flags)
    with pytest.raises(InputError, match="no unknown probes"):
        dir_at_far(np.arange(8), BOTH, np.ones(8, bool), 0.5)
    with pytest.raises(InputError, match="true or false"):
        eer(np.arange(8), np.arange(8))
