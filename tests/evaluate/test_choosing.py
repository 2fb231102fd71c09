"""The command that chooses among weights asks for the figures that its experiments give."""

import runpy
from pathlib import Path

import pytest

from facesieve.metrics.intervals import Estimate

CHOOSING = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "choosing.py"))


@pytest.mark.parametrize("recogniser", CHOOSING["RECOGNISERS"])
def test_each_experiment_takes_the_preset_and_the_weights(recogniser, tmp_path):
    made = CHOOSING["experiment"](recogniser, "gentle", tmp_path, 15)
    assert [defence.preset for defence in made.defences] == ["gentle"]
    assert (made.run.prior, made.run.probes) == (str(tmp_path), 15)
    assert made.recogniser.embedder == recogniser
    assert made.data.test == 1  # the photographs to choose on
    attacks = {attack.name for attack in made.all_attacks()}
    for _, measure, figure in CHOOSING["COLUMNS"]:
        assert measure in made.run.measures
        tried = figure.partition("PRESET, ")[2].removesuffix(", uint8")
        assert not tried or tried in attacks
    assert CHOOSING["experiment"](recogniser, "robust", None, None).run.prior is None


def test_numbers():
    estimate = Estimate(0.457, 0.361, 0.549, 105, 105)
    assert CHOOSING["number"](estimate, share=True) == "45.7 [36, 55]"
    assert CHOOSING["number"](estimate, share=False) == "0.457"
