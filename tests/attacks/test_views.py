"""What an attacker has of a stage: four views of it, by closed forms on small images."""

from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from facesieve import Purifier
from facesieve.attacks.gradient import pgd
from facesieve.defences.diffpure import DiffPure
from facesieve.defences.squeezing import Jpeg
from facesieve.noise import seeded_noise
from facesieve.operators import Grey, MeanPool
from facesieve.purify import Stage, preset
from facesieve.purify.stage import Observed
from white_prior import WhitePrior

SIZE = 8
SHAPE = (3, SIZE, SIZE)
SEEDS = [1, 2]


@pytest.fixture
def images():
    return 0.4 + 0.2 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights():
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))


def slope(purifier, images, weights):
    x = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad((purifier(x, seeds=SEEDS) * weights).sum(), x)
    return found


def restoring(name, prior, **settings):
    return preset(name).changed(**settings).with_prior(prior)


@pytest.mark.parametrize(("view", "backward"), [("identity", lambda w: w), ("observation", lambda w: project(w, MeanPool(2)))])
def test_the_prior_s_results_with_another_gradient(images, weights, view, backward):
    """BPDA: what comes out is the purifier's; what goes back is the identity's, or that of the block mean, which is symmetric."""
    purifier = restoring("stage1", WhitePrior(SIZE), steps=3, sigma_y=0.5)
    seen = purifier.for_attacker(SIZE, view)
    with torch.no_grad():
        assert_close(seen(images, seeds=SEEDS), purifier(images, seeds=SEEDS))
    assert_close(slope(seen, images, weights), backward(weights))
    assert not torch.allclose(slope(purifier.for_attacker(SIZE), images, weights), backward(weights), atol=1e-3)


def project(images, operator):
    return operator.Ap(operator(images))


@pytest.mark.parametrize(
    ("name", "operators"), [("stage1", [MeanPool(2)]), ("stage2", [Grey()]), ("paper", [MeanPool(2), Grey()])]
)
def test_the_range_attack_changes_nothing_outside_of_the_range(white_prior, images, weights, name, operators):
    """Delta is A+ p: each operator's projection leaves it as it is, though only interpolation stood in the purifier's place."""
    seen = restoring(name, white_prior, steps=2).for_attacker(SIZE, "range")
    assert seen.evaluations == len(operators)  # none of a prior
    eps = 0.05
    found = pgd(lambda x: (seen(x, seeds=SEEDS) * weights).flatten(1).sum(1), images, eps=eps, step=eps / 5, iterations=10)
    change = found - images
    assert change.abs().max() > 0.9 * eps
    for operator in operators:
        assert_close(project(change, operator), change, atol=1e-6, rtol=0)


def test_the_prior_s_place_is_taken_by_bicubic_interpolation(white_prior, images):
    seen = restoring("stage1", white_prior, steps=2).for_attacker(SIZE, "range")
    small = torch.nn.functional.avg_pool2d(images, 2)
    expected = torch.nn.functional.interpolate(small, (SIZE, SIZE), mode="bicubic", align_corners=False)
    assert_close(seen(images, seeds=SEEDS), expected.clamp(0, 1))


@dataclass(frozen=True)
class Halved(Stage):
    """Observes half of each value."""

    name = "halved"

    def __call__(self, images, noise):
        return images / 2 + 0 * noise()

    def observed(self, images):
        return Observed("half", "half", images / 2)


def test_a_stage_without_a_prior_is_seen_by_its_own_gradient_where_it_has_one(images, weights):
    assert_close(slope(Purifier((Halved(),)).for_attacker(SIZE, "range"), images, weights), weights / 2)
    assert_close(slope(Purifier((Halved(),)).for_attacker(SIZE, "identity"), images, weights), weights)
    assert_close(slope(Purifier((Halved(),)).for_attacker(SIZE, "observation"), images, weights), weights / 2)
    for view in ("range", "observation"):  # JPEG has none, and observes nothing else
        assert_close(slope(Purifier((Jpeg(),)).for_attacker(SIZE, view), images, weights), weights)


def test_a_prior_s_stage_that_observes_the_image_itself_is_the_identity_without_it(white_prior, images):
    stage = DiffPure(white_prior, steps=2).without_prior(SIZE)
    assert torch.equal(stage(images, seeded_noise(SEEDS, SHAPE)), images)
