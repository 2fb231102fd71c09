"""Cascades: each attack is made for what those before it left, and the worst case is that of attacks on every image."""

import copy

import numpy as np
import pytest

from facesieve.evaluate.experiment import Experiment
from facesieve.evaluate.run import Run
from facesieve.report.checks import checks
from facesieve.report.record import NONE
from facesieve.report.tables import tables_of
from facesieve.report.text import worded
from facesieve.report.worst import worst_cells

SEEN = {"objective": "margin", "quantisation": ["uint8"], "relative_steps": [0.3, 0.1], "eps": [1.5, 60]}
ATTACKS = [
    {**SEEN, "name": "unaware", "through": "nothing", "iterations": 1},
    {**SEEN, "name": "weak", "iterations": 1},
    {**SEEN, "name": "strong", "iterations": 3, "cascade": True},
    {**SEEN, "name": "few", "iterations": 2, "probes": 3, "cascade": True},
]
SETTINGS = {
    "data": {"minimum": 5, "people": 4, "train": 3, "test": 1},
    "recogniser": {"templates": 2, "enrolled": "purified"},
    "attacks": ATTACKS,
    "defences": [{"baseline": "block-mean-bicubic"}],
    "run": {"batch": 3, "threat": "adaptive", "precision": "fp32"},
}


@pytest.fixture(scope="module")
def both(source, tmp_path_factory):
    """The run, and the same with every attack made for every image."""
    whole = copy.deepcopy(SETTINGS)
    for attack in whole["attacks"]:
        attack.pop("cascade", None)
    runs = []
    for name, settings in (("cascade", SETTINGS), ("whole", whole)):
        runs.append(Run(Experiment.model_validate(settings), source, tmp_path_factory.mktemp(name) / "run"))
        runs[-1].execute()
    return runs


def _kept(cell, labels):
    return np.array(cell.predicted) == labels[: len(cell.predicted)]


def test_the_worst_case_is_that_of_attacks_on_every_image(both):
    found = [{(c.attack, c.defence): _kept(c, run.labels) for c in worst_cells(run.record)} for run in both]
    assert found[0].keys() == found[1].keys()
    assert any("worst case of 4 attacks" in attack for attack, _ in found[0])
    for key, kept in found[0].items():
        assert np.array_equal(kept, found[1][key])


def test_an_attack_is_made_for_those_alone_that_were_left(both):
    record, labels = both[0].record, both[0].labels
    made = {attack.name: attack.made_for for attack in record.attacks}
    shared = 0
    for defence, through in ((NONE, ""), ("block-mean-bicubic", ", through block-mean-bicubic")):
        for eps in ("1.5", "60"):
            before = [record.cell(f"{name}, eps {eps}/255", "uint8", defence) for name in ("unaware", "weak")]
            left = np.logical_and(*(_kept(cell, labels) for cell in before))
            assert made[f"strong, eps {eps}/255{through}"] == left.sum()
            strong = record.cell(f"strong, eps {eps}/255", "uint8", defence)
            assert not _kept(strong, labels)[~left].any()
            margins = [np.array(cell.genuine) - np.array(cell.impostor) for cell in [*before, strong]]
            assert np.array_equal(margins[2][~left], np.minimum(margins[0], margins[1])[~left])
            alone = both[1].record.cell(f"strong, eps {eps}/255", "uint8", defence)
            assert np.allclose(np.array(strong.genuine)[left], np.array(alone.genuine)[left], atol=2e-3)
            shared += int(left.sum())
            few = record.cell(f"few, eps {eps}/255", "uint8", defence)
            assert made[f"few, eps {eps}/255{through}"] == (left & _kept(strong, labels))[:3].sum()
            assert len(few.predicted) == 3
    assert shared  # somebody was left somewhere
    assert made["weak, eps 60/255"] is None
    assert 0 in made.values()  # and nobody somewhere else


def test_it_runs_again_without_making_anything(both, source, monkeypatch):
    monkeypatch.setattr("facesieve.evaluate.craft.craft", lambda *_: pytest.fail("made again"))
    again = Run(both[0].experiment, source, both[0].out)
    assert again.execute().cells == both[0].record.cells


def test_a_report_says_for_how_many_it_was_made_and_compares_none_of_them(both):
    notes = {table.title: table.note for table in worded(tables_of(both[0].record))}
    assert any("that the attacks before it left" in note for title, note in notes.items() if title.startswith("strong"))
    assert not any("that the attacks before it left" in note for title, note in notes.items() if title.startswith("weak"))
    assert not any("has not converged" in line for line in checks(tables_of(both[0].record)))


@pytest.mark.parametrize("change", [{"through": "nothing"}, {"quantisation": ["float", "uint8"]}])
def test_what_is_no_cascade_is_refused(change):
    attacks = [{**ATTACKS[2], **change}]
    with pytest.raises(ValueError, match="cascade is for attacks that see a defence, saved in one way"):
        Experiment.model_validate({**SETTINGS, "attacks": attacks})
