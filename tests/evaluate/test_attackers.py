"""The attackers of a worst case in one small run: views of a preset, restarts, several surrogates, gradients in bf16; resumed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from facesieve.attacks.objectives import Margin
from facesieve.evaluate.craft import Victim, craft
from facesieve.evaluate.experiment import Experiment
from facesieve.evaluate.recogniser import side_by_side
from facesieve.evaluate.run import Run, evaluate
from facesieve.report.record import NONE
from facesieve.report.tables import figures, tables_of

SEEN = {"objective": "margin", "quantisation": ["uint8"], "iterations": 3, "relative_steps": [0.3, 0.1], "eps": 8}
DLIB = {"embedder": "dlib", "templates": 2, "enrolled": "purified"}
SETTINGS = {
    "data": {"minimum": 5, "people": 4, "train": 3, "test": 2},
    "recogniser": {"templates": 2, "enrolled": "purified"},
    "attacks": [
        {**SEEN, "name": "oblivious", "starts": 2},
        {**SEEN, "name": "EOT", "through": "gradient", "eot_samples": 2},
        {**SEEN, "name": "range", "through": "range"},
        {**SEEN, "name": "BPDA", "through": "observation", "probes": 2},
        {**SEEN, "name": "both", "through": "gradient", "surrogate": [{"templates": 2, "enrolled": "purified"}, DLIB]},
    ],
    "defences": [{"preset": "robust"}],
    "run": {"batch": 3, "probes": 4, "precision": "fp32", "gradients": "bf16", "measures": ["accuracy", "raw_templates"]},
}


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    made = Run(Experiment.model_validate(SETTINGS), source, tmp_path_factory.mktemp("attackers") / "run")
    made.execute()
    return made


def attack_named(run, name):
    return next(attack for attack in run.attacks if attack.name == f"{name}, eps 8/255")


def test_attackers_who_say_what_they_have_of_a_defence_are_tried_behind_it_alone(run):
    tried = {(cell.attack.partition(",")[0], cell.defence) for cell in run.record.cells}
    assert tried == {
        (NONE, NONE), (NONE, "robust"), ("oblivious", NONE), ("oblivious", "robust"), ("EOT", "robust"), ("range", "robust"),
        ("BPDA", "robust"), ("both", "robust"),
    }  # fmt: skip
    by_name = {made.attack.partition(",")[0]: made for made in run.record.attacks}
    assert {name: made.view for name, made in by_name.items()} == {
        "oblivious": "", "EOT": "gradient", "range": "range", "BPDA": "observation", "both": "gradient",
    }  # fmt: skip
    assert (by_name["EOT"].draws, by_name["oblivious"].starts) == (2, 2)
    assert "sface" in by_name["both"].sees
    assert "dlib" in by_name["both"].sees
    assert all(made.still == 0 for made in by_name.values())


def test_each_attacker_lowers_the_margin_behind_the_preset(run):
    found = figures(tables_of(run.record))
    clean = found["margin, robust"].value
    for name in ("EOT", "range", "both"):
        assert found[f"margin, robust, {name}, eps 8/255, uint8"].value < clean - 0.02, name
    worst = found["margin, robust, worst case of 4 attacks, eps 8/255, uint8"]
    assert worst.n == 4
    assert worst.value <= min(found[f"margin, robust, {name}, eps 8/255, uint8"].value for name in ("EOT", "range", "both"))
    assert found["accuracy, robust, worst case of 5 attacks, eps 8/255, uint8"].n == 2


def test_what_the_range_attack_changes_is_constant_over_blocks(run):
    change = np.load(run.out / "adversarial" / "range--eps-8-255--through-robust" / "float.npy") - run.images.numpy()
    clean, blocks = (images.reshape(4, 3, 64, 2, 64, 2) for images in (run.images.numpy(), change))
    inside = (clean.min((3, 5)) > 8 / 255) & (clean.max((3, 5)) < 1 - 8 / 255)  # no pixel could become black or white
    spread = blocks.max((3, 5)) - blocks.min((3, 5))
    assert inside.mean() > 0.5
    assert spread[inside].max() < 1e-6
    assert np.abs(change).max() == pytest.approx(0.6 * 8 / 255, abs=1e-6)  # three steps of 0.3, 0.2 and 0.1


def test_of_two_starts_each_image_keeps_the_better(run):
    one, two = attack_named(run, "oblivious").model_copy(update={"starts": 1}), attack_named(run, "oblivious")
    labels, seeds = torch.from_numpy(run.labels), range(4)
    objective = Margin(run.recogniser.logits, labels)
    first, best = (craft(attack, run.recogniser, run.images, labels, seeds) for attack in (one, two))
    with torch.no_grad():
        gained = objective(best) - objective(first)
    assert (gained >= 0).all()
    assert gained.max() > 0


def test_gradients_in_bf16_are_near_those_in_fp32_and_nothing_else_is_reduced(run):
    rows = []
    for gradients in (None, "bf16"):
        settings = run.settings.model_copy(update={"gradients": gradients})
        victim = Victim(run.recogniser, "", replace(run.context, settings=settings))
        x = run.images.clone().requires_grad_(True)
        scores = victim.seen_with([0] * 4).scores
        (slope,) = torch.autograd.grad(scores(x)[:, 0].sum(), x)
        rows.append((slope.flatten(1), scores(run.images)))
    cosine = torch.nn.functional.cosine_similarity(rows[0][0], rows[1][0])
    assert 0.9 < cosine.min() < cosine.max() < 1
    assert torch.equal(rows[0][1], rows[1][1])


def test_recognisers_side_by_side_have_the_logits_of_each(run):
    both = side_by_side([run.recognisers.named(settings, run.defences[0]) for settings in attack_named(run, "both").surrogates])
    table = both.table(run.images)
    assert table.shape == (4, 8)
    own = run.recogniser_for(run.defences[0])
    np.testing.assert_allclose(table[:, :4], 32 * own.table(run.images), atol=1e-3)
    assert side_by_side([own]) is own


def test_templates_of_photographs_as_they_are_beside_those_behind_the_preset(run):
    found = run.record.measures["raw_templates"]
    assert set(found) == {"accuracy, robust", "clean accuracy lost, robust", "accuracy, robust, oblivious, eps 8/255"}  # 4 images
    cell = run.record.cell("oblivious, eps 8/255", "uint8", "robust")
    assert found["accuracy, robust, oblivious, eps 8/255"].n == len(cell.predicted)


def test_a_run_that_was_stopped_at_any_line_ends_like_one_that_was_not(run, source, tmp_path):
    class StopError(Exception):
        pass

    for after in (3, 6, 10):
        left = [after]

        def report(_, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise StopError

        with pytest.raises(StopError):
            evaluate(run.experiment, source, tmp_path, report=report)
    assert [cell.predicted for cell in evaluate(run.experiment, source, tmp_path).cells] == [
        cell.predicted for cell in run.record.cells
    ]


def test_what_an_experiment_cannot_ask_for():
    with pytest.raises(ValueError, match="through range takes fgsm, pgd, pgd-l2, no other"):
        Experiment.model_validate({**SETTINGS, "attacks": [{"method": "square", "through": "range"}]})
    several = {"method": "square", "surrogate": [{"templates": 2}, DLIB]}
    with pytest.raises(ValueError, match="several surrogates are for fgsm"):
        Experiment.model_validate({**SETTINGS, "attacks": [several]})
    with pytest.raises(ValueError, match="relative_steps"):
        Experiment.model_validate({**SETTINGS, "attacks": [{"relative_steps": [0.1, 0]}]})
