"""Templates of people, from rows of an embedder: the mean of each person's, and whose mean is nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facesieve.rows import Rows, normalised

Labels = NDArray[np.int64]  # (N,), the number of each row's person, from 0


def mean_template(rows: Rows) -> Rows:
    """The unit row (D,) in the direction of the mean of one person's ``rows`` (N, D)."""
    return normalised(rows.mean(0))


def mean_templates(rows: Rows, owners: Labels) -> Rows:
    """The mean template of each person: (people, D), of ``rows`` (N, D) and whose each is. Everyone has at least one row."""
    return normalised(_sums(rows, owners))


def nearest_without_own(probes: Rows, rows: Rows, owners: Labels) -> Labels:
    """Whose mean template is nearest to each probe: (N,); probe ``n`` is of the photograph that ``rows[n]`` was made from.

    That row is left out of its person's mean, which would otherwise include the photograph. Everyone has at least two rows.
    """
    sums = _sums(rows, owners)
    templates = normalised(sums)
    found = np.empty(len(probes), np.int64)
    for number, (probe, row, owner) in enumerate(zip(probes, rows, owners, strict=True)):
        cosines = templates @ probe
        cosines[owner] = normalised(sums[owner] - row) @ probe
        found[number] = cosines.argmax()
    return found


def _sums(rows: Rows, owners: Labels) -> Rows:
    sums = np.zeros((int(owners.max()) + 1, rows.shape[1]), np.float32)
    np.add.at(sums, owners, rows)
    return sums
