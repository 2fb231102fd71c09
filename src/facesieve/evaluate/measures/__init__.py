"""What a run is measured by beyond its tables: each measure is ``measure(run) -> {name: Estimate}``.

An experiment names the ones it wants in ``run.measures``, from this room or as ``package.module:object``; they are taken
when everything else is done, and may use whatever a ``Run`` has: its record, crops, defences, recogniser and cache. A file of
this room registers what it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from facesieve.metrics.intervals import Estimate
from facesieve.registry import Registry

Measure = Callable[[Any], Mapping[str, Estimate]]  # of a Run, which imports this registry

MEASURES: Registry[Measure] = Registry("measure", "facesieve.evaluate.measures")

__all__ = ["MEASURES", "Estimate", "Measure"]
