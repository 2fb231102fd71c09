"""Numbers that decide something are finite and in range at every door: command line, profile, settings, service, library."""

import json

import numpy as np
import pytest
import torch

from facesieve.errors import ProfileError, SettingError
from facesieve.evaluate.experiment import AttackSettings
from facesieve.galleries.base import RAW, Calibration
from facesieve.galleries.checks import new_name
from facesieve.identification import Chosen, Verified
from facesieve.limits import cosine, number, resolution_scale, whole_number
from facesieve.noise import derive_seed, seeded_draws
from facesieve.purify import chosen_preset, preset
from facesieve.service.settings import Settings
from facesieve.train.settings import PriorTraining, parse_settings

BAD = [float("nan"), float("inf"), -float("inf"), 1e9, -1e9]
SETTINGS = ("steps", "eta", "sigma_y", "travel_length", "travel_repeat", "start_sigma", "end_sigma", "samples", "scale")


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_restoration_takes_no_such_number(name, value, tmp_path):
    with pytest.raises(SettingError, match=name.replace("start_", "(start_|)")):
        preset("paper").changed(**{name: value})
    profile = tmp_path / "p.toml"
    profile.write_text(f'preset = "paper"\n[settings]\n{name} = {value}\n')
    with pytest.raises(SettingError, match=r"p\.toml: "):
        chosen_preset(str(profile))


@pytest.mark.parametrize("value", [*BAD, 40, -1.01, "0.3", None, True])
def test_a_threshold_is_a_cosine(value):
    with pytest.raises(SettingError, match="threshold"):
        cosine(value)
    if value is not None:
        with pytest.raises(SettingError, match="threshold"):
            Verified.by(0.5, Chosen(value, "given"))


def test_a_calibration_holds_no_other_number():
    with pytest.raises(SettingError, match="threshold nan"):
        Calibration(float("nan"), 0.01, RAW, 10)
    with pytest.raises(SettingError, match="false-accept rate 2"):
        Calibration(0.3, 2, RAW, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_files_take_none(value):
    for model, name in ((Settings, "deadline_s"), (AttackSettings, "step"), (PriorTraining, "learning_rate")):
        with pytest.raises(ValueError, match="finite number"):
            model.model_validate({name: value})
    with pytest.raises(SettingError, match="learning_rate"):
        parse_settings(PriorTraining, [f"learning_rate={value}"])


@pytest.mark.parametrize("value", [0, 1, 3, 16, 128, 2.5, True, "4"])
def test_a_resolution_scale_is_one_of_three(value):
    with pytest.raises(SettingError, match=f"scale {value}"):
        resolution_scale(value)


def test_numbers_of_numpy_and_pytorch_become_plain():
    for seed in (np.int64(5), np.uint8(5), torch.tensor(5)):
        assert derive_seed(seed, "a", np.int32(3)) == derive_seed(5, "a", 3)
        np.testing.assert_array_equal(seeded_draws([seed], (4,))(), seeded_draws([5], (4,))())
    assert json.dumps(number(np.float32(0.5), "x")) == "0.5"
    assert type(whole_number(np.int64(3), "x")) is int
    changed = preset("paper").changed(steps=np.int64(10), eta=np.float64(0.5))
    assert json.dumps(changed.as_dict()) == json.dumps(preset("paper").changed(steps=10, eta=0.5).as_dict())


@pytest.mark.parametrize("seed", [1.5, "1", None, True, torch.tensor(1.5)])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(SettingError, match="must be a whole number"):
        derive_seed(seed)


def test_a_profile_that_is_nested_too_deeply_is_one_line(tmp_path):
    (tmp_path / "p.toml").write_text("a = " + 5000 * "[" + 5000 * "]")
    with pytest.raises(ProfileError, match="nested too deeply"):
        chosen_preset(str(tmp_path / "p.toml"))


@pytest.mark.parametrize(
    "name", ["A\u200bda", "\u202eadA", "Ada\u200d", "A\u00adda", "Ada\ufeff", "A\u2066da", "Ada\u3164x", "A\u200dda"]
)
def test_names_with_what_is_not_seen_are_refused(name):
    from facesieve.errors import InputError

    with pytest.raises(InputError, match="unseen character"):
        new_name(name)


@pytest.mark.parametrize("name", ["李雷", "می‌خواهم", "O'Brien", "\N{WOMAN}\U0001f3fd\u200d\N{ROCKET}", "क्‍ष"])
def test_names_that_need_a_joiner_keep_it(name):
    assert new_name(name)
