"""An experiment whose attackers know the defences: a set for each, templates behind them, and what is said of the noise."""

import numpy as np
import pytest
import torch

from facesieve.evaluate.experiment import Experiment
from facesieve.evaluate.run import Run, evaluate
from facesieve.images import to_floats
from facesieve.recognition.sface import load_sface
from facesieve.report.checks import checks
from facesieve.report.record import NONE, load_record
from facesieve.report.tables import tables_of

ATTACK = "pgd, eps 8/255"
ADAPTIVE = {
    "data": {"minimum": 5, "people": 4, "train": 3, "test": 2},
    "recogniser": {"templates": 3},
    "attacks": [{"eps": 8, "iterations": 3, "objective": "margin", "quantisation": ["float"], "probes": 4}],
    "defences": [
        {"preset": "robust"},
        {"baseline": "jpeg", "settings": {"quality": 60}, "probes": 3},
    ],
}


def adaptive(threat, eot_samples=1):
    return Experiment.model_validate({**ADAPTIVE, "run": {"batch": 3, "threat": threat, "eot_samples": eot_samples}})


@pytest.fixture(scope="module")
def seen(source, tmp_path_factory):
    root = tmp_path_factory.mktemp("adaptive")
    runs = {name: evaluate(adaptive(name), source, root / name, cache=root / "cache") for name in ("oblivious", "adaptive")}
    return root, runs


def test_an_adaptive_attack_crafts_a_set_for_each_defence(seen):
    root, runs = seen
    names = [record.name for record in runs["adaptive"].attacks]
    assert names == [ATTACK, f"{ATTACK}, through robust", f"{ATTACK}, through jpeg"]
    assert [record.still for record in runs["adaptive"].attacks] == [0, 0, 0]
    sets = {path.name: np.load(path / "float.npy") for path in (root / "adaptive" / "adversarial").iterdir()}
    assert sorted(len(images) for images in sets.values()) == [3, 4, 4]

    def margin(name, attack, defence):
        cell = runs[name].cell(attack, "uint8" if attack == NONE else "float", defence)
        return np.mean(np.array(cell.genuine) - np.array(cell.impostor))

    assert margin("adaptive", ATTACK, "robust") < margin("oblivious", ATTACK, "robust") - 0.02
    # the identity's gradient gets through JPEG, which gives none of its own
    assert margin("adaptive", ATTACK, "jpeg") < margin("adaptive", NONE, "jpeg") - 0.1
    assert not np.array_equal(sets["pgd--eps-8-255--through-jpeg"], sets["pgd--eps-8-255"][:3])
    assert runs["adaptive"].cell(ATTACK, "float", NONE) == runs["oblivious"].cell(ATTACK, "float", NONE)


def test_that_it_did_not_average_over_the_noise_is_said_until_it_does(seen, source):
    root, runs = seen
    assert any("none saw a defence" in line for line in checks(tables_of(runs["oblivious"])))
    [said] = [line for line in checks(tables_of(runs["adaptive"])) if "did not average" in line]
    assert said.startswith("robust draw")
    more = evaluate(adaptive("adaptive", eot_samples=2), source, root / "eot", cache=root / "cache")
    assert not any("average" in line or "none saw" in line for line in checks(tables_of(more)))


def test_measures_join_the_record(source, tmp_path):
    plain = {**ADAPTIVE, "attacks": [{"eps": 8, "iterations": 3, "quantisation": ["float"]}], "defences": [{"baseline": "jpeg"}]}
    settings = Experiment.model_validate({**plain, "run": {"measures": ["accuracy"]}})
    evaluate(settings, source, tmp_path)
    record = load_record(tmp_path)
    found = record.measures["accuracy"]
    assert set(found) >= {"clean accuracy lost, jpeg", f"clean accuracy kept, jpeg, {ATTACK}, float"}
    kept = found[f"clean accuracy kept, jpeg, {ATTACK}, float"]
    correct = np.equal(record.cell(ATTACK, "float", "jpeg").predicted, record.labels).mean()
    assert kept.value == pytest.approx(correct)  # all clean images are named correctly
    assert kept.low <= kept.value <= kept.high
    assert kept.n == 8


def test_an_attack_in_the_range_of_an_operator_goes_by_gradients():
    with pytest.raises(ValueError, match="through range takes fgsm, pgd, pgd-l2, no other"):
        Experiment.model_validate({"data": {}, "attacks": [{"method": "square", "through": "range"}]})


def test_people_can_be_enrolled_behind_the_defence_that_probes_go_through(source, seen, tmp_path):
    """The templates of a defence are the mean rows of images behind it, the attack aims at them; without one nothing changes."""
    plain = {**ADAPTIVE, "recogniser": {"templates": 3, "enrolled": "purified"}, "defences": [{"baseline": "jpeg"}]}
    settings = Experiment.model_validate({**plain, "run": {"batch": 3, "threat": "adaptive"}})
    run = Run(settings, source, tmp_path)
    record = run.execute()
    assert run.recogniser_for(None) is run.recogniser
    (defence,) = run.defences
    recogniser = run.recogniser_for(defence)
    chosen = np.concatenate([np.flatnonzero(run.gallery.labels == person)[:3] for person in range(4)])
    crops = torch.from_numpy(to_floats(run.gallery.images[chosen]))
    rows = load_sface().rows(defence.purifier(crops, seeds=range(len(crops))).half().float().numpy())  # as the cache keeps them
    means = rows.reshape(4, 3, -1).mean(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(recogniser.table(run.images), load_sface().rows(run.images.numpy()) @ means.T, atol=1e-4)
    assert record.attacks[1].sees.startswith(recogniser.name)
    assert record.cell(NONE, "uint8", NONE).genuine == seen[1]["adaptive"].cell(NONE, "uint8", NONE).genuine
    assert record.cell(NONE, "uint8", "jpeg").genuine != seen[1]["adaptive"].cell(NONE, "uint8", "jpeg").genuine
