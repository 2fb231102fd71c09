"""A file without what no pixel depends on: the decoders are handed pictures, and no metadata.

Each function walks its format once, within bounds, and keeps what its decoder needs. Metadata of any size is left out at
no cost; what is looked at, the orientation, the dates and the colour profile, is read by bounded readers of our own.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from facesieve.images.limits import too_many

LARGEST_PROFILE = 4 * 2**20  # bytes; one for printing has 0.5 to 2.5 MB
LARGEST_METADATA = 2**20
MOST_CHUNKS = 65_536
MOST_BLOCKS = 1_000_000  # of a GIF, of up to 255 bytes each


@dataclass(frozen=True)
class Bare:
    """A file without metadata, and of that what matters.

    ``files`` are readings of the file, of which the first one that fits is taken. With ``twins``, one fits that is the
    same picture as its twin, which ends differently: then no pixel is missing. With ``planes``, a mode of Pillow's such
    as ``RGB``, they are its channels, of grey, and all are taken.
    """

    files: list[bytes]
    exif: bytes | None = None
    xmp: bytes | None = None
    profile: bytes | None = None
    twins: list[bytes] | None = None
    planes: str | None = None
    aside: bool = False  # its decoder cannot be stopped
    bits: int = 16  # of a sample that has more than 8
    white_is_zero: bool = False


def inflated(data: bytes, most: int) -> bytes | None:
    """Zlib's data unpacked; None for more than ``most`` bytes, or damaged data."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, most + 1)
    except zlib.error:
        return None
    return found if len(found) <= most else None


# --- PNG ---------------------------------------------------------------------------------------------

_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}


def bare_png(data: bytes) -> Bare:
    """The chunks that hold the picture: of an animation the one for programs that do not play it."""
    view, at, count = memoryview(data), 8, 0
    kept, found = [view[:8]], dict[str, bytes | None]()
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end, count = at + 12 + size, count + 1
        if count > MOST_CHUNKS:
            raise too_many(count, "chunks", MOST_CHUNKS)
        if kind == b"IEND":
            break
        if kind in _PNG_KEPT:
            kept.append(view[at:end])
        elif end <= len(data):
            _png_metadata(kind, data[at + 8 : end - 4] if size <= LARGEST_PROFILE else b"", found)
        at = end
    if at <= len(data):  # not cut off
        kept.append(memoryview(b"\0\0\0\0IEND\xaeB`\x82"))
    return Bare([b"".join(kept)], found.get("exif"), found.get("xmp"), found.get("profile"))


def _png_metadata(kind: bytes, body: bytes, found: dict[str, bytes | None]) -> None:
    if kind == b"eXIf":
        found["exif"] = body
    elif kind == b"iCCP":
        found["profile"] = inflated(body.partition(b"\0")[2][1:], LARGEST_PROFILE)
    elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
        packed, text = body[18:19] == b"\1", body[20:].split(b"\0", 2)[-1]
        found["xmp"] = inflated(text, LARGEST_METADATA) if packed else text
    elif kind in {b"tEXt", b"zTXt"} and body.startswith(b"Raw profile type exif\0") and "exif" not in found:
        lines = inflated(body[23:], LARGEST_METADATA) if kind == b"zTXt" else body[22:]
        found["exif"] = from_hex(lines or b"")


def from_hex(text: bytes) -> bytes | None:
    """The EXIF in the text of ImageMagick; None where it is none."""
    try:  # a name, a length, then lines of hexadecimal: as ImageMagick writes it
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return None


# --- WebP --------------------------------------------------------------------------------------------

_WEBP_KEPT = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM"}


def bare_webp(data: bytes) -> Bare:
    """The picture; of an animation the first frame. Raises ``ValueError`` for a file that is cut off."""
    size = struct.unpack_from("<I", data, 4)[0]
    if size + 8 > len(data):
        raise ValueError("image file is truncated")
    at, end, count = 12, size + 8, 0
    kept, found = list[bytes](), dict[bytes, bytes]()
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        body, count = data[at : at + 8 + size + size % 2], count + 1
        if count > MOST_CHUNKS:
            raise too_many(count, "chunks", MOST_CHUNKS)
        if kind == b"VP8X" and size == 10:  # says what else there is: of these only alpha and animation stay
            kept.append(body[:8] + bytes([body[8] & 0x12]) + body[9:])
        elif kind in _WEBP_KEPT or (kind == b"ANMF" and kind not in found):
            kept.append(body)
            found.setdefault(kind, b"")
        elif kind in {b"EXIF", b"XMP ", b"ICCP"} and size <= LARGEST_PROFILE:
            found[kind] = body[8 : 8 + size]
        at += 8 + size + size % 2
    inside = b"".join(kept)
    made = struct.pack("<4sI4s", b"RIFF", len(inside) + 4, b"WEBP") + inside
    return Bare([made], found.get(b"EXIF"), found.get(b"XMP "), found.get(b"ICCP"))


# --- GIF ---------------------------------------------------------------------------------------------


def bare_gif(data: bytes) -> Bare:
    """The first frame, with the block that says what is transparent in it. Raises ``ValueError`` for a file that is cut off."""
    at = 13 + _colours(data[10])
    kept, control, blocks = [data[:at]], b"", 0
    while at < len(data):
        begins = data[at]
        if begins == 0x21:
            end, blocks = _blocks_end(data, at + 2, blocks)
            control = data[at:end] if data[at + 1] == 0xF9 else control
            at = end
        elif begins == 0x2C:
            end, _ = _blocks_end(data, at + 11 + _colours(data[at + 9]), blocks)
            kept += [control, data[at:end], b";"]
            return Bare([b"".join(kept)])
        elif begins == 0x3B:
            raise ValueError("it holds no picture")
        else:
            at += 1
    raise ValueError("image file is truncated")


def _colours(flags: int) -> int:
    """Bytes of the table of colours that flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int, blocks: int) -> tuple[int, int]:
    """Where a row of blocks ends, and the number of blocks so far."""
    while at < len(data) and (size := data[at]):
        at, blocks = at + 1 + size, blocks + 1
        if blocks > MOST_BLOCKS:
            raise too_many(blocks, "blocks", MOST_BLOCKS)
    return at + 1, blocks
