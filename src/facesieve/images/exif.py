"""What is needed of a photograph's metadata, read within bounds: Pillow's reader believes every count in it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

ORIENTATION, DATES, EXIF_IFD = 274, 306, 34665
# Of the Exif directory: when it was taken, digitised, their offsets from UTC, and fractions of seconds.
_TIMES = (36867, 36868, 36880, 36881, 36882, 37520, 37521, 37522)
_MOST_TAGS, _LONGEST = 65_535, 64
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True)
class Entry:
    """A tag's type and number of values, and where they begin in the file."""

    kind: int
    count: int
    place: int

    @property
    def size(self) -> int:
        """Bytes that its values take."""
        return SIZES.get(self.kind, 1) * self.count


@dataclass(frozen=True)
class Tags:
    """The structure of TIFF, which EXIF shares: ``order`` of bytes, ``<`` or ``>``; ``big`` for BigTIFF."""

    data: bytes
    order: str
    big: bool
    first: int  # where the first directory is

    @classmethod
    def of(cls, data: bytes) -> Tags:
        """Raises ``ValueError`` for bytes that do not begin as a TIFF."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None or len(data) < 16:
            raise ValueError("not a TIFF")
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        return cls(data, order, big, struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])

    def directory(self, at: int) -> dict[int, Entry]:
        """The first of each tag in the directory at a place: no value is read. Raises ``ValueError`` outside of the data."""
        count_of, entry_of = ("Q", "HHQ8s") if self.big else ("H", "HHI4s")
        head, size = struct.calcsize(count_of), struct.calcsize("<" + entry_of)
        if at < 8 or at + head > len(self.data):
            raise ValueError("its directory lies outside of the file")
        count = min(struct.unpack_from(self.order + count_of, self.data, at)[0], _MOST_TAGS)
        held = memoryview(self.data)[at + head : at + head + count * size]
        if len(held) < count * size:
            raise ValueError("its directory is cut off")
        found: dict[int, Entry] = {}
        for number, (tag, kind, many, value) in enumerate(struct.iter_unpack(self.order + entry_of, held)):
            if tag not in found:
                place = at + head + number * size
                found[tag] = Entry(kind, many, self._place(kind, many, place, value))
        return found

    def _place(self, kind: int, many: int, entry: int, value: bytes) -> int:
        if SIZES.get(kind, 1) * many <= len(value):
            return entry + (12 if self.big else 8)
        return int(struct.unpack(self.order + ("Q" if self.big else "I"), value)[0])

    def bytes_of(self, entry: Entry | None, most: int) -> bytes:
        """A tag's values as bytes; none where it is missing, lies outside of the data, or is longer than ``most``."""
        if entry is None or entry.size > most or entry.place + entry.size > len(self.data):
            return b""
        return self.data[entry.place : entry.place + entry.size]

    def numbers(self, entry: Entry | None, most: int = 1) -> list[int]:
        """A tag's whole numbers; none where it has other values, or more than ``most``."""
        if entry is None or entry.kind not in _WHOLE or entry.count > most:
            return []
        values = self.bytes_of(entry, 8 * most)
        return list(struct.unpack(f"{self.order}{len(values) // SIZES[entry.kind]}{_WHOLE[entry.kind]}", values))

    def number(self, entry: Entry | None, otherwise: int) -> int:
        """A tag's first whole number, or ``otherwise``."""
        return next(iter(self.numbers(entry, most=16)), otherwise)


def orientation_in(exif: bytes | None, xmp: bytes | None = None) -> int:
    """The orientation, 1 to 8, that EXIF tells, or else XMP; 1 without one, or where it is broken."""
    found = _orientation(exif) or next(iter(_XMP.findall(xmp or b"")), b"0")
    return int(found) if 1 <= int(found) <= 8 else 1


def _orientation(exif: bytes | None) -> int:
    try:
        tags = Tags.of(_bare(exif))
        return tags.number(tags.directory(tags.first).get(ORIENTATION), 0)
    except ValueError:  # broken metadata: shown as it is stored, as viewers do
        return 0


def dates_in(exif: bytes | None) -> bytes:
    """An EXIF block of the dates in another, for a picture that stands upright; of the dates and the orientation alone."""
    made = Image.Exif()
    made[ORIENTATION] = 1
    below: dict[int, Any] = {}
    for tag, text in _dates(exif):
        (made if tag == DATES else below)[tag] = text
    if below:
        made.get_ifd(EXIF_IFD).update(below)
    return made.tobytes()


def _dates(exif: bytes | None) -> Iterator[tuple[int, str]]:
    try:
        tags = Tags.of(_bare(exif))
        first = tags.directory(tags.first)
        below = tags.directory(tags.number(first.get(EXIF_IFD), 0)) if EXIF_IFD in first else {}
    except ValueError:
        return
    wanted = [(DATES, first), *((tag, below) for tag in _TIMES)]
    for tag, directory in wanted:
        entry = directory.get(tag)
        text = tags.bytes_of(entry, _LONGEST).split(b"\0")[0] if entry is not None and entry.kind == 2 else b""
        if text.strip() and text.isascii():
            yield tag, text.decode("ascii")


def _bare(exif: bytes | None) -> bytes:
    return (exif or b"").removeprefix(b"Exif\0\0")
