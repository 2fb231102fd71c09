"""FGSM and PGD against linear models, whose smallest perturbation and best corner are known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facesieve.attacks import objectives
from facesieve.attacks.gradient import PUBLISHED, fgsm, pgd, pgd_l2
from facesieve.attacks.objectives import CrossEntropy, Margin, PullToward, PushAway, Together, similarities
from facesieve.attacks.quantise import as_uint8
from facesieve.errors import SettingError

SHAPE = (3, 4, 4)
SIZE = math.prod(SHAPE)


class Linear:
    """Scores ``W x + b`` of two people; the margin's gradient is ``w = W_1 - W_0`` everywhere."""

    def __init__(self, seed=0, classes=2):
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(classes, SIZE, generator=generator)
        self.bias = torch.zeros(classes)

    def __call__(self, images):
        return images.flatten(1) @ self.weights.T + self.bias

    def put_boundary(self, image, distance):
        """Move the bias so that person 0 leads at ``image`` by ``distance`` (of the margin)."""
        margin = (self(image[None])[0, 0] - self(image[None])[0, 1]).item()
        self.bias = torch.tensor([distance - margin, 0.0])
        return self

    @property
    def direction(self):
        return self.weights[1] - self.weights[0]


@pytest.fixture
def images():
    """In the middle of the range, so that only the ball binds."""
    return 0.4 + 0.2 * torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


ATTACKS = {
    "fgsm": lambda objective, x, eps, _=None, mask=None: fgsm(objective, x, eps=eps, mask=mask),
    "pgd": lambda objective, x, eps, seeds=None, mask=None: pgd(
        objective, x, eps=eps, step=eps / 3, iterations=12, seeds=seeds, mask=mask
    ),
    "pgd, step beyond eps": lambda objective, x, eps, seeds=None, mask=None: pgd(
        objective, x, eps=eps, step=4 * eps, iterations=5, seeds=seeds, mask=mask
    ),
    "pgd-l2": lambda objective, x, eps, seeds=None, mask=None: pgd_l2(
        objective, x, eps=eps, step=eps / 3, iterations=12, seeds=seeds, mask=mask
    ),
}


def length(name, change):
    return change.flatten(1).norm(dim=1) if name == "pgd-l2" else change.abs().flatten(1).amax(1)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fools_a_linear_model_just_above_its_smallest_perturbation_and_not_below(name, images):
    model, label = Linear(), torch.zeros(1, dtype=torch.long)
    model.put_boundary(images[0], 0.5)
    dual = model.direction.norm() if name == "pgd-l2" else model.direction.abs().sum()  # the dual norm of the gradient
    smallest = (0.5 / dual).item()
    for factor, fooled in ((1.01, True), (0.99, False)):
        found = ATTACKS[name](Margin(model, label), images[:1], smallest * factor)
        assert bool(model(found).argmax(1) == 1) is fooled


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("spread", [0.2, 1.0], ids=["inside", "at the border of the range"])
def test_ball_and_range_hold_exactly_and_the_input_is_untouched(name, spread):
    generator = torch.Generator().manual_seed(2)
    images = ((torch.rand(64, *SHAPE, generator=generator) - 0.5) * spread + 0.5).clamp(0, 1)
    before = images.clone()
    for eps in (0.5 / 255, 2 / 255, 0.1, 1 / 3):
        found = ATTACKS[name](CrossEntropy(Linear(), torch.zeros(64, dtype=torch.long)), images, eps, range(64))
        assert (length(name, found - images) <= torch.tensor(eps)).all()
        assert found.min() >= 0
        assert found.max() <= 1
        assert not found.requires_grad
        assert (found != images).any(dim=(1, 2, 3)).all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "pgd-l2"])
def test_a_linear_objective_ends_in_the_best_corner_of_ball_and_range(name):
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(3))
    model, eps = Linear(), 0.15
    found = ATTACKS[name](Margin(model, torch.zeros(4, dtype=torch.long)), images, eps)
    corner = (images + eps * model.direction.sign().view(SHAPE)).clamp(0, 1)
    assert_close(found, corner, rtol=0, atol=1e-6)


def test_a_linear_objective_ends_at_the_best_point_of_the_l2_ball(images):
    model = Linear()
    found = ATTACKS["pgd-l2"](Margin(model, torch.zeros(5, dtype=torch.long)), images, 0.2)
    assert_close(found, images + 0.2 * (model.direction / model.direction.norm()).view(SHAPE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_gets_the_same_alone_as_in_a_batch(name, images):
    model = Linear(classes=7)
    model.weights = model.weights.double()  # sums in another order differ in float32
    model.bias = model.bias.double()
    labels, images = torch.arange(5), images.double()
    together = ATTACKS[name](CrossEntropy(model, labels), images, 0.05, [7, 8, 9, 10, 11])
    for i in range(5):
        alone = ATTACKS[name](CrossEntropy(model, labels[i : i + 1]), images[i : i + 1], 0.05, [7 + i])
        assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_a_random_start_lies_in_the_ball_is_its_seed_s_and_spreads_evenly(images):
    flat = lambda x: 0 * x.flatten(1).sum(1)  # noqa: E731 - no slope: the start is the result
    starts = pgd(flat, images[:1].expand(4000, -1, -1, -1), eps=0.1, step=0.1, iterations=1, seeds=range(4000)) - images[:1]
    assert starts.abs().max() <= torch.tensor(0.1)
    assert starts.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.01)
    again = pgd(flat, images[:1], eps=0.1, step=0.1, iterations=1, seeds=[17]) - images[:1]
    assert_close(again[0], starts[17], rtol=0, atol=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_under_a_mask_every_other_pixel_keeps_its_bits(name, images):
    mask = torch.zeros(1, 4, 4)
    mask[0, 1:3, 1:] = 1
    found = ATTACKS[name](Margin(Linear(), torch.zeros(5, dtype=torch.long)), images, 0.2, range(5), mask)
    changed = (found != images).any(1)
    assert torch.equal(changed, (mask[0] == 1).expand(5, -1, -1))


def test_a_patch_that_may_become_anything_reaches_the_border_of_the_range(images):
    mask = torch.zeros(1, 4, 4)
    mask[0, 0] = 1
    model = Linear()
    found = pgd(Margin(model, torch.zeros(5, dtype=torch.long)), images, eps=1, step=0.5, iterations=4, mask=mask)
    assert_close(found[:, :, 0], (model.direction.view(SHAPE)[:, 0] > 0).float().expand(5, -1, -1), rtol=0, atol=0)


def test_the_published_setting():
    assert PUBLISHED == {"eps": 0.5 / 255, "step": 2 / 255, "iterations": 40}


@pytest.mark.parametrize("change", [{"eps": 0}, {"step": -1}, {"iterations": 0}, {"seeds": [1, 2]}])
def test_wrong_settings_are_said(images, change):
    given = {"eps": 0.1, "step": 0.1, "iterations": 1} | change
    with pytest.raises(SettingError):
        pgd(lambda x: x.flatten(1).sum(1), images, **given)


# --- objectives -----------------------------------------------------------------------------------


class Rows:
    """An embedder whose images are their own rows."""

    name, dimensions = "rows", SIZE

    def embed(self, images):
        return torch.nn.functional.normalize(images.flatten(1))


def test_objectives_by_hand():
    table = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 4.0]])
    scores = lambda _: table  # noqa: E731
    labels, images = torch.tensor([0, 2]), torch.zeros(2, *SHAPE)
    assert_close(Margin(scores, labels)(images), torch.tensor([2.0, -4.0]))
    assert_close(objectives.TargetedMargin(scores, labels)(images), torch.tensor([-2.0, 4.0]))
    expected = table.logsumexp(1) - torch.tensor([1.0, 4.0])
    assert_close(CrossEntropy(scores, labels)(images), expected)
    assert_close(objectives.TargetedCrossEntropy(scores, labels)(images), -expected)


def test_push_and_pull_are_cosines(images):
    rows = torch.nn.functional.normalize(torch.randn(5, SIZE, generator=torch.Generator().manual_seed(4)))
    cosines = torch.nn.functional.cosine_similarity(images.flatten(1), rows)
    assert_close(PushAway(Rows(), rows)(images), -cosines)
    assert_close(PullToward(Rows(), rows)(images), cosines)


def test_of_several_templates_the_best_counts_and_the_slope_is_that_of_finite_differences(images):
    generator = torch.Generator().manual_seed(5)
    templates = torch.nn.functional.normalize(torch.randn(5, SIZE, generator=generator, dtype=torch.float64))
    owners = torch.tensor([1, 0, 2, 0, 1])
    scores = similarities(Rows(), templates, owners, scale=30.0)
    x = images[:2].double().requires_grad_(True)
    cosines = torch.nn.functional.cosine_similarity(x.flatten(1)[:, None], templates[None], dim=2)
    expected = 30 * torch.stack([cosines[:, [1, 3]].amax(1), cosines[:, [0, 4]].amax(1), cosines[:, 2]], 1)
    assert_close(scores(x), expected)
    assert torch.autograd.gradcheck(scores, x)


# --- saving ---------------------------------------------------------------------------------------


def test_half_a_level_becomes_one_or_none_when_it_is_saved():
    clean = (torch.arange(256).float() / 255).view(1, 1, 16, 16).expand(1, 3, -1, -1)[..., 1:15, :]
    up, down = as_uint8(clean + 0.4999 / 255), as_uint8(clean - 0.4999 / 255)
    assert_close(up, clean, rtol=0, atol=1e-7)
    assert_close(down, clean, rtol=0, atol=1e-7)
    levels = (as_uint8(clean + 0.5001 / 255) - clean) * 255
    assert_close(levels, torch.ones_like(levels), rtol=0, atol=1e-4)


# --- a real recogniser ----------------------------------------------------------------------------


def test_sface_names_another_person_after_pgd(sample_photos):
    from facesieve.faces import Detector, FaceCrops
    from facesieve.recognition.sface import load_sface

    detector, network = Detector(), load_sface()
    photos = list(sample_photos.items())
    cut = [FaceCrops.cut(photo, detector.detect(photo)[:1], 112).crops for _, photo in photos]
    crops = torch.from_numpy(np.concatenate(cut))
    people = sorted({path.stem.split("-")[0] for path, _ in photos})
    owners = torch.tensor([people.index(path.stem.split("-")[0]) for path, _ in photos])
    with torch.no_grad():
        scores = similarities(network, network.embed(crops), owners)
    probes, labels = crops[[-1]], owners[[-1]]
    moved = torch.roll(probes, 1, dims=-1)  # not the enrolled picture itself
    assert scores(moved).argmax(1).item() == labels.item()
    found = pgd(Margin(scores, labels), moved, eps=8 / 255, step=2 / 255, iterations=20, seeds=[1])
    assert scores(as_uint8(found)).argmax(1).item() != labels.item()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_steps_fall_evenly_from_the_first_to_the_last():
    """A linear objective in a ball that is never reached: an image moves by the sum of the steps."""
    images = torch.full((1, 3, 2, 2), 0.5)
    found = pgd(lambda x: x.flatten(1).sum(1), images, eps=0.4, step=0.05, last_step=0.01, iterations=5)
    assert_close(found - images, torch.full_like(images, 0.05 + 0.04 + 0.03 + 0.02 + 0.01))
    found = pgd_l2(lambda x: x.flatten(1).sum(1), images, eps=1, step=0.05, last_step=0.01, iterations=5)
    assert (found - images).norm().item() == pytest.approx(0.15, abs=1e-6)
    one = pgd(lambda x: x.flatten(1).sum(1), images, eps=0.4, step=0.05, last_step=0.01, iterations=1)
    assert_close(one - images, torch.full_like(images, 0.05))
    with pytest.raises(SettingError, match="last step"):
        pgd(lambda x: x.flatten(1).sum(1), images, eps=0.4, step=0.05, last_step=0.0, iterations=5)


def test_several_recognisers_are_attacked_by_the_sum_of_their_objectives():
    weights = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    images, labels = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 3])
    tables = [lambda x, w=w: x.flatten(1) @ w for w in weights]
    together = Together(Margin, lambda x: torch.cat([table(x) for table in tables], 1), labels, 4)
    assert_close(together(images), sum(Margin(table, labels)(images) for table in tables))


def test_cosines_are_told_apart_whatever_the_network_computes_in():
    """Two templates whose cosines differ by 1e-4 of one another: bf16 has one number for both."""

    class Rows:
        name, dimensions = "rows", 2

        def embed(self, images):
            return images.flatten(1)[:, :2].bfloat16()

    templates = torch.tensor([[1.0, 0.0], [0.9999, 0.0141]])
    with torch.autocast("cpu", torch.bfloat16):
        first, second = similarities(Rows(), templates)(torch.tensor([1.0, 0.0, 0.0]).expand(1, 3).reshape(1, 3, 1, 1))[0]
    assert first - second == pytest.approx(1e-4, rel=1e-2)
