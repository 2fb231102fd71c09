"""What a gallery in a folder keeps next to its table: gallery.json, and the lock of its writers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from facesieve.errors import GalleryError, one_line
from facesieve.files import write_atomic

FORMAT = 1
ABOUT, LOCK = "gallery.json", "lock"


def read_about(folder: Path) -> dict[str, Any]:
    """``embedder``, ``dimensions`` and ``calibrations``. Raises ``GalleryError`` if the folder is no gallery."""
    path = folder / ABOUT
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form, missing = about["format"], {"embedder", "dimensions", "calibrations"} - about.keys()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError("there is no gallery here", folder, "enrol somebody to make one, or give another folder") from error
    except OSError as error:
        raise GalleryError(f"cannot be read ({one_line(error)})", path) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GalleryError("damaged", path, "restore it from a copy") from error
    if form != FORMAT:
        raise GalleryError(f"a gallery of format {form}, not {FORMAT}", folder, "update facesieve")
    if missing:
        raise GalleryError(f"damaged, without {', '.join(sorted(missing))}", path, "restore it from a copy")
    return about


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Replace gallery.json; a crash leaves the old one or the new."""
    text = json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False)
    write_atomic(folder / ABOUT, text.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The only writer, also between processes; the lock is released when the process ends, however it ends."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise GalleryError(f"cannot be written to ({one_line(error)})", folder) from error
    try:
        yield
    finally:
        lock.release()
