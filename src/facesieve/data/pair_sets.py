"""The field's own verification sets: InsightFace's ``lfw.bin`` and its kin, and LFW's folder with ``pairs.txt``.

A ``.bin`` file is a pickle of two lists: encoded images, two a pair, and whether each pair is of one person. A pickle can
run code; this one is read by an unpickler that knows bytes, numbers, lists and NumPy's arrays of bytes and flags, and
nothing else.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import InputError, many, one_line

LARGEST = 2**32  # bytes of a .bin file, which is read as a whole
SUFFIXES = (".jpg", ".jpeg", ".png")
PAIRS = "pairs.txt"


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of images: ``images[first[i]]`` and ``images[second[i]]`` show one person where ``same[i]``."""

    name: str
    images: Sequence[bytes | Path]  # what ``read_photo`` takes
    names: Sequence[str]  # of each image, for messages
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    aligned: bool  # whether the images are aligned crops, or photographs


def open_pairs(path: Path, pairs: Path | None = None) -> PairSet:
    """The set in a ``.bin`` file, or in a folder of people with the list ``pairs``, by default its ``pairs.txt``.

    Raises ``InputError`` for what is neither, is damaged, or names images that are not there.
    """
    if path.is_dir():
        return _of_folder(path, path / PAIRS if pairs is None else pairs)
    if pairs is not None:
        raise InputError("a list of pairs goes with a folder of people", path, "leave it out")
    return _of_bin(path)


# --- InsightFace's .bin ------------------------------------------------------------------------------


def _of_bin(path: Path) -> PairSet:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"larger than {LARGEST:,} bytes, which no verification set is", path)
        found = _unpickled(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", path) from error
    except InputError as error:
        raise error.at(path)  # noqa: B904  the same error
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"not InsightFace's pickle of images and pairs: {one_line(error)}", path) from error
    images, flags = _lists(found, path)
    if not flags or len(images) != 2 * len(flags):
        raise InputError(f"has {many(len(images), 'image')} for {many(len(flags), 'pair')}: two a pair are expected", path)
    places = np.arange(len(images)).reshape(-1, 2)
    names = [f"{path.name}, image {number}" for number in range(1, len(images) + 1)]
    return PairSet(path.stem, images, names, places[:, 0], places[:, 1], np.array(flags, np.bool_), aligned=True)


def _lists(found: object, path: Path) -> tuple[list[bytes], list[bool]]:
    """Images and flags, each in a list, a tuple or an array, or in as many arrays as there are."""
    images, flags = found if isinstance(found, tuple | list) and len(found) == 2 else (None, None)
    flags = list(flags.data) if isinstance(flags, _Array) else flags
    if isinstance(images, tuple | list) and isinstance(flags, tuple | list):
        encoded = [image.data if isinstance(image, _Array) else image for image in images]
        as_bytes = [image for image in encoded if isinstance(image, bytes)]
        if len(as_bytes) == len(encoded) and all(isinstance(flag, int) and flag in (0, 1) for flag in flags):
            return as_bytes, [bool(flag) for flag in flags]
    raise InputError("not InsightFace's pickle of images and pairs: two lists, of bytes and of true and false", path)


class _Dtype:
    """In place of ``numpy.dtype``: one of bytes or flags, and nothing else."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code
        if self.code not in {"b1", "u1", "?", "|b1", "|u1"}:
            raise pickle.UnpicklingError(f"an array of {code!r:.20}, which is neither bytes nor true and false")

    def __setstate__(self, _: object) -> None:
        """Byte order and the like say nothing of single bytes."""


class _Array:
    """In place of ``numpy.ndarray``: its numbers, flat."""

    def __init__(self, *_: object) -> None:
        self.data = b""

    def __setstate__(self, state: Any) -> None:
        *_, dtype, _, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array whose numbers are not bytes")
        self.data = data


def _whole_array(data: object, dtype: object, *_: object) -> _Array:
    """How protocol 5 writes an array."""
    array = _Array()
    array.__setstate__((dtype, False, bytes(data) if isinstance(data, bytearray) else data))
    return array


def _scalar(dtype: object, data: object) -> bool:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != 1:
        raise pickle.UnpicklingError("a number that is neither true nor false")
    return data != b"\0"


def _encoded(text: object, encoding: object) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text in an encoding")
    return text.encode("latin-1")


_CORE = ("numpy.core", "numpy._core")  # of NumPy 1 and 2
_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encoded,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORE},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): _whole_array for core in _CORE},
}


# Pickle in Python: the one in C keeps a table as long as the largest number in a file says, gigabytes of a few bytes.
_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):  # type: ignore[misc]
    """Of lists, tuples, bytes, numbers and the above; any other name in a pickle is refused before anything is called."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """What stands in for a name. Raises ``UnpicklingError`` for a name that no such file has."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}: code, which is not run") from None

    def load_build(self) -> None:
        """Only what stands in for an array has a state: functions and classes, too, can be on the stack."""
        if not isinstance(self.stack[-2], _Dtype | _Array):
            raise pickle.UnpicklingError("a state of something that has none")
        super().load_build()

    dispatch: ClassVar = {**_InPython.dispatch, pickle.BUILD[0]: load_build}


def _unpickled(data: bytes) -> object:
    file = BytesIO(data)
    return _Unpickler(file, encoding="bytes").load()


# --- LFW's folder ------------------------------------------------------------------------------------


def _of_folder(root: Path, pairs: Path) -> PairSet:
    try:
        lines = pairs.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", pairs, f"a folder of people needs a list, {PAIRS}") from error
    except ValueError as error:
        raise InputError("not a list of pairs: it is not UTF-8", pairs) from error
    places: dict[tuple[str, str], int] = {}
    found: list[tuple[int, int, bool]] = []
    for number, line in enumerate(lines, 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not fields or (number == 1 and len(fields) <= 2):  # how many folds, of how many pairs
            continue
        if len(fields) not in {3, 4}:
            raise InputError(
                f"line {number} is no pair: a name and two numbers, or a name and a number, and those of another", pairs
            )
        ends = [(fields[0], fields[1]), (fields[0] if len(fields) == 3 else fields[2], fields[-1])]
        one, other = (places.setdefault(end, len(places)) for end in ends)
        found.append((one, other, len(fields) == 3))
    if not found:
        raise InputError("no pairs in it", pairs)
    images = [_image(root, name, number, pairs) for name, number in places]
    first, second, same = zip(*found, strict=True)
    names = [path.relative_to(root).as_posix() for path in images]
    return PairSet(root.name, images, names, np.array(first), np.array(second), np.array(same, np.bool_), aligned=False)


def _image(root: Path, person: str, number: str, pairs: Path) -> Path:
    """``Ada_Lovelace/Ada_Lovelace_0001.jpg``."""
    if not (number.isascii() and number.isdigit()) or person != Path(person).name or person in {"", ".", ".."}:
        raise InputError(f"{person} {number} is no person and number of an image", pairs)
    stem = root / person / f"{person}_{int(number):04d}"
    for suffix in SUFFIXES:
        if (path := stem.with_name(stem.name + suffix)).exists():
            return path
    raise InputError(f"{person}/{stem.name}{SUFFIXES[0]} is in the list and not in the folder", root)
