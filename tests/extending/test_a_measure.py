"""An exercise: a measure of one's own, by one new file such as this one."""

from types import SimpleNamespace

import numpy as np
import pytest

from facesieve.evaluate.experiment import Experiment
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import bootstrap
from facesieve.metrics.rates import mean
from facesieve.report.record import NONE

# --- the new file --------------------------------------------------------------------------------


def lead(run):
    """By how much the person shown leads on clean images."""
    cell = run.record.cell(NONE, "uint8", NONE)
    ahead = np.array(cell.genuine) - np.array(cell.impostor)
    return {"lead on clean images": bootstrap(lambda weights: mean(ahead, weights), np.array(run.record.labels))}


# --- what it can do then -------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [True, False])
def test_an_experiment_names_it(by_name, monkeypatch):
    if by_name:
        len(MEASURES)
        monkeypatch.setattr(MEASURES, "_things", dict(MEASURES._things))
        MEASURES.register("lead", lead)
    name = "lead" if by_name else f"{__name__}:lead"
    [wanted] = Experiment.model_validate({"data": {}, "run": {"measures": [name]}}).run.measures
    cell = SimpleNamespace(genuine=(0.9, 0.8, 0.4), impostor=(0.1, 0.2, 0.2))
    record = SimpleNamespace(cell=lambda *_: cell, labels=(0, 1, 1))
    estimate = MEASURES.load(wanted)(SimpleNamespace(record=record))["lead on clean images"]
    assert estimate.value == pytest.approx((0.8 + 0.6 + 0.2) / 3)
    assert estimate.n == 3
