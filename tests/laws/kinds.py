"""What people hand to a shield: one list of kinds of input, made from a photograph of one face, that goes through every door."""

import io
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, features

Fate = Literal["purified", "named", "either", "passed"]


@dataclass(frozen=True)
class Kind:
    """A file: ``fate`` is what becomes of it in a folder; ``passed`` is no picture, or hidden, and is counted there."""

    name: str
    data: bytes
    fate: Fate = "purified"

    @property
    def is_picture(self) -> bool:
        """Whether a door that gets its bytes alone has to purify or refuse it."""
        return self.fate != "passed" or self.name in HIDDEN_PICTURES


HIDDEN_PICTURES = {".hidden.jpg", "._resource-photo.jpg"}


def kinds(photo):
    """All kinds, from a photograph (H, W, 3) of one face."""
    return [*_formats(Image.fromarray(photo)), *_names(_saved(Image.fromarray(photo), "JPEG")), *_broken(Image.fromarray(photo))]


def _saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _formats(image):
    """Sound pictures."""
    grey, alpha = image.convert("L"), image.copy()
    alpha.putalpha(200)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "plain.jpg": _saved(image, "JPEG"),
        "progressive.jpg": _saved(image, "JPEG", progressive=True),
        "grey.jpg": _saved(grey, "JPEG"),
        "cmyk.jpg": _saved(image.convert("CMYK"), "JPEG", quality=95),
        "low.jpg": _saved(image, "JPEG", quality=30),
        "lying.jpg": _saved(image.rotate(90, expand=True), "JPEG", exif=turned),
        "comment.jpg": _saved(image, "JPEG", comment=b"a" * 5000),
        "plain.png": _saved(image, "PNG"),
        "grey.png": _saved(grey, "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "palette.png": _saved(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "alpha.png": _saved(alpha, "PNG"),
        "profile.png": _saved(image, "PNG", icc_profile=_srgb()),
        "moving.png": _saved(image, "PNG", save_all=True, append_images=[image]),
        "plain.webp": _saved(image, "WEBP"),
        "lossless.webp": _saved(image, "WEBP", lossless=True),
        "alpha.webp": _saved(alpha, "WEBP"),
        "plain.bmp": _saved(image, "BMP"),
        "plain.tif": _saved(image, "TIFF"),
        "packed.tiff": _saved(image, "TIFF", compression="tiff_lzw"),
        "pages.tif": _saved(image, "TIFF", save_all=True, append_images=[image]),
        "plain.gif": _saved(image, "GIF"),
        "moving.gif": _saved(image, "GIF", save_all=True, append_images=[image.rotate(5)]),
        "two.mpo": _saved(image, "MPO", save_all=True, append_images=[image]),
    }
    if features.check("jpg_2000"):
        made["plain.jp2"] = _saved(image, "JPEG2000")
    if features.check("avif"):
        made["plain.avif"] = _saved(image, "AVIF")
    return [Kind(name, data) for name, data in made.items()]


def _srgb():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _names(jpeg):
    """A sound JPEG under the names that files have in practice."""
    names = (
        "UPPER.JPG", "browser.jfif", "old.jpe", "older.jif", "camera.jpeg", "no-suffix", "words.txt", "numbers.dat", "false.png",
        "two.dots.jpg", "a space.jpg", "-dash.jpg", "Ünïcödé.jpg", "李雷.jpg", "\N{CAMERA}.jpg", "right\u202eleft.jpg",
        "line\nbreak.jpg", "quote'\".jpg", "[brackets]*?.jpg", "percent%20.jpg", "trailing.jpg ", f"{'l' * 150}.jpg",
        "query?x=1.jpg", "back\\slash.jpg",
    )  # fmt: skip
    return [
        *(Kind(name, jpeg) for name in names),
        Kind(".hidden.jpg", jpeg, "passed"),
        Kind("._resource-photo.jpg", jpeg, "passed"),
    ]


def _broken(image):
    """What cannot be purified, or is no picture."""
    jpeg, png = _saved(image, "JPEG"), _saved(image, "PNG")
    blank = Image.new("RGB", (200, 200), (90, 90, 90))
    named = {
        "cut.jpg": jpeg[: len(jpeg) // 3],
        "cut.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "noise.jpg": np.random.default_rng(0).bytes(2000),
        "page.jpg": b"<!DOCTYPE html><p>not found</p>",
        "words.png": b"not an image",
        "nobody.png": _saved(blank, "PNG"),
        "tiny.png": _saved(image.resize((8, 8)), "PNG"),
        "flat.png": _saved(image.resize((3000, 4)), "PNG"),
        "bomb.png": _bomb(60_000, 60_000),
        "real.tif": _saved(Image.fromarray(np.asarray(image.convert("L")).astype(np.float32)), "TIFF"),
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "phone.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200),
        "camera.cr2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(300),
        "camera.cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(300),
        "camera.raf": b"FUJIFILMCCD-RAW 0201" + bytes(300),
        "camera.dng": b"MM\0*\0\0\0\x08" + bytes(300),
        "layers.psd": b"8BPS\0\1" + bytes(100),
        "next.jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
        "film.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100),
        "album.zip": _zip(jpeg),
        "shard.tar.gz": b"\x1f\x8b\x08" + bytes(100),
    }
    passed = {
        "notes.txt": b"words", "README": b"words", "index.json": b"{}", "Thumbs.db": b"\xd0\xcf\x11\xe0", ".DS_Store": b"\0Bud1",
        "._words.jpg": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100),
    }  # fmt: skip
    broken = [Kind(name, data, "named") for name, data in named.items()]
    return [*broken, *(Kind(name, data, "passed") for name, data in passed.items())]


def _bomb(width, height):
    """A PNG that says that it is large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _zip(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", data)
    return file.getvalue()


def lay_out(folder, listed, jpeg):
    """All of them in a folder, and what is no file of its own: links, folders, pipes. Returns the fate of each path in it."""
    folder.mkdir()
    fates = {}
    for kind in listed:
        (folder / kind.name).write_bytes(kind.data)
        fates[kind.name] = kind.fate
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked.jpg").write_bytes(jpeg)
    (elsewhere / "back").symlink_to(folder, target_is_directory=True)
    (folder / "album").symlink_to(elsewhere, target_is_directory=True)
    fates |= {"album/linked.jpg": "purified", "album/back": "passed"}
    (folder / "link.jpg").symlink_to(elsewhere / "linked.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "gone").symlink_to("nowhere")
    (folder / "ring.jpg").symlink_to("ring.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    fates["link.jpg"] = "purified"
    fates |= dict.fromkeys(("gone.jpg", "gone", "ring.jpg", "pipe.jpg", "folder.jpg"), "named")
    deep = {"deep/er/a.jpg": "purified", "@eaDir/a.jpg": "passed", "__MACOSX/a.jpg": "passed", ".thumbnails/a.jpg": "passed"}
    for name in deep:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(jpeg)
    return fates | deep
