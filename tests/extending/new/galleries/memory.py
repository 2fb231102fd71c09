"""A gallery back end: people in this process's memory, at ``memory://NAME``, for as long as it runs."""

import threading
from contextlib import contextmanager
from functools import partial

import numpy as np

from facesieve.errors import GalleryError
from facesieve.galleries.base import GALLERIES, Gallery, Template, label_set

MADE = {}  # location -> what is kept there


class _Kept:
    def __init__(self, embedder, dimensions):
        self.embedder, self.dimensions = embedder, dimensions
        self.people, self.thresholds, self.lock = {}, {}, threading.RLock()


class MemoryGallery(Gallery):
    def __init__(self, location, kept):
        self.where, self._kept = location, kept
        self.embedder, self.dimensions = kept.embedder, kept.dimensions

    @classmethod
    def open(cls, location):
        if location not in MADE:
            raise GalleryError("there is no gallery here", location, "enrol somebody to make one")
        return cls(location, MADE[location])

    @classmethod
    def create(cls, location, embedder, dimensions):
        return cls(location, MADE.setdefault(location, _Kept(embedder, dimensions)))

    def close(self):
        self._kept = None

    @contextmanager
    def _reading(self):
        if self._kept is None:
            raise GalleryError("closed", self.where)
        with self._kept.lock:
            yield

    _writing = _reading

    def _add(self, people):
        known = next((person for person in people if person in self._kept.people), None)
        if known is None:
            self._kept.people |= {person: _flat(templates) for person, templates in people.items()}
        return known

    def _remove(self, person):
        return len(self._kept.people.pop(person, []))

    def _label_sets(self):
        return {label_set({label for label, _ in flat}): person for person, flat in self._kept.people.items()}

    def _nearest(self, kind):
        usable = [(p, row) for p, flat in self._kept.people.items() for label, row in flat if kind in (None, label)]
        return partial(_best, usable)

    def _templates_of(self, person):
        flat = self._kept.people.get(person, [])
        rows = np.array([row for _, row in flat], np.float32).reshape(len(flat), self.dimensions)
        return [label for label, _ in flat], rows

    def _counts(self, only):
        for person in sorted(self._kept.people):
            if only in (None, person):
                labels = [label for label, _ in self._kept.people[person]]
                yield from ((person, label, labels.count(label)) for label in sorted(set(labels)))

    def _export(self):
        with self._reading():
            people = dict(self._kept.people)
        return (Template(person, label, row) for person in sorted(people) for label, row in people[person])

    def _index(self, at_least):
        return sum(map(len, self._kept.people.values())) >= at_least

    def _calibrations(self):
        return list(self._kept.thresholds.values())

    def _calibrate(self, calibration):
        self._kept.thresholds[calibration.key] = calibration


def _flat(templates):
    return [(label, row) for label, rows in templates.items() for row in rows]


def _best(usable, probe, limit):
    scored = sorted(((float(row @ probe), person) for person, row in usable), key=lambda pair: -pair[0])
    return [(person, score) for score, person in scored[:limit]]


GALLERIES.register("memory", MemoryGallery)
