"""What a table of the worst case is made with: attacks of libraries behind a defence, smallest eps, verification."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from facesieve.attacks.objectives import OBJECTIVES, target_of
from facesieve.errors import SettingError
from facesieve.evaluate.defend import defend
from facesieve.evaluate.experiment import AttackSettings, Experiment, read_experiment
from facesieve.evaluate.measures import MEASURES
from facesieve.evaluate.run import Run
from facesieve.noise import derive_seed
from facesieve.report.record import NONE
from facesieve.report.result import results_of
from facesieve.report.tables import open_set_threshold

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SEEN = {"objective": "margin", "quantisation": ["float"], "iterations": 4, "relative_steps": [0.3, 0.1], "eps": 8, "probes": 4}
SETTINGS = {
    "data": {"minimum": 5, "people": 4, "train": 3, "test": 2},
    "recogniser": {"templates": 2, "enrolled": "purified"},
    "attacks": [
        {**SEEN, "name": "bare", "through": "nothing"},
        {**SEEN, "name": "EOT", "through": "gradient"},
        {**SEEN, "name": "toolbox", "method": "toolbox-pgd", "through": "gradient", "step": 2},
        {**SEEN, "name": "square", "method": "square", "iterations": 10, "probes": 2},
        {**SEEN, "name": "unaware", "through": "nothing", "objective": "acceptance", "quantisation": ["uint8"]},
        {**SEEN, "name": "aware", "through": "gradient", "objective": "impersonation", "quantisation": ["uint8"]},
    ],
    "defences": [
        {
            "name": "noisy",
            "baseline": f"{__name__}:noisy",
            "attacks": ["EOT", "toolbox, eps 8/255", "square", "unaware", "aware"],
        },
        {"baseline": "block-mean-bicubic", "enrolled": "raw", "attacks": ["bare", "EOT"]},
    ],
    "run": {"batch": 3, "threat": "adaptive", "precision": "fp32", "measures": ["paired", "verification"]},
}


def noisy():
    return lambda crops: (crops + 0.05 * torch.randn_like(crops)).clamp(0, 1)


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    made = Run(Experiment.model_validate(SETTINGS), source, tmp_path_factory.mktemp("worst") / "run")
    made.execute()
    return made


def test_attacks_of_libraries_see_a_defence_that_draws_noise(run):
    by_name = {made.name: made for made in run.record.attacks}
    assert "behind noisy" in by_name["toolbox, eps 8/255, through noisy"].sees
    assert "behind noisy" in by_name["square, eps 8/255, through noisy"].sees
    assert "behind" not in by_name["square, eps 8/255"].sees  # and of no defence the recogniser alone
    attack = next(attack for attack in run.attacks if attack.name.startswith("toolbox"))
    made = run.adversarial(attack, 4, run.defences[0]).images["float"]
    alone = run.adversarial(attack.model_copy(update={"name": "again"}), 1, run.defences[0]).images["float"]
    assert torch.allclose(made[:1], alone, atol=1e-6)  # an image gets alone what it gets in a batch
    assert (made - run.images[:4]).abs().max() <= 8 / 255 + 1e-6


def test_who_knows_the_seed_sees_the_very_noise_that_is_drawn(run):
    attack, defence = AttackSettings(**SEEN, name="knows", through="gradient", known_seed=True).each()[0], run.defences[0]
    made = run.adversarial(attack, 4, defence)
    assert made.record.sees.endswith("behind noisy, whose noise it knew")
    assert made.record.draws == 1
    images, victim = made.images["float"], run.victim(attack, defence)
    drawn = defend(defence, images, run.context, "purify", attack.name).images
    judged = run.recogniser_for(defence).table(drawn)
    for seeds, part in zip(victim.known(images, None), torch.split(images, 3), strict=True):
        seen = victim.seen_with(range(len(part)), seeds).scores(part)
        assert np.allclose(seen.numpy(), judged[: len(part)], atol=2e-3)  # purified images are passed on in float16
        judged = judged[len(part) :]
    unaware = run.adversarial(attack.model_copy(update={"name": "does not", "known_seed": False}), 4, defence).images["float"]
    assert not torch.equal(unaware, images)
    with pytest.raises(ValueError, match="known_seed is for attacks that have a gradient"):
        Experiment.model_validate({**SETTINGS, "attacks": [{**SEEN, "through": "nothing", "known_seed": True}]})


def test_a_persistent_attacker_needs_one_of_many_submissions(run, monkeypatch):
    measure = MEASURES["persistence"]
    monkeypatch.setitem(measure.__globals__, "SUBMISSIONS", {1: None, 3: 2})
    found = measure(run)
    assert not any("block-mean" in name for name in found)  # which draws no noise
    for attack, quantisation in ((NONE, "uint8"), ("unaware, eps 8/255", "uint8")):
        cell = run.record.cell(attack, quantisation, "noisy")
        kept = np.array(cell.predicted) == run.labels[: len(cell.predicted)]
        assert found[f"kept at each of 1 submissions, noisy, {attack}"].value == kept.mean()
    attack, defence = next(one for one in run.attacks if one.name.startswith("EOT")), run.defences[0]
    images, kept = run.faced(attack, defence, 2), np.ones(2, bool)
    for again in ((), ("submission 1",), ("submission 2",)):
        seeds = [derive_seed(0, "purify", attack.name, *again, place) for place in range(2)]
        with torch.inference_mode():
            table = run.recogniser_for(defence).table(defence.purifier(images, seeds=seeds))
        kept &= table.argmax(1) == run.labels[:2]
    assert found["kept at each of 3 submissions, noisy, EOT, eps 8/255"].value == kept.mean()


def test_a_defence_names_the_attacks_that_it_is_tried_on_with_their_eps_or_without(run):
    tried = {(cell.attack, cell.defence) for cell in run.record.cells}
    assert ("bare, eps 8/255", "noisy") not in tried
    assert ("toolbox, eps 8/255", "block-mean-bicubic") not in tried
    assert {("toolbox, eps 8/255", "noisy"), ("bare, eps 8/255", "block-mean-bicubic"), ("square, eps 8/255", NONE)} <= tried
    with pytest.raises(SettingError, match="no attack 'tool'"):
        Experiment.model_validate({**SETTINGS, "defences": [{"preset": "robust", "attacks": ["tool"]}]}).all_defences()


def test_people_are_enrolled_behind_each_defence_as_that_one_says(run):
    behind, plain = (run.recogniser_for(defence).name for defence in run.defences)
    assert "behind noisy" in behind
    assert plain == run.recogniser_for(None).name
    assert {result.defence.name: result.enrolled for result in results_of(run.record)} == {
        NONE: "purified", "noisy": "purified", "block-mean-bicubic": "raw",
    }  # fmt: skip
    far = run.record.model_copy(
        update={"experiment": {**run.record.experiment, "run": {**run.record.experiment["run"], "far": 0.2}}}
    )
    assert open_set_threshold(far, "block-mean-bicubic") == open_set_threshold(far, NONE) != open_set_threshold(far, "noisy")


def test_templates_are_made_once_for_all_runs_that_share_a_cache(run, source, tmp_path, monkeypatch):
    def again(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("facesieve.evaluate.recogniser.mean_templates", again)
    resumed = Run(run.experiment, source, tmp_path / "other", manifest=run.out / "manifest.json", cache=run.out / "cache")
    for defence in (None, *resumed.defences):
        before, after = (made.recogniser_for(defence).table(run.images) for made in (run, resumed))
        assert np.array_equal(before, after)
    with pytest.raises(AssertionError, match="made again"):
        Run(run.experiment, source, tmp_path / "fresh", manifest=run.out / "manifest.json")


def test_ours_beside_theirs_is_the_difference_of_what_they_leave(run):
    figures = run.record.measures["paired"]
    stem = "accuracy left by EOT, eps 8/255 minus"
    assert set(figures) == {f"{stem} {other}, eps 8/255, noisy, float" for other in ("toolbox", "square")} | {
        "accuracy left by bare, eps 8/255 minus square, eps 8/255, none, float"
    }
    found = figures[f"{stem} toolbox, eps 8/255, noisy, float"]
    left = [
        np.array(run.record.cell(f"{attack}, eps 8/255", "float", "noisy").predicted) == run.labels[:4]
        for attack in ("EOT", "toolbox")
    ]
    assert found.value == pytest.approx(left[0].mean() - left[1].mean())
    assert found.n == 4


def test_verification_counts_against_the_fixed_target_s_template(run):
    found = run.record.measures["verification"]
    assert not any(name.startswith("F") for name in found)  # 8 probes cannot resolve a rate of 1 %
    assert set(found) == {
        f"named as the target, {NONE}, unaware, eps 8/255",
        "named as the target, noisy, unaware, eps 8/255",
        "named as the target, noisy, aware, eps 8/255",
    }
    cell = run.record.cell("unaware, eps 8/255", "uint8", NONE)
    targets = (run.labels[:4] + 2) % 4
    assert found[f"named as the target, {NONE}, unaware, eps 8/255"].value == np.mean(np.array(cell.predicted) == targets)


def test_at_a_threshold_that_pairs_resolve_rates_are_those_of_the_scores(run, monkeypatch):
    measure = MEASURES["verification"]
    monkeypatch.setitem(measure.__globals__, "FARS", (0.25,))
    found = measure(run)
    table = run.recogniser.table(run.images)
    other = ~np.eye(4, dtype=bool)[run.labels]
    threshold = np.sort(table[other])[::-1][6]  # 24 pairs: six may be accepted
    assert found["FRR at FAR 25.0%, none"].value == pytest.approx(np.mean(table[~other] <= threshold))
    images = run.adversarial(next(a for a in run.attacks if a.name.startswith("unaware")), 4).images["uint8"]
    score = run.recogniser.table(images)[np.arange(4), (run.labels[:4] + 2) % 4]
    assert found["FAR under attack, threshold for FAR 25.0%, none, unaware, eps 8/255"].value == np.mean(score > threshold)
    assert score.mean() > table[np.arange(4), (run.labels[:4] + 2) % 4].mean()  # the attack raised it


def test_everybody_s_target_is_somebody_else_and_always_the_same():
    people = torch.arange(105)
    targets = target_of(people, 105)
    assert sorted(targets.tolist()) == people.tolist()
    assert (targets != people).all()
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.2], [0.5, 0.1, 0.2, 0.0]])
    wanted = {"impersonation": [0.3 - 0.9, 0.0 - 0.5], "acceptance": [0.3, 0.0]}
    for name, values in wanted.items():
        objective = OBJECTIVES[name](lambda _: scores, torch.tensor([0, 1]))
        assert objective(torch.zeros(2, 1)).tolist() == pytest.approx(values)


def test_the_smallest_eps_of_a_run(source, tmp_path):
    attacks = [{**SEEN, "name": name, "through": view} for name, view in (("bare", "nothing"), ("EOT", "gradient"))]
    settings = {**SETTINGS, "attacks": attacks, "run": {"batch": 3, "measures": ["smallest_eps"]}}
    settings["defences"] = [{"name": "noisy", "baseline": f"{__name__}:noisy", "attacks": ["EOT"], "probes": 4}]
    made = Run(Experiment.model_validate(settings), source, tmp_path / "run")
    found = made.execute().measures["smallest_eps"]
    bare, behind = found["median smallest eps, none, bare, eps 8/255"], found["median smallest eps, noisy, EOT, eps 8/255"]
    assert 8 / 64 <= bare.value <= 8
    assert bare.n == behind.n == 4
    ratio = found["smallest eps over none's, noisy, EOT, eps 8/255"]
    assert ratio.value == pytest.approx(behind.value / bare.value)
    assert MEASURES["smallest_eps"](made) == found  # kept, and read again
    other = Experiment.model_validate({**settings, "attacks": [{"method": "fgsm"}], "defences": []})
    with pytest.raises(SettingError, match="smallest_eps takes pgd"):
        MEASURES["smallest_eps"](Run(other, source, tmp_path / "other"))


# --- the experiments that ship -------------------------------------------------------------------------


def test_the_two_worst_cases_differ_by_their_recognisers_alone():
    texts = [(EXPERIMENTS / f"worst-case{end}.toml").read_text().split("[data]")[1] for end in ("", "-dlib")]
    texts[0] = re.sub(r'wanted = ".*"\n', "", texts[0]).replace(", SFace, ", ", dlib, ")  # marks are set on SFace
    swapped = texts[0].replace('"sface"', '"?"').replace('"dlib"', '"sface"').replace('"?"', '"dlib"')
    assert swapped == texts[1]


def test_every_preset_that_ships_stands_in_the_worst_case():
    from facesieve.purify import PRESETS

    experiment = read_experiment(EXPERIMENTS / "worst-case.toml")
    assert {defence.preset for defence in experiment.defences} - {None} == set(PRESETS)
    assert {attack.eps for attack in experiment.all_attacks()} == {0.5, 2, 8}
    [quick] = [defence for defence in experiment.defences if defence.preset == "robust"]
    tried = [attack for attack in experiment.all_attacks() if quick.faces(attack)]
    assert {attack.view("adaptive") for attack in tried} == {None, "gradient", "identity", "observation", "range"}
    assert any(attack.method == "square" for attack in tried)
    assert {len(attack.surrogates) for attack in tried} == {0, 1, 2}


def test_a_defence_of_the_experiment_is_taken_as_it_stands_there():
    experiment = read_experiment(EXPERIMENTS / "worst-case.toml").with_defences(["block mean x4", "wavelet-denoise"])
    one, other = experiment.all_defences()
    assert (one.baseline, one.settings, one.attacks is None) == ("block-mean-bicubic", {"scale": 4}, False)
    assert (other.baseline, other.attacks) == ("wavelet-denoise", None)


def test_the_strongest_before_the_first_that_costs_too_much_is_chosen(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    choosing = runpy.run_path(str(EXPERIMENTS / "choosing_baselines.py"))
    costs = [(1.0, 0.002, 0.0), (2.0, 0.01, 0.015), (3.0, 0.011, 0.0), (4.0, 0.0, 0.0)]
    rows = [{"strength": strength, "sface": {"value": sface}, "dlib": {"value": dlib}} for strength, sface, dlib in costs]
    assert choosing["chosen"](rows) == 2.0
    assert choosing["chosen"](rows[2:]) is None
    assert choosing["chosen"]([*rows[:1], {"strength": 2.0, "dlib": {"value": 0.0}}]) == 1.0  # not tried on SFace
    assert choosing["named"]("jpeg", 25) == "jpeg, quality 25"


def test_baselines_stand_at_the_strengths_that_were_chosen():
    found = json.loads((EXPERIMENTS.parent / "docs" / "results" / "strengths.json").read_text())
    for name in ("worst-case", "worst-case-dlib"):
        for defence in read_experiment(EXPERIMENTS / f"{name}.toml").all_defences():
            if defence.name in found:
                assert defence.settings[found[defence.name]["setting"]] == found[defence.name]["chosen"]
