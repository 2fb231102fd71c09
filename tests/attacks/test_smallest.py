"""The smallest eps by bisection: on a linear recogniser, whose smallest perturbations are known in closed form."""

import math

import pytest
import torch
from torch.testing import assert_close

from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import Margin
from facesieve.attacks.smallest import smallest_eps
from facesieve.errors import SettingError

SHAPE, PEOPLE = (3, 8, 8), 5
WEIGHTS = torch.randn(PEOPLE, math.prod(SHAPE), generator=torch.Generator().manual_seed(0)) / math.sqrt(math.prod(SHAPE))


def scores(images):
    return images.flatten(1) @ WEIGHTS.T


def closed_form(images):
    """The margin to each other person over the L1 norm of its slope, the least of them; and who is shown."""
    table = scores(images)
    labels = table.argmax(1)
    gaps = table.gather(1, labels[:, None]) - table
    slopes = (WEIGHTS[labels][:, None] - WEIGHTS[None]).abs().sum(2)
    return (gaps / slopes.clamp(min=1e-9)).masked_fill(gaps == 0, torch.inf).amin(1), labels


def test_it_is_that_of_the_closed_form_image_by_image_with_the_same_attack_for_all():
    images = 0.4 + 0.2 * torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1))
    exact, labels = closed_form(images)
    objective = Margin(scores, labels)

    def fools(eps):
        radius = eps[:, None, None, None]
        made = pgd(objective, images, eps=radius, step=radius / 3, last_step=radius / 20, iterations=20, seeds=range(12))
        return scores(made).argmax(1) != labels

    most, steps = 4 * exact.max().item(), 8
    least = exact.min().item() / 4
    found = smallest_eps(fools, 12, most=most, least=least, steps=steps)
    resolution = (most / least) ** (2**-steps)
    assert (found >= exact).all()  # nothing smaller fools a linear recogniser
    assert (found <= exact * resolution * 1.05).all()  # the ascent reaches the best corner within 5 %
    assert exact.max() > 2 * exact.min()


def test_what_stands_is_counted_at_the_largest_and_is_asked_no_further():
    truth, asked = torch.tensor([0.3, 2.0, 50.0]), []

    def fools(eps):
        asked.append(eps.clone())
        return eps >= truth

    found = smallest_eps(fools, 3, most=8.0, least=0.25, steps=10)
    assert_close(found, torch.tensor([0.3, 2.0, 8.0]), rtol=0.01, atol=0)
    assert all(eps[2] == pytest.approx(8) for eps in asked)
    assert len(asked) == 11
    again = smallest_eps(fools, 3, most=8.0, least=0.25, steps=10, stand=truth > 8)
    assert torch.equal(again, found)
    assert len(asked) == 11 + 10


def test_each_image_of_a_batch_has_its_own_ball():
    images = torch.full((2, *SHAPE), 0.5)
    radius = torch.tensor([0.01, 0.1])[:, None, None, None]
    made = pgd(Margin(scores, torch.tensor([0, 0])), images, eps=radius, step=radius, iterations=3, seeds=[1, 2])
    assert_close((made - images).abs().amax((1, 2, 3)), radius.flatten(), rtol=1e-5, atol=0)
    alone = pgd(Margin(scores, torch.tensor([0])), images[1:], eps=0.1, step=0.1, iterations=3, seeds=[2])
    assert_close(made[1:], alone)
    with pytest.raises(SettingError, match="must be above 0"):
        pgd(Margin(scores, torch.tensor([0, 0])), images, eps=radius - 0.01, step=0.1, iterations=1)


@pytest.mark.parametrize(("most", "least", "steps"), [(1, 1, 3), (1, 0, 3), (math.inf, 1, 3), (2, 1, -1)])
def test_bounds_that_are_none(most, least, steps):
    with pytest.raises(SettingError, match="two that rise"):
        smallest_eps(lambda eps: eps > 0, 2, most=most, least=least, steps=steps)
