"""One convention for every network: stand-ins that know the answer show whether the conversion is right."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from facesieve.errors import PriorError
from facesieve.priors import Schedule
from facesieve.priors.network import NetworkPrior

SCHEDULE = Schedule.linear()
STEPS = torch.tensor([0, 1, 250, 990, 999])


class StandIn(nn.Module):
    """Any function of ``(x, t)`` with the face of a ``UNet2DModel``; remembers what it was shown."""

    def __init__(self, function, channels=3, out_channels=None, dtype=torch.float64):
        super().__init__()
        self.config = SimpleNamespace(in_channels=channels, out_channels=out_channels or channels)
        self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.function = function

    def forward(self, x, time):
        self.seen = x, time
        return SimpleNamespace(sample=self.function(x, time))


def prior_of(function, prediction="sample", **settings):
    return NetworkPrior(StandIn(function, **settings), SCHEDULE, prediction, (3, 8, 8))


def alphas_bar(time):
    return SCHEDULE.alphas_bar[time.long()][:, None, None, None]


def target(prediction, x0):
    """What a perfect network would say of ``x_t``, from the definitions of the three targets."""

    def function(x, time):
        signal, rest = alphas_bar(time).sqrt(), (1 - alphas_bar(time)).sqrt()
        epsilon = (x - signal * x0) / rest
        return {"epsilon": epsilon, "v_prediction": signal * epsilon - rest * x0, "sample": x0}[prediction]

    return function


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_network_gives_back_the_image(prediction):
    """Every image of the batch at a step of its own."""
    x0 = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = SCHEDULE.sigmas[STEPS]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prior = prior_of(target(prediction, x0), prediction)
    assert_close(prior(x0 + sigmas[:, None, None, None] * noise, sigmas), x0, rtol=0, atol=1e-10)
    assert torch.equal(prior.network.seen[1], STEPS.float())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_conversion_is_the_textbook_formula_for_any_output(prediction):
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps and v = sqrt(abar) eps - sqrt(1 - abar) x0, solved for x0."""
    u = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signal, rest = alphas_bar(STEPS).sqrt(), (1 - alphas_bar(STEPS)).sqrt()
    x, output = signal * u, torch.sin(signal * u)
    x0 = {"epsilon": (x - rest * output) / signal, "v_prediction": signal * x - rest * output, "sample": output}[prediction]
    prior = prior_of(lambda x, _: torch.sin(x), prediction)
    assert_close(prior(u, SCHEDULE.sigmas[STEPS]), x0)
    assert_close(prior.network.seen[0], x)


def test_one_sigma_serves_the_whole_batch():
    prior = prior_of(lambda x, _: x)
    u = torch.ones(2, 3, 8, 8, dtype=torch.float64)
    for sigma in (1.0, torch.tensor(1.0), torch.ones(2)):
        assert_close(prior(u, sigma), u / 2**0.5)
    assert prior.network.seen[1].shape == (2,)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_folding_pixels_into_channels_is_undone(patch):
    prior = prior_of(lambda x, _: x, channels=3 * patch**2)
    u = torch.arange(2 * 3 * 8 * 8, dtype=torch.float64).view(2, 3, 8, 8)
    assert_close(prior(u, 1.0), u / 2**0.5)
    seen = prior.network.seen[0]
    assert seen.shape == (2, 3 * patch**2, 8 // patch, 8 // patch)
    # The first p x p channels are the pixels of each red cell, row by row.
    assert_close(seen[0, : patch**2, 0, 0], u[0, 0, :patch, :patch].flatten() / 2**0.5)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_learned_variance_is_not_looked_at(patch):
    channels = 3 * patch**2
    plain = prior_of(lambda x, _: x, "epsilon", channels=channels)
    with_variance = prior_of(
        lambda x, _: torch.cat([x, torch.full_like(x, torch.nan)], 1), "epsilon", channels=channels, out_channels=2 * channels
    )
    u = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(with_variance(u, 3.0), plain(u, 3.0))


def test_a_network_may_return_a_plain_tensor():
    class Plain(StandIn):
        def forward(self, x, _):
            return x

    u = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    prior = NetworkPrior(Plain(None), SCHEDULE, "sample", (3, 8, 8))
    assert_close(prior(u, 1.0), u / 2**0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_network_runs_in_its_own_type_but_its_step_is_not_rounded(dtype):
    """989 in bfloat16 would be 988: another noise level than the image has."""
    prior = prior_of(lambda x, _: x, dtype=dtype)
    result = prior(torch.ones(1, 3, 8, 8), float(SCHEDULE.sigmas[989]))
    assert result.dtype == torch.float32
    assert prior.network.seen[0].dtype == dtype
    assert prior.network.seen[1].tolist() == [989]


@pytest.mark.parametrize(("channels", "out_channels"), [(1, 1), (4, 4), (6, 6), (3, 4), (3, 9), (12, 3)])
def test_a_network_of_other_than_colour_images_is_refused(channels, out_channels):
    with pytest.raises(PriorError, match="channels"):
        prior_of(None, channels=channels, out_channels=out_channels)


def test_an_unknown_target_is_refused():
    with pytest.raises(PriorError, match="'score'"):
        prior_of(None, "score")


def test_gradients_pass_through_a_network():
    prior = prior_of(lambda x, _: torch.sin(x), "v_prediction")
    u = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: prior(u, 2.0), u)
