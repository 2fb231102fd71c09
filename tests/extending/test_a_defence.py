"""An exercise: a defence of one's own, by one new file such as this one."""

from dataclasses import dataclass

import pytest
import torch

from facesieve.defences import DEFENCES
from facesieve.errors import SettingError
from facesieve.evaluate.cache import BatchCache
from facesieve.evaluate.defend import RunContext, defend, make_defence
from facesieve.evaluate.experiment import DefenceSettings, RunSettings
from facesieve.hardware import choose_hardware
from facesieve.purify import Stage, StraightThrough

# --- the new file --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dither(Stage):
    """Noise of one standard deviation ``sigma``, then rounding to ``levels`` levels."""

    levels: int = 16
    sigma: float = 0.02
    name = "dither"

    @property
    def draws_noise(self):
        return self.sigma > 0

    def __call__(self, images, noise):
        return ((images + self.sigma * noise()) * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)


# --- what it can do then -------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    len(DEFENCES)
    monkeypatch.setattr(DEFENCES, "_things", dict(DEFENCES._things))
    DEFENCES.register("dither", Dither)


@pytest.fixture
def context(tmp_path):
    return RunContext(RunSettings(size=16, batch=2), BatchCache(tmp_path), choose_hardware("cpu", "fp32"))


def run(baseline, context, **settings):
    defence = make_defence(DefenceSettings(name="mine", baseline=baseline, settings=settings), context)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return defence, images, defend(defence, images, context).points[-1][1]


def test_an_experiment_names_it_by_its_module(context):
    defence, images, result = run(f"{__name__}:Dither", context, levels=4)
    assert {round(level, 3) for level in (3 * result).unique().tolist()} == {0, 1, 2, 3}  # kept in float16
    assert defence.purifier.draws_noise
    assert (result - images).abs().max() < 0.34
    assert len(list(context.cache.folder.rglob("*.npz"))) == 2  # batches of two are kept, and found again
    assert torch.equal(run(f"{__name__}:Dither", context, levels=4)[2], result)
    assert not torch.equal(run(f"{__name__}:Dither", context, levels=5)[2], result)


def test_an_experiment_names_it_where_it_is_registered(registered, context):
    assert run("dither", context)[0].purifier.stages == (Dither(),)


def test_an_attacker_takes_the_identity_for_its_gradient(context):
    [stage] = run(f"{__name__}:Dither", context)[0].purifier.for_attacker(16).stages
    assert isinstance(stage, StraightThrough)
    assert stage.draws_noise


def test_a_setting_that_it_has_not_is_said(context):
    with pytest.raises(SettingError, match="'mine': .*got an unexpected keyword argument 'level'"):
        run(f"{__name__}:Dither", context, level=4)
