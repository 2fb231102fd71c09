"""What a gallery in a plain folder keeps its templates in: segments, which never change once they are written.

A segment is one ``.npz`` file without pickles, named by its own SHA-256:

    names     UTF-8 JSON {"labels": [...], "people": [...]}, as bytes
    counts    (P, L), how many templates of each label each person has
    rows0 ..  for each label the templates (N, D) of everyone, in the order of the people
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import GalleryFailedError, one_line
from facesieve.files import draft, sha256_of
from facesieve.galleries.base import Templates, label_set
from facesieve.rows import Rows

FILES = "templates-*.npz"
NAME = re.compile(r"templates-[0-9a-f]{32}\.npz")


@dataclass(frozen=True, eq=False)
class Segment:
    """Some people of a gallery with all their templates."""

    labels: tuple[str, ...]  # of purifiers: L
    people: Sequence[str]  # P
    counts: NDArray[np.int64]  # (P, L)
    rows: Sequence[Rows]  # L of (N, D), each in the order of ``people``

    @classmethod
    def of(cls, people: Mapping[str, Templates]) -> Self:
        """A segment of these people."""
        labels = tuple(dict.fromkeys(label for templates in people.values() for label in templates))
        counts = [[len(templates.get(label, ())) for label in labels] for templates in people.values()]
        rows = [np.concatenate([t[label] for t in people.values() if label in t]) for label in labels]
        return cls(labels, tuple(people), np.array(counts, np.int64), rows)

    @classmethod
    def merged(cls, parts: Sequence[Segment]) -> Self:
        """One segment of the people of all ``parts``, in their order."""
        labels = tuple(dict.fromkeys(label for part in parts for label in part.labels))
        counts = np.zeros((sum(len(part.people) for part in parts), len(labels)), np.int64)
        begin = 0
        for part in parts:
            end = begin + len(part.people)
            counts[begin:end, [labels.index(label) for label in part.labels]] = part.counts
            begin = end
        rows = [np.concatenate([part.rows_of(label) for part in parts if label in part.labels]) for label in labels]
        return cls(labels, [person for part in parts for person in part.people], counts, rows)

    def without(self, person: str) -> Self:
        """The same without one of its people, and without labels that nobody else has."""
        place = self.places[person]
        counts = np.delete(self.counts, place, 0)
        kept = np.flatnonzero(counts.any(0)).tolist()
        people = [other for other in self.people if other != person]
        rows = [np.delete(self.rows[label], self._slice(place, label), 0) for label in kept]
        return type(self)(tuple(self.labels[label] for label in kept), people, counts[:, kept], rows)

    def __len__(self) -> int:
        """How many templates there are."""
        return sum(map(len, self.rows))

    # --- what is found in it ------------------------------------------------------------------------

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each person is among ``people``."""
        return {person: place for place, person in enumerate(self.people)}

    @cached_property
    def sets(self) -> dict[str, str]:
        """Each ``label_set`` with one person who has it."""
        has, first = np.unique(self.counts > 0, axis=0, return_index=True)
        labelled = [[label for label, there in zip(self.labels, row, strict=True) if there] for row in has]
        return {label_set(labels): self.people[place] for labels, place in zip(labelled, first, strict=True)}

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """(P, L): where each person's templates begin among those of a label."""
        starts: NDArray[np.int64] = np.cumsum(self.counts, 0) - self.counts
        return starts

    def _slice(self, place: int, label: int) -> slice:
        start = int(self._starts[place, label])
        return slice(start, start + int(self.counts[place, label]))

    def rows_of(self, label: str) -> Rows:
        """The templates (N, D) of one label."""
        return self.rows[self.labels.index(label)]

    def templates(self, person: str) -> Iterator[tuple[str, Rows]]:
        """Each label of a person and their templates of it; none of somebody who is elsewhere."""
        place = self.places.get(person)
        if place is not None:
            for number, label in enumerate(self.labels):
                if self.counts[place, number]:
                    yield label, self.rows[number][self._slice(place, number)]

    def best(self, label: str, probe: Rows) -> NDArray[np.float32]:
        """For each of the people the best cosine of their templates of a label, which all of them have, with a probe (D,)."""
        number = self.labels.index(label)
        scores: NDArray[np.float32] = np.maximum.reduceat(self.rows[number] @ probe, self._starts[:, number])
        return scores

    # --- as a file ----------------------------------------------------------------------------------

    def write(self, folder: Path) -> str:
        """Write it atomically; returns the file's name. Raises ``OSError``."""
        names = json.dumps({"labels": self.labels, "people": self.people}, ensure_ascii=False).encode()
        arrays: dict[str, Any] = {f"rows{number}": rows for number, rows in enumerate(self.rows)}
        buffer = BytesIO()
        np.savez(buffer, names=np.frombuffer(names, np.uint8), counts=self.counts, **arrays)
        data = buffer.getvalue()
        name = _name(data)
        with draft(folder / name) as (file, _):
            file.write(data)
        return name

    @classmethod
    def read(cls, path: Path, dimensions: int) -> Self:
        """The segment in a file. Raises ``FileNotFoundError``, and ``GalleryFailedError`` for a damaged one."""
        data = path.read_bytes()
        if _name(data) != path.name:  # so that nothing of a damaged file is taken for a template
            raise GalleryFailedError("damaged", path, "restore it from a copy")
        try:
            with np.load(BytesIO(data), allow_pickle=False) as arrays:
                names = json.loads(arrays["names"].tobytes())
                counts = arrays["counts"]
                rows = [arrays[f"rows{number}"] for number in range(len(names["labels"]))]
        except Exception as error:  # zip files and arrays that are none raise whatever their readers run into
            raise GalleryFailedError(f"no templates of a gallery ({one_line(error)})", path, "restore it from a copy") from error
        found = cls(tuple(names["labels"]), names["people"], counts, rows)
        if not _are_names(names["labels"]) or not _are_names(names["people"]) or not found._fits(dimensions):
            raise GalleryFailedError("no templates of this gallery", path, "restore it from a copy")
        return found

    def _fits(self, dimensions: int) -> bool:
        shape = self.counts.shape == (len(self.people), len(self.labels)) and self.counts.dtype == np.int64
        each = zip(self.counts.sum(0).tolist(), self.rows, strict=True) if shape else ()
        fits = all(rows.shape == (count, dimensions) and rows.dtype == np.float32 for count, rows in each)
        return shape and bool((self.counts >= 0).all()) and fits


def _are_names(names: object) -> bool:
    """Whether they are texts, each once."""
    return isinstance(names, list) and all(isinstance(one, str) for one in names) and len(set(names)) == len(names)


def _name(data: bytes) -> str:
    return f"templates-{sha256_of(data)[:32]}.npz"
