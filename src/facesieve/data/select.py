"""The published data protocol: people with enough images, some of them at random, images to train and to test on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from facesieve.data.manifest import Image, Manifest, Replaced, Role, Selection
from facesieve.data.sources import Source
from facesieve.errors import FacesieveError, InputError, NoFaceError, SettingError
from facesieve.faces import Detector, check_square
from facesieve.files import first_problem, read_toml, sha256_of
from facesieve.images import read_photo
from facesieve.noise import derive_seed
from facesieve.progress import Progress, Report, silent

TABLES = frozenset({"data", "recogniser", "attacks", "defences", "run", "targets"})  # of an experiment's file


def read_selection(config: Path | None, given: Mapping[str, Any]) -> Selection:
    """The ``[data]`` table of an experiment's TOML file, overridden by what is ``given``.

    Raises ``SettingError`` for a key that does not exist or does not fit, ``InputError`` for a file
    that cannot be read.
    """
    try:
        return Selection.model_validate({**({} if config is None else _data_table(config)), **given})
    except ValidationError as error:
        name, problem = first_problem(error)
        value = f"{name} = {error.errors()[0]['input']!r}: " if name else ""  # no name: it is about several settings
        raise SettingError(value + problem.lower(), None if name in given else config) from error


def _data_table(config: Path) -> dict[str, Any]:
    tables = read_toml(config)
    unknown = sorted(tables.keys() - TABLES)
    if unknown:
        raise SettingError(f"unknown table or key {unknown[0]!r}; there are {', '.join(sorted(TABLES))}", config)
    data = tables.get("data", {})
    if not isinstance(data, dict):
        raise SettingError("data is no table", config, "write [data] and its settings below")
    return data


def select(source: Source, selection: Selection, *, report: Report = silent) -> Manifest:
    """Choose people and images at random by the seed; only chosen images are read.

    One person's images do not depend on who else is there. An image that cannot be read, has no face or is, byte for
    byte, one that the person has already (copies of another size are not looked for) is replaced by that person's next; a
    person who runs out, by the next person; both are listed. Raises ``InputError`` where too few people are left.
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
            report(Progress(len(chosen), selection.people, "people"))
    if len(chosen) < selection.people:
        usable = f" and {len(chosen)} of them enough usable ones{_first_reason(replaced)}"
        raise InputError(_too_few(selection, len(identities), len(able), usable))
    listed = tuple(image for name in sorted(chosen) for image in chosen[name])
    ordered = tuple(sorted(replaced, key=lambda entry: (entry.person, entry.ref or "")))
    return Manifest(source=source.kind, selection=selection, images=listed, replaced=ordered)


def select_beyond(source: Source, tested: Manifest, *, report: Report = silent) -> Manifest:
    """Photographs to choose settings on, which are in no test: each person's next images, in place of a manifest's test images.

    People and training images are those of ``tested``; its test images are listed as replaced. Raises as ``select``, and
    ``InputError`` where the source is not the one that ``tested`` was selected from.
    """
    wanted = tested.selection
    more = select(source, wanted.model_copy(update={"test": wanted.test + 1}), report=report)
    images: list[Image] = []
    replaced = list(more.replaced)
    for _, group in groupby(more.images, key=lambda image: image.person):
        of_person = list(group)
        images += [*of_person[: wanted.train], of_person[-1]]
        of_tests = of_person[wanted.train : -1]
        replaced += [Replaced(person=i.person, ref=i.ref, reason="a test image, kept for the tests") for i in of_tests]
    ordered = tuple(sorted(replaced, key=lambda entry: (entry.person, entry.ref or "")))
    chosen = wanted.model_copy(update={"test": 1})
    manifest = Manifest(source=more.source, selection=chosen, images=tuple(images), replaced=ordered)
    if manifest.of("train") != tested.of("train") or {i.ref for i in manifest.of("test")} & {i.ref for i in tested.images}:
        raise InputError("the source chooses other people or images than the manifest lists", advice="give the manifest's source")
    return manifest


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
    taken: dict[str, Image] = {}  # by hash: a file that is there twice would be trained on and tested on
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
            image = usable_image(source, person, refs[index], role, detector)
            if (twin := taken.get(image.sha256)) is not None:
                raise InputError(f"the same file as {twin.ref}")
            images.append(image)
            taken[image.sha256] = image
        except FacesieveError as error:
            replaced.append(Replaced(person=person, ref=refs[index], reason=str(error)))
    if len(images) < wanted:
        replaced.append(Replaced(person=person, ref=None, reason=f"{len(images)} usable images, {wanted} are needed"))
        return None
    return images


def usable_image(source: Source, person: str, ref: str, role: Role, detector: Detector | None) -> Image:
    """The image with its hash and its landmarks; without a detector it is an aligned crop. Raises ``InputError`` if unusable."""
    data = source.read(ref)
    photo = read_photo(data, name=ref)
    landmarks = None
    if detector is None:
        check_square(photo)
    else:
        # To a thousandth of a pixel: the file stays the same where the detector differs in the last bits.
        faces = detector.detect(photo)
        if not faces:
            raise NoFaceError("no face found")
        landmarks = tuple((round(float(x), 3), round(float(y), 3)) for x, y in faces[0].landmarks)
    return Image(person=person, role=role, ref=ref, sha256=sha256_of(data), landmarks=landmarks)
