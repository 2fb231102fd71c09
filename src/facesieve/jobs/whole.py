"""Large files that are written whole or not at all, and what a run that was killed leaves of them."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def draft(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside ``target``, open for writing, and its path; ``settle`` gives it the name. Removed on any error."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)  # still there where nobody settled it


def settle(file: BinaryIO, part: Path, target: Path) -> None:
    """Bring a draft to the disk, then give it the name: a reader, and a crash, see either the old file or the new."""
    file.flush()
    os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, survives a power cut
    finally:
        os.close(folder)


def remove_drafts(target: Path) -> None:
    """Remove what killed runs left of ``target``."""
    for part in target.parent.glob(f".{_escaped(target.name)}.*.part"):
        part.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def sha256_of(path: Path) -> str:
    """The hash of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
