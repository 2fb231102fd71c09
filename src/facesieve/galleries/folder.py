"""A gallery in a plain folder: NumPy alone, searched exactly in memory, for up to a hundred thousand templates.

    FOLDER/gallery.json          embedder, dimensions, calibrations, and the names of the files that hold
    FOLDER/templates-*.npz       the templates: segments, which never change
    FOLDER/lock                  held while something is written

A write makes one new segment, which takes in smaller ones, and then replaces gallery.json: that is the commit. Files that
gallery.json does not name were left by a writer that was killed, and the next one removes them. Readers look at gallery.json
each time and read the segments that they do not hold yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from facesieve.errors import GalleryError, GalleryFailedError, many, one_line
from facesieve.galleries.base import GALLERIES, Calibration, Gallery, Nearest, Template, Templates
from facesieve.galleries.folder_files import (
    ABOUT,
    PLAIN_FORMAT,
    calibrate,
    calibrations_in,
    claimed,
    folder_of,
    locked,
    read_about,
    write_about,
)
from facesieve.galleries.segments import FILES, NAME, Segment
from facesieve.rows import Rows

MOST = 100_000  # templates; from here on a database with an index serves better


class FolderGallery(Gallery):
    """A ``Gallery`` in a plain folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.where, self._closed = folder, str(folder), False
        self._about = _read(folder)
        self._segments: dict[str, Segment] = {}  # by the names of their files
        self.embedder, self.dimensions = self._about["embedder"], self._about["dimensions"]

    @classmethod
    def open(cls, location: str) -> Self:
        """The gallery in the folder ``location``."""
        return cls(folder_of(location))

    @classmethod
    def create(cls, location: str, embedder: str, dimensions: int) -> Self:
        """The gallery in the folder ``location``, made if there is none. Raises ``GalleryError`` where something else is."""
        folder = claimed(folder_of(location), FILES)
        with locked(folder):
            if not (folder / ABOUT).exists():
                if any(folder.glob(FILES)):
                    raise GalleryError(f"holds templates, but {ABOUT} is missing", folder, "restore it from a copy")
                made_with = {"embedder": embedder, "dimensions": dimensions}
                write_about(folder, PLAIN_FORMAT, {**made_with, "calibrations": [], "templates": []})
        return cls(folder)

    def close(self) -> None:
        """Forget the templates."""
        self._segments, self._closed = {}, True

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._closed:
            raise GalleryError("the gallery was closed", self.where, "open it again")
        self._refresh()
        yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with locked(self._folder), self._reading():
            yield

    def _refresh(self) -> None:
        """Take up what others have written."""
        try:
            self._about = about = _read(self._folder)
        except GalleryError as error:  # it was a gallery when it was opened
            raise GalleryFailedError(error.what, error.where, error.advice) from error
        if (about["embedder"], about["dimensions"]) != (self.embedder, self.dimensions):
            raise GalleryError("another gallery has taken the place of this one", self.where, "open it again")
        try:
            self._segments = {name: self._segment(name) for name in about["templates"]}
        except FileNotFoundError as error:
            if _read(self._folder)["templates"] == about["templates"]:
                raise GalleryFailedError("templates are missing", error.filename, "restore it from a copy") from error
            self._refresh()  # a writer merged the file into another one meanwhile
        except OSError as error:
            raise GalleryFailedError(f"templates cannot be read ({one_line(error)})", error.filename or self.where) from error

    def _segment(self, name: str) -> Segment:
        known = self._segments.get(name)
        return Segment.read(self._folder / name, self.dimensions) if known is None else known

    # --- writing ----------------------------------------------------------------------------------

    def _add(self, people: Mapping[str, Templates]) -> str | None:
        segments = self._segments.values()
        if known := next((person for person in people if any(person in segment.places for segment in segments)), None):
            return known
        new = Segment.of(people)
        # Each that stays is at least twice as large as the next: they are few, and a large one is rarely written again.
        stay = sorted(self._segments, key=lambda name: len(self._segments[name]), reverse=True)
        parts, count = [new], len(new)
        while stay and len(self._segments[stay[-1]]) < 2 * count:
            parts.insert(0, self._segments[stay.pop()])
            count += len(parts[0])
        self._commit(stay, Segment.merged(parts) if len(parts) > 1 else new)
        return None

    def _remove(self, person: str) -> int:
        for name, segment in self._segments.items():
            if person in segment.places:
                rest = segment.without(person)
                self._commit([other for other in self._segments if other != name], rest)
                return len(segment) - len(rest)
        return 0

    def _replace(self, person: str, templates: Templates) -> None:
        [name] = [name for name, segment in self._segments.items() if person in segment.places]
        rest, new = self._segments[name].without(person), Segment.of({person: templates})
        self._commit([other for other in self._segments if other != name], Segment.merged([rest, new]) if len(rest) else new)

    def _commit(self, stay: Iterable[str], new: Segment) -> None:
        """The gallery is these segments from now on."""
        segments = {name: self._segments[name] for name in stay}
        if len(new):
            try:
                segments[new.write(self._folder)] = new
            except OSError as error:
                raise GalleryFailedError(f"templates cannot be written ({one_line(error)})", self.where) from error
        write_about(self._folder, PLAIN_FORMAT, {**self._about, "templates": list(segments)})
        self._segments = segments
        self._sweep()

    def _sweep(self) -> None:
        """Remove what no reader needs: files that were merged, and what killed writers left."""
        for path in [*self._folder.glob(FILES), *self._folder.glob(".*.part")]:
            if path.name not in self._segments:
                with suppress(OSError):  # such as on Windows, where somebody reads it: the next writer removes it
                    path.unlink()

    def _calibrate(self, calibration: Calibration) -> None:
        calibrate(self._folder, PLAIN_FORMAT, calibration)

    def _index(self, at_least: int) -> bool:
        """There is no index: the files are merged. Raises ``GalleryError`` for more templates than this is good for."""
        segments = list(self._segments.values())
        count = sum(map(len, segments))
        if count > max(MOST, at_least - 1):
            what = f"{many(count, 'template')}, and a plain folder has no index"
            raise self._error(what, f"above {MOST:,} copy it to LanceDB or PostgreSQL")
        if len(segments) > 1:
            self._commit([], Segment.merged(segments))
        return False

    # --- reading ----------------------------------------------------------------------------------

    def _label_sets(self) -> Mapping[str, str]:
        return {labels: person for segment in self._segments.values() for labels, person in segment.sets.items()}

    def _nearest(self, kind: str | None) -> Nearest:
        """Finds the best template of each person rather than several of one, so that none must be looked for twice."""
        segments = list(self._segments.values())
        ends = np.cumsum([len(segment.people) for segment in segments])

        def person(place: int) -> str:
            number = int(np.searchsorted(ends, place, "right"))
            return segments[number].people[place - int(ends[number])]  # counted from the end of the segment

        def nearest(probe: Rows, limit: int) -> list[tuple[str, float]]:
            scores = np.concatenate([segment.best(kind or segment.labels[0], probe) for segment in segments])
            best = np.argpartition(-scores, limit)[:limit] if limit < len(scores) else np.arange(len(scores))
            best = best[np.argsort(-scores[best])]
            return [(person(place), float(scores[place])) for place in best.tolist()]

        return nearest

    def _templates_of(self, person: str) -> tuple[Sequence[str], Rows]:
        found = [pair for segment in self._segments.values() for pair in segment.templates(person)]
        labels = [label for label, rows in found for _ in range(len(rows))]
        return labels, np.concatenate([rows for _, rows in found]) if found else np.empty((0, self.dimensions), np.float32)

    def _counts(self, only: str | None) -> Iterable[tuple[str, str, int]]:
        for name, segment in self._everyone() if only is None else ((only, segment) for segment in self._segments.values()):
            for label, rows in sorted(segment.templates(name), key=lambda pair: pair[0]):
                yield name, label, len(rows)

    def _everyone(self) -> list[tuple[str, Segment]]:
        """Each person, by name, and where they are."""
        pairs = [(person, segment) for segment in self._segments.values() for person in segment.people]
        return sorted(pairs, key=lambda pair: pair[0])

    def _export(self) -> Iterator[Template]:
        with self._reading():
            everyone = self._everyone()
        for person, segment in everyone:
            for label, rows in segment.templates(person):
                yield from (Template(person, label, row) for row in rows)

    def _calibrations(self) -> Sequence[Calibration]:
        return calibrations_in(self._folder, self._about)


for _scheme in ("", "file"):
    GALLERIES.register(_scheme, FolderGallery)


def _read(folder: Path) -> dict[str, Any]:
    """gallery.json, with names of files that are none elsewhere."""
    about = read_about(folder, PLAIN_FORMAT)
    names, length = about["templates"], about["dimensions"]
    fits = isinstance(about["embedder"], str) and type(length) is int and isinstance(names, list)
    if not fits or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise GalleryError("damaged", folder / ABOUT, "restore it from a copy")
    return about
