"""Galleries: templates of known people, searched by cosine.

A template is one embedding of one photograph of one person. Photographs are never stored. A gallery
belongs to one embedder; each template says whether it was made from the raw photograph or from a
purified one, and by which purifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (N, D), rows of L2 norm 1

RAW = "raw"  # the purifier label of a template that was made without one


@dataclass(frozen=True)
class Match:
    """A person and the cosine of the best of their templates with the probe."""

    person: str
    score: float


@dataclass(frozen=True)
class Entry:
    """A person and how many of their templates each purifier made."""

    person: str
    templates: Mapping[str, int]  # purifier label -> count


@dataclass(frozen=True)
class Template:
    """One embedding, as it is exported."""

    person: str
    purifier: str
    row: Rows  # (D,)


@dataclass(frozen=True)
class Calibration:
    """A threshold that was chosen from data for a wanted false-accept rate."""

    threshold: float  # cosine; a best match below it is `unknown`
    false_accept_rate: float  # wanted
    purifier: str  # how the probes were treated
    pairs: int  # impostor comparisons that it was chosen from


class Gallery(Protocol):
    """What every back end does. All methods raise ``GalleryError`` where the gallery cannot serve."""

    @property
    def embedder(self) -> str:
        """The name of the embedder that made every template."""

    @property
    def dimensions(self) -> int:
        """The length D of a template."""

    def enrol(self, person: str, templates: Mapping[str, Rows]) -> None:
        """Add a person with templates by purifier label, whole or not at all.

        Raises ``GalleryError`` if the person is there already, ``InputError`` for rows that are not
        finite unit rows of this gallery's length, or for none.
        """

    def search(self, rows: Rows, *, purifier: str = RAW, count: int = 5) -> list[list[Match]]:
        """For each probe row the ``count`` best people, best first, by their best template.

        ``purifier`` says how the probes were treated. Raw templates and those that the same
        purifier made are searched. Raises ``GalleryError`` for an empty gallery, and where a person
        has templates of other purifiers only.
        """

    def templates_of(self, person: str, *, purifier: str = RAW) -> Rows:
        """The templates (N, D) of one person that such a probe may be compared with, for 1:1 verification."""

    def remove(self, person: str) -> int:
        """Remove a person; returns the number of templates. Raises ``GalleryError`` if unknown."""

    def people(self) -> list[Entry]:
        """Everyone, by name."""

    def export(self) -> Iterator[Template]:
        """Every template, by person."""

    def calibrations(self) -> Sequence[Calibration]:
        """The thresholds that were chosen for this gallery, at most one for each purifier label."""

    def calibrate(self, calibration: Calibration) -> None:
        """Keep a threshold, in place of the one for the same purifier label."""

    def close(self) -> None:
        """Let go of files and connections."""


__all__ = ["RAW", "Calibration", "Entry", "Gallery", "Match", "Rows", "Template"]
