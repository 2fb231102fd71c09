"""Experiment files: what they may say, and what one is told who says something else."""

import runpy
from pathlib import Path

import pytest

from facesieve.data.manifest import load_manifest
from facesieve.errors import InputError, SettingError
from facesieve.evaluate.experiment import read_experiment
from facesieve.purify import preset

DATA = "[data]\npeople = 3\nminimum = 4\ntrain = 2\ntest = 2\n"
EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
FILES = [path for path in EXPERIMENTS if path.name.startswith("paper-")]


def read(tmp_path, text):
    path = tmp_path / "e.toml"
    path.write_text(text)
    return read_experiment(path)


def test_every_eps_is_an_attack_and_every_combination_of_a_sweep_a_defence(tmp_path):
    text = (
        DATA + '[[attacks]]\neps = [0.5, 8]\n[[defences]]\npreset = "robust"\nsweep = { scale = [2, 4], sigma_y = [0.0, 0.5] }\n'
    )
    experiment = read(tmp_path, text)
    assert [(a.name, a.eps) for a in experiment.all_attacks()] == [("pgd, eps 0.5/255", 0.5), ("pgd, eps 8/255", 8)]
    assert [d.settings for d in experiment.all_defences()] == [
        {"scale": scale, "sigma_y": sigma} for scale in (2, 4) for sigma in (0.0, 0.5)
    ]
    assert len({d.name for d in experiment.all_defences()}) == 4


def test_the_defaults_are_the_published_attack(tmp_path):
    attack = read(tmp_path, DATA + "[[attacks]]\n").all_attacks()[0]
    assert (attack.method, attack.eps, attack.step, attack.iterations) == ("pgd", 0.5, 2.0, 40)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DATA + "[run]\nsed = 1\n", "run.sed: unknown key"),
        (DATA + "[runs]\n", "runs: unknown key"),
        (DATA + '[[attacks]]\nmethod = "magic"\n', "attacks.1.method"),
        (DATA + '[[attacks]]\nmethod = "no.module:attack"\n', "attacks.1.method"),
        (DATA + '[[attacks]]\nobjective = "joy"\n', "attacks.1.objective"),
        (DATA + '[run]\nmeasures = ["luck"]\n', "run.measures.1"),
        (DATA + "[[attacks]]\neps = -1\n", "attacks.1.eps"),
        (DATA + "[[defences]]\n", "either preset or baseline"),
        (DATA + '[[defences]]\npreset = "robust"\nbaseline = "jpeg"\n', "either preset or baseline"),
        (DATA + '[[defences]]\npreset = "robust"\n' * 2, "'robust' is taken"),
        (DATA + '[[defences]]\npreset = "robust"\nname = "none"\n', "'none' is taken"),
        (DATA + '[[defences]]\npreset = "robust"\nattacks = ["fgsm"]\n', "no attack 'fgsm'"),
        ("[data]\npeople = 0\n", "data.people"),
        ("[run]\n", "data"),
        ("[data\n", "not a TOML file"),
    ],
)
def test_a_mistake_gets_one_line_that_names_file_and_place(tmp_path, text, said):
    with pytest.raises((SettingError, InputError)) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert str(tmp_path / "e.toml") in message
    assert "\n" not in message


def test_the_names_of_the_release_before_are_read_and_the_new_ones_are_told(tmp_path):
    old = DATA + (
        '[[attacks]]\non = { embedder = "sface" }\n[[defences]]\npreset = "robust"\nsteps_too = true\n[run]\naveraged = 3\n'
    )
    path, said = tmp_path / "e.toml", []
    path.write_text(old)
    experiment = read_experiment(path, note=said.append)
    assert experiment.attacks[0].surrogate.embedder == "sface"
    assert experiment.defences[0].score_steps
    assert experiment.run.eot_samples == 3
    assert [line.split(": ")[1].split(";")[0] for line in said] == [
        "averaged is called eot_samples now", "on is called surrogate now", "steps_too is called score_steps now",
    ]  # fmt: skip
    path.write_text(old.replace("steps_too", "score_steps").replace("averaged", "eot_samples").replace("\non =", "\nsurrogate ="))
    assert read_experiment(path, note=said.append) == experiment
    assert len(said) == 3


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_experiment(tmp_path / "none.toml")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_experiments_that_ship_can_be_read(path):
    experiment = read_experiment(path)
    assert experiment.all_attacks()
    assert experiment.all_defences()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_targets_of_those_that_ship_are_of_measures_that_they_take(path):
    experiment = read_experiment(path)
    names = {defence.name for defence in experiment.all_defences()} | {"none"}
    for target in experiment.targets:
        assert target.measure in experiment.run.measures
        if target.measure == "accuracy":
            assert target.figure.split(", ")[1] in names


def test_the_probes_that_gentle_is_chosen_by_are_enrolled_nowhere_and_in_no_test():
    folder = EXPERIMENTS[0].parent
    chosen, tests = (load_manifest(folder / f"{name}-105.json") for name in ("tuning", "identities"))
    made = runpy.run_path(str(folder / "choosing_gentle.py"))["with_more_probes"](chosen)
    assert [sum(image.role == role for image in made.images) for role in ("train", "test")] == [10 * 105, 5 * 105]
    assert len({image.sha256 for image in made.images}) == 15 * 105
    assert not {image.sha256 for image in made.images} & {image.sha256 for image in tests.images if image.role == "test"}


def test_every_preset_that_an_experiment_names_can_be_had():
    for path in EXPERIMENTS:
        for defence in read_experiment(path).all_defences():
            assert defence.preset is None or preset(defence.preset).changed(**defence.settings)
