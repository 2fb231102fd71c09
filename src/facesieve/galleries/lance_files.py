"""What a gallery in a folder keeps beside its table: gallery.json, and the lock of those who write."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facesieve.errors import GalleryError
from facesieve.files import write_atomic

FORMAT = 1


def read_about(folder: Path) -> dict[str, Any]:
    """``embedder``, ``dimensions`` and ``calibrations``. Raises ``GalleryError`` if the folder is no gallery."""
    path = folder / "gallery.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form, missing = about["format"], {"embedder", "dimensions", "calibrations"} - about.keys()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"{folder}: there is no gallery here; enrol somebody to make one, or give another folder") from error
    except OSError as error:
        raise GalleryError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GalleryError(f"{path}: damaged; restore it from a copy") from error
    if form != FORMAT:
        raise GalleryError(f"{folder}: a gallery of format {form}, not {FORMAT}; update facesieve")
    if missing:
        raise GalleryError(f"{path}: damaged, without {', '.join(sorted(missing))}; restore it from a copy")
    return about


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Replace gallery.json; a crash leaves the old one or the new."""
    text = json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False)
    write_atomic(folder / "gallery.json", text.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone among those who write, also between processes; let go when the process ends, however it does."""
    try:
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise GalleryError(f"{folder}: cannot be written to ({error.strerror})") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
