"""InsightFace's RecordIO: the form in which CASIA-WebFace and similar sets are distributed (``train.rec`` and ``train.idx``).

A record is the magic number, a word with a 3-bit continuation flag and a 29-bit length, the data,
and padding to four bytes (dmlc-core, ``recordio.h``; a magic number inside the data splits it into
parts, and is left out between them). The data begins with a header: flag, label, two ids
(``IfQQ``); with a flag above 0 that many float32 labels follow. What is left is the image file.
The record of key 0 may be a table of contents: its two labels are the first key after the images
and the last key of the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from facesieve.errors import InputError, one_line

MAGIC = 0xCED7230A
_HEADER = struct.Struct("<IfQQ")
_WORDS = struct.Struct("<II")


class RecordFile:
    """A record file with its index, which lies next to it under the same name. Raises ``InputError`` for other files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = path.with_suffix(".idx")
        try:
            if path.stat().st_size == 0:  # mmap refuses an empty file
                raise InputError("empty", path, "copy it again")
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            lines = index.read_text().splitlines()
            pairs = [(int(key), int(offset)) for key, offset in (line.split("\t")[:2] for line in lines if line.strip())]
        except OSError as error:
            raise InputError(f"cannot be read: {one_line(error)}", error.filename or path) from error
        except ValueError as error:
            raise InputError(f"not an index of {path.name}: lines of a key, a tab and an offset are expected", index) from error
        self.offsets = dict(pairs)
        if len(self.offsets) < len(pairs):
            raise InputError("a key comes twice in it", index, "copy both files again")

    def labels(self) -> Iterator[tuple[int, int]]:
        """Every image's key and label, in the order of the keys.

        Raises ``InputError`` for a damaged file, and for an index that names more or fewer records than there are.
        """
        self._check_index()
        end = self._end_of_images()
        images = sum(0 < key < end for key in self.offsets) if end is not None else 0
        if end is not None and abs(images - (end - 1)) > end * 2**-23:  # the table of contents has it as float32
            raise InputError(f"its table of contents says {end - 1:,} images, its index has {images:,}", self.path.name)
        for key in sorted(self.offsets):
            if end is None or 0 < key < end:
                labels, _ = self._unpack(key)
                if not labels[0].is_integer():  # NaN and infinity are none either
                    raise InputError(f"record {key} has the label {labels[0]}, which is not a whole number", self.path.name)
                yield key, int(labels[0])

    def image(self, key: int) -> bytes:
        """The image file in a record. Raises ``InputError`` for a key that is not there, or a damaged record."""
        if key not in self.offsets:
            raise InputError(f"has no record {key}", self.path.name)
        return self._unpack(key)[1]

    def _check_index(self) -> None:
        """Each record is in the index, once: a record that it lacks would be left out without a word."""
        at = 0
        for key, offset in sorted(self.offsets.items(), key=lambda entry: entry[1]):
            if offset != at:
                what = "no record begins there" if offset < at else f"it lacks the records from {at} on"
                raise InputError(f"record {key} is at {offset} by the index; {what}", self.path.name, "make the index again")
            at = self._end(key)
        if at < len(self.data):
            raise InputError(f"the index lacks the records from {at} on", self.path.name, "make the index again")

    def _end_of_images(self) -> int | None:
        """The first key after the images, where record 0 says so."""
        if 0 not in self.offsets:
            return None
        labels, rest = self._unpack(0)
        if len(labels) != 2 or rest:
            return None
        if not labels[0].is_integer():
            raise InputError(f"its table of contents says {labels[0]} images", self.path.name, "make the index again")
        return int(labels[0])

    def _unpack(self, key: int) -> tuple[tuple[float, ...], bytes]:
        record = self._record(key)
        try:
            flag, label, _, _ = _HEADER.unpack_from(record)
            if flag == 0:
                return (label,), record[_HEADER.size :]
            labels = struct.unpack_from(f"<{flag}f", record, _HEADER.size)
        except struct.error as error:
            raise InputError(f"record {key} is damaged", self.path.name) from error
        return labels, record[_HEADER.size + 4 * flag :]

    def _record(self, key: int) -> bytes:
        parts = [self.data[start : start + length] for start, length in self._parts(key)]
        return struct.pack("<I", MAGIC).join(parts)

    def _end(self, key: int) -> int:
        """Where a record ends, with its padding."""
        return max(start + (length + 3) // 4 * 4 for start, length in self._parts(key))

    def _parts(self, key: int) -> Iterator[tuple[int, int]]:
        """Where each part of a record begins, and its length."""
        position = self.offsets[key]
        while True:
            try:
                magic, word = _WORDS.unpack_from(self.data, position)
            except (struct.error, OverflowError) as error:  # an offset beyond 2**63
                raise InputError(f"ends before record {key} does", self.path.name) from error
            flag, length = word >> 29, word & 0x1FFFFFFF
            start = position + _WORDS.size
            if magic != MAGIC or start + length > len(self.data):
                raise InputError(f"no record {key} at {position}; the index and the file do not belong together", self.path.name)
            yield start, length
            if flag in {0, 3}:  # whole, or the last part
                return
            position = start + (length + 3) // 4 * 4
