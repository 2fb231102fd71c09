"""A JPEG's segments: walked once, bounded, without metadata; and whether one without an end is complete."""

from __future__ import annotations

import random
import re
import struct
from dataclasses import dataclass, field

from facesieve.errors import ImageError
from facesieve.images.bare import LARGEST_PROFILE, Bare
from facesieve.images.limits import too_many

MOST_SEGMENTS = 10_000
# Every scan goes over every pixel again, whatever its length. Encoders make at most some 20.
MOST_SCANS, SCANNED_PIXELS = 32, 1_600_000_000

_MARKER = re.compile(rb"\xff[^\0\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
_END, _SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a body
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_KEPT_APPLICATION = {0xE0, 0xEE}  # JFIF, Adobe: they say which colours these are


@dataclass
class _Walk:
    """What has been found so far."""

    kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    pixels: int = 0
    components: tuple[int, ...] = ()
    scans: int = 0
    exif: bytes | None = None
    xmp: bytes | None = None
    profile: dict[int, bytes] = field(default_factory=dict)
    # By component: how many low bits each of the 64 coefficients still lacks.
    lacking: dict[int, list[int]] = field(default_factory=dict)

    def add(self, marker: int, segment: bytes) -> None:
        """A segment with its marker and length."""
        if marker == 0xE1 and segment[4:].startswith(b"Exif\0\0"):
            self.exif = self.exif or segment[10:]
        elif marker == 0xE1 and segment[4:].startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            self.xmp = self.xmp or segment[33:]
        elif marker == 0xE2 and segment[4:].startswith(b"ICC_PROFILE\0"):
            self.profile.setdefault(segment[16], segment[18:])
        elif marker == _COMMENT or (0xE0 <= marker <= 0xEF and marker not in _KEPT_APPLICATION):
            return
        else:
            self.kept.append(segment)
        if marker in _FRAMES:
            height, width, count = struct.unpack_from(">HHB", segment, 5)
            self.pixels, self.components = width * height, tuple(segment[10 : 10 + 3 * count : 3])
        elif marker == _SCAN:
            self._scan(segment)

    def _scan(self, segment: bytes) -> None:
        self.scans += 1
        most = max(MOST_SCANS, SCANNED_PIXELS // max(self.pixels, 1))
        if self.scans > most:
            raise too_many(self.scans, "scans", most)
        count = segment[4]
        first, last, bits = segment[5 + 2 * count : 8 + 2 * count]
        for component in segment[5 : 5 + 2 * count : 2]:
            row = self.lacking.setdefault(component, [16] * 64)
            for coefficient in range(first, min(last, 63) + 1):
                row[coefficient] = bits & 15

    @property
    def is_whole(self) -> bool:
        """Whether there was a last scan of every coefficient of every component."""
        return bool(self.components) and all(not any(self.lacking.get(one, [16])) for one in self.components)

    def icc(self) -> bytes | None:
        """The profile, put together from its parts."""
        data = b"".join(part for _, part in sorted(self.profile.items()))
        return data if 0 < len(data) <= LARGEST_PROFILE else None


def bare_jpeg(data: bytes) -> Bare:
    """The first picture of a JPEG, or of the several that an MPO is, without metadata.

    One that lacks its end marker, or has zeros or ones there, is given it if all scans are there. Its twin ends in noise
    before that: a decoder fills what is missing from what follows, so that the two differ where anything is.
    Raises ``ValueError`` for what is no JPEG, ``ImageError`` for too many scans or segments.
    """
    walk = _Walk()
    ended = _walked(data, walk)
    kept = b"".join(walk.kept)
    if not ended and not walk.is_whole:
        raise ValueError("image file is truncated")
    ends = [kept] if ended else _without_padding(kept)
    twins = None if ended else [end + _noise(end) + b"\xff\xd9" for end in ends]
    return Bare([end + b"\xff\xd9" for end in ends], walk.exif, walk.xmp, walk.icc(), twins)


def _walked(data: bytes, walk: _Walk) -> bool:
    """Whether the end marker was met; if not, the last scan goes to the end of the data."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, at)  # what is between segments is passed over, as decoders do
        if found is None:
            return False
        at, marker = found.start(), data[found.end() - 1]
        if marker == _END:
            return True
        if marker in _ALONE:
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end > len(data):
            raise ValueError("image file is truncated")
        walk.add(marker, data[at:end])
        at = end
        if marker == _SCAN:
            after = _AFTER_SCAN.search(data, at)
            end = after.start() if after else len(data)
            walk.kept.append(data[at:end])
            at = end
    raise ImageError(f"more than {MOST_SEGMENTS:,} segments", advice="save it again as PNG")


def scans_in(data: bytes) -> int:
    """The number of scans of the JPEG that ``data`` begins with. Raises as ``bare_jpeg``."""
    walk = _Walk()
    _walked(data, walk)
    return walk.scans


def _without_padding(data: bytes) -> list[bytes]:
    """The file without the zeros and ones at its end; and, as a scan may end in one of them, with the first."""
    bare = data.rstrip(b"\0\xff")
    first = re.match(rb"\xff\0|\0|", data[len(bare) :])
    assert first is not None
    return [bare + first[0], bare] if first[0] == b"\xff\0" else [bare, *([bare + b"\0"] if first[0] else [])]


def _noise(data: bytes) -> bytes:
    """Other bytes of a scan, with the restart markers that a decoder expects next.

    It begins with ones, since decoders fill with zeros: the first bit that is missing differs, and so what it decides.
    """
    draw = random.Random(len(data))
    last = max(data.rfind(bytes([0xFF, 0xD0 + number])) for number in range(8))
    following = 0 if last < 0 or data.rfind(b"\xff\xda") > last else data[last + 1] - 0xD0 + 1
    parts = []
    for number in range(16):
        parts += [b"\xfe" + bytes(draw.randrange(255) for _ in range(256)), bytes([0xFF, 0xD0 + (following + number) % 8])]
    return b"".join(parts)
