"""Things crossed with laws: what is registered obeys the laws of its kind, and so does what the exercises add."""

import json
from functools import cache
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facesieve.attacks import ATTACKS, Budget, Goal
from facesieve.attacks.objectives import OBJECTIVES
from facesieve.defences import DEFENCES
from facesieve.errors import MissingExtraError
from facesieve.noise import seeded_noise
from facesieve.operators import OPERATORS
from facesieve.purify import PRESETS
from facesieve.recognition.embedders import EMBEDDERS
from white_prior import WhitePrior

SIZE, SEEDS = 32, (1, 2, 3)


def laws(*functions):
    return pytest.mark.parametrize("law", functions, ids=lambda law: law.__name__)


def images(dtype=torch.float32):
    """Three images (3, 32, 32): a few coarse colours and a little fine noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(3, 3, 4, 4, generator=generator), (SIZE, SIZE), mode="bicubic")
    return (coarse + 0.05 * torch.randn(3, 3, SIZE, SIZE, generator=generator)).clamp(0, 1).to(dtype)


# --- operators -------------------------------------------------------------------------------------


def matrix(operator):
    units = torch.eye(192, dtype=torch.float64).view(-1, 3, 8, 8)
    return operator(units).flatten(1).T


def degrading_twice_changes_nothing(operator):
    y = operator(images(torch.float64))
    assert_close(operator(operator.Ap(y)), y, rtol=0, atol=1e-13)


def Ap_is_the_pseudo_inverse(operator):
    shape = operator(torch.zeros(1, 3, 8, 8)).shape[1:]
    A = matrix(operator)
    inverse = operator.Ap(torch.eye(len(A), dtype=torch.float64).view(-1, *shape)).flatten(1).T
    assert_close(inverse, torch.from_numpy(np.linalg.pinv(A.numpy())), rtol=0, atol=1e-13)


def all_singular_values_are_one_number(operator):
    values = torch.linalg.svdvals(matrix(operator))
    assert_close(values, values[:1].expand_as(values))


def an_operator_treats_each_image_alone(operator):
    assert torch.equal(operator(images())[1:], operator(images()[1:]))


def an_operator_has_words_and_another_scale_has_others(operator):
    assert operator.name
    assert operator.caption
    other = operator.with_scale(4)
    assert other is None or (other.name != operator.name and other == operator.with_scale(4))


@pytest.mark.parametrize("name", [*OPERATORS, "column_mean:ColumnMean"])
@laws(
    degrading_twice_changes_nothing,
    Ap_is_the_pseudo_inverse,
    all_singular_values_are_one_number,
    an_operator_treats_each_image_alone,
    an_operator_has_words_and_another_scale_has_others,
)
def test_operators(name, law, elsewhere):
    law(OPERATORS.load(name)())


# --- stages: defences to compare with, and those of every preset -----------------------------------


def run(stage, given=None, seeds=SEEDS):
    given = images() if given is None else given
    return stage(given, seeded_noise(seeds, tuple(given.shape[1:])))


def a_stage_gives_images(stage):
    result = run(stage)
    assert (result.shape, result.dtype) == (images().shape, torch.float32)
    assert 0 <= float(result.min()) <= float(result.max()) <= 1


def a_batch_gives_each_image_what_it_gets_alone(stage):
    alone = torch.cat([run(stage, images()[i : i + 1], SEEDS[i : i + 1]) for i in range(3)])
    assert_close(run(stage), alone, rtol=0, atol=1e-5)


def two_seeds_give_two_results_where_noise_is_drawn_and_one_where_it_is_not(stage):
    assert torch.equal(run(stage), run(stage))
    assert torch.equal(run(stage), run(stage, seeds=(4, 5, 6))) == (not stage.draws_noise)


def a_stage_says_what_it_is(stage):
    assert stage.name
    assert stage.evaluations >= 1
    assert json.loads(json.dumps(stage.identity())) == json.loads(json.dumps(stage.identity()))
    assert stage.identity() == stage.identity()


def what_it_begins_from_is_images(stage):
    observed = stage.observed(images())
    assert observed is None or (observed.images.shape == images().shape and observed.name and observed.caption)


def an_attacker_has_its_result_and_a_gradient(stage):
    taken, given = stage.for_attacker(SIZE), images().requires_grad_()
    result = run(taken, given)
    assert_close(result.detach(), run(stage), rtol=0, atol=1e-6)
    weights = torch.rand(result.shape, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((weights * result).sum(), given)
    assert bool(slope.flatten(1).any(1).all())


def wrapping_its_prior_changes_nothing_else(stage):
    wrapped = []
    again = stage.wrapped(lambda prior: wrapped.append(prior) or prior)
    assert len(wrapped) == (1 if stage.needs_prior else 0)
    assert torch.equal(run(again), run(stage))


def stage_of(name):
    prior = WhitePrior(SIZE)
    if name in PRESETS:
        preset = PRESETS[name]
        (stage, *_) = preset.changed(steps=min(2, preset.evaluations)).with_prior(prior).stages
        return stage
    kind = DEFENCES[name]
    return kind(prior=prior, steps=2) if kind.needs_prior else kind()


@pytest.mark.parametrize("name", [*PRESETS, *DEFENCES, "dither"])
@laws(
    a_stage_gives_images,
    a_batch_gives_each_image_what_it_gets_alone,
    two_seeds_give_two_results_where_noise_is_drawn_and_one_where_it_is_not,
    a_stage_says_what_it_is,
    what_it_begins_from_is_images,
    an_attacker_has_its_result_and_a_gradient,
    wrapping_its_prior_changes_nothing_else,
)
def test_stages(name, law, added):
    if name == "dither":
        added(DEFENCES)
    law(stage_of(name))


# --- attacks ---------------------------------------------------------------------------------------

EPS = 8 / 255


def scores(x):
    """Four classes: which quarter of the picture is brightest."""
    return 30 * torch.nn.functional.adaptive_avg_pool2d(x, 2).mean(1).flatten(1)


LABELS = tuple(scores(images()).argmax(1).tolist())


def goal(labels):
    targets = torch.tensor(labels)
    return Goal(scores, targets, OBJECTIVES["margin"](scores, targets))


def crafted(attack, given=None, labels=LABELS, seeds=SEEDS):
    radius = EPS if attack.norm == "linf" else 1.0
    try:
        return attack.craft(
            goal(labels),
            images() if given is None else given,
            Budget(radius, radius / 4, 5 if attack.needs_gradient else 100),
            list(seeds),
        )
    except MissingExtraError as error:
        pytest.skip(str(error))


@cache
def crafted_once(attack):
    return crafted(attack)


def what_is_crafted_lies_in_the_ball_and_in_range(attack):
    result = crafted_once(attack)
    change = result - images()
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    size = change.abs().amax() if attack.norm == "linf" else change.flatten(1).norm(dim=1).amax()
    assert 0 < float(size) <= (EPS if attack.norm == "linf" else 1.0) + 1e-6


def an_attack_raises_its_objective(attack):
    before, after = goal(LABELS).objective(images()), goal(LABELS).objective(crafted_once(attack))
    assert float((after - before).min()) >= -1e-5
    assert float((after - before).max()) > 1e-3


def an_attack_treats_each_image_alone(attack):
    together = crafted_once(attack)
    for i, label in enumerate(LABELS):
        alone = crafted(attack, images()[i : i + 1], (label,), SEEDS[i : i + 1])
        assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


def one_seed_is_one_attack(attack):
    assert torch.equal(crafted(attack), crafted_once(attack))


@pytest.mark.parametrize("name", [*ATTACKS, "stripes"])
@laws(
    what_is_crafted_lies_in_the_ball_and_in_range,
    an_attack_raises_its_objective,
    an_attack_treats_each_image_alone,
    one_seed_is_one_attack,
)
def test_attacks(name, law, added):
    if name == "stripes":
        added(ATTACKS)
    attack = ATTACKS[name]
    assert attack.name == name
    law(attack)


# --- embedders -------------------------------------------------------------------------------------


def rows_have_norm_1(embedder):
    rows = embedder.rows(images().numpy())
    assert (rows.shape, rows.dtype) == ((3, embedder.dimensions), np.float32)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5


def a_face_has_one_row_alone_and_among_others(embedder):
    crops = images().numpy()
    assert np.abs(embedder.rows(crops)[1] - embedder.rows(crops[1:2])[0]).max() < 1e-4


def no_faces_have_no_rows(embedder):
    assert embedder.rows(np.empty((0, 3, SIZE, SIZE), np.float32)).shape == (0, embedder.dimensions)


def other_shapes_are_refused(embedder):
    with pytest.raises(ValueError, match="shape"):
        embedder.rows(np.zeros((1, 3, 8, 9), np.float32))


@pytest.mark.parametrize("name", [*(name for name in EMBEDDERS if not name.startswith(".")), "colours"])
@laws(rows_have_norm_1, a_face_has_one_row_alone_and_among_others, no_faces_have_no_rows, other_shapes_are_refused)
def test_embedders(name, law, added):
    if name == "colours":
        added(EMBEDDERS)
    embedder = EMBEDDERS[name](name)
    assert embedder.name
    law(embedder)


def test_a_name_is_taken_once(added):
    added(DEFENCES)
    import_module("facesieve.defences.dither")
    with pytest.raises(ValueError, match="registered twice"):
        DEFENCES.register("dither", object())
