"""Small files that ask for much end in a photograph or in one line, soon, and in bounded memory."""

import contextlib
import io
import random
import runpy
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesieve.errors import FacesieveError, ImageError, OutOfMemoryError
from facesieve.images import aside, limits, read_photo, reading
from facesieve.service.problems import as_problem

MAKING = Path(__file__).parents[2] / "benchmarks" / "bomb_making.py"
MADE = runpy.run_path(str(MAKING))
BOMBS = MADE["BOMBS"]
HARMLESS = ["jpeg exif", "png exif", "webp exif", "gif comment", "png texts"]


def made(kind: str) -> bytes:
    data: bytes = BOMBS[kind](random.Random(kind))
    assert len(data) < 20_000_000
    return data


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [kind for kind in BOMBS if kind != "bmp runs"])
def test_every_kind_of_bomb_ends_in_a_photograph_or_one_line(kind: str) -> None:
    data, begun = made(kind), time.process_time()
    with contextlib.suppress(ImageError):
        assert read_photo(data).ndim == 3
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("kind", HARMLESS)
def test_metadata_costs_nothing_and_the_photograph_is_read(kind: str) -> None:
    sound = MADE["saved"]({"webp exif": "WEBP", "gif comment": "GIF", "jpeg exif": "JPEG"}.get(kind, "PNG"))
    np.testing.assert_array_equal(read_photo(made(kind)), read_photo(sound))


@pytest.mark.parametrize("kind", ["tiff directory", *HARMLESS, "png chunks", "gif blocks", "tiff strips", "tiff tiles", "boxes"])
def test_memory_is_bounded_whatever_a_file_asks_for(kind: str) -> None:
    """In a process that may have 400 MiB beyond what its imports take."""
    resource = pytest.importorskip("resource")
    script = f"""
import random, resource, runpy, sys
from facesieve.errors import ImageError
from facesieve.images import read_photo
data = runpy.run_path({str(MAKING)!r})["BOMBS"][{kind!r}](random.Random({kind!r}))
taken = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (taken + 400 * 2**20,) * 2)
try:
    read_photo(data)
except ImageError:
    pass
"""
    assert resource is not None
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


def test_two_gigabytes_of_text_in_a_png_cost_no_memory() -> None:
    packer, part = zlib.compressobj(9), bytes(2**20)
    packed = b"".join(packer.compress(part) for _ in range(2048)) + packer.flush()
    for kind, head in ((b"zTXt", b"workflow\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"), (b"iCCP", b"profile\0\0")):
        data = MADE["png_with"](MADE["chunk"](kind, head + packed))
        tracemalloc_peak = peak_of(data)
        assert tracemalloc_peak < 100 * 2**20


def peak_of(data: bytes) -> int:
    """The most that Python's allocators held while reading ``data``, which is as a sound PNG."""
    import tracemalloc

    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_photo(data), read_photo(MADE["saved"]("PNG")))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_scans_are_counted_by_the_pixels_that_they_go_over() -> None:
    with pytest.raises(ImageError, match="33 scans, more than 32; save it again as PNG"):
        read_photo(MADE["jpeg"](33))
    small = MADE["jpeg"](100, size=(640, 480))
    assert read_photo(small).shape == (480, 640, 3)


def test_a_decoder_that_can_be_stopped_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    begun = time.thread_time()
    with pytest.raises(ImageError, match="takes more than 0 s of processor time"):
        read_photo(made("bmp runs"))
    assert time.thread_time() - begun < 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the operating system")
def test_a_decoder_that_cannot_be_stopped_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "child.py"
    slow.write_text("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass\n")
    monkeypatch.setattr(aside.child, "__file__", str(slow))
    with pytest.raises(ImageError, match="takes more than 4 s of processor time"):
        read_photo(MADE["saved"]("JPEG2000"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", OutOfMemoryError, "too little memory or time"),
        ("import os; os.abort()", ImageError, "its decoder broke down"),
        ('print(\'{"error": "memory"}\')', ImageError, "takes more than 768 MiB of memory"),
    ],
)
def test_how_a_decoder_ends_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, error: type[FacesieveError], says: str
) -> None:
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(aside.child, "__file__", str(tmp_path / "child.py"))
    with pytest.raises(error, match=says):
        read_photo(MADE["saved"]("JPEG2000"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the operating system")
def test_limits_that_are_lower_already_stay() -> None:
    script = f"""
import resource, runpy
resource.setrlimit(resource.RLIMIT_DATA, (600 * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
from facesieve.images import read_photo
assert read_photo(runpy.run_path({str(MAKING)!r})["saved"]("JPEG2000")).shape == (64, 64, 3)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_stuck_decoder_is_ended_by_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(aside.child, "__file__", str(tmp_path / "child.py"))
    monkeypatch.setattr(limits, "SECONDS", 0.1)
    begun = time.perf_counter()
    with pytest.raises(OutOfMemoryError):
        read_photo(MADE["saved"]("JPEG2000"))
    assert time.perf_counter() - begun < 20


def test_no_memory_left_is_the_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reading, "_opened", fail)
    with pytest.raises(OutOfMemoryError, match="no memory left to decode it; try again later") as caught:
        read_photo(MADE["saved"]("PNG"))
    assert as_problem(caught.value).status == 503


def test_a_clock_of_one_thread_is_no_clock_of_another() -> None:
    timed = limits.Timed(bytes(10_000), 0.5)
    time.sleep(0.6)  # waits are not work
    assert len(timed.read(1000)) == 1000


def test_a_tiff_of_tags_beyond_the_file_is_refused() -> None:
    data = MADE["tiff_of"]((16, 16), 1, {273: (4, [8]), 279: (4, [768])}, bytes(768))
    assert read_photo(data).shape == (16, 16, 3)
    many = struct.pack("<HHI", 258, 3, 3), struct.pack("<HHI", 258, 3, 300_000)
    with pytest.raises(ImageError, match="its tags ask for 600,022 bytes of 884"):
        read_photo(data.replace(*many))


def test_exif_of_65535_tags_keeps_its_orientation_when_it_comes_first() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(file, "PNG")
    row = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    exif = struct.pack("<2sHIH", b"II", 42, 8, 65_535) + row * 65_535 + bytes(4)
    data = file.getvalue()[:33] + MADE["chunk"](b"eXIf", exif) + file.getvalue()[33:]
    assert read_photo(data).shape == (24, 16, 3)
