"""What a defence costs on clean images and what it recovers on attacked ones: the tables' numbers by name, for targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate
from facesieve.report.tables import figures, tables_of

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run


def accuracy(run: Run) -> dict[str, Estimate]:
    """The ``figures`` of the run's tables, by name."""
    return figures(tables_of(run.record))


MEASURES.register("accuracy", accuracy)
