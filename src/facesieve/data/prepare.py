"""Protocols that come as a table: ``index.csv`` beside folders of photographs says whose each is and what it is for.

Its columns are ``file``, ``person`` and ``role``: ``gallery`` for a photograph that is enrolled, ``probe`` for one that is
identified. Each folder is a protocol of its own.
"""

from __future__ import annotations

import csv
from itertools import groupby
from pathlib import Path

from facesieve.data.manifest import Image, Manifest, Replaced, Role, Selection
from facesieve.data.select import usable_image
from facesieve.data.sources import FolderSource
from facesieve.errors import FacesieveError, InputError, one_line
from facesieve.faces import Detector
from facesieve.progress import Progress, Report, silent

INDEX = "index.csv"
ROLES: dict[str, Role] = {"gallery": "train", "probe": "test"}  # as a manifest calls them

Listed = tuple[str, Role, str]  # person, role, file


def prepare(root: Path, *, report: Report = silent) -> dict[str, Manifest]:
    """The manifest of each folder that ``root``'s index lists, by the folder's name; photographs are read and faces found.

    Nothing is drawn: the manifest has everyone, in the order of their names. A person of whom a photograph cannot be used is
    left out and listed. Raises ``InputError`` for an index that cannot be read, or in which people have different numbers of
    photographs, and for a folder of which nobody can be used.
    """
    parts: dict[str, list[Listed]] = {}
    for entry in _index(root / INDEX):
        parts.setdefault(entry[2].partition("/")[0], []).append(entry)
    return {part: _manifest(root, part, sorted(listed, key=_order), report) for part, listed in parts.items()}


def _order(entry: Listed) -> tuple[str, bool, str]:
    person, role, file = entry
    return person, role == "test", file


def _index(path: Path) -> list[Listed]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(row["person"], ROLES[row["role"]], row["file"]) for row in csv.DictReader(file)]
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", path) from error
    except (KeyError, ValueError, csv.Error) as error:
        raise InputError(f"expected columns file, person and role (gallery or probe): {one_line(error)}", path) from error


def _distinct(images: list[Image]) -> list[Image]:
    """A person's images. Raises ``InputError`` where two are one file: what is probed would be enrolled."""
    seen: dict[str, Image] = {}
    for image in images:
        if (twin := seen.setdefault(image.sha256, image)) is not image:
            raise InputError(f"the same file as {twin.ref}", image.ref)
    return images


def _manifest(root: Path, part: str, listed: list[Listed], report: Report) -> Manifest:
    people = {person: list(entries) for person, entries in groupby(listed, key=lambda entry: entry[0])}
    counts = {tuple(sum(entry[1] == role for entry in entries) for role in ROLES.values()) for entries in people.values()}
    if len(counts) != 1:
        raise InputError(f"the people of {part} have different numbers of photographs to enrol or to probe", root / INDEX)
    [(train, test)] = counts
    source, detector = FolderSource(root), Detector()
    images: list[Image] = []
    replaced: list[Replaced] = []
    for number, (person, entries) in enumerate(people.items(), 1):
        try:
            images += _distinct([usable_image(source, person, file, role, detector) for _, role, file in entries])
        except FacesieveError as error:
            replaced.append(Replaced(person=person, ref=None, reason=str(error)))
        report(Progress(number, len(people), f"people of {part}"))
    usable = len({image.person for image in images})
    if not usable:
        raise InputError(f"no person of {part} can be used (first: {replaced[0].reason})", root / INDEX)
    selection = Selection(minimum=train + test, people=usable, train=train, test=test, seed=0)
    return Manifest(source=source.kind, selection=selection, images=tuple(images), replaced=tuple(replaced))
