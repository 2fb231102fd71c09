"""What a purification did, step by step, as data: pictures, page and report need not know the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from facesieve.faces import Crops


@dataclass(frozen=True, eq=False)
class TraceStep:
    """One stage: its name, the crops (N, 3, S, S) in [0, 1] that it made, and what it started from, if not from its input."""

    name: str
    crops: Crops
    observed: Crops | None = None
    caption: str = ""  # of ``observed``, for a picture's title


@dataclass(frozen=True, eq=False)
class Trace:
    """The steps of a purification, in order; there is at least one."""

    steps: tuple[TraceStep, ...]

    @property
    def crops(self) -> Crops:
        """The purified crops (N, 3, S, S)."""
        return self.steps[-1].crops

    def __len__(self) -> int:
        return len(self.crops)

    def part(self, begin: int, end: int) -> Trace:
        """Only faces ``begin`` to ``end``."""
        return Trace(
            tuple(
                replace(step, crops=step.crops[begin:end], observed=None if step.observed is None else step.observed[begin:end])
                for step in self.steps
            )
        )

    @staticmethod
    def joined(traces: Sequence[Trace]) -> Trace:
        """Traces of one purifier as one, face after face."""
        return Trace(tuple(_joined(steps) for steps in zip(*(trace.steps for trace in traces), strict=True)))


def _joined(steps: tuple[TraceStep, ...]) -> TraceStep:
    observed = [step.observed for step in steps if step.observed is not None]
    return replace(
        steps[0],
        crops=np.concatenate([step.crops for step in steps]),
        observed=np.concatenate(observed) if observed else None,
    )
