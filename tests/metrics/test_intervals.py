"""Bootstrap over people: cases worked by hand, the normal interval, and coverage of simulated people."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from facesieve.errors import InputError, SettingError
from facesieve.metrics.intervals import Estimate, Means, bootstrap, of_difference, of_share
from facesieve.metrics.rates import dir_at_far, mean


def test_an_interval_by_hand():
    """Two people, one always recognised: a draw has none, one or both of them, with 1/4, 1/2, 1/4."""
    hits, people = np.array([1, 1, 0, 0]), ["a", "a", "b", "b"]
    whole = bootstrap(lambda w: mean(hits, w), people)
    assert (whole.value, whole.low, whole.high, whole.n, whole.identities) == (0.5, 0, 1, 4, 2)
    half = bootstrap(lambda w: mean(hits, w), people, level=0.4)
    assert (half.low, half.high) == (0.5, 0.5)
    assert str(whole) == "0.500 [0.000, 1.000] (n = 4, 2 people)"


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=400)
    told = bootstrap(lambda w: mean(values, w), np.arange(400))
    assert np.array([told.low, told.high]) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * values.std() / 20, abs=0.01)


def test_the_same_seed_the_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    a, b, c = (bootstrap(lambda w: mean(values, w), np.arange(50), seed=seed, draws=100) for seed in (1, 1, 2))
    assert a == b != c


def test_weights_of_pairs_are_products_but_for_genuine_ones():
    seen = []
    people = [["a", "a"], ["b", "b"], ["c", "c"], ["a", "b"], ["b", "c"], ["c", "a"]]
    bootstrap(lambda w: seen.append(w) or 0.0, people, draws=50)
    assert seen[0].tolist() == [1] * 6
    for a, b, c, ab, bc, ca in seen[1:]:
        assert a + b + c == 3
        assert (ab, bc, ca) == (a * b, b * c, c * a)


def covered(simulate, repeats, **settings):
    """How often the 95 % interval of ``simulate(rng) -> (statistic, identities)`` holds the true value 0."""
    inside = 0
    for repeat in range(repeats):
        statistic, identities = simulate(np.random.default_rng(repeat))
        told = bootstrap(statistic, identities, draws=150, seed=repeat, **settings)
        inside += told.low <= 0 <= told.high
    return inside / repeats


def photographs(rng, by_photograph=False):
    """40 people of 5 photographs each; people differ as much as photographs do."""
    values = (rng.normal(size=(40, 1)) + rng.normal(size=(40, 5))).ravel()
    return lambda w: mean(values, w), np.arange(200) if by_photograph else np.repeat(np.arange(40), 5)


def impostors(rng, by_pair=False):
    """All pairs of 30 people; each person is more or less like everyone, and pairs differ too."""
    first, second = np.triu_indices(30, 1)
    likeness = rng.normal(size=30)
    values = likeness[first] + likeness[second] + rng.normal(size=len(first))
    return lambda w: mean(values, w), np.arange(len(first)) if by_pair else np.stack([first, second], 1)


@pytest.mark.parametrize("simulate", [photographs, impostors])
def test_coverage(simulate):
    """95 % wanted; 200 simulations tell it to 3 % or so. Photographs or pairs as if independent: far too narrow."""
    assert 0.90 <= covered(simulate, 200) <= 0.99
    assert covered(lambda rng: simulate(rng, True), 60) < 0.85


def constant(weights):
    return 1.0


def undefined(weights):
    return math.nan


def test_what_has_no_interval():
    with pytest.raises(InputError, match="at least two people; these are all of a"):
        bootstrap(constant, ["a", "a"])
    with pytest.raises(InputError, match="not empty"):
        bootstrap(constant, [])
    with pytest.raises(InputError, match="shape"):
        bootstrap(constant, [["a", "b", "c"]])
    with pytest.raises(InputError, match="nothing to resample"):
        bootstrap(undefined, ["a", "b"])
    with pytest.raises(InputError, match="too few people"):
        bootstrap(lambda w: 1.0 if w.min() == w.max() == 1 else math.nan, [*"abcd"])
    for wrong in [{"draws": 0}, {"level": 0}, {"level": 1}]:
        with pytest.raises(SettingError):
            bootstrap(constant, ["a", "b"], **wrong)


@pytest.mark.parametrize("people", [2, 3, 21, 105])
@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_has_the_interval_of_clopper_and_pearson(people, right):
    """Each person with two photographs: people are counted, not photographs. Against SciPy's."""
    hits = np.full(2 * people, float(right))
    drawn = bootstrap(lambda w: mean(hits, w), np.arange(2 * people) // 2, draws=20)
    assert (drawn.low, drawn.high) == (right, right)
    for level in (0.95, 0.8):
        exact = binomtest(people if right else 0, people).proportion_ci(level, method="exact")
        told = of_share(drawn, level=level)
        assert (told.low, told.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
        assert (told.value, told.n, told.identities) == (right, 2 * people, people)
    fewer = binomtest(right, 1).proportion_ci(0.95, method="exact")
    assert of_share(drawn, people=1).low == pytest.approx(fewer.low)


def test_what_draws_tell_apart_stays_as_it_is():
    for found in (
        bootstrap(lambda w: mean(np.array([1.0, 0.0, 1.0]), w), [0, 1, 2], draws=50),
        Estimate(1.0, math.nan, math.nan, 4, 1),
        Estimate(0.5, 0.5, 0.5, 4, 2),
    ):
        assert repr(of_share(found)) == repr(found) == repr(of_difference(found))


def test_where_nobody_differs_the_difference_is_as_large_as_some_may_either_way():
    exact = binomtest(0, 40).proportion_ci(0.95, method="exact")
    told = of_difference(Estimate(0.0, 0.0, 0.0, 80, 40))
    assert (told.value, told.low, told.high) == (0, pytest.approx(-exact.high), pytest.approx(exact.high))
    everybody = Estimate(1.0, 1.0, 1.0, 80, 40)
    assert of_difference(everybody) == of_share(everybody)


def test_draws_that_leave_nothing_to_count_are_left_out():
    scores, known = np.arange(40) * 1.0, np.arange(40) % 2 == 0
    people = np.where(known, np.arange(40), 100 + np.arange(40) // 20)  # all unknown probes are of two people
    told = bootstrap(lambda w: dir_at_far(scores, known, known, 0.1, w), people, draws=200)
    assert 0 <= told.low <= told.value <= told.high <= 1


def test_means_over_shared_draws_are_those_of_the_bootstrap():
    rng = np.random.default_rng(5)
    people, clean, attacked = rng.integers(12, size=80), rng.random(80) < 0.9, rng.random(80)
    means = Means(people, draws=300)
    shared = means.estimate(means.of(clean) - means.of(attacked))
    alone = bootstrap(lambda w: mean(clean, w) - mean(attacked, w), people, draws=300)
    assert (shared.n, shared.identities) == (alone.n, alone.identities)
    assert (shared.value, shared.low, shared.high) == pytest.approx((alone.value, alone.low, alone.high), abs=1e-12)
    with pytest.raises(InputError, match="at least two people"):
        Means(["a", "a"])
    with pytest.raises(InputError, match="nothing to resample"):
        means.estimate(np.full(301, np.nan))
    with pytest.raises(SettingError):
        Means(people, level=1)
