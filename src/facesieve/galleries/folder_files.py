"""What a gallery in a folder keeps beside its templates: gallery.json, and the lock of its writers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from facesieve.errors import GalleryError, GalleryFailedError, InputError, one_line
from facesieve.files import write_atomic
from facesieve.galleries.base import Calibration

LANCE_FORMAT, PLAIN_FORMAT = 1, 2  # of gallery.json
ABOUT, LOCK, LANCE = "gallery.json", "lock", "templates.lance"  # the last is LanceDB's table
KEPT = {LANCE_FORMAT: {"embedder", "dimensions", "calibrations"}}
KEPT[PLAIN_FORMAT] = KEPT[LANCE_FORMAT] | {"templates"}


def folder_of(location: str) -> Path:
    """``people``, or ``file:///srv/people``."""
    scheme, _, path = location.rpartition("://")
    return Path(unquote(path) if scheme else path)


def is_lance(folder: Path) -> bool:
    """Whether the gallery in this folder is one of LanceDB."""
    try:
        return (folder / LANCE).exists()
    except OSError:  # what is wrong is said when the gallery is opened
        return False


def claimed(folder: Path, templates: str) -> Path:
    """The folder, made with its parents if it is missing.

    Raises ``GalleryError`` where that fails, and where there are other files but no gallery; those whose names match
    ``templates`` are no others.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in folder.iterdir() if path.suffix != ".part" and not path.match(templates)]
    except OSError as error:
        raise GalleryError(f"no gallery can be made here ({one_line(error)})", folder, "choose another folder") from error
    if set(names) - {LOCK} and ABOUT not in names:
        raise GalleryError("holds other files and no gallery", folder, "choose an empty or a new folder")
    return folder


def read_about(folder: Path, form: int) -> dict[str, Any]:
    """What gallery.json holds: ``KEPT[form]``. Raises ``GalleryError`` if the folder is no gallery of this format."""
    path = folder / ABOUT
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, missing = about["format"], KEPT[form] - about.keys()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError("there is no gallery here", folder, "enrol somebody to make one, or give another folder") from error
    except OSError as error:
        raise GalleryError(f"cannot be read ({one_line(error)})", path) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GalleryError("damaged", path, "restore it from a copy") from error
    if found != form:
        raise GalleryError(f"a gallery of format {found}, not {form}", folder, _advice(found, form))
    if missing:
        raise GalleryError(f"damaged, without {', '.join(sorted(missing))}", path, "restore it from a copy")
    return about


def _advice(found: object, form: int) -> str:
    if (found, form) == (LANCE_FORMAT, PLAIN_FORMAT):
        return f"{LANCE} is missing: restore it from a copy"
    if (found, form) == (PLAIN_FORMAT, LANCE_FORMAT):
        return "it is not LanceDB's: give the folder without lancedb://"
    return "update facesieve"


def write_about(folder: Path, form: int, about: Mapping[str, Any]) -> None:
    """Replace gallery.json; a crash leaves the old one or the new. Raises ``GalleryFailedError``."""
    text = json.dumps({**about, "format": form}, indent=1, ensure_ascii=False)
    try:
        write_atomic(folder / ABOUT, text.encode())
    except InputError as error:
        raise GalleryFailedError(error.what, error.where) from error


def calibrations_in(folder: Path, about: Mapping[str, Any]) -> list[Calibration]:
    """Those of ``read_about``. Raises ``GalleryError``."""
    try:
        return [Calibration(**entry) for entry in about["calibrations"]]
    except TypeError as error:
        raise GalleryError("damaged: no calibrations", folder / ABOUT, "restore it from a copy") from error


def calibrate(folder: Path, form: int, calibration: Calibration) -> None:
    """Keep a calibration, in place of the one with the same key; for the holder of the lock."""
    about = read_about(folder, form)
    kept = [known for known in calibrations_in(folder, about) if known.key != calibration.key]
    write_about(folder, form, {**about, "calibrations": [asdict(known) for known in (*kept, calibration)]})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The only writer, also between processes; the lock is released when the process ends, however it ends."""
    from filelock import FileLock  # readers need none

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise GalleryError(f"cannot be written to ({one_line(error)})", folder) from error
    try:
        yield
    finally:
        lock.release()
