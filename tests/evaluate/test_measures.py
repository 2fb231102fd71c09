"""Every measure on a small run with real photographs, and each against what it must be where that is known."""

import json

import numpy as np
import pytest
import torch

from facesieve.errors import SettingError
from facesieve.evaluate.experiment import Experiment
from facesieve.evaluate.measures import MEASURES
from facesieve.evaluate.measures.restoration import perceptual, psnr
from facesieve.evaluate.measures.survival import EDGES, energy
from facesieve.evaluate.measures.tamper import _alarms, _Faces, _named, _refused, _told_apart
from facesieve.evaluate.run import Run
from facesieve.metrics.rates import quantile
from facesieve.report.record import load_record
from facesieve.report.targets import measured, read_targets
from make_people import write_folders

ATTACK = "pgd, eps 8/255"
SETTINGS = {
    "data": {"minimum": 5, "people": 4, "train": 3, "test": 2},
    "recogniser": {"templates": 3},
    "attacks": [{"eps": 8, "iterations": 3, "objective": "margin", "quantisation": ["uint8"]}],
    "defences": [
        {"preset": "stage1", "settings": {"steps": 2}, "probes": 4},
        {"baseline": "jpeg", "settings": {"quality": 60}},
    ],
    "run": {
        "batch": 4,
        "measures": [
            "accuracy",
            "consistency",
            "health",
            "open_set",
            "raw_templates",
            "speed",
            "survival",
            "tamper",
            "templates",
        ],
    },
    "targets": [
        {"measure": "accuracy", "figure": "clean accuracy lost, jpeg", "wanted": "<= 1", "percent": True, "target": "lost"},
        {"measure": "consistency", "figure": "largest |A x - y|, stage1, super-resolution", "wanted": "<= 1e-4"},
    ],
}


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    root = tmp_path_factory.mktemp("measures")
    write_folders(root / "source", people)
    run = Run(Experiment.model_validate(SETTINGS), root / "source", root / "run")
    run.execute()
    return run


def test_every_measure_gives_figures_and_the_record_keeps_them(run):
    elsewhere = {"super_resolution", "paired", "persistence", "smallest_eps", "verification"}  # but for one: test_worst_case.py
    assert set(run.settings.measures) | elsewhere == set(MEASURES)
    assert set(run.record.measures) == set(run.settings.measures)
    assert all(run.record.measures.values())
    again = load_record(run.out)
    assert again.measures["tamper"] == run.record.measures["tamper"]
    for values in run.record.measures.values():
        for estimate in values.values():
            assert np.isnan(estimate.low) or estimate.low <= estimate.value <= estimate.high


def test_accuracy_is_the_tables(run):
    found = run.record.measures["accuracy"]
    assert set(found) >= {"clean accuracy lost, jpeg", f"clean accuracy kept, stage1, {ATTACK}, uint8"}
    assert found["clean accuracy lost, stage1"].n == 4


def test_a_restoration_that_trusts_its_observation_is_consistent_with_it(run):
    [(name, estimate)] = run.record.measures["consistency"].items()
    assert name == "largest |A x - y|, stage1, super-resolution"
    assert estimate.value < 1e-4


def test_targets_are_measured_where_the_experiment_asks_for_them(run, facesieve, tmp_path):
    lost, consistent = measured(run.record)
    assert (lost.target, lost.wanted, lost.n) == ("lost", "<= 1", 8)
    assert lost.value == pytest.approx(100 * run.record.measures["accuracy"]["clean accuracy lost, jpeg"].value)
    assert (consistent.reached, consistent.low) == (True, None)
    bad = {**SETTINGS, "targets": [{"measure": "accuracy", "figure": "luck"}]}
    with pytest.raises(SettingError, match="gave no figure 'luck'; it gave accuracy, none"):
        measured(run.record.model_copy(update={"experiment": bad}))
    with pytest.raises(ValueError, match="which run.measures does not name"):
        Experiment.model_validate({**SETTINGS, "targets": [{"measure": "luck", "figure": "luck"}]})


def test_the_command_keeps_targets(run, facesieve, tmp_path):
    lines = ["[data]", *(f"{name} = {value}" for name, value in SETTINGS["data"].items()), "[run]", 'measures = ["open_set"]']
    lines += ["[recogniser]", "templates = 3", "[[targets]]", 'measure = "open_set"', 'figure = "top-1"', 'wanted = ">= 0.5"']
    (tmp_path / "e.toml").write_text("\n".join(lines))
    done = facesieve(
        "evaluate", tmp_path / "e.toml", "--source", run.out.parent / "source", "-o", tmp_path / "run",
        "--manifest", run.out / "manifest.json", "--targets", tmp_path / "targets.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    [target] = read_targets(tmp_path / "targets.json")
    assert (target.target, target.reached, target.area) == ("top-1", True, "purifier")
    assert "--source DATA" in json.loads((tmp_path / "targets.json").read_text())[0]["command"]


# --- numbers --------------------------------------------------------------------------------------


def test_the_tamper_measure_of_scores_that_are_apart_and_of_scores_that_are_not():
    people = np.arange(20)
    clean = np.linspace(0, 0.2, 20)
    apart = _told_apart(clean, clean + 0.5, people)
    assert apart["area under the ROC curve"].value == 1
    assert apart["attacked images found at 5 % false alarms"].value == 1
    same = _told_apart(clean, clean, people)
    assert same["area under the ROC curve"].value == pytest.approx((400 - 20) / 2 / 400)
    assert same["attacked images found at 5 % false alarms"].value == pytest.approx(0.05)


def test_the_tamper_measure_agrees_with_scikit_learn_s_curve():
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(1)
    clean, tampered = rng.normal(0.2, 0.1, 400), rng.normal(0.45, 0.15, 90)
    found = _told_apart(clean, tampered, np.repeat(np.arange(100), 4), np.arange(90))
    truth, scores = np.r_[np.zeros(400), np.ones(90)], np.r_[clean, tampered]
    assert found["area under the ROC curve"].value == pytest.approx(roc_auc_score(truth, scores))
    alarms, hits, _ = roc_curve(truth, scores, drop_intermediate=False)
    for rate in (0.01, 0.05):
        estimate = found[f"attacked images found at {100 * rate:g} % false alarms"]
        assert estimate.value == pytest.approx(hits[alarms <= rate].max())
        assert (estimate.n, found[f"threshold for {100 * rate:g} % false alarms"].n) == (90, 400)
        assert np.mean(clean > found[f"threshold for {100 * rate:g} % false alarms"].value) <= rate


def test_what_each_policy_gives_is_counted_by_hand():
    """Four people, a probe each; two of the scores exceed the threshold, one of them of a face that is named rightly."""
    table = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0, 0, 0.3, 0.1], [0, 0, 0.9, 0.2]])
    over = np.array([True, True, False, False])
    faces = _Faces({"change": np.array([0.5, 0.5, 0.1, 0.1])}, {"change": over}, np.arange(4), table)
    named = _named(faces, 0.5)
    assert {name: estimate.value for name, estimate in named.items()} == {
        "named as somebody else, purify": 0.5,  # the second and the last
        "named as who it shows, purify": 0.25,  # the first; the third is unknown
        "named as somebody else, refuse by change": 0.25,
        "named as who it shows, refuse by change": 0,
    }
    refused = _refused(faces, 0.5)
    assert (refused["purify"].value, refused["refuse by change"].value) == (0.75, 1)
    assert _alarms(faces)["change: false alarms at the default threshold"].value == 0.5
    assert (_named(faces, None), _refused(faces, None)) == ({}, {})


def test_a_weighted_quantile_is_that_of_repeated_values():
    rng = np.random.default_rng(0)
    values, weights = rng.random(30), rng.integers(0, 4, 30).astype(float)
    repeated = np.repeat(values, weights.astype(int))
    for share in (0.05, 0.5, 0.95):
        assert quantile(values, share, weights) == np.quantile(repeated, share, method="inverted_cdf")


def test_energy_is_that_of_the_pixels_and_lies_in_the_band_of_a_wave():
    change = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    total = sum(energy(change).values())
    assert EDGES[-1] > 0.5**0.5  # of the grid's corner: no frequency is left out
    np.testing.assert_allclose(total, (change**2).sum((1, 2, 3)).double().numpy() / 3, rtol=1e-5)
    wave = torch.cos(2 * torch.pi * torch.arange(32) * 3 / 32).expand(1, 3, 32, 32)  # 3/32 cycles a pixel, without colour
    found = energy(wave)
    assert max(found, key=lambda name: found[name][0]) == "luminance, 0.0625 to 0.125 cycles a pixel"
    assert sum(value[0] for name, value in found.items() if name.startswith("chroma")) < 1e-6


def test_distances_of_images():
    a = torch.full((2, 3, 112, 112), 0.5)
    b = a.clone()
    b[1] += 0.1
    assert psnr(a, b)[1] == pytest.approx(20, abs=1e-3)
    assert perceptual(a, a).tolist() == [0, 0]
    assert perceptual(a, b)[1] > 0
