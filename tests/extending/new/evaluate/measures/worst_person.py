"""A measure: the accuracy of the person who fares worst behind each defence."""

import numpy as np

from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate


def worst_person(run):
    found = {}
    for cell in run.record.cells:
        labels = np.array(run.record.labels[: len(cell.predicted)])
        correct = np.equal(cell.predicted, labels)
        worst = min(float(correct[labels == person].mean()) for person in np.unique(labels))
        found[f"worst person, {cell.attack}, {cell.quantisation}, {cell.defence}"] = Estimate(
            worst, worst, worst, len(labels), len(np.unique(labels))
        )
    return found


MEASURES.register("worst person", worst_person)
