"""Galleries: templates of known people, searched by cosine.

A template is one embedding of one photograph of one person. Photographs are never stored. A gallery
belongs to one embedder; each template says whether it was made from the raw photograph or from a
purified one, and by which purifier.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np

from facesieve.errors import GalleryError, InputError
from facesieve.galleries.checks import checked_label, checked_name, checked_people
from facesieve.limits import number, whole_number
from facesieve.registry import Registry
from facesieve.rows import Rows, unit_rows
from facesieve.specs import retired_among

Templates = Mapping[str, Rows]  # purifier label -> rows
Nearest = Callable[[Rows, int], list[tuple[str, float]]]  # probe (D,), limit -> (person, cosine), best first

RAW = "raw"  # the purifier label of a template made without a purifier
AGAINST = "\n"  # between the two labels of a calibration's key: no label holds a control character

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
    """A threshold chosen from data for a desired false-accept rate."""

    threshold: float  # cosine; a best match below it is `unknown`
    false_accept_rate: float  # wanted
    purifier: str  # how the probes were treated
    pairs: int  # impostor comparisons it was chosen from
    templates: str | None = None  # the purifier label of those it was chosen on; None: not said, as by older versions

    def __post_init__(self) -> None:
        number(self.threshold, "threshold", -2, 2)  # a cosine, or just beyond the largest one
        number(self.false_accept_rate, "false-accept rate", 0, 1)
        whole_number(self.pairs, "pairs", 0)

    @property
    def key(self) -> str:
        """What a gallery keeps one threshold for: treatment of probes, and kind of templates."""
        return self.purifier if self.templates is None else f"{self.purifier}{AGAINST}{self.templates}"

    @classmethod
    def of(cls, key: str, threshold: float, false_accept_rate: float, pairs: int) -> Self:
        """The calibration with this ``key``."""
        purifier, _, templates = key.partition(AGAINST)
        return cls(threshold, false_accept_rate, purifier, pairs, templates or None)


class Gallery(ABC):
    """An open gallery. The public methods check their arguments; a back end implements those with an underscore.

    All methods raise ``GalleryError`` where the gallery cannot serve. Names of people are compared after
    ``checked_name``: Unicode NFC, without blanks around them. A gallery serves one thread.
    """

    where: str  # how messages name it; never with a password
    embedder: str  # the name of the embedder that made every template
    dimensions: int  # the length D of a template

    # --- what everyone calls ---------------------------------------------------------------------

    def enrol(self, person: str, templates: Templates) -> None:
        """Add a person with templates by purifier label, all of them or none.

        Raises ``GalleryError`` if the person is there already, ``InputError`` for rows that are not
        finite unit rows of this gallery's length, or for none.
        """
        self.enrol_all({person: templates})

    def enrol_all(self, people: Mapping[str, Templates]) -> None:
        """Add many people at once, all of them or none; much faster than one by one. Raises as ``enrol``."""
        checked = checked_people(people, self.dimensions)
        with self._writing():
            known = self._add(checked)
            if known is not None:
                raise self._error(f"{known} is enrolled already, nothing was changed", "remove this person first")

    def add(self, person: str, templates: Templates) -> None:
        """Add templates of somebody who is enrolled, all of them or none.

        Raises ``GalleryError`` if the person is unknown, ``InputError`` as ``enrol``.
        """
        [(person, new)] = checked_people({person: templates}, self.dimensions).items()
        with self._writing():
            labels, rows = self._templates_of(person)
            if not labels:
                raise self._unknown(person)
            old = {label: rows[[one == label for one in labels]] for label in dict.fromkeys(labels)}
            both = {label: [each[label] for each in (old, new) if label in each] for label in {**old, **new}}
            self._replace(person, {label: np.concatenate(parts) for label, parts in both.items()})

    def search(self, rows: Rows, *, kind: str = RAW, count: int = 5) -> list[list[Match]]:
        """For each probe row (P, D) the ``count`` best people, best first, by their best template of one kind.

        ``kind`` is the purifier label of the templates that are searched; no others are. Raises ``GalleryError`` for
        an empty gallery, and where a person has no template of this kind; ``InputError`` for rows that are not unit rows.
        """
        rows, kind = unit_rows(rows, "probes", self.dimensions), checked_label(kind)
        if count < 1:
            raise InputError(f"{count} people cannot be looked for", advice="ask for 1 or more")
        with self._reading():
            nearest = self._nearest(self._filter(kind))
            return [best_people(partial(nearest, row), count) for row in rows]

    def templates_of(self, person: str, *, kind: str = RAW) -> Rows:
        """The templates (N, D) of one person and one kind, for 1:1 verification.

        Raises ``GalleryError`` if the person is unknown, or has no template of this kind.
        """
        person, kind = checked_name(person), checked_label(kind)
        with self._reading():
            labels, rows = self._templates_of(person)
        if not labels:
            raise self._unknown(person)
        self._check_has(person, labels, kind)
        return rows[[label == kind for label in labels]]

    def label_sets(self) -> dict[frozenset[str], str]:
        """Each set of purifier labels that somebody's templates have, with one person who has it; quick for many people."""
        with self._reading():
            return self._sets()

    def remove(self, person: str) -> int:
        """Remove a person; returns the number of templates. Raises ``GalleryError`` if unknown."""
        person = checked_name(person)
        with self._writing():
            count = self._remove(person)
        if not count:
            raise self._unknown(person)
        return count

    def people(self, only: str | None = None) -> list[Entry]:
        """Everyone, by name; or the person ``only``, if enrolled."""
        counts: dict[str, dict[str, int]] = {}
        with self._reading():
            for person, label, count in self._counts(None if only is None else checked_name(only)):
                counts.setdefault(person, {})[label] = count
        return [Entry(person, templates) for person, templates in counts.items()]

    def export(self) -> Iterator[Template]:
        """Every template, by person, in the order they were enrolled; without anything written meanwhile."""
        return self._export()

    def build_index(self, *, at_least: int = INDEX_FROM) -> bool:
        """Index the templates for faster search; with fewer than ``at_least``, only tidy up and return False.

        Templates that are enrolled later are found as well.
        """
        with self._writing():
            built = self._index(max(at_least, 1))
        self._tidy()
        return built

    def calibrations(self) -> Sequence[Calibration]:
        """The thresholds that were chosen for this gallery, at most one for each ``Calibration.key``."""
        with self._reading():
            return self._calibrations()

    def calibrate(self, calibration: Calibration) -> None:
        """Keep a threshold, in place of the one with the same ``Calibration.key``."""
        purifier, kind = checked_label(calibration.purifier), calibration.templates
        calibration = replace(calibration, purifier=purifier, templates=None if kind is None else checked_label(kind))
        with self._writing():
            self._calibrate(calibration)

    def check_made_with(self, embedder: str | None, dimensions: int | None) -> None:
        """Raise ``GalleryError`` if the templates are of another embedder or length; None is any."""
        found, wanted = (self.embedder, self.dimensions), (embedder, dimensions)
        if any(w not in (None, f) for f, w in zip(found, wanted, strict=True)):
            names = [f"{'any embedder' if n is None else n} ({'any' if d is None else d} dimensions)" for n, d in (found, wanted)]
            raise self._error(f"made with {names[0]}, not with {names[1]}", "use the same embedder or another gallery")

    # --- what a back end implements -----------------------------------------------------------------

    @classmethod
    @abstractmethod
    def open(cls, location: str) -> Self:
        """The gallery at ``location``. Raises ``GalleryError`` if there is none."""

    @classmethod
    @abstractmethod
    def create(cls, location: str, embedder: str, dimensions: int) -> Self:
        """The gallery at ``location``, made if there is none. Raises ``GalleryError`` where it cannot be made."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[None]:
        """Around what reads. The back end's own errors become ``GalleryError``."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[None]:
        """Around a check and the write that relies on it: nobody else writes in between, and an error undoes the write."""

    @abstractmethod
    def _add(self, people: Mapping[str, Templates]) -> str | None:
        """Add all of them; or, where one is there already, nobody, and return this one."""

    @abstractmethod
    def _remove(self, person: str) -> int:
        """Remove a person's templates; how many there were."""

    def _replace(self, person: str, templates: Templates) -> None:
        """Put these in place of a person's templates, which are the first of them; at once, whoever reads or kills meanwhile.

        This is for back ends whose ``_writing`` is one transaction.
        """
        self._remove(person)
        self._add({person: templates})

    @abstractmethod
    def _label_sets(self) -> Mapping[str, str]:
        """Each ``label_set`` of the gallery with one person who has it."""

    @abstractmethod
    def _nearest(self, kind: str | None) -> Nearest:
        """A function that finds the templates nearest to a probe: that many, and fewer only where there are no more.

        ``kind`` is the label of those to look at, None where all have it.
        """

    @abstractmethod
    def _templates_of(self, person: str) -> tuple[Sequence[str], Rows]:
        """The label of each template of a person, and the rows (N, D), as they were enrolled; none for an unknown one."""

    @abstractmethod
    def _counts(self, only: str | None) -> Iterable[tuple[str, str, int]]:
        """(person, label, number of templates) of everyone or of one, by name and label."""

    @abstractmethod
    def _export(self) -> Iterator[Template]:
        """As ``export``."""

    @abstractmethod
    def _index(self, at_least: int) -> bool:
        """Make the index, unless there are fewer templates than ``at_least``: whether it was made."""

    def _tidy(self) -> None:  # noqa: B027  most have nothing to do
        """What is best done after an index was requested, outside any lock."""

    @abstractmethod
    def _calibrations(self) -> Sequence[Calibration]:
        """As ``calibrations``."""

    @abstractmethod
    def _calibrate(self, calibration: Calibration) -> None:
        """Keep it, in place of the one with the same key."""

    # --- which templates a probe is compared with -------------------------------------------------

    def _sets(self) -> dict[frozenset[str], str]:
        return {frozenset(json.loads(text)): person for text, person in self._label_sets().items()}

    def _filter(self, kind: str) -> str | None:
        """``kind``, or None if the gallery has no other templates. Raises as ``search``."""
        sets = self._sets()
        if not sets:
            raise self._error("the gallery is empty", "enrol somebody first")
        for labels, person in sets.items():
            self._check_has(person, labels, kind)
        return None if sets.keys() == {frozenset([kind])} else kind

    def _check_has(self, person: str, labels: Iterable[str], kind: str) -> None:
        if kind not in labels:
            what = f"{person} has templates of {', '.join(sorted(set(labels)))} only, and those of {kind} are searched"
            raise self._error(what, retired_among(labels) or "use the same purifier, or enrol raw templates too")

    def _unknown(self, person: str) -> GalleryError:
        return self._error(f"nobody called {person} is enrolled", "list the gallery to see who is")

    def _error(self, what: str, advice: str | None = None) -> GalleryError:
        return GalleryError(what, self.where, advice)


GALLERIES: Registry[type[Gallery]] = Registry("gallery", room="facesieve.galleries")


def label_set(labels: Iterable[str]) -> str:
    """Purifier labels of one person as one text; the same set always gives the same text."""
    return json.dumps(sorted(labels), ensure_ascii=False)


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
