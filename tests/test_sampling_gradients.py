"""The sampler seen by an attacker: gradients pass through all of it, at a bearable cost."""

import pytest
import torch
from torch.testing import assert_close

from facesieve.noise import seeded_noise
from facesieve.operators import Grey, MeanPool, grey_mean_pool
from facesieve.priors.analytic import FiniteSetPrior, GaussianPrior
from facesieve.sampling import checkpointed, consistent_with, karras_sigmas, last, published_sigmas, sample, time_travel

SHAPE = (3, 2, 2)
SIGMAS = karras_sigmas(4, 2, 0.3)


def restore(prior, operator, y, start, *, sigmas=SIGMAS, **settings):
    noise = seeded_noise(range(len(start)), prior.shape, dtype=start.dtype)
    return last(sample(prior, start, sigmas, noise, correct=consistent_with(operator, y, **settings)))


def small_priors():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64) / 3
    return (
        GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), root @ root.T),
        FiniteSetPrior(torch.randn(4, *SHAPE, generator=generator, dtype=torch.float64) / 2),
    )


@pytest.mark.parametrize("sigmas", [SIGMAS, time_travel(SIGMAS, 2, 2)], ids=["plain", "travel"])
@pytest.mark.parametrize("sigma_y", [0.0, 0.5])
@pytest.mark.parametrize("operator", [MeanPool(2), Grey(), grey_mean_pool(2)], ids=str)
@pytest.mark.parametrize("prior", small_priors(), ids=["gaussian", "finite"])
def test_gradients_are_those_of_finite_differences(prior, operator, sigma_y, sigmas):
    """With respect to the observation and to the start."""
    start, image = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = operator(image).requires_grad_(), start.requires_grad_()
    assert torch.autograd.gradcheck(lambda y, start: restore(prior, operator, y, start, sigmas=sigmas, sigma_y=sigma_y), inputs)


@pytest.mark.parametrize("prior", small_priors(), ids=["gaussian", "finite"])
def test_the_observation_reaches_the_result_unchanged(prior):
    """The Jacobian of ``A`` after a restoration is the identity: what an attacker below the purifier uses."""
    start = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: Grey()(restore(prior, Grey(), y, start)), y)
    assert_close(jacobian.view(4, 4), torch.eye(4, dtype=torch.float64))


def test_a_checkpointed_prior_gives_the_same_value_and_gradient(network, images):
    start, image = images.float()
    results = []
    for prior in (network, checkpointed(network)):
        assert prior.shape == network.shape
        y = grey_mean_pool(2)(image[None]).requires_grad_()
        result = restore(prior, grey_mean_pool(2), y, 2 * start[None], sigmas=karras_sigmas(10, 2))
        results.append((result, *torch.autograd.grad(result.square().sum(), y)))
    (plain, gradient), (value, checked) = results
    assert torch.equal(value, plain)
    assert_close(checked, gradient)
    assert gradient.abs().max() > 0


def kept_bytes(prior, steps):
    """How much a run keeps for its backward pass."""
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    y = torch.zeros(1, 1, 4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        restore(prior, grey_mean_pool(2), y, torch.ones(1, 3, 8, 8), sigmas=published_sigmas(steps))
    return kept


def test_a_checkpointed_prior_keeps_images_and_no_activations(network_of):
    """A few images a step, whatever the network's width; the plain prior keeps all activations of all steps."""
    narrow, wide = network_of(8), network_of(16)
    assert kept_bytes(checkpointed(wide), 100) == kept_bytes(checkpointed(narrow), 100)
    assert kept_bytes(checkpointed(narrow), 100) < 100 * 4 * (3 * 8 * 8 * 4)
    assert kept_bytes(wide, 10) > 1.5 * kept_bytes(narrow, 10) > 10 * kept_bytes(checkpointed(narrow), 10)
