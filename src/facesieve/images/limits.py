"""What a file may ask for, whatever its format: sides, parts, and processor time."""

from __future__ import annotations

import time
from io import BytesIO

from facesieve.errors import ImageError

SHORTEST_SIDE = 16
LONGEST_SIDE = 32_768
SECONDS = 4.0  # of the processor, for a photograph of up to SECONDS_OF pixels; more for those that may be larger
SECONDS_OF = 50_000_000
MEMORY = 768 * 2**20  # bytes, of a decoder in a process of its own


def check_size(size: tuple[int, int], max_pixels: int, where: str | None = None) -> None:
    """Raises ``ImageError`` for a width and height that are not taken."""
    width, height = size
    found = f"{width:,} x {height:,} pixels"
    if min(size) < SHORTEST_SIDE:
        raise ImageError(f"{found}, a side shorter than {SHORTEST_SIDE}", where, "give a larger image")
    if max(size) > LONGEST_SIDE:
        raise ImageError(f"{found}, a side longer than {LONGEST_SIDE:,}", where, "make it smaller")
    if width * height > max_pixels:
        raise ImageError(f"{found}, more than the limit of {max_pixels:,}", where, "make it smaller, or raise the limit")


def seconds_for(max_pixels: int) -> float:
    """The processor time that a photograph of up to ``max_pixels`` may take to decode."""
    return SECONDS * max(1.0, max_pixels / SECONDS_OF)


def too_many(count: int, what: str, limit: int) -> ImageError:
    """The error of a file in too many parts."""
    return ImageError(f"{count:,} {what}, more than {limit:,}", advice="save it again as PNG")


def too_long(seconds: float) -> ImageError:
    """The error of a file that is too slow."""
    return ImageError(f"takes more than {seconds:.0f} s of processor time to decode", advice="save it again as PNG")


class Timed(BytesIO):
    """A file in memory whose reader has so many seconds of its thread's processor time: other threads do not count.

    Reading from it raises ``ImageError`` afterwards. Decoders read piece by piece, so that this ends them.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds, self._end, self._calls = seconds, time.thread_time() + seconds, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        self._calls += 1
        large = size is None or size < 0 or size > 64
        if (large or self._calls % 1024 == 0) and time.thread_time() > self._end:  # asking the time costs a call of the system
            raise too_long(self._seconds)
        return super().read(size)
