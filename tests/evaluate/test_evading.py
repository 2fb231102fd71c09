"""What an attacker keeps low is the product's own score, and the search for it moves the image."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from facesieve.attacks.objectives import Margin
from facesieve.errors import SettingError
from facesieve.evaluate.craft import craft
from facesieve.evaluate.evading import Evasion
from facesieve.evaluate.experiment import AttackSettings, Experiment
from facesieve.evaluate.recogniser import Recogniser
from facesieve.evaluate.run import Run
from facesieve.recognition import TorchEmbedder
from facesieve.recognition.tampering import disagreements, tamper_scores
from facesieve.tamper_policy import Limits

SIDE, WIDTH = 4, 6


class Linear(TorchEmbedder):
    """Unit rows of a random matrix."""

    def __init__(self, seed):
        super().__init__()
        self.name, self.dimensions = f"linear-{seed}", WIDTH
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(3 * SIDE * SIDE, WIDTH, generator=generator)

    def embed(self, images):
        return normalize(images.flatten(1) @ self.matrix, dim=1)


def recogniser(seed):
    embedder = Linear(seed)
    templates = normalize(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed + 100)), dim=1)
    people = tuple("abcde")
    return Recogniser(embedder.name, people, lambda x: embedder.embed(x) @ templates.T, False, 1, embedder, templates)


def purify(images):
    """A stand-in: half way to grey."""
    return images / 2 + images.mean(1, keepdim=True) / 2


def evasion(score, mistaken=1, limits=Limits(0.2, 0.5)):
    return Evasion(score, limits, (recogniser(1), recogniser(2)), mistaken)


@pytest.fixture
def images():
    return torch.rand(7, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def test_the_scores_are_those_of_the_product(images):
    each = [
        tamper_scores(one.embedder.embed(images).numpy(), one.embedder.embed(purify(images)).numpy())
        for one in evasion("both").recognisers
    ]
    apart = disagreements(*each)
    expected = {
        "change": each[0],
        "disagreement": apart,
        "both": np.maximum(np.array(each[0]) / 0.2, np.array(apart) / 0.5),
    }
    for score, values in expected.items():
        what = evasion(score)
        _, found = what.parts(Margin, lambda x, what=what: what.rows(purify(x)), LABELS)(images)
        assert found.tolist() == pytest.approx(list(values), abs=1e-5), score


def test_the_margin_is_that_of_the_recogniser_and_of_two_the_worse(images):
    first, second = evasion("change").recognisers
    margins = [32 * Margin(one.scores, LABELS)(purify(images)) for one in (first, second)]
    for mistaken, expected in ((1, margins[0]), (2, torch.minimum(*margins))):
        what = evasion("change", mistaken)
        found, _ = what.parts(Margin, lambda x, what=what: what.rows(purify(x)), LABELS)(images)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_of_images_that_succeed_the_score_is_lower_than_without_it(images):
    what = evasion("change")
    settings = AttackSettings(eps=80.0, iterations=30, objective="margin", relative_steps=(0.2, 0.02), evades="change", rounds=6)
    seen = Recogniser("seen", tuple("abcde"), lambda x: what.rows(purify(x)), False)
    parts = what.parts(Margin, seen.scores, LABELS)
    crafted = {
        rounds: craft(settings.model_copy(update={"rounds": rounds}), seen, images, LABELS, range(7), what) for rounds in (1, 6)
    }
    with torch.no_grad():
        (few, before), (many, after) = parts(crafted[1]), parts(crafted[6])
    won = few > 0
    assert won.sum() >= 4
    assert (many[won] > 0).all()
    assert (after[won] <= before[won] + 1e-6).all()
    assert after[won].mean() < before[won].mean()
    assert ((crafted[6] - images).abs() <= 80 / 255 + 1e-6).all()


def test_what_it_cannot_be_made_of_is_said():
    bare = Recogniser("closed", tuple("abcde"), lambda x: x, True)
    attack = AttackSettings(eps=2.0, evades="change", name="low")
    with pytest.raises(SettingError, match="recognisers of templates"):
        Evasion.of(attack, [bare, bare], None, reduced=False)
    with pytest.raises(SettingError, match="no default threshold"):
        Evasion.of(attack.model_copy(update={"evades": "both"}), [recogniser(1), recogniser(2)], "a-shield", reduced=False)
    data = {"minimum": 5, "people": 4, "train": 3, "test": 2}
    with pytest.raises(ValueError, match="through gradient"):
        Experiment.model_validate({"data": data, "attacks": [{"evades": "change"}]})


def test_a_run_crafts_it_behind_a_preset_on_one_recogniser_or_on_both(source, tmp_path):
    common = {"objective": "margin", "quantisation": ["uint8"], "iterations": 2, "relative_steps": [0.5, 0.3], "eps": 8}
    common |= {"through": "gradient", "rounds": 1}
    enrolled = {"templates": 2, "enrolled": "purified"}
    settings = {
        "data": {"minimum": 5, "people": 4, "train": 3, "test": 2},
        "recogniser": enrolled,
        "attacks": [
            {**common, "name": "plain"},
            {**common, "name": "low", "evades": "both"},
            {**common, "name": "low on both", "evades": "change", "surrogate": [enrolled, {**enrolled, "embedder": "dlib"}]},
        ],
        "defences": [{"preset": "robust"}],
        "run": {"probes": 2, "precision": "fp32", "gradients": "bf16"},
    }
    run = Run(Experiment.model_validate(settings), source, tmp_path / "run")
    [defence] = run.defences
    plain, low, both = (run.adversarial(attack, 2, defence) for attack in run.attacks)
    assert [made.record.left_ball for made in (plain, low, both)] == [0, 0, 0]
    identities = [run.victim(attack, defence).identity() for attack in run.attacks]
    assert "evades" not in identities[0]  # what was crafted before is found again
    assert (identities[1]["evades"]["mistaken"], identities[2]["evades"]["mistaken"]) == (1, 2)
    assert low.record.sees == plain.record.sees
    assert "dlib" in both.record.sees
