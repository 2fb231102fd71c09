"""Presets as data, purifiers as sequences of stages."""

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from facesieve import purify
from facesieve.errors import SettingError
from facesieve.noise import seeded_noise
from facesieve.operators import Grey, MeanPool, grey_mean_pool
from facesieve.purify import PRESETS, Preset, Purifier, Restoration, RestorationStage
from facesieve.specs import DEFAULT_PRESET

SMALL = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def quick():
    """Two published stages with few steps, over a closed-form prior of 16 x 16 images."""
    from white_prior import WhitePrior

    return purify.preset("paper").changed(steps=5).with_prior(WhitePrior(16))


@pytest.mark.parametrize(("name", "evaluations"), [("paper", 200), ("fused", 100), ("stage1", 100), ("stage2", 100)])
def test_the_published_presets_cost_what_was_published(name, evaluations):
    assert purify.preset(name).evaluations == evaluations


def test_paper_is_the_published_setting():
    first, second = purify.preset("paper").restorations
    assert (first.operator, second.operator) == (MeanPool(2), Grey())
    for stage in (first, second):
        assert (stage.steps, stage.eta, stage.sigma_y, stage.start_sigma) == (100, 0.85, 0.0, None)
        assert stage.sigmas()[0] == pytest.approx((1 / 4.8370e-5 - 1) ** 0.5, rel=1e-4)  # t = 990
        assert stage.sigmas()[-2] == pytest.approx((1 / 0.9999 - 1) ** 0.5, rel=1e-6)  # t = 0


def test_the_default_needs_one_evaluation_and_no_pure_noise():
    (restoration,) = purify.preset(DEFAULT_PRESET).restorations
    assert restoration.evaluations == 1
    assert restoration.start_sigma is not None
    assert restoration.operator == MeanPool(1)


def test_presets_are_data():
    for name, preset in PRESETS.items():
        data = json.loads(json.dumps(preset.as_dict()))
        assert data["name"] == name
        assert sum(r["evaluations"] for r in data["restorations"]) == preset.evaluations


def test_settings_change_every_restoration_and_leave_the_preset_alone():
    changed = purify.preset("paper").changed(scale=8, steps=10, eta=0.5, sigma_y=0.1, travel_length=2, travel_repeat=2)
    assert changed.restorations[0].operator == MeanPool(8)
    assert changed.restorations[1].operator == Grey()
    assert all((r.steps, r.eta, r.sigma_y) == (10, 0.5, 0.1) for r in changed.restorations)
    assert changed.evaluations == 2 * (10 + 2 * 4)  # four detours of two steps in each
    assert purify.preset("paper").restorations[0].operator == MeanPool(2)
    assert purify.preset("fused").changed(scale=4).restorations[0].operator == grey_mean_pool(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": 1.5}, "eta 1.5 must be between 0 and 1"),
        ({"sigma_y": -1.0}, "sigma_y -1.0 must be between 0 and 200"),
        ({"steps": 0}, "steps 0 must be between 1 and 1000"),
        ({"scale": 0}, "scale 0 must be 2, 4 or 8"),
        ({"travel_length": 0}, "travel_length 0 must be between 1 and 1000"),
        ({"colour": 3}, "no setting colour"),
        ({"start_sigma": 0.001}, "start >= end > 0"),
    ],
)
def test_a_wrong_setting_is_refused(change, message):
    with pytest.raises(SettingError, match=message):
        purify.preset("paper").changed(**change)


def test_a_scale_for_a_preset_without_one_is_refused():
    with pytest.raises(SettingError, match="'stage2' has no resolution scale"):
        purify.preset("stage2").changed(scale=4)


def test_an_unknown_preset_is_refused():
    with pytest.raises(SettingError, match="unknown preset 'best'; there are gentle, balanced, robust, fused, paper"):
        purify.preset("best")


def test_the_same_seed_gives_the_same_result_and_another_seed_another(quick):
    first = quick(SMALL, seeds=[1, 2, 3])
    assert torch.equal(first, quick(SMALL, seeds=[1, 2, 3]))
    other = quick(SMALL, seeds=[1, 2, 4])
    assert torch.equal(first[:2], other[:2])
    assert not torch.equal(first[2], other[2])


def test_the_mean_of_samples_has_their_noise_averaged_and_costs_each_of_them():
    from white_prior import WhitePrior

    one = Restoration("x", grey_mean_pool(4), steps=3, eta=0.0, start_sigma=0.5, end_sigma=0.1)
    spread = []
    for restoration in (one, replace(one, samples=16)):
        purifier = Preset("", "", (restoration,)).with_prior(WhitePrior(16))
        same = SMALL[:1].expand(200, -1, -1, -1)
        results = purifier(same, seeds=range(200))
        assert_close(restoration.operator(2 * results - 1), restoration.observe(same), rtol=0, atol=1e-9)  # law 2
        spread.append(results.std(0).mean())
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.05)  # sqrt(16)
    assert replace(one, samples=16).evaluations == 16 * one.evaluations == 48


def test_without_seeds_every_call_differs(quick):
    assert not torch.equal(quick(SMALL), quick(SMALL))


def test_stages_do_not_share_their_noise():
    class Recorder:
        name = "recorder"

        def __init__(self):
            self.drawn = []

        def __call__(self, images, noise):
            self.drawn.append(noise())
            return images

    recorder = Recorder()
    Purifier((recorder, recorder))(SMALL[:1], seeds=[7])
    assert abs(float(torch.corrcoef(torch.stack([d.flatten() for d in recorder.drawn]))[0, 1])) < 0.15


@pytest.mark.parametrize(("images", "seeds"), [(SMALL, [1, 2]), (SMALL[0], [1, 2, 3])])
def test_images_and_seeds_must_match(quick, images, seeds):
    with pytest.raises(SettingError, match=r"seeds for images of shape"):
        quick(images, seeds=seeds)


def test_a_purifier_is_differentiable_through_all_its_stages(quick):
    images = SMALL.clone().requires_grad_()
    quick(images, seeds=[1, 2, 3]).sum().backward()
    assert float(images.grad.abs().min()) > 0


@pytest.mark.parametrize("start_sigma", [None, 1.0])
def test_what_the_operator_cannot_see_cannot_change_one_bit(start_sigma, white_prior):
    """The bottleneck law, in pixels: dyadic values make the means exact."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(32, 224, (1, 3, 16, 16), generator=generator).float() / 256
    pattern = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8) / 64  # block means 0, differs within blocks
    attacked = images + pattern
    stage = RestorationStage(white_prior, Restoration("sr", MeanPool(2), steps=6, start_sigma=start_sigma))
    results = [stage(x, seeded_noise([3], (3, 16, 16))) for x in (images, attacked)]
    assert not torch.equal(images, attacked)
    assert torch.equal(*results)


def test_the_part_of_a_perturbation_that_the_operator_sees_survives():
    """The limit of the method: a grey low-resolution perturbation passes both stages in full."""
    from white_prior import WhitePrior

    images = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    perturbation = torch.zeros_like(images)
    perturbation[..., :8, :] = 0.05
    clipped_never = Preset("", "", (Restoration("sr", MeanPool(2), steps=6, eta=0.0), Restoration("c", Grey(), steps=6, eta=0.0)))
    stages = clipped_never.with_prior(WhitePrior(16))
    seen = grey_mean_pool(2)
    clean, attacked = (stages(x, seeds=[1]) for x in (images, images + perturbation))
    assert float(clean.min()) > 0
    assert float(attacked.max()) < 1
    assert_close(seen(attacked) - seen(clean), seen(perturbation), atol=1e-12, rtol=0)


def test_observed_is_what_is_left_when_a_restoration_begins(white_prior):
    stage = RestorationStage(white_prior, Restoration("grey", Grey()))
    observed = stage.observed(SMALL)
    assert_close(observed.images, SMALL.mean(1, keepdim=True).expand_as(SMALL))
    assert (observed.name, observed.caption) == ("grey", "grey")
