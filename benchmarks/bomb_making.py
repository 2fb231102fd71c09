"""Small files that ask for much, by kind and by a generator of random numbers: each under 20 MB."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

LARGE = (8_192, 6_100)  # just under 50 megapixels
Maker = Callable[[random.Random], bytes]
BOMBS: dict[str, Maker] = {}


def bomb(maker: Maker) -> Maker:
    """Put a maker into the list, under its name."""
    BOMBS[maker.__name__.replace("_", " ")] = maker
    return maker


@cache
def saved(format: str, side: int = 64, **options: object) -> bytes:
    """A small sound picture."""
    rows, columns = np.mgrid[0:side, 0:side]
    file = io.BytesIO()
    pixels = np.stack([rows * 3, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@cache
def zeros(megabytes: int) -> bytes:
    """Zlib's data of so many megabytes of nothing."""
    packer, part = zlib.compressobj(9), bytes(2**20)
    return b"".join(packer.compress(part) for _ in range(megabytes)) + packer.flush()


# --- directories of TIFF, and of the EXIF in others ---------------------------------------------------


def directory(draw: random.Random, tags: int, *, order: str = "<", at: int = 8) -> bytes:
    """A directory whose tags all point at the same bytes, to the end of what follows."""
    kind, size = draw.choice([(1, 1), (3, 2), (4, 4), (5, 8), (12, 8), (2, 1)])
    behind, length = at + 2 + 12 * tags + 4, draw.randrange(400_000, 800_000)
    first = draw.choice([0x8000, 1, 259, 330, 34665])
    rows = (struct.pack(order + "HHII", (first + n) & 0xFFFF, kind, length // size, behind) for n in range(tags))
    return struct.pack(order + "H", tags) + b"".join(rows) + bytes(4) + draw.randbytes(1000) * (length // 1000 + 1)


def exif(draw: random.Random, tags: int = 65_535) -> bytes:
    order = draw.choice("<>")
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + directory(draw, tags, order=order)


@bomb
def tiff_directory(draw: random.Random) -> bytes:
    return exif(draw)


@bomb
def jpeg_exif(draw: random.Random) -> bytes:
    """In many segments, which readers put together."""
    data, jpeg = exif(draw), saved("JPEG")
    parts = (data[at : at + 65_000] for at in range(0, len(data), 65_000))
    segments = (b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes) -> bytes:
    return saved("PNG")[:33] + b"".join(chunks) + saved("PNG")[33:]


@bomb
def png_exif(draw: random.Random) -> bytes:
    return png_with(chunk(b"eXIf", exif(draw)))


def webp_with(*chunks: tuple[bytes, bytes], flags: int = 0x2C) -> bytes:
    """An extended WebP of 64 x 64 with further chunks in front of the picture."""
    inside = b"VP8X" + struct.pack("<IB3x", 10, flags) + struct.pack("<I", 63)[:3] + struct.pack("<I", 63)[:3]
    inside += b"".join(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for kind, body in chunks)
    inside += saved("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(inside) + 4) + b"WEBP" + inside


@bomb
def webp_exif(draw: random.Random) -> bytes:
    return webp_with((b"EXIF", exif(draw)))


# --- JPEG ---------------------------------------------------------------------------------------------


def jpeg(scans: int, *, progressive: bool = True, size: tuple[int, int] = LARGE, body: bytes = b"") -> bytes:
    """A grey JPEG, or one of three colours, of scans that hold next to nothing and go over all pixels."""
    table = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\x01" * 64
    frame = struct.pack(">BHHB", 8, size[1], size[0], 3) + b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3))
    codes = b"".join(struct.pack(">HHB", 0xFFC4, 20, kind << 4) + b"\1" + bytes(15) + b"\0" for kind in (0, 1))
    parts = [b"\xff\xd8", table, b"\xff\xc2" if progressive else b"\xff\xc0", struct.pack(">H", len(frame) + 2), frame, codes]
    for number in range(scans):
        first, last = (0, 63) if not progressive else (0, 0) if number < 3 else (1 + number % 63,) * 2
        component = 1 + number % 3
        parts.append(b"\xff\xda" + struct.pack(">HBBB3B", 8, 1, component, 0, first, last, 0) + body)
    return b"".join([*parts, b"\xff\xd9"])


@bomb
def jpeg_progressive_scans(draw: random.Random) -> bytes:
    return jpeg(draw.randrange(33, 5_000), body=draw.randbytes(draw.randrange(40)).replace(b"\xff", b"\xfe"))


@bomb
def jpeg_scans_below_the_limit(draw: random.Random) -> bytes:
    return jpeg(draw.randrange(20, 33), body=draw.randbytes(2000).replace(b"\xff", b"\xfe"))


@bomb
def jpeg_sequential_scans(draw: random.Random) -> bytes:
    return jpeg(draw.randrange(33, 5_000), progressive=False)


@bomb
def jpeg_segments(draw: random.Random) -> bytes:
    segment = draw.choice([b"\xff\xfe\0\2", b"\xff\xe5\0\2", b"\xff\xdd\0\4\0\0", b"\xff\x01", b"\xff\xdb\0\2"])
    return saved("JPEG")[:2] + segment * draw.randrange(500_000, 4_000_000) + saved("JPEG")[2:]


@bomb
def jpeg_without_an_end(draw: random.Random) -> bytes:
    return jpeg(draw.randrange(3, 33), body=draw.randbytes(500).replace(b"\xff", b"\xfe"))[:-2] + bytes(draw.randrange(4))


# --- GIF, PNG, WebP, BMP ------------------------------------------------------------------------------


def gif_with(extension: bytes) -> bytes:
    gif = saved("GIF")
    at = 13 + (3 << (gif[10] & 7) + 1)
    return gif[:at] + extension + gif[at:]


@bomb
def gif_comment(draw: random.Random) -> bytes:
    return gif_with(b"!\xfe" + (b"\xff" + b"a" * 255) * draw.randrange(20_000, 70_000) + b"\0")


@bomb
def gif_blocks(draw: random.Random) -> bytes:
    return gif_with(draw.choice([b"!\xfe", b"!\xff", b"!\x01"]) + b"\1a" * draw.randrange(500_000, 9_000_000) + b"\0")


@bomb
def png_texts(draw: random.Random) -> bytes:
    kind = draw.choice([b"zTXt", b"iCCP"])
    return png_with(*[chunk(kind, b"k\0\0" + zeros(draw.choice([64, 256])))] * draw.randrange(1, 30))


@bomb
def png_chunks(draw: random.Random) -> bytes:
    kind, body = draw.choice([(b"tEXt", b"k\0v"), (b"IDAT", b""), (b"teSt", b""), (b"tRNS", b"")])
    return png_with(chunk(kind, body) * draw.randrange(50_000, 1_000_000))


@bomb
def png_pixels(draw: random.Random) -> bytes:
    """Rows beyond the last one, or a picture of the largest size of nothing, interlaced or not."""
    small = draw.random() < 0.5
    size, bits, colour = ((16, 16), 8, 2) if small else (LARGE, draw.choice([8, 16]), draw.choice([2, 6]))
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, draw.randrange(2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zeros(512)) + chunk(b"IEND", b"")


@bomb
def webp_chunks(draw: random.Random) -> bytes:
    frame = struct.pack("<3s3s3s3s3sB", *[b"\0\0\0"] * 2, b"\x3f\0\0", b"\x3f\0\0", b"\1\0\0", 0) + saved("WEBP")[12:]
    kind, body, flags = draw.choice([(b"ANMF", frame, 2), (b"teSt", b"", 0), (b"XMP ", b"", 4)])
    return webp_with(*[(kind, body)] * draw.randrange(5_000, 200_000 if body else 2_000_000), flags=flags)


@bomb
def bmp_runs(draw: random.Random) -> bytes:
    """Runs of one pixel."""
    bits, compression = draw.choice([(8, 1), (4, 2)])
    colours = bytes(4 << bits)
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54 + len(colours))
    head += struct.pack("<IiiHHIIiiII", 40, *LARGE, 1, bits, compression, 0, 0, 0, 1 << bits, 0)
    return head + colours + b"\1\7" * draw.randrange(5_000_000, 9_000_000)


@bomb
def lying_header(draw: random.Random) -> bytes:
    """The largest size that is taken, or any, with a few bytes behind it."""
    width, height = draw.choice([LARGE, (32_768, 1_500), (65_535, 65_535), (2**31 - 1, 2**31 - 1), (1, 2**31)])
    ihdr = struct.pack(">IIBBBBB", width, height, draw.choice([1, 8, 16]), draw.choice([0, 2, 3, 6]), 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", draw.randbytes(100))
    gif = struct.pack("<6sHHBBB", b"GIF89a", width & 0xFFFF, height & 0xFFFF, 0xF7, 0, 0) + bytes(768) + b",\0\0\0\0"
    gif += struct.pack("<HHBB", width & 0xFFFF, height & 0xFFFF, 0, 8) + b"\xff" + draw.randbytes(255) + b"\0;"
    jp2 = b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 47, 0, width, height, 0, 0, width, height, 0, 0, 3)
    return draw.choice([png, gif, jp2 + b"\7\1\1" * 3 + draw.randbytes(200)])


# --- TIFF ---------------------------------------------------------------------------------------------


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    """A little-endian TIFF of numbers, of types 3 and 4, behind its data."""
    at = 8 + len(data) + len(data) % 2
    behind, rows, more = at + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = np.array(values, "<u2" if kind == 3 else "<u4").tobytes()
        if len(raw) > 4:
            more, raw = more + raw + b"\0" * (len(raw) % 2), struct.pack("<I", behind + len(more))
        rows += struct.pack("<HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    head = struct.pack("<2sHI", b"II", 42, at) + data + b"\0" * (len(data) % 2)
    return head + struct.pack("<H", len(tags)) + rows + bytes(4) + more


def tiff_of(size: tuple[int, int], compression: int, parts: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    about = {256: (4, [size[0]]), 257: (4, [size[1]]), 258: (3, [8, 8, 8]), 259: (3, [compression]), 262: (3, [2]), 277: (3, [3])}
    return tiff({**about, **parts}, data)


@bomb
def tiff_tiles(draw: random.Random) -> bytes:
    """Tiles of a pixel, or one tile of a gigapixel."""
    side, count = draw.choice([(1, 500_000), (16, 190_000), (32_752, 1)])
    parts = {322: (4, [side]), 323: (4, [side]), 324: (4, [8] * count), 325: (4, [100] * count)}
    return tiff_of(LARGE, draw.choice([1, 5, 8]), parts, zeros(16))


@bomb
def tiff_strips(draw: random.Random) -> bytes:
    """Strips that all read the same, large part."""
    rows, data = draw.choice([1, 4, 64]), zeros(256)
    count = -(-LARGE[1] // rows)
    parts = {273: (4, [8] * count), 278: (4, [rows]), 279: (4, [len(data)] * count)}
    return tiff_of(LARGE, draw.choice([1, 5, 8, 32773]), parts, data)


@bomb
def tiff_jpeg_scans(draw: random.Random) -> bytes:
    data = jpeg(draw.randrange(33, 3000), progressive=draw.random() < 0.5)
    return tiff_of(LARGE, draw.choice([6, 7]), {273: (4, [8]), 278: (4, [LARGE[1]]), 279: (4, [len(data)])}, data)


# --- decoded in processes of their own ----------------------------------------------------------------


@bomb
def jpeg_2000(draw: random.Random) -> bytes:
    """A sound one whose header asks for more: sides, tiles, layers, resolutions, precincts, code blocks."""
    data = bytearray(saved("JPEG2000", 64, no_jp2=True))
    sizes, style = data.index(b"\xff\x51"), data.index(b"\xff\x52")
    for _ in range(draw.randrange(1, 4)):
        place, values = draw.choice(
            [
                (sizes + 6, struct.pack(">II", *LARGE)),
                (sizes + 22, struct.pack(">II", 1, 1)),
                (style + 6, struct.pack(">H", draw.choice([1, 1000, 65_535]))),
                (style + 9, bytes([draw.randrange(33)])),
                (style + 10, bytes([draw.randrange(9), draw.randrange(9)])),
                (style + 4, bytes([1])),
            ]
        )
        data[place : place + len(values)] = values
    return bytes(data)


@bomb
def boxes(draw: random.Random) -> bytes:
    """A HEIC or AVIF of many boxes, nested boxes, or boxes that declare gigabytes."""
    brand = draw.choice([b"heic", b"avif", b"mif1"])
    begins = struct.pack(">I4s4sI4s", 20, b"ftyp", brand, 0, brand)
    size, kind = draw.choice([8, 2**31, 0, 1]), draw.choice([b"meta", b"iinf", b"iprp", b"free", b"uuid", b"iloc"])
    box = struct.pack(">I4s", size, kind) + bytes(4 if kind == b"meta" else 0)
    return begins + box * draw.randrange(1, 1_000_000) + draw.randbytes(100)


@bomb
def avif_bytes(draw: random.Random) -> bytes:
    """A sound AVIF with bytes changed: sides, offsets, lengths."""
    data = bytearray(saved("AVIF", 64))
    for _ in range(draw.randrange(1, 6)):
        data[draw.randrange(len(data))] = draw.choice([0, 1, 127, 128, 255])
    at = data.find(b"ispe")
    if at > 0 and draw.random() < 0.5:
        data[at + 8 : at + 16] = struct.pack(">II", *LARGE)
    return bytes(data)
