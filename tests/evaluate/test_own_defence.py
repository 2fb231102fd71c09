"""Anybody's defence: a function of crops, named as ``package.module:factory``."""

import json

import numpy as np
import pytest
import torch

from facesieve.defences.own import Own
from facesieve.errors import SettingError
from facesieve.evaluate.cache import BatchCache
from facesieve.evaluate.defend import RunContext, defend, make_defence
from facesieve.evaluate.experiment import DefenceSettings, Experiment, RunSettings
from facesieve.hardware import choose_hardware
from facesieve.purify import StraightThrough

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def halved(strength=0.5):
    return lambda crops: crops * strength


def in_numpy():
    return lambda crops: np.round(np.asarray(crops) * 4) / 4


def noisy():
    return lambda crops: (crops + 0.1 * torch.randn_like(crops)).clamp(0, 1)


def too_large():
    return lambda crops: crops * 255


def too_small():
    return lambda crops: crops[:, :, ::2, ::2]


def failing():
    def fail(crops):
        raise KeyError("weights")

    return fail


def no_function():
    return 3


def made(name, tmp_path, **settings):
    context = RunContext(RunSettings(size=16, batch=2), BatchCache(tmp_path), choose_hardware("cpu", "fp32"))
    defence = make_defence(DefenceSettings(name="mine", baseline=f"{__name__}:{name}", settings=settings), context)
    return defence, defend(defence, IMAGES, context).images


def test_crops_in_crops_out(tmp_path):
    defence, images = made("halved", tmp_path, strength=0.25)
    assert torch.allclose(images, IMAGES * 0.25, atol=1e-3)  # kept in float16
    [stage] = defence.purifier.stages
    assert isinstance(stage, Own)
    assert not defence.purifier.draws_noise
    assert stage.for_attacker(16) is stage
    assert '"strength": 0.25' in stage.identity()["spec"]
    assert stage.identity() != made("halved", tmp_path)[0].purifier.stages[0].identity()


def test_one_without_a_gradient_is_attacked_with_the_identity_s(tmp_path):
    defence, images = made("in_numpy", tmp_path)
    assert torch.allclose(images, (IMAGES * 4).round() / 4, atol=1e-3)
    assert isinstance(defence.purifier.stages[0].for_attacker(16), StraightThrough)


def test_one_that_draws_is_seen_to_and_gives_each_image_the_same_alone_as_in_a_batch(tmp_path):
    defence, _images = made("noisy", tmp_path)
    assert defence.purifier.draws_noise
    before = torch.random.get_rng_state()
    batch, alone = (defence.purifier(IMAGES[part], seeds=seeds) for part, seeds in ((slice(3), [1, 2, 3]), (slice(1, 2), [2])))
    assert torch.equal(batch[1:2], alone)
    assert not torch.equal(batch[:1] - IMAGES[:1], batch[1:2] - IMAGES[1:2])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too_large", r"not in \[0, 1\]"), ("too_small", r"returns \(1, 3, 8, 8\) for crops \(1, 3, 16, 16\)"),
        ("failing", "fails on crops: .*weights"), ("no_function", "makes a int"), ("missing", "cannot be imported"),
    ],
)  # fmt: skip
def test_what_is_no_defence_is_said_before_anything_is_computed(name, said, tmp_path):
    with pytest.raises(SettingError, match=said):
        made(name, tmp_path)


def test_the_command_puts_it_in_the_place_of_the_experiment_s_defences():
    data = {"minimum": 2, "people": 2, "train": 1, "test": 1, "seed": 0}
    written = Experiment.model_validate({"data": data, "defences": [{"preset": "gentle"}, {"baseline": "jpeg"}]})
    for name, preset, baseline in (("robust", "robust", None), ("jpeg", None, "jpeg"), ("a.b:c", None, "a.b:c")):
        [defence] = written.with_defences([name]).all_defences()
        assert (defence.name, defence.preset, defence.baseline) == (name, preset, baseline)


EXPERIMENT = """
[data]
minimum = 5
people = 4
train = 3
test = 2
[recogniser]
templates = 3
enrolled = "purified"
[[attacks]]
name = "oblivious"
through = "nothing"
objective = "margin"
eps = 8
relative_steps = [0.3, 0.1]
iterations = 2
quantisation = ["uint8"]
[[attacks]]
name = "EOT"
through = "gradient"
objective = "margin"
eps = 8
relative_steps = [0.3, 0.1]
iterations = 3
quantisation = ["uint8"]
[[defences]]
preset = "robust"
[run]
precision = "fp32"
measures = ["accuracy", "health"]
"""


def test_a_row_of_the_board_in_one_command_and_another_to_draw_it(facesieve, source, tmp_path):
    (tmp_path / "board.toml").write_text(EXPERIMENT)
    spec, results = f"{__name__}:halved", tmp_path / "results"
    command = ("evaluate", tmp_path / "board.toml", "--source", source, "-o", tmp_path / "run")
    done = facesieve(*command, "--defence", spec, "--results", results)
    assert done.code == 0, done.err
    [none, mine] = sorted(
        (json.loads(path.read_text()) for path in results.glob("*.json")), key=lambda one: one["settings"] == {}
    )[::-1]
    assert (none["defence"]["name"], mine["defence"]["name"]) == ("none", spec)
    assert [attack["view"] for attack in mine["attackers"]] == ["", "gradient"]
    assert set(mine["health"]) == {"EOT, eps 8/255"}
    assert set(none["health"]) == {"oblivious, eps 8/255"}
    assert f"--defence {spec}" in mine["command"]
    done = facesieve("board", results)
    assert done.code == 0, done.err
    page = (results / "board.md").read_text()
    assert f"| {spec} | sface-2021dec | 4, 8 |" in page
    refused = facesieve(*command, "--defence", "jpeg")
    assert refused.code == 2
    assert f"defences.1.name is {spec} there, jpeg here" in refused.err
