"""Every attack that has a name crossed with the laws of attacks; a new one inherits them without an edit."""

import math

import pytest
import torch
from torch.testing import assert_close

from facesieve.attacks import ATTACKS, Budget, Goal
from facesieve.attacks.objectives import OBJECTIVES

SHAPE, PEOPLE = (3, 8, 8), 5
WEIGHTS = torch.randn(PEOPLE, math.prod(SHAPE), generator=torch.Generator().manual_seed(0))
SEEDS = (1, 2, 3)
EPS = {"linf": 0.15, "l2": 1.5}


def scores(images):
    return images.flatten(1) @ WEIGHTS.T


@pytest.fixture(params=sorted(ATTACKS))
def attack(request):
    return ATTACKS[request.param]


@pytest.fixture
def images():
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def craft(attack, images, seeds=SEEDS, labels=None):
    labels = scores(images).argmax(1) if labels is None else labels
    goal = Goal(scores, labels, OBJECTIVES["margin"](scores, labels))
    return attack.craft(goal, images, Budget(EPS[attack.norm], EPS[attack.norm] / 4, iterations=10), seeds)


def test_the_result_lies_in_ball_and_range_and_the_images_stay_as_they_were(attack, images):
    before = images.clone()
    found = craft(attack, images)
    change = (found - images).flatten(1)
    length = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
    assert (length <= EPS[attack.norm] * (1 + 1e-6)).all()
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert found.shape == images.shape
    assert not found.requires_grad
    assert torch.equal(images, before)


def test_an_image_gets_alone_what_it_gets_in_a_batch(attack, images):
    together = craft(attack, images)
    alone = [craft(attack, images[i : i + 1], SEEDS[i : i + 1]) for i in range(len(images))]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_it_makes_scores_worse(attack, images):
    labels = scores(images).argmax(1)
    margin = OBJECTIVES["margin"](scores, labels)
    assert margin(craft(attack, images)).sum() > margin(images).sum()


def test_it_is_called_as_it_is_registered():
    assert all(ATTACKS[name].name == name for name in ATTACKS)
