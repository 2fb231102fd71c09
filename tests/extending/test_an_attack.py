"""An exercise: an attack of one's own, by one new file such as this one."""

import pytest
import torch

from facesieve.attacks import ATTACKS, Attack
from facesieve.evaluate.craft import craft
from facesieve.evaluate.experiment import AttackSettings, Experiment
from facesieve.evaluate.recogniser import Recogniser

# --- the new file --------------------------------------------------------------------------------


def corners(goal, images, budget, seeds):
    """Of some random corners of the ball the one that raises the objective most; sees scores alone."""
    best, highest = images, goal.objective(images)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(budget.iterations):
        signs = torch.stack([torch.randint(0, 2, images.shape[1:], generator=g) for g in generators])
        tried = (images + budget.eps * (2 * signs - 1)).clamp(0, 1)
        rise = goal.objective(tried)
        best = torch.where((rise > highest)[:, None, None, None], tried, best)
        highest = torch.maximum(rise, highest)
    return best


CORNERS = Attack("corners", "linf", needs_gradient=False, sees_defence=True, craft=corners)


# --- what it can do then -------------------------------------------------------------------------

DOTTED = f"{__name__}:CORNERS"


@pytest.fixture
def registered(monkeypatch):
    len(ATTACKS)
    monkeypatch.setattr(ATTACKS, "_things", dict(ATTACKS._things))
    ATTACKS.register("corners", CORNERS)


def check(method):
    experiment = Experiment.model_validate(
        {"data": {}, "attacks": [{"method": method, "iterations": 20, "eps": 8}], "run": {"threat": "adaptive"}}
    )
    [attack] = experiment.all_attacks()
    weights = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    recogniser = Recogniser("linear", ("a", "b", "c"), lambda images: images.flatten(1) @ weights.T, closed_set=True)
    images = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = recogniser.scores(images).argmax(1)
    found = craft(attack, recogniser, images, labels, [1, 2, 3, 4])
    assert (found - images).abs().max() <= 8 / 255 + 1e-6
    before, after = (recogniser.scores(x).gather(1, labels[:, None]) for x in (images, found))
    assert (after < before).all()
    return attack


def test_an_experiment_names_it_by_its_module():
    assert check(DOTTED).name == "CORNERS, eps 8/255"


def test_an_experiment_names_it_where_it_is_registered(registered):
    assert check("corners").name == "corners, eps 8/255"


def test_a_record_says_that_it_saw_no_gradient():
    assert not ATTACKS.load(AttackSettings(method=DOTTED).method).needs_gradient
