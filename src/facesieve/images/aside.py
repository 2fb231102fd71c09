"""Pictures whose decoders cannot be stopped, decoded in a process of their own (``child``), with a limit on time and memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO, Any

from PIL import Image

from facesieve.errors import ImageError, OutOfMemoryError, one_line
from facesieve.images import child
from facesieve.images.limits import LONGEST_SIDE, MEMORY, check_size, seconds_for, too_long

_WALL = 10  # times the processor time, for a machine that has none to spare


@dataclass(frozen=True)
class Decoded:
    """A picture as its decoder made it, with what it says of itself."""

    image: Image.Image
    exif: bytes | None
    xmp: bytes | None
    profile: bytes | None


def decoded_aside(data: bytes, kind: str, max_pixels: int) -> Decoded:
    """The picture in ``data``, a HEIC, AVIF, JPEG 2000 or TIFF file.

    Raises ``ImageError`` for one that is too large, or takes too long or too much memory; ``OutOfMemoryError`` where the
    machine has no room for the process; ``ValueError`` for damaged data.
    """
    seconds = seconds_for(max_pixels)
    limits = [max_pixels, LONGEST_SIDE, MEMORY, round(seconds)]
    command = [sys.executable, "-P", str(Path(child.__file__)), kind, *map(str, limits)]
    searched = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": searched, "PYTHONUTF8": "1"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        raise OutOfMemoryError(f"no process can be started to decode it ({one_line(error)})") from error
    timer = Timer(seconds * _WALL, process.kill)
    timer.start()
    try:
        with process:
            with suppress(BrokenPipeError):
                _stream(process.stdin).write(data)
            with suppress(BrokenPipeError):
                _stream(process.stdin).close()
            found = _read(_stream(process.stdout), max_pixels)
    finally:
        timer.cancel()
        process.kill()
    if found is None:
        raise _ended(process.returncode, seconds)
    return found


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _read(out: IO[bytes], max_pixels: int) -> Decoded | None:
    """What the process answered; None where it ended before."""
    line = out.readline()
    if not line:
        return None
    answer: dict[str, Any] = json.loads(line)
    if answer.get("error") == "memory":
        raise ImageError(f"takes more than {MEMORY // 2**20:,} MiB of memory to decode", advice="save it again as PNG")
    if "error" in answer:
        raise ValueError(answer["error"])
    size = (answer["size"][0], answer["size"][1])
    check_size(size, max_pixels)
    exif, xmp, profile = (out.read(answer[name]) or None for name in child.METADATA)
    image = Image.new(answer["mode"], size, None)
    for top in range(0, size[1], child.ROWS):
        rows = min(child.ROWS, size[1] - top)
        strip = Image.new(answer["mode"], (size[0], rows), None)
        strip.frombytes(out.read(len(strip.tobytes())))
        image.paste(strip, (0, top))
    return Decoded(image, exif, xmp, profile)


def _ended(code: int, seconds: float) -> Exception:
    """Why a process ended without an answer."""
    if os.name != "nt" and code == -signal.SIGXCPU:
        return too_long(seconds)
    if os.name != "nt" and code == -signal.SIGKILL:  # by the operating system, or by the clock
        return OutOfMemoryError("the process that decoded it was ended; the machine has too little memory or time")
    return ValueError("its decoder broke down")
