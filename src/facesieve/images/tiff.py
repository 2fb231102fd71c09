"""A TIFF's first picture, with a directory of our own: a decoder meets no tag but those of the picture, each within the file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from facesieve.errors import ImageError
from facesieve.images.bare import LARGEST_METADATA, LARGEST_PROFILE, Bare
from facesieve.images.exif import Entry, Tags
from facesieve.images.jpeg import MOST_SCANS, scans_in
from facesieve.images.limits import check_size, too_many

REDUCED, WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS = 254, 256, 257, 258, 259, 262
STRIPS, SAMPLES, ROWS, STRIP_SIZES, PLANES = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES = 322, 323, 324, 325
BELOW, EXTRA, FORMAT, XMP, PROFILE, DNG = 330, 338, 339, 700, 34675, 50706

# What decoders look at. Not the orientation: a picture is turned in one place.
_KEPT = {
    WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS, 266, STRIPS, SAMPLES, ROWS, STRIP_SIZES, PLANES, 292, 293, 317, 320,
    TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES, 332, EXTRA, FORMAT, 347, *range(512, 522), 529, 530, 531, 532,
}  # fmt: skip
# None, CCITT, LZW, JPEG, deflate, PackBits, Zstandard, WebP. Not LZMA, whose memory the file chooses.
_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 50000, 50001}
_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
_GREY, _RGB, _CMYK, _OF_SENSORS = 1, 2, 5, {32803, 34892}
MOST_PARTS = 200_000  # strips or tiles
_SHORT, _LONG, _LONGS = 3, 4, {16, 18}


@dataclass(frozen=True)
class Tiff:
    """The first picture's tags."""

    tags: Tags
    first: dict[int, Entry]

    @classmethod
    def of(cls, data: bytes) -> Tiff:
        """Raises ``ValueError`` for what is no TIFF."""
        tags = Tags.of(data)
        return cls(tags, tags.directory(tags.first))

    def number(self, tag: int, otherwise: int) -> int:
        """A tag's first whole number."""
        return self.tags.number(self.first.get(tag), otherwise)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.number(WIDTH, 0), self.number(HEIGHT, 0)

    def bare(self, max_pixels: int) -> Bare:
        """The picture alone; colours stored plane by plane as a grey file for each.

        Raises ``ImageError`` for a camera's raw file, for a picture that is too large, and for parts that are too many
        or ask for more than there is.
        """
        self._check_is_the_photograph()
        check_size(self.size, max_pixels)
        self._check_parts(max(max_pixels, 2**22))
        kept = {tag: entry for tag, entry in self.first.items() if tag in _KEPT}
        asked = sum(entry.size for entry in kept.values())
        if asked > len(self.tags.data):
            raise ImageError(f"its tags ask for {asked:,} bytes of {len(self.tags.data):,}", advice="save it again as PNG")
        mode = self._planes()
        files = [self._plane(kept, number) for number in range(len(mode))] if mode else [self._file(kept)]
        xmp = self.tags.bytes_of(self.first.get(XMP), LARGEST_METADATA)
        profile = self.tags.bytes_of(self.first.get(PROFILE), LARGEST_PROFILE)
        return Bare(
            files,
            self.tags.data,
            xmp,
            profile or None,
            planes=mode,
            aside=self.number(COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED,
            bits=self.number(BITS, 16),
            white_is_zero=self.number(COLOURS, _GREY) == 0,
        )

    # --- checks -----------------------------------------------------------------------------------

    def _check_is_the_photograph(self) -> None:
        """Raises ``ImageError`` where the first picture is a preview: of cameras' raw files, and by its own account."""
        below = self.tags.numbers(self.first.get(BELOW), most=16)
        larger = any(Tiff(self.tags, self._directory(at)).size > self.size for at in below)
        raw = DNG in self.first or self.number(COLOURS, 0) in _OF_SENSORS
        if raw or larger or self.number(REDUCED, 0) & 1:
            what = "a camera's raw file, which is not read: its first picture is a preview or what the sensor saw"
            raise ImageError(what, advice="convert it to JPEG, PNG or TIFF")

    def _directory(self, at: int) -> dict[int, Entry]:
        try:
            return self.tags.directory(at)
        except ValueError:
            return {}

    def _check_parts(self, largest: int) -> None:
        """Strips and tiles: their number, size, what they read, and the scans in them."""
        compression = self.number(COMPRESSION, _UNCOMPRESSED)
        if compression not in _COMPRESSIONS:
            raise ValueError(f"compression {compression}")
        parts = self._parts_of_plane() * (self.number(SAMPLES, 1) if self.number(PLANES, 1) == 2 else 1)
        if parts > MOST_PARTS:
            raise too_many(parts, "strips or tiles", MOST_PARTS)
        if (tile := self.number(TILE_WIDTH, 0) * self.number(TILE_HEIGHT, 0)) > largest:
            raise too_many(tile, "pixels in a tile", largest)
        if compression == _UNCOMPRESSED:
            return
        data = self.tags.data
        sizes = self._numbers(TILE_SIZES, STRIP_SIZES)
        asked = sum(min(size, len(data)) for size in sizes)
        if asked > 2 * len(data):
            raise ImageError(f"its parts ask for {asked:,} bytes of {len(data):,}", advice="save it again as PNG")
        scans = data.count(b"\xff\xda") if compression in {_OLD_JPEG, _JPEG} else 0
        if scans <= parts:
            return
        if compression == _OLD_JPEG and scans > parts + MOST_SCANS:
            raise too_many(scans, "scans", parts + MOST_SCANS)
        for at, size in zip(self._numbers(TILES, STRIPS), sizes, strict=False):
            scans_in(data[at : at + size])

    def _numbers(self, *tags: int) -> list[int]:
        entry = next((self.first[tag] for tag in tags if tag in self.first), None)
        return self.tags.numbers(entry, most=MOST_PARTS)

    def _parts_of_plane(self) -> int:
        width, height = self.size
        wide, high = self.number(TILE_WIDTH, 0), self.number(TILE_HEIGHT, 0)
        if TILES in self.first and wide and high:
            return -(-width // wide) * -(-height // high)
        return -(-height // max(1, min(self.number(ROWS, height), height)))

    # --- the file ---------------------------------------------------------------------------------

    def _planes(self) -> str | None:
        """The mode that planes make: Pillow reads those of 16 bits wrongly, so each is read by itself."""
        if self.number(PLANES, 1) != 2:
            return None
        alpha = {1: "RGBa", 2: "RGBA"}.get(self.number(EXTRA, 0), "RGB") if self.number(SAMPLES, 1) > 3 else "RGB"
        return {_RGB: alpha, _CMYK: "CMYK"}.get(self.number(COLOURS, 0))

    def _plane(self, kept: dict[int, Entry], number: int) -> bytes:
        """The file of one plane."""
        count, own = self._parts_of_plane(), dict(kept)
        for tag in {STRIPS, STRIP_SIZES, TILES, TILE_SIZES} & own.keys():
            all_of = own[tag]
            step = all_of.size // max(all_of.count, 1) * count
            own[tag] = Entry(all_of.kind, count, all_of.place + number * step)
        for tag in {EXTRA, 320, 530, 531, 532} & own.keys():
            del own[tag]
        if FORMAT in own:
            own[FORMAT] = Entry(own[FORMAT].kind, 1, own[FORMAT].place)
        own[BITS] = Entry(own[BITS].kind, 1, own[BITS].place) if BITS in own else own[WIDTH]
        return self._file(own, {COLOURS: _GREY, SAMPLES: 1, PLANES: 1})

    def _file(self, kept: dict[int, Entry], changed: dict[int, int] | None = None) -> bytes:
        """The file with a directory of these tags at its end; those that are ``changed`` have other numbers.

        It is no BigTIFF, which decoders know less well: numbers of 64 bits become such of 32, since no file here is so large.
        """
        order, data = self.tags.order, self.tags.data
        rows, more = [], b""
        end = len(data) + len(data) % 2
        for tag, entry in sorted({**kept, **dict.fromkeys(changed or {}, Entry(_SHORT, 1, 0))}.items()):
            kind, count = entry.kind, entry.count
            if changed and tag in changed:
                values = struct.pack(order + "H", changed[tag])
            else:
                kind, values = self._narrow(entry)
            if len(values) > 4:
                end_of_more, more = end + len(more), more + values + bytes(len(values) % 2)
                values = struct.pack(order + "I", end_of_more)
            rows.append(struct.pack(order + "HHI", tag, kind, count) + values.ljust(4, b"\0"))
        head = data[:2] + struct.pack(order + "HI", 42, end + len(more))
        directory = struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4)
        return b"".join([head, memoryview(data)[8:], bytes(end - len(data)), more, directory])

    def _narrow(self, entry: Entry) -> tuple[int, bytes]:
        """A tag's type and values as bytes, without numbers of 64 bits."""
        values = self.tags.bytes_of(entry, entry.size)
        if entry.kind not in _LONGS:
            return entry.kind, values
        found = np.frombuffer(values, self.tags.order + "u8")
        return _LONG, found.clip(max=2**32 - 1).astype(self.tags.order + "u4").tobytes()
