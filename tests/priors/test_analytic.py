"""The oracles themselves, held against Tweedie's formula: x0 = u + sigma^2 grad log p_sigma(u)."""

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from facesieve.priors.analytic import FiniteSetPrior, GaussianPrior

LEVELS = [0.05, 0.7, 30.0]


def tweedie(log_density, u, sigma):
    u = u.detach().requires_grad_()
    (score,) = torch.autograd.grad(log_density(u).sum(), u)
    return u.detach() + sigma**2 * score


@pytest.mark.parametrize("sigma", LEVELS)
def test_gaussian_denoiser_is_the_posterior_mean(gaussian, images, sigma):
    u = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    size = len(gaussian.covariance)
    noisy = gaussian.covariance + sigma**2 * torch.eye(size, dtype=torch.float64)
    density = MultivariateNormal(gaussian.mean.flatten(), noisy)
    assert_close(gaussian(u, sigma), tweedie(lambda u: density.log_prob(u.flatten(1)), u, sigma), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sigma", LEVELS)
def test_finite_set_denoiser_is_the_posterior_mean(finite, sigma):
    """At states between the points, where several of them have weight."""
    generator = torch.Generator().manual_seed(4)
    u = finite.points[:2].lerp(finite.points[1:3], 0.5)
    u = u + sigma * torch.randn(u.shape, generator=generator, dtype=torch.float64) / 10

    def log_density(u):
        squares = (u[:, None] - finite.points).flatten(2).square().sum(2)
        return torch.logsumexp(-squares / (2 * sigma**2), 1)

    assert_close(finite(u, sigma), tweedie(log_density, u, sigma), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "finite"])
def test_each_image_may_have_its_own_sigma(request, name, images):
    prior = request.getfixturevalue(name)
    both = prior(images, torch.tensor([0.3, 3.0], dtype=torch.float64))
    assert prior.shape == (3, 8, 8)
    assert_close(both[:1], prior(images[:1], 0.3))
    assert_close(both[1:], prior(images[1:], torch.tensor(3.0)))


def test_gaussian_trusts_a_clean_image_and_nothing_in_pure_noise(gaussian, images):
    assert_close(gaussian(images, 1e-6), images, rtol=0, atol=1e-9)
    assert_close(gaussian(images, 1e6), gaussian.mean.expand_as(images), rtol=0, atol=1e-9)


def test_gaussian_with_a_flat_direction_stays_on_its_line():
    """A covariance of rank one: every estimate is the mean plus a multiple of one image."""
    line = torch.linspace(-1, 1, 12, dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(3, 2, 2, dtype=torch.float64), torch.outer(line, line))
    u = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = (u.flatten(1) @ line) / (line @ line + 0.5**2)
    assert_close(prior(u, 0.5).flatten(1), torch.outer(share, line))


def test_finite_set_returns_the_nearest_point_at_low_noise_and_the_mean_at_high(finite):
    near = finite.points.flip(0) + 0.01
    assert_close(finite(near, 1e-3), finite.points.flip(0))
    assert_close(finite(near, 1e6), finite.points.mean(0).expand_as(near), rtol=0, atol=1e-9)


def test_finite_set_of_one_point_knows_the_answer(images):
    prior = FiniteSetPrior(images[:1])
    assert torch.equal(prior(images, 0.1), images[:1].expand_as(images))


def test_a_large_float32_batch_is_as_accurate_as_a_small_one():
    """Points a few sigma apart, far from the origin: squares of distances must not be differences of large numbers."""
    generator = torch.Generator().manual_seed(0)
    points = 0.7 + 0.01 * torch.randn(4, 3, 8, 8, generator=generator)
    u = points.repeat(10, 1, 1, 1) + 0.1 * torch.randn(40, 3, 8, 8, generator=generator)
    exact = FiniteSetPrior(points.double())(u.double(), 0.1).float()
    assert exact.std(0).max() > 1e-3
    assert_close(FiniteSetPrior(points)(u, 0.1), exact, rtol=0, atol=1e-6)
    assert_close(FiniteSetPrior(points)(u[:1], 0.1), exact[:1], rtol=0, atol=1e-6)


def test_the_jacobian_of_an_oracle_is_the_posterior_covariance_over_sigma_squared():
    """Miyasawa's second formula; for three equally likely points the covariance is easily written out."""
    points = torch.randn(3, 3, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = FiniteSetPrior(points)
    u = torch.full((1, *prior.shape), 0.1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda u: prior(u, 2.0), u).view(6, 6)
    weights = torch.softmax(-(u - points).flatten(1).square().sum(1) / 8, 0)
    assert_close(jacobian, torch.cov(points.flatten(1).T, correction=0, aweights=weights) / 4)
