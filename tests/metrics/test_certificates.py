"""The statistics of randomised smoothing, held against SciPy and against a classifier whose radius is known."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm

from facesieve.defences.smoothing import votes
from facesieve.errors import SettingError
from facesieve.metrics.certificates import lower_bound, radius


@pytest.mark.parametrize(("count", "n"), [(1, 1), (3, 10), (99, 100), (100, 100), (990, 1000), (1000, 1000)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_clopper_and_pearsons(count, n, alpha):
    assert lower_bound(count, n, alpha) == pytest.approx(beta.ppf(alpha, count, n - count + 1), abs=1e-9)


def test_nothing_is_known_of_no_hits():
    assert lower_bound(0, 10) == 0
    assert radius(0, 10, 0.5) == 0


@pytest.mark.parametrize(("count", "n", "alpha"), [(2, 1, 0.1), (-1, 5, 0.1), (0, 0, 0.1), (1, 2, 0.0), (1, 2, 1.0)])
def test_counts_that_cannot_be_are_refused(count, n, alpha):
    with pytest.raises(SettingError, match="no such count"):
        lower_bound(count, n, alpha)


def test_the_radius_is_cohens():
    assert radius(990, 1000, 0.25, 0.001) == pytest.approx(0.25 * norm.ppf(beta.ppf(0.001, 990, 11)))
    assert radius(510, 1000, 0.25, 0.001) == 0  # more than half, which is not proved


def test_a_plane_is_certified_to_less_than_its_distance_and_to_almost_all_of_it():
    """Of a half space the smoothed answer changes exactly at the plane: its true radius is the distance."""
    sigma, distance, shape = 0.08, 0.13, (3, 16, 16)  # grey is six sigmas from what is clipped
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    normal /= normal.norm()
    crop = torch.full(shape, 0.5)
    threshold = (normal * crop).sum() - distance

    def beyond(crops):  # 1 on the crop's side of the plane
        return ((crops * normal).sum((1, 2, 3)) > threshold).long().numpy()

    def no_prior(u, level):
        assert level == 2 * sigma  # in the prior's range
        return u

    found = [
        votes(no_prior, [beyond], crop, sigma, first=20, draws=2000, seed=seed)[0]  # type: ignore[arg-type]
        for seed in range(20)
    ]
    assert {vote.top for vote in found} == {1}
    radii = np.array([radius(vote.count, vote.draws, sigma, 0.001) for vote in found])
    assert (radii <= distance).all()
    assert radii.min() > 0.75 * distance


def test_several_recognisers_see_the_same_draws():
    seen = {1: [], 2: []}
    namers = [lambda crops, n=n: (seen[n].append(crops), np.zeros(len(crops), np.int64))[1] for n in seen]
    found = votes(lambda u, _: u, namers, torch.zeros(3, 8, 8), 0.1, first=5, draws=40, seed=3)  # type: ignore[arg-type]
    assert [(vote.top, vote.count, vote.draws) for vote in found] == [(0, 40, 40)] * 2
    assert torch.equal(torch.cat(seen[1]), torch.cat(seen[2]))
    assert len(torch.cat(seen[1])) == 45
