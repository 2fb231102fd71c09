"""The published data protocol: people with enough images, some of them at random, images to train and to test on."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from facesieve.data.manifest import Image, Manifest, Replaced, Role, Selection
from facesieve.data.sources import Source
from facesieve.errors import FacesieveError, InputError, SettingError
from facesieve.faces import Detector, Points, alignment, warp
from facesieve.files import read_toml
from facesieve.images import Photo, read_photo
from facesieve.noise import derive_seed

Progress = Callable[[int, int], None]  # people done, people wanted
Crops = NDArray[np.uint8]  # (N, S, S, 3)

TABLES = frozenset({"data", "recogniser", "attacks", "defences", "run"})  # of an experiment's file


def read_selection(config: Path | None, given: Mapping[str, Any]) -> Selection:
    """The ``[data]`` table of an experiment's TOML file, with what is ``given`` in its place.

    Raises ``SettingError`` for a key that does not exist or does not fit, ``InputError`` for a file
    that cannot be read.
    """
    try:
        return Selection.model_validate({**({} if config is None else _data_table(config)), **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None  # None: it is about several settings
        where = f"{config}: " if config is not None and name not in given else ""
        what = "" if name is None else f"{name} = {first['input']!r}: "
        raise SettingError(f"{where}{what}{first['msg'].removeprefix('Value error, ').lower()}") from error


def _data_table(config: Path) -> dict[str, Any]:
    tables = read_toml(config)
    unknown = sorted(tables.keys() - TABLES)
    if unknown:
        raise SettingError(f"{config}: unknown table or key {unknown[0]!r}; there are {', '.join(sorted(TABLES))}")
    data = tables.get("data", {})
    if not isinstance(data, dict):
        raise SettingError(f"{config}: data is no table; write [data] and its settings below")
    return data


def select(source: Source, selection: Selection, *, progress: Progress | None = None) -> Manifest:
    """Choose people and images at random by the seed; only what is chosen is read.

    One person's images do not depend on who else is there. An image that cannot be read or has no
    face is replaced by that person's next; a person who runs out, by the next person; both are
    listed. Raises ``InputError`` where too few people are left.
    """
    identities = source.identities()
    able = [name for name, refs in identities.items() if len(refs) >= selection.minimum]
    if len(able) < selection.people:  # known before any image is read, which may take an hour
        raise InputError(_too_few(selection, len(identities), len(able)))
    order = np.random.default_rng(derive_seed(selection.seed, "people")).permutation(len(able))
    chosen: dict[str, list[Image]] = {}
    replaced: list[Replaced] = []
    detector = None if selection.aligned else Detector()
    for index in order:
        if len(chosen) == selection.people:
            break
        images = _choose(source, selection, able[index], identities[able[index]], detector, replaced)
        if images is not None:
            chosen[able[index]] = images
            if progress is not None:
                progress(len(chosen), selection.people)
    if len(chosen) < selection.people:
        usable = f" and {len(chosen)} of them enough usable ones{_first_reason(replaced)}"
        raise InputError(_too_few(selection, len(identities), len(able), usable))
    listed = tuple(image for name in sorted(chosen) for image in chosen[name])
    ordered = tuple(sorted(replaced, key=lambda entry: (entry.person, entry.ref or "")))
    return Manifest(source=source.kind, selection=selection, images=listed, replaced=ordered)


def _too_few(selection: Selection, people: int, able: int, usable: str = "") -> str:
    wanted = f"{selection.people} people with {selection.train} + {selection.test} usable images are asked for"
    found = f"of {people}, {able} have at least {selection.minimum} images{usable}"
    return f"{wanted}; {found}; ask for fewer people or images"


def _first_reason(replaced: Sequence[Replaced]) -> str:
    return next((f" (first: {entry.ref}: {entry.reason})" for entry in replaced if entry.ref is not None), "")


def _choose(
    source: Source,
    selection: Selection,
    person: str,
    refs: Sequence[str],
    detector: Detector | None,
    replaced: list[Replaced],
) -> list[Image] | None:
    order = np.random.default_rng(derive_seed(selection.seed, "images", person)).permutation(len(refs))
    wanted, images = selection.train + selection.test, list[Image]()
    if len(refs) < wanted:  # a minimum below what is wanted; none of them needs reading
        replaced.append(Replaced(person=person, ref=None, reason=f"{len(refs)} images, {wanted} are needed"))
        return None
    for index in order:
        if len(images) == wanted:
            break
        role: Role = "train" if len(images) < selection.train else "test"
        try:
            images.append(_usable(source, person, refs[index], role, detector))
        except FacesieveError as error:
            replaced.append(Replaced(person=person, ref=refs[index], reason=str(error)))
    if len(images) < wanted:
        replaced.append(Replaced(person=person, ref=None, reason=f"{len(images)} usable images, {wanted} are needed"))
        return None
    return images


def _usable(source: Source, person: str, ref: str, role: Role, detector: Detector | None) -> Image:
    data = source.read(ref)
    photo = read_photo(data, name=ref)
    landmarks = None
    if detector is None:
        height, width = photo.shape[:2]
        if abs(height - width) > 0.02 * max(height, width):
            raise InputError(f"an aligned crop is square, this image is {width} x {height}")
    else:
        # To a thousandth of a pixel: the file stays the same where the detector differs in the last bits.
        landmarks = tuple((round(float(x), 3), round(float(y), 3)) for x, y in _face_in(photo, detector))
    return Image(person=person, role=role, ref=ref, sha256=hashlib.sha256(data).hexdigest(), landmarks=landmarks)


def _face_in(photo: Photo, detector: Detector) -> Points:
    """The landmarks (5, 2) of the largest face."""
    faces = detector.detect(photo)
    if not faces:
        raise InputError("no face found")
    return faces[0].landmarks


def aligned_crops(manifest: Manifest, source: Source, cache: Path, size: int) -> Crops:
    """The crops (N, size, size, 3) of all images of a manifest, in its order; made once, then memory-mapped.

    Every file's hash is held against the manifest when the crops are made. Raises ``InputError``
    for files that are missing or changed, before anything is written, and for a cache that cannot
    be written or is damaged; ``SettingError`` for a size below 1.
    """
    if size < 1:
        raise SettingError(f"crops of {size} pixels: the size must be at least 1")
    path = cache / f"crops-{manifest.sha256[:16]}-{size}.npy"
    if not path.exists():
        verify(manifest, source)
        _write_crops(path, manifest, source, size)
    try:
        loaded: Crops = np.load(path, mmap_mode="r")
        fits = loaded.shape == (len(manifest.images), size, size, 3) and loaded.dtype == np.uint8
    except (OSError, EOFError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"{path}: damaged; delete it, and the crops are made again")
    return loaded


def _write_crops(path: Path, manifest: Manifest, source: Source, size: int) -> None:
    """Whole or not at all. Written in a row, not through a map: a full disk is then an error and no crash."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(manifest.images), size, size, 3)}
    partial = path.with_name(f".{secrets.token_hex(8)}.part")  # its own, where two runs share a cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for image in manifest.images:
                    file.write(_crop(read_photo(source.read(image.ref), name=image.ref), image, size).tobytes())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: crops cannot be kept there: {error.strerror}; choose another place") from error


def verify(manifest: Manifest, source: Source) -> None:
    """Hold every file against its hash in the manifest.

    Raises ``InputError`` for a source of another kind, and if any file is missing or changed: it
    names the first and says how many.
    """
    if source.kind != manifest.source:
        raise InputError(
            f"the manifest was made from a source of kind {manifest.source}, this one is {source.kind}; give that one"
        )
    bad = []
    for image in manifest.images:
        try:
            if hashlib.sha256(source.read(image.ref)).hexdigest() != image.sha256:
                bad.append(f"{image.ref} has changed")
        except InputError:
            bad.append(f"{image.ref} is missing")
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(f"the data is not what the manifest says: {bad[0]}{more}; get it again, or select anew")


def _crop(photo: Photo, image: Image, size: int) -> Photo:
    if image.landmarks is None:
        smooth = cv2.INTER_AREA if size < photo.shape[0] else cv2.INTER_LINEAR  # by area, enlarging makes blocks
        return cv2.resize(photo, (size, size), interpolation=smooth)  # type: ignore[return-value]
    return warp(photo, alignment(np.array(image.landmarks), size), size)
