"""Aligned crops of many photographs: cut once, kept in a file, read memory-mapped; and whose they are, by role.

Crops are ``uint8`` RGB (N, S, S, 3), aligned to the template. A file of crops is written atomically.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.data.manifest import Image, Manifest, Role
from facesieve.data.sources import Source
from facesieve.errors import InputError, SettingError, one_line
from facesieve.faces import Detector, Points, alignment, warp
from facesieve.files import draft, sha256_of, write_with_folder
from facesieve.folders import below, passed_over
from facesieve.images import Photo, read_photo
from facesieve.progress import Progress, Report, silent

Crops = NDArray[np.uint8]  # (N, S, S, 3)
Item = TypeVar("Item")

WIDE = 1.45  # sides of the template's square that a wide crop holds, so that views can move and turn
WIDE_SIDE = 256  # pixels of a wide crop
# What ``numpy.load`` raises for a damaged file, and reading the arrays of an ``.npz``.
DAMAGED_ARRAY = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)
TOLD_SECONDS = 20.0  # between two reports of how far the crops are


@dataclass(frozen=True, eq=False)
class LabelledCrops:
    """Crops (N, S, S, 3) with the people they show: ``labels[i]`` indexes ``people``."""

    images: Crops
    labels: NDArray[np.int64]
    people: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, each: int) -> LabelledCrops:
        """The first ``each`` of every person, person by person."""
        chosen = np.concatenate([np.flatnonzero(self.labels == person)[:each] for person in range(len(self.people))])
        return LabelledCrops(self.images[chosen], self.labels[chosen], self.people)


# --- of a manifest -----------------------------------------------------------------------------------


def aligned_crops(manifest: Manifest, source: Source, cache: Path, size: int) -> Crops:
    """The crops (N, size, size, 3) of all images of a manifest, in its order; made once, then memory-mapped.

    Every file's hash is compared with the manifest when the crops are made. Raises ``InputError``
    for files that are missing or changed, before anything is written, and for a cache that cannot
    be written or is damaged; ``SettingError`` for a size below 1.
    """
    if size < 1:
        raise SettingError(f"crops of {size} pixels: the size must be at least 1")
    path = cache / f"crops-{manifest.sha256[:16]}-{size}.npy"
    if not path.exists():
        verify(manifest, source)
        photos = ((read_photo(source.read(image.ref), name=image.ref), image) for image in manifest.images)
        _keep(path, (_cut(photo, image, size) for photo, image in photos), len(manifest.images), size)
    return _kept(path, len(manifest.images), size)


def of_role(manifest: Manifest, crops: Crops, role: Role) -> LabelledCrops:
    """Those of a manifest's ``crops``, all in its order, that have this role. Raises ``InputError`` where there are none."""
    chosen = [number for number, image in enumerate(manifest.images) if image.role == role]
    if not chosen:
        raise InputError(f"the selection has no {role} images", advice=f"select anew, with some to {role}")
    place = {person: number for number, person in enumerate(manifest.people)}
    labels = np.array([place[manifest.images[number].person] for number in chosen])
    return LabelledCrops(crops[chosen], labels, manifest.people)


def verify(manifest: Manifest, source: Source) -> None:
    """Compare every file with its hash in the manifest.

    Raises ``InputError`` for a source of another kind, and if any file is missing or changed: it
    names the first and says how many.
    """
    if source.kind != manifest.source:
        raise InputError(
            f"the manifest was made from a source of kind {manifest.source}, this one is {source.kind}", advice="give that one"
        )
    bad = [trouble for image in manifest.images if (trouble := _trouble(image, source))]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(f"the data is not what the manifest says: {bad[0]}{more}", advice="get it again, or select anew")


def _trouble(image: Image, source: Source) -> str | None:
    try:
        return None if sha256_of(source.read(image.ref)) == image.sha256 else f"{image.ref} has changed"
    except InputError:
        return f"{image.ref} is missing"


def _cut(photo: Photo, image: Image, size: int) -> Photo:
    if image.landmarks is None:
        smooth = cv2.INTER_AREA if size < photo.shape[0] else cv2.INTER_LINEAR  # by area, enlarging makes blocks
        return cv2.resize(photo, (size, size), interpolation=smooth)  # type: ignore[return-value]
    return warp(photo, alignment(np.array(image.landmarks), size), size)


# --- of a folder without labels ----------------------------------------------------------------------


class FaceFolder:
    """Photographs of one face each under a folder, cut to the template when asked for.

    Landmarks are found once and kept in ``cache``; a photo without a face is left out.
    """

    def __init__(self, folder: Path, cache: Path, report: Report = silent) -> None:
        """Raises ``InputError`` for a folder without photographs, or without a face in any."""
        found = below(folder)
        paths = sorted(path for path, _ in found.files)
        if not paths:
            raise InputError("no photographs found", folder)
        for path, _, reason in found.troubles:
            report(Progress(0, len(paths), f"{path}: {reason}; left out"))
        if found.passed:
            report(Progress(0, len(paths), f"passed over: {passed_over(found.passed)}"))
        if not cache.exists():
            _find_landmarks(folder, paths, cache, report)
        try:
            with np.load(cache) as found:
                self.paths = [folder / name for name in found["names"]]
                self.landmarks: Points = found["landmarks"]
            if self.landmarks.shape != (len(self.paths), 5, 2) or not np.isfinite(self.landmarks).all():
                raise ValueError("not the landmarks of so many photographs")
        except DAMAGED_ARRAY as error:
            raise InputError("damaged", cache, "delete it, and the faces are looked for again") from error

    def __len__(self) -> int:
        return len(self.paths)

    def crop(self, index: int, size: int, zoom: float = 1.0) -> Photo:
        """The crop (size, size, 3) uint8; ``zoom`` > 1 cuts more tightly; beyond the photo its border pixels are repeated."""
        return warp(read_photo(self.paths[index]), alignment(self.landmarks[index], size, zoom=zoom), size)


def unlabelled_crops(folder: Path, work: Path, size: int, report: Report = silent) -> Crops:
    """The crops (N, size, size, 3) of every face in a folder of photographs, made once and kept in ``work``; memory-mapped.

    Raises ``InputError`` as ``FaceFolder``, and for a file of crops that cannot be written or is damaged.
    """
    return _of_folder(folder, work, work / f"unlabelled-{size}.npy", size, 1.0, report)


def wide_crops(folder: Path, work: Path, report: Report = silent) -> Crops:
    """As ``unlabelled_crops``, with room around: (N, 256, 256, 3), of which the template's square is the middle 1 / ``WIDE``."""
    return _of_folder(folder, work, work / "unlabelled-wide.npy", WIDE_SIDE, 1 / WIDE, report)


def _of_folder(folder: Path, work: Path, path: Path, size: int, zoom: float, report: Report) -> Crops:
    if not path.exists():
        faces = FaceFolder(folder, work / "landmarks.npz", report)
        cut = (faces.crop(index, size, zoom) for index in _told(range(len(faces)), "cutting faces", report))
        _keep(path, cut, len(faces), size)
    return _kept(path, None, size)


def _find_landmarks(folder: Path, paths: list[Path], cache: Path, report: Report) -> None:
    detector = Detector()
    names, landmarks = [], []
    for path in _told(paths, "looking for faces", report):
        faces = detector.detect(read_photo(path))
        if faces:
            names.append(str(path.relative_to(folder)))
            landmarks.append(faces[0].landmarks)
    if not names:
        raise InputError(f"no face found in any of {len(paths)} photographs", folder)
    data = BytesIO()
    np.savez(data, names=np.array(names), landmarks=np.array(landmarks))
    write_with_folder(cache, data.getvalue())


def _told(items: Sequence[Item], what: str, report: Report) -> Iterator[Item]:
    """The items, one after the other; now and then it is reported how far that is."""
    told = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - told > TOLD_SECONDS:
            report(Progress(number, len(items), f"{what}: {number:,} of {len(items):,}"))
            told = time.monotonic()
        yield item


# --- the file ----------------------------------------------------------------------------------------


def _keep(path: Path, crops: Iterable[Photo], count: int, size: int) -> None:
    """Write crops sequentially, not through a map: a full disk is then an error, not a crash."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft(path) as (file, _):
            np.lib.format.write_array_header_1_0(file, header)
            for crop in crops:
                file.write(crop.tobytes())
    except OSError as error:
        raise InputError(f"crops cannot be kept there: {one_line(error)}", path.parent, "choose another place") from error


def read_array(path: Path) -> NDArray[Any]:
    """An array that ``numpy.save`` wrote; no code in it is run. Raises ``InputError`` for a damaged file."""
    try:
        found: NDArray[Any] = np.load(path)
        if isinstance(found, np.ndarray):
            return found
    except DAMAGED_ARRAY as error:
        raise InputError("damaged", path, "delete it, and it is made again") from error
    raise InputError("damaged", path, "delete it, and it is made again")


def _kept(path: Path, count: int | None, size: int) -> Crops:
    try:
        loaded: Crops = np.load(path, mmap_mode="r")
        count = len(loaded) if count is None else count
        fits = loaded.shape == (count, size, size, 3) and loaded.dtype == np.uint8
    except (OSError, EOFError, ValueError, TypeError):
        fits = False
    if not fits:
        raise InputError("damaged", path, "delete it, and the crops are made again")
    return loaded
