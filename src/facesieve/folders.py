"""What lies in folders: photographs, by name and by first bytes; what is passed over, and what looks like one and cannot be read.

One rule for every command. Names that begin with a dot, and the folders that machines leave behind (``HOUSEKEEPING``), are
neither photographs nor people. A path that somebody names is taken whatever it is called; this is about what lies below it.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from facesieve.errors import InputError, one_line, printable
from facesieve.files import identity_of
from facesieve.kinds import HEAD, kind_of

# Of pictures that are read; a file's bytes decide what it is, its suffix only whether it is looked at.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
    ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf",
})  # fmt: skip
# Of photographs that are not read: what looks like one is named with its reason, never passed over.
UNREAD_SUFFIXES = frozenset({
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".rwl", ".pef", ".srw",
    ".raw", ".x3f", ".iiq", ".3fr", ".erf", ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".psd", ".psb", ".xcf", ".tga", ".pcx",
    ".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".qoi", ".jxl", ".jxr", ".wdp", ".hdp", ".jpm",
})  # fmt: skip

OTHERS, NAMED = "of other kinds", 3  # what is no photograph, and how many of it are named
HOUSEKEEPING = frozenset(
    {
        "__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "lost+found", "$recycle.bin", "system volume information",
        "thumbs.db", "desktop.ini",
    }
)  # fmt: skip

# What holds photographs and is no photograph, by suffix, and what to do about it.
CLIPS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".3gp", ".wmv", ".mpg", ".mpeg")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_HOLDERS = {CLIPS: "a clip; purify it in a call of its own", _ARCHIVES: "an archive is not looked into; unpack it"}


def begins_as_image(head: bytes) -> bool:
    """Whether bytes begin as those of a picture of any usual kind do; ``HEAD`` of them are enough."""
    return kind_of(head) is not None


def is_housekeeping(name: str) -> bool:
    """Whether a file or folder of this name is passed over in folders."""
    return name.startswith(".") or name.lower() in HOUSEKEEPING


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES | UNREAD_SUFFIXES


def looks_like_image(path: Path) -> bool:
    """Whether a file is a picture by its name or its first bytes, or may be one for all that can be told: it cannot be read."""
    if is_image_name(path.name):
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe might never end
            return False
        with path.open("rb") as file:
            return begins_as_image(file.read(HEAD))
    except OSError:
        return not path.is_symlink() or not path.suffix  # a link to nothing is a picture by its name alone, or without one


class Passed(Counter[str]):
    """How much was passed over, by what it is, with the first names of files of other kinds than photographs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def include(self, other: Passed) -> None:
        """Count ``other`` in."""
        self.update(other)
        self.names = (self.names + other.names)[:NAMED]


@dataclass
class Found:
    """What lies below some paths.

    ``files`` are pairs of a path and its path below the folder that was given; ``troubles`` such pairs with the reason why
    what may be, or hold, photographs cannot be taken; ``passed`` counts what is left out on purpose, by what it is.
    """

    files: list[tuple[Path, Path]] = field(default_factory=list)
    troubles: list[tuple[Path, Path, str]] = field(default_factory=list)
    passed: Passed = field(default_factory=Passed)


def files_below(inputs: Sequence[Path], out: Path, what: str, suffixes: Set[str] = frozenset()) -> Found:
    """Each photograph, or file with one of ``suffixes``, among files and folders (recursive), once.

    Links to folders are followed, each folder once. What lies in ``out`` is no input. ``what`` they are is for messages.
    Raises ``InputError`` for a path that does not exist, and a folder that holds nothing of the kind or lies within ``out``.
    """
    found = Found()
    for path in inputs:
        if path.is_dir():
            if path.resolve().is_relative_to(out.resolve()):
                raise InputError(f"lies in the folder of results, {out}", path, "choose another folder for the results")
            before = len(found.files) + len(found.troubles)
            _walk(path, out, suffixes, found)
            if before == len(found.files) + len(found.troubles):
                other = f"; passed over: {passed_over(found.passed)}" if found.passed else ""
                raise InputError(f"no {what} in this folder{other}", path)
        elif path.exists():
            found.files.append((path, Path(path.name)))
        else:
            raise InputError("no such file or folder", path)
    found.files = list(dict.fromkeys(found.files))
    return found


def below(folder: Path) -> Found:
    """What lies below a folder, which may hold nothing."""
    found = Found()
    _walk(folder, None, frozenset(), found)
    return found


def images_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name. Raises ``InputError`` for a folder that cannot be listed."""
    return [path for path in _entries(folder) if not is_housekeeping(path.name) and not path.is_dir() and looks_like_image(path)]


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name, but for what machines left. Raises ``InputError`` if it cannot be listed."""
    return [path for path in _entries(folder) if not is_housekeeping(path.name) and path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be listed: {one_line(error)}", folder) from error


def _walk(top: Path, out: Path | None, suffixes: Set[str], found: Found) -> None:
    """Folders first, then links to others: what lies in a folder is called by its own path where it has one below ``top``."""
    results, seen = None if out is None else identity_of(out), set[object]()
    folders, links, files = deque([top]), deque[Path](), list[Path]()
    while folders or links:
        is_link = not folders
        place = links.popleft() if is_link else folders.popleft()
        identity = identity_of(place)
        if identity is not None and identity == results:
            continue
        if identity in seen:
            found.passed["links to folders that are searched anyway"] += 1
            continue
        seen.add(identity)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            found.troubles.append((place, place.relative_to(top), f"this folder cannot be listed: {one_line(error)}"))
            continue
        if not entries and place != top and is_image_name(place.name):
            found.troubles.append((place, place.relative_to(top), "an empty folder by the name of a picture"))
        for entry in entries:
            if is_housekeeping(entry.name):
                found.passed["hidden or housekeeping"] += 1
            elif _is_folder(entry):
                (links if entry.is_symlink() else folders).append(place / entry.name)
            else:
                files.append(place / entry.name)
    for path in sorted(files):
        _take(path, path.relative_to(top), suffixes, found)


def _take(path: Path, below: Path, suffixes: Set[str], found: Found) -> None:
    """A file, by what it is."""
    name = path.name.lower()
    holder = next((why for endings, why in _HOLDERS.items() if name.endswith(endings)), None)
    if path.suffix.lower() in suffixes or looks_like_image(path):
        if path.is_file():
            found.files.append((path, below))
        else:
            what = "a link to nothing" if path.is_symlink() and not path.exists() else "no regular file"
            found.troubles.append((path, below, what))
    elif holder is not None:
        found.troubles.append((path, below, holder))
    else:
        found.passed[OTHERS] += 1
        found.passed.names += [path.name][: NAMED - len(found.passed.names)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a ring of links
        return False


def passed_over(passed: Passed) -> str:
    """``4 of other kinds (a.txt, b.csv, c.pdf, ...), 1 hidden or housekeeping``; empty where nothing was."""
    names = [printable(name) for name in passed.names]
    more = [*names, "..."] if passed[OTHERS] > len(names) else names
    named = {OTHERS: f" ({', '.join(more)})" if names else ""}
    return ", ".join(f"{count:,} {what}{named.get(what, '')}" for what, count in sorted(passed.items()))
