"""DiffPure with a Gaussian prior, for which both forms of the reverse process have a closed answer."""

import math

import pytest
import torch
from torch.testing import assert_close

from facesieve.defences.diffpure import DiffPure, noise_level
from facesieve.noise import seeded_noise
from facesieve.priors import Schedule
from facesieve.priors.analytic import GaussianPrior

SHAPE = (3, 4, 4)


@pytest.fixture(scope="module")
def prior():
    """Correlated pixels, small enough that nothing is ever clipped."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(48, 48, generator=generator, dtype=torch.float64) / math.sqrt(48)
    return GaussianPrior(0.1 * torch.randn(SHAPE, generator=generator, dtype=torch.float64), 0.02 * root @ root.T)


@pytest.fixture(scope="module")
def images():
    return 0.4 + 0.2 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def noise(seeds):
    return seeded_noise(seeds, SHAPE, dtype=torch.float64)


def gained(prior, centred, gain):
    """``gain`` of the covariance's eigenvalues applied to rows."""
    values, vectors = torch.linalg.eigh(prior.covariance)
    return ((centred.flatten(1) @ vectors * gain(values.clamp(min=0))) @ vectors.T).view_as(centred)


def test_the_published_time_is_step_500_of_the_discrete_process():
    alphas = Schedule.linear().alphas_bar
    for t, step in ((0.1, 100), (0.3, 300), (0.5, 500), (0.9, 900)):
        assert 1 / (1 + noise_level(t) ** 2) == pytest.approx(float(alphas[step - 1]), rel=0.06)  # beta is stepwise there
    assert noise_level(0.5) == pytest.approx(3.41, abs=0.005)


def test_levels_fall_evenly_in_time(prior):
    levels = DiffPure(prior, t=0.4, steps=4).sigmas()
    assert levels == pytest.approx([noise_level(0.4), noise_level(0.3), noise_level(0.2), noise_level(0.1), 0])


def test_one_step_is_the_posterior_mean(prior, images):
    result = DiffPure(prior, t=0.5, steps=1)(images, noise([1, 2]))
    sigma = noise_level(0.5)
    u = 2 * images - 1 + sigma * noise([1, 2])()
    expected = prior.mean + gained(prior, u - prior.mean, lambda s: s / (s + sigma**2))
    assert_close(result, expected / 2 + 0.5)


def test_the_probability_flow_shrinks_what_was_noised_by_a_known_factor(prior, images):
    """With eta 0: ``mean + sqrt(S / (S + sigma^2)) (u - mean)``, to first order in the step."""
    sigma = noise_level(0.3)
    u = 2 * images - 1 + sigma * noise([1, 2])()
    expected = prior.mean + gained(prior, u - prior.mean, lambda s: (s / (s + sigma**2)).sqrt())
    errors = []
    for steps in (100, 200):
        result = DiffPure(prior, t=0.3, steps=steps, eta=0.0)(images, noise([1, 2]))
        errors.append(float((2 * result - 1 - expected).abs().max()))
    assert errors[1] < 0.6 * errors[0] < 0.05


def test_the_stochastic_process_ends_in_the_posterior(prior):
    """With eta 1, over the noise: the mean ``mean + S / (S + sigma^2) (x - mean)``, and the variance that belongs to it."""
    image = torch.full((1, *SHAPE), 0.6, dtype=torch.float64)
    count, sigma = 2000, noise_level(0.1)
    results = 2 * DiffPure(prior, t=0.1, steps=100)(image.expand(count, *SHAPE), noise(range(count))) - 1
    mean = prior.mean + gained(prior, 2 * image - 1 - prior.mean, lambda s: s / (s + sigma**2))
    # of u given x, and of x0 given u: S^2 sigma^2 / (S + sigma^2)^2 + S sigma^2 / (S + sigma^2)
    values, vectors = torch.linalg.eigh(prior.covariance)
    gain = values / (values + sigma**2)
    variance = (vectors**2 @ (gain**2 * sigma**2 + gain * sigma**2)).view(SHAPE)
    standard_error = float((variance / count).sqrt().max())
    assert_close(results.mean(0, keepdim=True), mean, rtol=0, atol=5 * standard_error)
    assert_close(results.var(0).mean(), variance.mean(), rtol=0.05, atol=0)


def test_noise_comes_from_the_given_source_alone(prior, images):
    before = torch.random.get_rng_state()
    first, second = (DiffPure(prior, steps=5)(images, noise(seeds)) for seeds in ([1, 2], [1, 3]))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_it_is_differentiable(prior, images):
    images = images.clone().requires_grad_()
    DiffPure(prior, steps=3)(images, noise([1, 2])).sum().backward()
    assert float(images.grad.abs().max()) > 0
