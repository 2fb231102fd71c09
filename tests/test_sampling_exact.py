"""The sampler held against mathematics written out a second time: the published update, and exact posteriors.

With a Gaussian prior every step is affine, in the start and in all noise that is drawn. So means are
exact where the noise is set to zero, and covariances are exact where unit vectors are sent through.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from facesieve.operators import Grey, MeanPool
from facesieve.priors.analytic import FiniteSetPrior, GaussianPrior
from facesieve.sampling import Unconditional, consistent_with, karras_sigmas, last, published_sigmas, sample

SHAPE = (3, 8, 8)
EYE = torch.eye(math.prod(SHAPE), dtype=torch.float64)


def normal(count, seed=9):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def no_noise():
    return torch.zeros(1, dtype=torch.float64)


def unit_noise(draws, shape):
    """All directions of ``draws`` draws at once, one a batch row: what is drawn in turn is told apart by its rows."""
    size = math.prod(shape)
    blocks = torch.eye(draws * size, dtype=torch.float64).split(size, 1)
    return iter([block.reshape(-1, *shape) for block in blocks]).__next__


# The published update, in the variance-preserving form, with its own schedule


def published_alphas_bar():
    """abar at 990, 980, ..., 0 and then 1, from plain numbers."""
    product, values = 1.0, []
    for step in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        values.append(product)
    return [*values[990::-10], 1.0]


def published_update(prior, x, draws, eta, correct):
    levels = published_alphas_bar()
    for (now, then), z in zip(pairwise(levels), draws, strict=True):
        x0 = prior(x / math.sqrt(now), math.sqrt((1 - now) / now))
        epsilon = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
        x = math.sqrt(then) * correct(x0) + math.sqrt(1 - then) * (eta * z + math.sqrt(1 - eta**2) * epsilon)
    return x


def test_it_is_the_published_update(operator, gaussian, images):
    eta, y, (start, *draws) = 0.85, operator(images), normal(101)
    expected = published_update(gaussian, start, draws, eta, lambda x0: x0 - operator.Ap(operator(x0) - y))
    u, correct = start / math.sqrt(published_alphas_bar()[0]), consistent_with(operator, y)
    result = last(sample(gaussian, u, published_sigmas(100), iter(draws).__next__, correct=correct, eta=eta))
    assert_close(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("eta", [0, 0.5, 1])
def test_without_an_observation_it_is_plain_diffusion(gaussian, eta):
    start, *draws = normal(101)
    expected = published_update(gaussian, start, draws, eta, lambda x0: x0)
    u = start / math.sqrt(published_alphas_bar()[0])
    result = last(sample(gaussian, u, published_sigmas(100), iter(draws).__next__, eta=eta))
    assert_close(result, expected, rtol=0, atol=1e-10)


def general_update(prior, x, draws, *, eta, matrix, y, noise_of_y):
    """DDNM+ as published for any matrix: by its singular values, each direction with its own share and noise."""
    left, values, right = torch.linalg.svd(matrix)
    inverse = right.T[:, : len(values)] @ (left.T / values[:, None])
    levels = published_alphas_bar()
    for (now, then), z in zip(pairwise(levels), draws, strict=True):
        x0 = prior(x / math.sqrt(now), math.sqrt((1 - now) / now)).flatten(1)
        epsilon = (x.flatten(1) - math.sqrt(now) * x0) / math.sqrt(1 - now)
        level, signal = math.sqrt(1 - then), math.sqrt(then)
        share, fresh, old = EYE.new_ones(192), EYE.new_full((192,), eta * level), EYE.new_full((192,), level)
        old *= math.sqrt(1 - eta**2)
        for place, value in enumerate(values.tolist()):
            old[place] = 0
            if level >= signal * noise_of_y / value:
                fresh[place] = math.sqrt(level**2 - (signal * noise_of_y / value) ** 2)
            else:
                share[place] = value * level * math.sqrt(1 - eta**2) / (signal * noise_of_y)
        residual = (x0 @ matrix.T - y.flatten(1)) @ inverse.T
        x0 = x0 - residual @ right.T * share @ right
        x = (signal * x0 + z.flatten(1) @ right.T * fresh @ right + epsilon @ right.T * old @ right).view_as(x)
    return x


@pytest.mark.parametrize("eta", [0, 0.85, 1])
def test_the_rule_for_noisy_observations_is_the_published_one_for_any_matrix(operator, matrix, gaussian, images, eta):
    """There the noise of ``y`` itself is given: that of ``Ap y`` times the operator's one singular value."""
    y, (start, *draws), sigma_y = operator(images), normal(101), 0.4
    value = float(torch.linalg.matrix_norm(matrix, 2))
    expected = general_update(gaussian, start, draws, eta=eta, matrix=matrix, y=y, noise_of_y=sigma_y * value)
    u, correct = start / math.sqrt(published_alphas_bar()[0]), consistent_with(operator, y, sigma_y=sigma_y)
    result = last(sample(gaussian, u, published_sigmas(100), iter(draws).__next__, correct=correct, eta=eta))
    assert_close(result, expected, rtol=0, atol=1e-10)


# Law 5: a Gaussian prior, eta 0, an exact observation


def conditional(prior, matrix, y, noise_of_y=0.0):
    """Mean and covariance of images given ``A x + noise = y``, with noise of covariance noise_of_y^2 A A^T."""
    mean, covariance = prior.mean.flatten(), prior.covariance
    gain = torch.linalg.solve(matrix @ covariance @ matrix.T + noise_of_y**2 * matrix @ matrix.T, matrix @ covariance).T
    return mean + gain @ (y.flatten() - matrix @ mean), covariance - gain @ matrix @ covariance


def flow(mean, covariance, u, high, low):
    """Where the exact probability flow of a normal distribution takes ``u`` from noise ``high`` to ``low``, denoised."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    values = values.clamp(min=0)
    return mean + vectors @ (values * ((values + low**2) * (values + high**2)).rsqrt() * (vectors.T @ (u - mean)))


def halves(errors):
    """First order: twice the steps, half the error, or nearly so while the steps are still large."""
    return all(fine < 0.57 * coarse + 1e-12 for coarse, fine in pairwise(errors))


def test_it_converges_to_the_posterior_mean(operator, matrix, gaussian, images):
    """From the noisy posterior-mean path, and so, the result being affine in the start, on average around it."""
    y = operator(images[:1])
    mean, _ = conditional(gaussian, matrix, y)
    start, around = mean.view(1, *SHAPE), 2 * normal(1)[0][:1]
    errors = []
    for steps in (100, 200, 400):
        sigmas, correct = karras_sigmas(steps, 2, 0.05), consistent_with(operator, y)
        starts = torch.cat([start, start + around, start - around])
        result = last(sample(gaussian, starts, sigmas, no_noise, correct=correct, eta=0)).flatten(1)
        assert_close(result[1:].mean(0), result[0], rtol=0, atol=1e-12)
        errors.append(float((result[0] - mean).norm()))
    assert halves(errors)
    assert errors[-1] < 0.01 * float((mean - gaussian.mean.flatten()).norm())


def test_it_converges_to_the_flow_of_the_exact_posterior(operator, matrix, gaussian, images):
    """From any start: with many steps the part in the range is the observation's, the rest follows p(x | A x = y)."""
    y, start = operator(images[:1]), 2 * normal(1)[0][:1]
    mean, covariance = conditional(gaussian, matrix, y)
    expected = flow(mean, covariance, mean + _null(matrix) @ (start.flatten() - mean), 2, 0.05)
    errors = []
    for steps in (100, 200, 400):
        sigmas, correct = karras_sigmas(steps, 2, 0.05), consistent_with(operator, y)
        result = last(sample(gaussian, start, sigmas, no_noise, correct=correct, eta=0)).flatten()
        errors.append(float((result - expected).norm()))
    assert halves(errors)
    assert errors[-1] < 0.01 * float((start.flatten() - expected).norm())


def _null(matrix):
    return EYE - torch.linalg.pinv(matrix) @ matrix


# The spread of what is drawn

SPREAD = GaussianPrior(
    torch.zeros(3, 1, 1, dtype=torch.float64), torch.tensor([[1.0, 0.3, 0], [0.3, 0.5, 0], [0, 0, 0.1]]).double()
)


def spread(steps, eta):
    """The exact covariance of an unconditional sample, started from the prior's own noisy distribution."""
    sigmas = karras_sigmas(steps, 10, 0.01)
    noise = unit_noise(steps, SPREAD.shape)
    start = torch.linalg.cholesky(SPREAD.covariance + sigmas[0] ** 2 * torch.eye(3)).T
    directions = last(sample(SPREAD, (noise().flatten(1) @ start).view(-1, 3, 1, 1), sigmas, noise, eta=eta)).flatten(1)
    return directions.T @ directions


def test_unconditional_samples_have_the_spread_of_the_prior():
    """With eta 0, to first order in the step; what is left at the last level, sigma^2, is the estimate's own shrinkage."""
    errors = [float((spread(steps, 0) - SPREAD.covariance).norm()) for steps in (50, 100, 200)]
    assert halves(errors)
    assert errors[-1] < 0.03


@pytest.mark.parametrize("eta", [0.5, 0.85, 1])
def test_a_fixed_eta_draws_less_than_the_spread_of_the_prior(eta):
    """The published update is no stochastic equation's: more steps lead to (1 + sqrt(1 - eta^2)) / 2 of the variance."""
    share = (1 + math.sqrt(1 - eta**2)) / 2
    errors = [float((spread(steps, eta) - share * SPREAD.covariance).norm()) for steps in (100, 200, 400)]
    assert halves(errors)
    assert errors[-1] < 0.03


# Noisy observations


@pytest.mark.parametrize("eta", [0, 0.85, 1])
def test_the_state_carries_the_same_noise_in_every_direction(operator, images, eta):
    """Exactly sigma' after every step, over the noise of the observation, of the start and of every draw together.

    The prior knows the image, so whatever is not the image is noise. ``y`` is observed through noise
    of level sigma_y on the image: that is the noise level of ``Ap y`` in every direction it has.
    """
    sigma_y, sigmas, image = 1.0, [2.0, 1.2, 1.0, 0.8, 0.3, 0.0], images[:1]
    noise = unit_noise(6, SHAPE)
    y, start = operator(image + sigma_y * noise()), image + sigmas[0] * noise()
    for step in sample(
        FiniteSetPrior(image), start, sigmas, noise, correct=consistent_with(operator, y, sigma_y=sigma_y), eta=eta
    ):
        directions = (step.u - image).flatten(1)
        assert_close(directions.T @ directions, step.next_sigma**2 * EYE, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0, 0.85, 1])
def test_a_grid_that_ends_at_sigma_y_gives_the_posterior_mean_in_the_range(operator, matrix, images, eta):
    """Exactly and for any noise, if the prior does not couple range and null space: the last state there is ``Ap y``."""
    sigma_y, null = 0.3, _null(matrix)
    prior = GaussianPrior(torch.full(SHAPE, 0.1, dtype=torch.float64), 0.2 * (EYE - null) + 0.7 * null)
    y, (start, *draws) = operator(images), normal(30)
    sigmas = karras_sigmas(20, 10, sigma_y)
    result = last(
        sample(prior, start, sigmas, iter(draws).__next__, correct=consistent_with(operator, y, sigma_y=sigma_y), eta=eta)
    )
    expected = torch.stack([conditional(prior, matrix, each, sigma_y)[0] for each in y])
    assert_close(operator(result), operator(expected.view_as(result)), rtol=0, atol=1e-12)

    plain = last(sample(prior, start, sigmas, iter(draws).__next__, correct=Unconditional(), eta=eta))
    assert_close((result - plain).flatten(1) @ null, torch.zeros(2, 192, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_grid_that_ends_at_sigma_y_has_the_posterior_mean_on_average(operator, matrix, gaussian, images):
    """To first order in the step, for eta > 0, in range and null space. With eta 0 the null space keeps a bias."""
    y, sigma_y = operator(images[:1]), 0.3
    mean, _ = conditional(gaussian, matrix, y, sigma_y)

    def error(steps, eta):
        sigmas, correct = karras_sigmas(steps, 10, sigma_y), consistent_with(operator, y, sigma_y=sigma_y)
        result = last(sample(gaussian, gaussian.mean[None], sigmas, no_noise, correct=correct, eta=eta)).flatten()
        return float((result - mean).norm())

    errors = [error(steps, 0.85) for steps in (200, 400, 800)]
    assert halves(errors)
    assert errors[-1] < 0.05
    if operator != MeanPool(1):  # which has no null space
        assert error(800, 0) > 0.9 * error(200, 0) > 0.01


@pytest.mark.parametrize("eta", [0, 0.85])
def test_steps_far_below_sigma_y_bring_the_observations_noise_back(gaussian, images, eta):
    """The published rule only approximates the posterior: the finer the grid below sigma_y, the nearer to ``Ap y``."""
    operator, sigma_y, y = Grey(), 0.3, Grey()(images[:1])
    matrix = operator(EYE.view(-1, *SHAPE)).flatten(1).T
    observed, posterior = y, operator(conditional(gaussian, matrix, y, sigma_y)[0].view(1, *SHAPE))
    distances = []
    for steps in (25, 100, 400):
        sigmas, correct = karras_sigmas(steps, 10, 0.01), consistent_with(operator, y, sigma_y=sigma_y)
        result = operator(last(sample(gaussian, gaussian.mean[None], sigmas, no_noise, correct=correct, eta=eta)))
        distances.append((float((result - observed).norm()), float((result - posterior).norm())))
    to_observed, to_posterior = zip(*distances, strict=True)
    assert to_observed[0] > to_observed[1] > to_observed[2]
    assert to_posterior[0] < to_posterior[1] < to_posterior[2]
    assert to_observed[2] < to_posterior[2]
