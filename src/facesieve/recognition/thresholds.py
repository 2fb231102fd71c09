"""Default thresholds of the recognisers that ship, as data: ``thresholds.json`` says what they were chosen from, and how.

They are for galleries that nobody has calibrated. Each is what one stranger in a hundred reaches against so many people: the
more are enrolled, the better the best of them fits a stranger.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")


def has_default(embedder: str, purifier: str, templates: str) -> bool:
    """Whether there is one for probes and templates of these purifier labels."""
    return (embedder, purifier, templates) in _defaults()


def default_threshold(embedder: str, purifier: str, templates: str, people: int = 1) -> float:
    """The cosine for a probe that is compared with so many people; beyond the most that were measured, the one of these.

    Between the numbers that were measured it is interpolated over their logarithm.
    """
    sizes, values = _defaults()[embedder, purifier, templates]
    return float(np.interp(math.log(max(people, 1)), np.log(sizes), values))


@cache
def _defaults() -> dict[tuple[str, str, str], tuple[list[int], list[float]]]:
    chosen = json.loads(FILE.read_text(encoding="utf-8"))["thresholds"]
    return {(one["embedder"], one["purifier"], one["templates"]): (one["people"], one["threshold"]) for one in chosen}
