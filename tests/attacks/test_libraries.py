"""The attacks of kept libraries on linear models, whose smallest perturbations are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facesieve.attacks import libraries, toolbox
from facesieve.errors import SettingError

SHAPE, CLASSES = (3, 8, 8), 5
SIZE = math.prod(SHAPE)


def linear(classes):
    """Linear scores of so many people, and their weights."""
    weights = torch.randn(classes, SIZE, generator=torch.Generator().manual_seed(0)) / math.sqrt(SIZE)
    return lambda images: images.flatten(1) @ weights.T.to(images), weights


@pytest.fixture(scope="module")
def model():
    return linear(CLASSES)


@pytest.fixture(scope="module")
def images():
    """In the middle of the range, so that only the ball binds."""
    return 0.4 + 0.2 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))


def smallest(model, images, norm):
    """For each image the distance to the nearest decision boundary: margin over the dual norm of its gradient."""
    scores, weights = model
    table = scores(images)
    labels = table.argmax(1)
    gaps = table.gather(1, labels[:, None]) - table  # (N, C)
    slopes = weights[labels][:, None] - weights[None]  # (N, C, D)
    dual = slopes.norm(dim=2) if norm == "l2" else slopes.abs().sum(2)
    distances = (gaps / dual.clamp(min=1e-9)).masked_fill(gaps == 0, torch.inf)
    return distances.amin(1), labels


ATTACKS = {
    "mi-fgsm": ("linf", lambda s, x, y, eps, _: toolbox.mi_fgsm(s, x, y, eps=eps, step=eps / 4, iterations=10)),
    "carlini-wagner-l2": (
        "l2",
        lambda s, x, y, eps, seeds: toolbox.carlini_wagner_l2(s, x, y, eps=eps, iterations=20, seeds=seeds),
    ),
    "toolbox-pgd": (
        "linf",
        lambda s, x, y, eps, seeds: toolbox.toolbox_pgd(s, x, y, eps=eps, step=eps / 4, iterations=15, seeds=seeds),
    ),
    "apgd": ("linf", lambda s, x, y, eps, seeds: libraries.apgd(s, x, y, eps=eps, gradients=60, seeds=seeds)),
    "apgd-ce": ("linf", lambda s, x, y, eps, seeds: libraries.apgd_ce(s, x, y, eps=eps, iterations=30, seeds=seeds)),
    "apgd-ce, l2": ("l2", lambda s, x, y, eps, seeds: libraries.apgd_ce(s, x, y, eps=eps, iterations=30, seeds=seeds, norm="l2")),
    "apgd-t": ("linf", lambda s, x, y, eps, seeds: libraries.apgd_t(s, x, y, eps=eps, iterations=30, seeds=seeds)),
    "fab": ("linf", lambda s, x, y, eps, seeds: libraries.fab(s, x, y, eps=eps, iterations=30, seeds=seeds)),
    "fab, l2": ("l2", lambda s, x, y, eps, seeds: libraries.fab(s, x, y, eps=eps, iterations=30, seeds=seeds, norm="l2")),
    "square": ("linf", lambda s, x, y, eps, seeds: libraries.square(s, x, y, eps=eps, queries=400, seeds=seeds)),
    "auto-attack": ("linf", lambda s, x, y, eps, seeds: libraries.auto_attack(s, x, y, eps=eps, seeds=seeds)),
}
ABOVE = {"square": 5.0, "carlini-wagner-l2": 1.1}  # how far above the smallest they must succeed, if not 1.05
TWO = {
    "mi-fgsm",
    "toolbox-pgd",
    "apgd-ce",
    "apgd-ce, l2",
}  # of two people the cross-entropy's gradient points where the margin's does


def length(norm, change):
    return change.flatten(1).norm(dim=1) if norm == "l2" else change.abs().flatten(1).amax(1)


@pytest.mark.parametrize("name", ATTACKS)
def test_each_fools_a_linear_model_above_its_smallest_perturbation_and_cannot_below(name, images):
    norm, attack = ATTACKS[name]
    model = linear(2 if name in TWO else CLASSES)
    scores = model[0]
    distances, labels = smallest(model, images, norm)
    for i in range(len(images)):
        eps = distances[i].item()
        found = attack(scores, images[i : i + 1], labels[i : i + 1], ABOVE.get(name, 1.05) * eps, [i])
        assert scores(found).argmax(1) != labels[i], (name, i)
        if name != "auto-attack":  # hopeless searches take it to its end
            found = attack(scores, images[i : i + 1], labels[i : i + 1], 0.95 * eps, [i])
            assert scores(found).argmax(1) == labels[i], (name, i)


@pytest.mark.parametrize("name", ["carlini-wagner-l2", "fab, l2"])
def test_smallest_perturbations_are_within_a_few_per_cent_of_the_closed_form(name, model, images):
    distances, labels = smallest(model, images, "l2")
    found = ATTACKS[name][1](model[0], images, labels, 100.0, range(2))
    lengths = length("l2", found - images)
    assert (lengths >= distances * 0.999).all()
    assert (lengths <= distances * 1.05).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_ball_range_batch_and_global_state(name, model, images):
    norm, attack = ATTACKS[name]
    wide = ((images - 0.5) * 5 + 0.5).clamp(0, 1)  # at the border of the range, too
    labels = model[0](wide).argmax(1)
    eps, before = 1.5 * smallest(model, wide, norm)[0].max().item(), wide.clone()
    torch.manual_seed(5)
    np.random.seed(5)
    found = attack(model[0], wide, labels, eps, [3, 4])
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    assert (torch.rand(1), np.random.rand()) == drawn  # the global random states are as they were
    assert (length(norm, found - wide) <= torch.tensor(eps)).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(wide, before)
    assert not found.requires_grad
    alone = torch.cat([attack(model[0], wide[i : i + 1], labels[i : i + 1], eps, [3 + i]) for i in range(2)])
    assert_close(found, alone, rtol=0, atol=1e-5)


def test_too_few_people_for_targets_is_said(images):
    two = lambda x: x.flatten(1)[:, :2]  # noqa: E731
    for attack in (libraries.apgd_t, libraries.auto_attack):
        with pytest.raises(SettingError, match="4 people or more, here are 2"):
            attack(two, images, torch.zeros(2, dtype=torch.long), eps=0.1, seeds=[1, 2])


def test_seeds_are_one_an_image(model, images):
    with pytest.raises(SettingError, match="1 seeds for 2 images"):
        libraries.square(model[0], images, torch.zeros(2, dtype=torch.long), eps=0.1, seeds=[1])


def counted(scores):
    """The scores, and how often a gradient of them was taken."""
    times = []

    def seen(images):
        found = scores(images)
        if found.requires_grad:
            found.register_hook(lambda _: times.append(len(images)))
        return found

    return seen, times


@pytest.mark.parametrize("gradients", [40, 60])
def test_attacks_that_are_compared_take_the_gradients_that_they_say(gradients, images):
    scores, _ = linear(CLASSES)
    labels, eps = scores(images).argmax(1), 0.2 * smallest(linear(CLASSES), images, "linf")[0].min().item()
    seen, times = counted(scores)
    libraries.apgd(seen, images, labels, eps=eps, gradients=gradients, seeds=[1, 2])
    assert 2 * gradients - 8 <= sum(times) <= 2 * gradients  # what no whole target is left for is not taken
    seen, times = counted(scores)
    toolbox.toolbox_pgd(seen, images, labels, eps=eps, step=eps / 4, iterations=gradients, seeds=[1, 2])
    assert sum(times) == 2 * gradients


def test_an_apgd_of_few_iterations_shortens_its_steps_as_one_of_many_does():
    tuned = libraries._of_length(libraries._ensemble(linear(CLASSES)[0], 0.1, "linf", 0).apgd, 50)
    assert (tuned.n_iter, tuned.n_iter_2, tuned.n_iter_min, tuned.size_decr) == (50, 11, 3, 1)


def test_too_few_gradients_for_two_searches_are_said(images):
    with pytest.raises(SettingError, match="3 gradients are too few: it takes 4"):
        libraries.apgd(linear(CLASSES)[0], images, torch.zeros(2, dtype=torch.long), eps=0.1, gradients=3, seeds=[1, 2])
