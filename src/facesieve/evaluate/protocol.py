"""The published data protocol: people with enough images, some of them at random, images to train and to test on."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from facesieve.errors import FacesieveError, InputError, SettingError
from facesieve.evaluate.manifest import Image, Manifest, Replaced, Role, Selection
from facesieve.evaluate.sources import Source
from facesieve.faces import Detector, alignment, warp
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
    data: dict[str, Any] = {}
    if config is not None:
        try:
            tables = tomllib.loads(config.read_text())
        except OSError as error:
            raise InputError(f"{config}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{config}: not a TOML file: {error}") from error
        unknown = sorted(tables.keys() - TABLES)
        if unknown:
            raise SettingError(f"{config}: unknown table or key {unknown[0]!r}; there are {', '.join(sorted(TABLES))}")
        data = tables.get("data", {})
    try:
        return Selection.model_validate({**data, **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{config}: " if config is not None and first["loc"][0] not in given else ""
        raise SettingError(f"{where}{first['loc'][0]} = {first['input']!r}: {first['msg'].lower()}") from error


def select(source: Source, selection: Selection, *, progress: Progress | None = None) -> Manifest:
    """Choose people and images at random by the seed; only what is chosen is read.

    One person's images do not depend on who else is there. An image that cannot be read or has no
    face is replaced by that person's next; a person who runs out, by the next person; both are
    listed. Raises ``InputError`` where too few people are left.
    """
    identities = source.identities()
    able = [name for name, refs in identities.items() if len(refs) >= selection.minimum]
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
        raise InputError(_too_few(selection, len(identities), len(able), len(chosen), replaced))
    listed = tuple(image for name in sorted(chosen) for image in chosen[name])
    ordered = tuple(sorted(replaced, key=lambda entry: (entry.person, entry.ref or "")))
    return Manifest(source=source.kind, selection=selection, images=listed, replaced=ordered)


def _too_few(selection: Selection, people: int, able: int, usable: int, replaced: Sequence[Replaced]) -> str:
    wanted = f"{selection.people} people with {selection.train} + {selection.test} usable images"
    text = f"{wanted} are asked for; of {people}, {able} have at least {selection.minimum} images and {usable} enough usable ones"
    first = next((f" (first: {entry.ref}: {entry.reason})" for entry in replaced if entry.ref is not None), "")
    return f"{text}{first}; ask for fewer people or images"


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
    if detector is not None:
        faces = detector.detect(photo)
        if not faces:
            raise InputError("no face found")
        # To a thousandth of a pixel: the file stays the same where the detector differs in the last bits.
        landmarks = tuple((round(float(x), 3), round(float(y), 3)) for x, y in faces[0].landmarks)
    return Image(person=person, role=role, ref=ref, sha256=hashlib.sha256(data).hexdigest(), landmarks=landmarks)


def aligned_crops(manifest: Manifest, source: Source, cache: Path, size: int) -> Crops:
    """The crops (N, size, size, 3) of all images of a manifest, in its order; made once, then memory-mapped.

    Every file's hash is held against the manifest first. Raises ``InputError`` for files that are
    missing or changed, before anything is written.
    """
    path = cache / f"crops-{manifest.sha256[:16]}-{size}.npy"
    if not path.exists():
        verify(manifest, source)
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            crops = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(manifest.images), size, size, 3))
            for number, image in enumerate(manifest.images):
                crops[number] = _crop(read_photo(source.read(image.ref), name=image.ref), image, size)
            crops.flush()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    loaded: Crops = np.load(path, mmap_mode="r")
    return loaded


def verify(manifest: Manifest, source: Source) -> None:
    """Raises ``InputError`` if any file of a manifest is missing or changed; says the first and how many."""
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


def _crop(photo: Photo, image: Image, size: int) -> Any:
    if image.landmarks is None:
        import cv2

        return cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA)
    return warp(photo, alignment(np.array(image.landmarks), size), size)
