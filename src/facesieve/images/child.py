"""Decodes one picture in a process of its own, limited in memory and processor time: run as a script, it imports nothing of ours.

For formats whose decoders cannot be stopped. The file comes by standard input; by standard output goes one line of JSON,
with ``error``, ``size`` alone where it is not taken, or ``mode``, ``size`` and the lengths of what is in ``METADATA``, and then
that and the pixels.
"""

import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain

from PIL import Image

METADATA, MOST_METADATA = ("exif", "xmp", "icc_profile"), 4 * 2**20
ROWS = 256


def limit(memory: int, seconds: int) -> None:
    """Ask the operating system to end this process beyond these; on Windows it cannot."""
    try:
        import resource
    except ImportError:
        return
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_DATA: (memory, memory),
    }
    for what, (soft, hard) in wanted.items():
        most = resource.getrlimit(what)[1]  # one that is lower already stays
        bound = most != resource.RLIM_INFINITY
        resource.setrlimit(what, (min(soft, most) if bound else soft, min(hard, most) if bound else hard))


def opened(kind: str, data: bytes) -> Image.Image:
    """The picture in a file, not yet decoded."""
    if kind == "HEIC":
        from pi_heif import HeifImageFile

        image: Image.Image = HeifImageFile(BytesIO(data))
        return image
    if kind == "AVIF":
        from PIL.AvifImagePlugin import AvifImageFile

        return AvifImageFile(BytesIO(data))
    if kind == "TIFF":
        from PIL.TiffImagePlugin import TiffImageFile

        return TiffImageFile(BytesIO(data))
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

    return Jpeg2KImageFile(BytesIO(data))


def answer(kind: str, max_pixels: int, longest: int, memory: int) -> tuple[dict[str, object], Iterable[bytes]]:
    """The line for the file of standard input, and what follows it."""
    image = opened(kind, sys.stdin.buffer.read())
    if image.width * image.height > max_pixels or max(image.size) > longest:
        return {"size": image.size}, []
    if kind == "JPEG 2000" and image.width * image.height * (8 * len(image.getbands()) + 4) > memory:
        raise MemoryError  # its decoder works in 32 bits, twice, and calls it broken data where it gets no memory
    image.load()
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    held = {name: image.info.get(name) or b"" for name in METADATA}
    parts = {name: data if len(data) <= MOST_METADATA else b"" for name, data in held.items()}
    line = {"mode": image.mode, "size": image.size, **{name: len(data) for name, data in parts.items()}}
    return line, chain(parts.values(), strips(image))


def strips(image: Image.Image) -> Iterator[bytes]:
    """The pixels, some rows at a time."""
    for top in range(0, image.height, ROWS):
        strip = Image.new(image.mode, (image.width, min(ROWS, image.height - top)), None)
        strip.paste(image, (0, -top))  # not cropped, since that has a limit of Pillow's own
        yield strip.tobytes()


def main(kind: str, max_pixels: str, longest: str, memory: str, seconds: str) -> None:
    """Answer for the one file."""
    limit(int(memory), int(seconds))
    warnings.simplefilter("ignore")
    rest: Iterable[bytes] = []
    try:
        line, rest = answer(kind, int(max_pixels), int(longest), int(memory))
    except MemoryError:
        line = {"error": "memory"}
    except Exception as error:
        line = {"error": str(error) or type(error).__name__}
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")
    for part in rest:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
