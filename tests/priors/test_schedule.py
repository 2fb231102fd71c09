"""Steps of a discrete schedule and the noise levels they stand for."""

import pytest
import torch
from torch.testing import assert_close

from facesieve.errors import PriorError
from facesieve.priors import Schedule

LINEAR = Schedule.linear()


@pytest.mark.parametrize(
    ("step", "alpha_bar", "rtol"),
    [
        (0, 0.9999, 1e-12),
        (10, 0.99780649, 5e-7),
        (100, 0.89514136, 5e-7),
        (250, 0.52142304, 5e-7),
        (500, 0.07779666, 5e-7),
        (990, 4.8370e-5, 1e-5),
    ],
)
def test_linear_schedule_has_the_published_values(step, alpha_bar, rtol):
    """To the digits that are published, which were computed in single precision."""
    assert float(LINEAR.alphas_bar[step]) == pytest.approx(alpha_bar, rel=rtol)
    assert float(LINEAR.sigmas[step]) == pytest.approx(((1 - alpha_bar) / alpha_bar) ** 0.5, rel=1e-4)


def test_linear_schedule_is_the_running_product_of_its_betas():
    product = 1.0
    for step in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        assert float(LINEAR.alphas_bar[step]) == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_schedules_own_levels_are_whole_steps(dtype):
    assert torch.equal(LINEAR.time(LINEAR.sigmas.to(dtype)), torch.arange(1000.0))


def test_between_two_steps_time_rises_evenly_in_log_sigma():
    low, high = LINEAR.sigmas[[0, 400, 998]], LINEAR.sigmas[[1, 401, 999]]
    for share in (0.1, 0.5, 0.75):
        between = low ** (1 - share) * high**share
        assert_close(LINEAR.time(between), torch.tensor([0, 400, 998]) + share, rtol=0, atol=1e-3)


def test_time_never_falls_as_sigma_rises():
    sigmas = torch.logspace(-3, 3, 20_000, dtype=torch.float64)
    times = LINEAR.time(sigmas)
    assert bool((times.diff() >= 0).all())
    inside = (sigmas > LINEAR.sigmas[0]) & (sigmas < LINEAR.sigmas[-1])
    assert float(times[inside].diff().max()) < 1


def test_levels_outside_the_schedule_get_its_first_and_last_step():
    assert LINEAR.time(torch.tensor([1e-6, 1e6])).tolist() == [0, 999]


def test_time_keeps_the_shape_it_is_given():
    assert LINEAR.time(torch.tensor(1.0)).shape == ()
    assert LINEAR.time(torch.ones(2, 3)).shape == (2, 3)


def test_a_schedule_is_kept_in_double_precision():
    schedule = Schedule(torch.tensor([0.9, 0.5, 0.1]))
    assert schedule.sigmas.dtype == torch.float64
    assert_close(schedule.sigmas[1], torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "alphas_bar",
    [
        [0.9, 0.5, 0.0],  # rescaled to zero signal
        [1.0, 0.5, 0.1],  # a first step without noise
        [0.9, 0.95, 0.1],
        [0.9, 0.9, 0.1],
        [0.9, float("nan"), 0.1],
        [0.9, 0.5, -0.1],
        [0.9],
    ],
)
def test_levels_that_do_not_rise_are_refused(alphas_bar):
    with pytest.raises(PriorError, match="noise levels"):
        Schedule(torch.tensor(alphas_bar))
