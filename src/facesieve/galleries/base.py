"""Galleries: templates of known people, searched by cosine.

A template is one embedding of one photograph of one person. Photographs are never stored. A gallery
belongs to one embedder; each template says whether it was made from the raw photograph or from a
purified one, and by which purifier.

The back ends are ``gallery_lance`` (a folder) and ``gallery_postgres`` (a server); ``open_gallery``
chooses. What they share, the checks and the way from rows to people, is here.
"""

from __future__ import annotations

import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import GalleryError, InputError

Rows = NDArray[np.float32]  # (N, D), rows of L2 norm 1
Templates = Mapping[str, Rows]  # purifier label -> rows

RAW = "raw"  # the purifier label of a template that was made without one

LONGEST_NAME = 200  # characters
INDEX_FROM = 10_000  # templates; fewer are searched one by one faster than an index is worth


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
    """What every back end does. All methods raise ``GalleryError`` where the gallery cannot serve.

    Names of people are compared after ``checked_name``: Unicode NFC, without blanks around them.
    """

    @property
    def embedder(self) -> str:
        """The name of the embedder that made every template."""

    @property
    def dimensions(self) -> int:
        """The length D of a template."""

    def enrol(self, person: str, templates: Templates) -> None:
        """Add a person with templates by purifier label, whole or not at all.

        Raises ``GalleryError`` if the person is there already, ``InputError`` for rows that are not
        finite unit rows of this gallery's length, or for none.
        """

    def enrol_all(self, people: Mapping[str, Templates]) -> None:
        """Add many people at once, all of them or none; much faster than one by one. Raises as ``enrol``."""

    def search(self, rows: Rows, *, purifier: str = RAW, count: int = 5) -> list[list[Match]]:
        """For each probe row (P, D) the ``count`` best people, best first, by their best template.

        ``purifier`` says how the probes were treated. Raw templates and those that the same
        purifier made are searched. Raises ``GalleryError`` for an empty gallery, and where a person
        has templates of other purifiers only; ``InputError`` for rows that are not unit rows.
        """

    def templates_of(self, person: str, *, purifier: str = RAW) -> Rows:
        """The templates (N, D) of one person that such a probe may be compared with, for 1:1 verification.

        Raises ``GalleryError`` if the person is unknown, or has templates of other purifiers only.
        """

    def remove(self, person: str) -> int:
        """Remove a person; returns the number of templates. Raises ``GalleryError`` if unknown."""

    def people(self, only: str | None = None) -> list[Entry]:
        """Everyone, by name; or the person ``only``, if enrolled."""

    def export(self) -> Iterator[Template]:
        """Every template, by person, in the order they were enrolled; nothing that is written meanwhile."""

    def build_index(self, *, at_least: int = INDEX_FROM) -> bool:
        """Index the templates for faster search; with fewer than ``at_least``, only tidy up and return False.

        Templates that are enrolled later are found as well.
        """

    def calibrations(self) -> Sequence[Calibration]:
        """The thresholds that were chosen for this gallery, at most one for each purifier label."""

    def calibrate(self, calibration: Calibration) -> None:
        """Keep a threshold, in place of the one for the same purifier label."""

    def close(self) -> None:
        """Let go of files and connections."""


class BackEnd(ABC):
    """What both back ends do alike."""

    _embedder: str
    _dimensions: int

    @property
    def embedder(self) -> str:
        """The name of the embedder that made every template."""
        return self._embedder

    @property
    def dimensions(self) -> int:
        """The length D of a template."""
        return self._dimensions

    def enrol(self, person: str, templates: Templates) -> None:
        """See ``Gallery``."""
        self.enrol_all({person: templates})

    @abstractmethod
    def enrol_all(self, people: Mapping[str, Templates]) -> None:
        """See ``Gallery``."""


# --- what a user gives --------------------------------------------------------------------------


def checked_name(text: str, what: str = "a person's name") -> str:
    """``text`` in Unicode NFC without blanks around it, so that what looks the same is the same.

    Raises ``InputError`` if nothing is left, for more than 200 characters, and for control
    characters, line separators and broken surrogates.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise InputError(f"{what} is empty; give one")
    if len(name) > LONGEST_NAME:
        raise InputError(f"{what} has {len(name)} characters, at most {LONGEST_NAME} are allowed: '{name[:20]}...'")
    if bad := next((c for c in name if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}), None):
        raise InputError(f"{what} holds the control character U+{ord(bad):04X}; leave it out: {name!r}")
    return name


def checked_people(people: Mapping[str, Templates], dimensions: int) -> dict[str, dict[str, Rows]]:
    """Names and rows as they are stored. Raises ``InputError`` as ``Gallery.enrol_all`` says."""
    checked: dict[str, dict[str, Rows]] = {}
    for given, templates in people.items():
        person = checked_name(given)
        if person in checked:
            raise InputError(f"{person} is given twice; give all templates of a person at once")
        if not templates:
            raise InputError(f"{person}: no templates; give at least one")
        checked[person] = {}
        for name, rows in templates.items():
            label = checked_name(name, "a purifier's label")
            if label in checked[person]:
                raise InputError(f"{person}: the purifier {label} is given twice")
            checked[person][label] = checked_rows(rows, dimensions, f"{person}, templates of {label}")
            if not len(rows):
                raise InputError(f"{person}: no templates of {label}; give at least one, or leave the label out")
    if not checked:
        raise InputError("nobody to enrol; give at least one person")
    return checked


def checked_rows(rows: Rows, dimensions: int, what: str) -> Rows:
    """``rows`` as float32 (N, D). Raises ``InputError`` for another shape, and for rows that are not of norm 1."""
    try:
        array: Rows = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: not an array of numbers; give rows of an embedder") from error
    if array.ndim != 2 or array.shape[1] != dimensions:
        raise InputError(f"{what}: shape {array.shape}, but this gallery holds rows of shape (N, {dimensions})")
    norms = np.linalg.norm(array, axis=1)
    if not np.all(np.abs(norms - 1) <= 1e-3):  # NaN and infinity fail as well
        raise InputError(f"{what}: not finite rows of norm 1; divide each row by its norm")
    return array


def checked_count(count: int) -> int:
    """How many people to look for. Raises ``InputError`` below 1."""
    if count < 1:
        raise InputError(f"{count} people cannot be looked for; ask for 1 or more")
    return count


def check_same(where: str, found: tuple[str, int], wanted: tuple[str | None, int | None]) -> None:
    """Raise ``GalleryError`` where a gallery of this (embedder, dimensions) is opened for another; None is any."""
    if any(w not in (None, f) for f, w in zip(found, wanted, strict=True)):
        names = [f"{'any embedder' if n is None else n} ({'any' if d is None else d} dimensions)" for n, d in (found, wanted)]
        raise GalleryError(f"{where}: made with {names[0]}, not with {names[1]}; use the same embedder or another gallery")


# --- which templates a probe is compared with ---------------------------------------------------


def label_set(labels: Iterable[str]) -> str:
    """Purifier labels of one person as one text; the same set always gives the same text."""
    return json.dumps(sorted(labels), ensure_ascii=False)


def check_usable(where: str, sets: Mapping[str, str], purifier: str) -> bool:
    """Whether every template may be searched with such a probe; if not, labels must be asked for.

    ``sets`` maps each ``label_set`` of the gallery to one person who has it. Raises
    ``GalleryError`` for none, and for a set with neither raw templates nor those of ``purifier``.
    """
    if not sets:
        raise GalleryError(f"{where}: the gallery is empty; enrol somebody first")
    every = True
    for text, person in sets.items():
        labels = set(json.loads(text))
        check_person_usable(where, person, labels, purifier)
        every = every and labels <= {RAW, purifier}
    return every


def check_person_usable(where: str, person: str, labels: Iterable[str], purifier: str) -> None:
    """Raise ``GalleryError`` if none of ``labels`` may be compared with a probe treated by ``purifier``."""
    if not {RAW, purifier} & set(labels):
        had = ", ".join(sorted(labels))
        raise GalleryError(
            f"{where}: {person} has templates of {had} only, and the probe is of {purifier}; "
            "search with the same purifier, or enrol raw templates too"
        )


def unknown(where: str, person: str) -> GalleryError:
    """The error for a person who is not there."""
    return GalleryError(f"{where}: nobody called {person} is enrolled; list the gallery to see who is")


def known(where: str, person: str) -> GalleryError:
    """The error for a person who is there already."""
    return GalleryError(f"{where}: {person} is enrolled already, nothing was changed; remove this person first")


def best_people(nearest: Callable[[int], list[tuple[str, float]]], count: int) -> list[Match]:
    """The ``count`` best people by their best template.

    ``nearest(limit)`` gives that many (person, cosine), best first, and fewer only where there are
    no more. Of the rows that are read the best of each person is known; if too few people are among
    them, more rows are read.
    """
    limit = max(8 * count, 32)
    while True:
        rows = nearest(limit)
        best: dict[str, float] = {}
        for person, score in rows:
            best[person] = max(score, best.get(person, score))
        if len(best) >= count or len(rows) < limit:
            ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))
            return [Match(person, score) for person, score in ranked[:count]]
        limit *= 4


__all__ = [
    "INDEX_FROM", "RAW", "Calibration", "Entry", "Gallery", "Match", "Rows", "Template", "Templates", "best_people",
    "check_person_usable", "check_same", "check_usable", "checked_count", "checked_name", "checked_people", "checked_rows",
    "known", "label_set", "unknown",
]  # fmt: skip
