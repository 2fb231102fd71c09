"""Attacks that see the defence: the missing gradient replaced, the noise averaged over, by closed forms on linear scores."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from facesieve import Purifier
from facesieve.attacks.adaptive import EotScores, KnownSeedScores
from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import Margin
from facesieve.defences import DEFENCES
from facesieve.defences.squeezing import BitDepth, GaussianBlur, Jpeg
from facesieve.noise import seeded_noise
from facesieve.purify import Stage, StraightThrough, preset
from facesieve.purify.stage import gives_gradient
from white_prior import WhitePrior

SHAPE = (3, 8, 8)
WEIGHTS = torch.randn(2, math.prod(SHAPE), generator=torch.Generator().manual_seed(0))


def scores(images):
    return images.flatten(1) @ WEIGHTS.T


@dataclass(frozen=True)
class Noised(Stage):
    """Adds unit noise: the score of person c then has the variance |w_c|^2."""

    name = "noised"

    def __call__(self, images, noise):
        return images + noise()


@pytest.fixture
def images():
    return 0.4 + 0.2 * torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_the_identity_stands_in_for_a_gradient(images):
    stage, x = StraightThrough(BitDepth(bits=3)), images.clone().requires_grad_(True)
    noise = seeded_noise([0] * 3, SHAPE)
    result = stage(x, noise)
    assert_close(result, BitDepth(bits=3)(images, noise))
    assert stage.name == "bit-depth"
    (slope,) = torch.autograd.grad((result * images).sum(), x)
    assert torch.equal(slope, images)


@pytest.mark.parametrize("name", sorted({*DEFENCES} - {"diffpure"}))
def test_which_defences_give_a_gradient_is_found_as_it_is_documented(name):
    none = {"jpeg", "total-variation", "non-local-means", "wavelet-denoise", "bit-depth", "feature-distillation"}
    assert gives_gradient(DEFENCES[name](), 32) == (name not in none)


def test_an_attacker_sees_a_purifier_with_what_is_missing_replaced(images):
    restoring = preset("stage2").changed(steps=2).with_prior(WhitePrior(images.shape[-1])).stages[0]
    purifier = Purifier((Jpeg(), GaussianBlur(sigma=1.0), restoring))
    seen = purifier.for_attacker(8)
    assert [isinstance(stage, StraightThrough) for stage in seen.stages] == [True, False, False]
    with torch.no_grad():
        assert_close(seen(images, seeds=[1, 2, 3]), purifier(images, seeds=[1, 2, 3]))
    x = images.clone().requires_grad_(True)
    seen(x, seeds=[1, 2, 3]).sum().backward()
    assert x.grad.abs().max() > 0


def test_scores_are_the_mean_over_draws_that_are_new_at_every_call(images):
    behind = EotScores(scores, Purifier((Noised(),)), seeds=[5, 6, 7], eot_samples=16)
    asked = torch.stack([behind(images) - scores(images) for _ in range(200)])  # (200, 3, 2)
    expected = (WEIGHTS.square().sum(1) / 16).expand(3, 2)
    assert_close(asked.var(0), expected, rtol=0.35, atol=0)  # 200 draws: a standard deviation of 10 %
    assert (asked.mean(0).abs() < 4 * (expected / 200).sqrt()).all()


def test_an_image_gets_alone_what_it_gets_in_a_batch(images):
    whole, alone = (EotScores(scores, Purifier((Noised(),)), seeds=seeds, eot_samples=2) for seeds in ([5, 6, 7], [6]))
    for _ in range(2):
        assert_close(whole(images)[1:2], alone(images[1:2]))


def test_the_replaced_gradient_gets_through_where_the_true_one_does_not_move(images):
    """On linear scores the best corner of the ball is known: the sign of w_1 - w_0; rounding to 8 levels changes it little."""
    labels, eps = scores(images).argmax(1), 0.2
    masked = Purifier((BitDepth(bits=3),))
    stuck = pgd(Margin(EotScores(scores, masked, [0] * 3), labels), images, eps=eps, step=eps, iterations=3)
    assert torch.equal(stuck, images)
    found = pgd(Margin(EotScores(scores, masked.for_attacker(8), [0] * 3), labels), images, eps=eps, step=eps, iterations=3)
    toward = torch.where(labels == 0, 1.0, -1.0)[:, None, None, None] * (WEIGHTS[1] - WEIGHTS[0]).sign().view(SHAPE)
    assert_close(found, images + eps * toward)


def test_a_known_seed_gives_the_purifier_s_own_noise_to_every_variant():
    images, purifier = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), Purifier((Noised(),))
    seen = KnownSeedScores(lambda x: x.flatten(1), purifier, seeds=[5, 6, 7])
    drawn = purifier(images, seeds=[5, 6, 7]).flatten(1)
    assert torch.equal(seen(images), drawn)
    assert torch.equal(seen(torch.cat([images, images])), torch.cat([drawn, drawn]))
