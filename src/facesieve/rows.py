"""Embeddings as rows of norm 1: what embedders make, galleries keep and scores are computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facesieve.errors import InputError

Rows = NDArray[np.float32]  # (N, D), rows of L2 norm 1; the cosine of two is their product

TOLERANCE = 1e-3  # of a norm


def unit_rows(values: ArrayLike, what: str, dimensions: int | None = None) -> Rows:
    """``values`` as ``float32`` (N, D), of ``dimensions`` where given.

    Raises ``InputError`` at ``what`` for another shape, and for rows that are not finite or not of norm 1.
    """
    try:
        rows: Rows = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError("not an array of numbers", what, "give rows of an embedder") from error
    if rows.ndim != 2 or dimensions not in (None, rows.shape[1]):
        wanted = "D" if dimensions is None else dimensions
        raise InputError(f"shape {rows.shape}, but rows of shape (N, {wanted}) are needed", what)
    if not np.all(np.abs(np.linalg.norm(rows, axis=1) - 1) <= TOLERANCE):  # NaN and infinity fail as well
        raise InputError("not all finite rows of norm 1", what, "divide each row by its norm")
    return rows


def normalised(rows: Rows) -> Rows:
    """Each row (..., D) divided by its norm."""
    unit: Rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit
