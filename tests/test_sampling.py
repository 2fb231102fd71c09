"""The laws of a restoration, and the lists of noise levels it runs over."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from facesieve.errors import SettingError
from facesieve.noise import seeded_noise
from facesieve.operators import Compose, Grey, MeanPool, grey_mean_pool
from facesieve.priors import Schedule
from facesieve.sampling import consistent_with, karras_sigmas, last, published_sigmas, sample, time_travel

SIGMAS = karras_sigmas(20, 10, 0.05)


def restore(prior, operator, y, *, seeds=(5, 6), sigmas=SIGMAS, eta=0.85, dtype=torch.float64):
    noise = seeded_noise(seeds, prior.shape, dtype=dtype)
    return last(sample(prior, sigmas[0] * noise(), sigmas, noise, correct=consistent_with(operator, y), eta=eta))


@pytest.fixture(params=["gaussian", "finite"])
def prior(request):
    return request.getfixturevalue(request.param)


class PixelPrior:
    """Every pixel on its own, unit Gaussian: no sum over an image or a batch can round differently."""

    shape = (3, 8, 8)

    def __call__(self, u, sigma):
        return u / (1 + sigma**2)


class Recorder:
    """A prior that remembers the states it was shown."""

    def __init__(self, prior):
        self.prior, self.shape, self.seen = prior, prior.shape, []

    def __call__(self, u, sigma):
        self.seen.append((u, sigma))
        return self.prior(u, sigma)


# The laws, for every operator


@pytest.mark.parametrize("eta", [0, 0.85, 1])
def test_the_result_agrees_with_the_observation(operator, prior, images, eta):
    y = operator(images)
    assert_close(operator(restore(prior, operator, y, eta=eta)), y, rtol=0, atol=1e-13)


def test_the_result_of_a_network_agrees_with_the_observation(operator, network, images):
    y = operator(images.float())
    assert_close(operator(restore(network, operator, y, dtype=torch.float32)), y, rtol=0, atol=1e-5)


def test_what_the_operator_destroys_cannot_change_one_bit(operator, prior):
    """Values are multiples of 9/256, so that every sum, and its third, is exact in floating point."""
    generator = torch.Generator().manual_seed(7)
    image = torch.randint(-24, 25, (2, 3, 8, 8), generator=generator).double() * 9 / 256
    change = torch.randint(-2, 3, (2, 3, 8, 8), generator=generator).double() * 9 / 256
    hidden = change - operator.Ap(operator(change))
    assert torch.equal(operator(hidden), torch.zeros_like(operator(hidden)))
    assert bool(hidden.any()) == (operator != MeanPool(1))

    assert torch.equal(operator((image + hidden).float()), operator(image.float()))
    assert torch.equal(restore(prior, operator, operator(image + hidden)), restore(prior, operator, operator(image)))


def test_what_the_operator_keeps_survives_in_full(operator, prior, images):
    """The limit of the defence: no prior and no seed removes a perturbation in the range of A."""
    perturbation = operator.Ap(operator(0.01 * images.flip(0)))
    clean = restore(prior, operator, operator(images))
    attacked = restore(prior, operator, operator(images + perturbation), seeds=(8, 9))
    assert_close(operator(attacked) - operator(clean), operator(perturbation), rtol=0, atol=1e-13)


def test_an_image_gets_alone_what_it_gets_in_any_batch(operator):
    """Bit for bit."""
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    seeds = torch.tensor([11, 12, 13])
    together = restore(PixelPrior(), operator, operator(images), seeds=seeds.tolist())
    for order in ([0], [2], [2, 0, 1]):
        alone = restore(PixelPrior(), operator, operator(images[order]), seeds=seeds[order].tolist())
        assert torch.equal(alone, together[order])


@pytest.mark.parametrize(("name", "atol"), [("gaussian", 1e-12), ("finite", 1e-10), ("network", 1e-4)])
def test_an_image_gets_alone_what_it_gets_in_a_batch_from_priors_that_sum(request, name, atol):
    """A matrix product may add in another order for another batch size, so to rounding."""
    prior, dtype = request.getfixturevalue(name), torch.float32 if name == "network" else torch.float64
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=dtype)
    together = restore(prior, Grey(), Grey()(images), seeds=(11, 12, 13), dtype=dtype)
    for place in range(3):
        alone = restore(prior, Grey(), Grey()(images[place : place + 1]), seeds=(11 + place,), dtype=dtype)
        assert_close(alone, together[place : place + 1], rtol=1e-4 if name == "network" else 0, atol=atol)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_fused_stage_carries_what_two_stages_carry(scale, prior, images):
    pool, fused = MeanPool(scale), grey_mean_pool(scale)
    first = restore(prior, pool, pool(images), seeds=(1, 2))
    both = restore(prior, Grey(), Grey()(first), seeds=(3, 4))
    one = restore(prior, fused, fused(images), seeds=(5, 6))
    assert_close(fused(both), fused(one), rtol=0, atol=1e-13)
    assert_close(fused(both), fused(images), rtol=0, atol=1e-13)
    assert (both - one).abs().max() > 1e-3  # the rest is each seed's own


# The generator


def test_every_step_is_yielded(gaussian, images):
    noise = seeded_noise((1, 2), gaussian.shape, dtype=torch.float64)
    recorder = Recorder(gaussian)
    steps = list(sample(recorder, images, [3.0, 1.0, 0.5, 0.0], noise))
    assert [(step.sigma, step.next_sigma) for step in steps] == [(3, 1), (1, 0.5), (0.5, 0)]
    assert torch.equal(recorder.seen[0][0], images)
    for step, (state, sigma) in zip(steps[:-1], recorder.seen[1:], strict=True):
        assert torch.equal(step.u, state)
        assert step.next_sigma == sigma
    assert torch.equal(steps[-1].u, steps[-1].x0)
    assert_close(steps[-1].x0, gaussian(steps[-2].u, 0.5))


def test_the_global_generator_is_neither_used_nor_moved(gaussian, images):
    before = torch.get_rng_state()
    first = restore(gaussian, Grey(), Grey()(images))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(restore(gaussian, Grey(), Grey()(images)), first)


def test_unconditional_samples_of_a_finite_set_are_its_images(finite):
    noise = seeded_noise(range(50), finite.shape, dtype=torch.float64)
    result = last(sample(finite, 30 * noise(), karras_sigmas(40, 30), noise))
    distances = torch.cdist(result.flatten(1), finite.points.flatten(1))
    assert distances.min(1).values.max() < 1e-6
    assert len(distances.argmin(1).unique()) == len(finite.points)


def test_a_restoration_finds_the_image_of_a_finite_set_that_was_degraded(finite):
    """Grey 2 x 2 averages are enough to tell five images apart; with eta 0 and 100 steps they do, from any start."""
    operator, seeds = grey_mean_pool(2), range(25)
    wanted = finite.points.repeat(5, 1, 1, 1)
    result = restore(finite, operator, operator(wanted), seeds=seeds, sigmas=karras_sigmas(100, 80, 0.05), eta=0)
    assert_close(result, wanted, rtol=0, atol=1e-9)


def test_a_stochastic_step_uses_fresh_noise_and_a_deterministic_one_none(gaussian, images):
    y = Grey()(images)
    start = 10 * seeded_noise((1, 2), gaussian.shape, dtype=torch.float64)()

    def run(eta, seeds):
        noise = seeded_noise(seeds, gaussian.shape, dtype=torch.float64)
        return last(sample(gaussian, start, SIGMAS, noise, correct=consistent_with(Grey(), y), eta=eta))

    assert torch.equal(run(0, (3, 4)), run(0, (5, 6)))
    assert not torch.equal(run(0.85, (3, 4)), run(0.85, (5, 6)))


# Time travel


@pytest.mark.parametrize(
    ("steps", "length", "repeat", "evaluations"),
    [(100, 1, 1, 100), (100, 2, 2, 198), (100, 10, 3, 280), (250, 10, 3, 730), (100, 10, 1, 100), (5, 5, 3, 5)],
)
def test_time_travel_costs_what_was_published(steps, length, repeat, evaluations, images):
    path = time_travel(published_sigmas(steps), length, repeat)
    assert sum(low < high for high, low in pairwise(path)) == evaluations
    recorder = Recorder(PixelPrior())
    restore(recorder, Grey(), Grey()(images), sigmas=path)
    assert len(recorder.seen) == evaluations


def test_time_travel_goes_over_every_stretch_again():
    assert time_travel([5, 4, 3, 2, 1, 0], 2, 2) == [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
    assert time_travel([3, 2, 1, 0], 1, 3) == [3, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 0]
    assert time_travel([3, 2, 1, 0], 1, 1) == [3, 2, 1, 0]


def test_going_back_noises_the_estimate_before_its_correction(gaussian, images):
    """And what the next evaluation sees is that state."""
    y = MeanPool(2)(images)
    draws = [torch.full_like(images, place) for place in range(5)]
    recorder = Recorder(gaussian)
    correct = consistent_with(MeanPool(2), y)
    steps = list(sample(recorder, images, [3, 1, 2, 1, 0], iter(draws).__next__, correct=correct))
    assert [sigma for _, sigma in recorder.seen] == [3, 2, 1]
    assert_close(recorder.seen[1][0], gaussian(images, 3) + 2 * draws[1])
    assert_close(steps[0].x0, gaussian(images, 3))


@pytest.mark.parametrize("eta", [0, 0.85])
def test_the_result_agrees_with_the_observation_after_time_travel(operator, gaussian, images, eta):
    path = time_travel(SIGMAS, 5, 2)
    y = operator(images)
    assert_close(operator(restore(gaussian, operator, y, sigmas=path, eta=eta)), y, rtol=0, atol=1e-13)


# Lists of noise levels


def test_published_levels_are_every_tenth_step_of_the_linear_schedule():
    assert published_sigmas() == [*Schedule.linear().sigmas[range(990, -1, -10)].tolist(), 0.0]
    assert published_sigmas(1000) == [*Schedule.linear().sigmas.flip(0).tolist(), 0.0]
    assert published_sigmas(100)[0] == pytest.approx(math.sqrt((1 - 4.8370e-5) / 4.8370e-5), rel=1e-5)
    assert len(published_sigmas(250)) == 251


def test_karras_levels_are_even_in_their_seventh_root():
    levels = karras_sigmas(5, 80, 0.02)
    assert levels[0] == pytest.approx(80)
    assert levels[-2:] == [pytest.approx(0.02), 0]
    roots = torch.tensor(levels[:-1], dtype=torch.float64) ** (1 / 7)
    assert_close(roots.diff(), roots.diff()[:1].expand(4))
    assert karras_sigmas(1, 3.0) == [3, 0]
    assert karras_sigmas(3, 3.0, 1.0, rho=1) == pytest.approx([3, 2, 1, 0])


# Settings that cannot be used


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_eta_outside_its_range_is_refused(images, eta):
    with pytest.raises(SettingError, match="eta"):
        last(sample(PixelPrior(), images, SIGMAS, lambda: images, eta=eta))


@pytest.mark.parametrize("sigmas", [[], [0.0], [1.0], [2.0, 1.0], [2.0, 0.0, 0.0], [2.0, -1.0, 0.0]])
def test_levels_that_do_not_fall_to_zero_are_refused(images, sigmas):
    with pytest.raises(SettingError, match="noise levels"):
        last(sample(PixelPrior(), images, sigmas, lambda: images))


@pytest.mark.parametrize("sigma_y", [-0.1, math.nan])
def test_a_negative_noise_level_of_the_observation_is_refused(images, sigma_y):
    with pytest.raises(SettingError, match="sigma_y"):
        consistent_with(Grey(), Grey()(images), sigma_y=sigma_y)


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_than_the_schedule_has_are_refused(steps):
    with pytest.raises(SettingError, match="steps"):
        published_sigmas(steps)


@pytest.mark.parametrize(("steps", "start", "end"), [(0, 10, 1), (10, 1, 2), (10, 1, 0), (10, 1, -1), (10, math.nan, 1)])
def test_a_grid_that_does_not_fall_is_refused(steps, start, end):
    with pytest.raises(SettingError, match="grid"):
        karras_sigmas(steps, start, end)


@pytest.mark.parametrize(("length", "repeat"), [(0, 2), (2, 0), (-1, 1)])
def test_travel_of_no_length_or_no_repeat_is_refused(length, repeat):
    with pytest.raises(SettingError, match="travel"):
        time_travel(SIGMAS, length, repeat)


def test_the_operator_of_a_restoration_may_be_any_composition(gaussian, images):
    deep = Compose(Grey(), Compose(MeanPool(2), MeanPool(2)))
    assert_close(
        restore(gaussian, deep, deep(images)), restore(gaussian, grey_mean_pool(4), grey_mean_pool(4)(images)), rtol=0, atol=1e-10
    )
