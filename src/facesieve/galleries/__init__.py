"""Galleries of known people, by location: a folder, ``lancedb://FOLDER``, or ``postgresql://...``.

A back end is one file with a ``Gallery`` and ``GALLERIES.register(scheme, ...)``, where the scheme is the part
of a location before ``://``; a folder's is the empty string. A folder that holds a table of LanceDB is opened by LanceDB.
Slow imports wait until a gallery is opened.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np

from facesieve.errors import GalleryError, InputError
from facesieve.galleries.base import GALLERIES, Gallery
from facesieve.galleries.checks import checked_name
from facesieve.galleries.folder_files import folder_of, is_lance
from facesieve.rows import Rows

FOLDER = ("", "file")  # schemes
KNOWN = "give a folder or postgresql://USER@HOST/DATABASE"


def open_gallery(location: str, *, embedder: str | None = None, dimensions: int | None = None) -> Gallery:
    """The gallery at a folder or a URL; nothing is created.

    With ``embedder`` and ``dimensions``, raises ``GalleryError`` if it was made with others; also
    where there is no gallery, and for a server that cannot be reached. ``MissingExtraError`` if
    the libraries of its back end are not installed.
    """
    return _checked(_back_end(location).open(location), embedder, dimensions)


def create_gallery(location: str, *, embedder: str, dimensions: int) -> Gallery:
    """The gallery at a folder or a URL, made if there is none; raises as ``open_gallery``.

    A folder must be new, empty or a gallery; its parents are made.
    """
    if dimensions < 1:
        raise InputError(f"a gallery of {dimensions} dimensions cannot be", advice="use those of the embedder")
    embedder = checked_name(embedder, "an embedder's name")
    return _checked(_back_end(location).create(location, embedder, dimensions), embedder, dimensions)


def copy_gallery(source: str, target: str) -> int:
    """Copy all templates and calibrations to another gallery, made if there is none; returns the number of templates.

    All people are copied or none. Raises ``GalleryError`` where somebody is enrolled in the target, or it is of another embedder.
    """
    people: dict[str, dict[str, list[Rows]]] = {}
    with closing(open_gallery(source)) as old, closing(_copy_target(target, old)) as new:
        for template in old.export():
            people.setdefault(template.person, {}).setdefault(template.purifier, []).append(template.row)
        for calibration in old.calibrations():
            new.calibrate(calibration)
        if people:
            new.enrol_all({name: {label: np.stack(rows) for label, rows in kinds.items()} for name, kinds in people.items()})
    return sum(len(rows) for kinds in people.values() for rows in kinds.values())


def _copy_target(location: str, old: Gallery) -> Gallery:
    new = create_gallery(location, embedder=old.embedder, dimensions=old.dimensions)
    try:
        if new.label_sets():
            raise GalleryError("people are enrolled here already", new.where, "copy to a new gallery")
    except BaseException:
        new.close()
        raise
    return new


def _back_end(location: str) -> type[Gallery]:
    """Raises ``InputError`` for a URL of another kind, before a folder of that name is made, and for nothing at all."""
    if not location.strip():
        raise InputError("no gallery is named", advice=KNOWN)
    scheme = location.partition("://")[0] if "://" in location else ""
    if scheme not in GALLERIES:
        raise InputError(f"a gallery at {scheme}:// is not known", advice=KNOWN)
    if scheme in FOLDER and is_lance(folder_of(location)):
        scheme = "lancedb"
    return GALLERIES[scheme]


def _checked(gallery: Gallery, embedder: str | None, dimensions: int | None) -> Gallery:
    try:
        gallery.check_made_with(embedder, dimensions)
    except BaseException:
        gallery.close()
        raise
    return gallery


__all__ = ["GALLERIES", "Gallery", "copy_gallery", "create_gallery", "open_gallery"]
