"""What the service does with photographs: one thread reads, detects, embeds, searches and writes; the engine purifies.

Detector and gallery serve one thread each, and this is it. The library decides everything; here is
only what waits for what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from facesieve.errors import GalleryError, InputError, NoFaceError, SettingError
from facesieve.faces import Detector, Face, paste
from facesieve.galleries import Address, create_gallery
from facesieve.galleries.base import RAW, Entry, Gallery, Rows, checked_name
from facesieve.identification import Identified, Identifier, Templates, Verified
from facesieve.images import Photo, encode_photo, read_photo, to_photo
from facesieve.noise import derive_seed, fresh_seeds
from facesieve.purify import Stage
from facesieve.service.batcher_local import Engine, Stages
from facesieve.service.metrics import Metrics
from facesieve.service.problems import ProblemError
from facesieve.service.settings import Settings
from facesieve.shield import Shield

T = TypeVar("T")
Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, eq=False)
class Found:
    """A photograph with its faces and their crops (N, 3, S, S); no faces for one that is a crop already."""

    photo: Photo
    faces: list[Face]
    crops: Tensor


@dataclass(frozen=True, eq=False)
class Purified:
    """What was found, and what each stage made of it."""

    found: Found
    stages: Stages

    @property
    def crops(self) -> Tensor:
        """The purified crops (N, 3, S, S)."""
        return self.stages[-1][1]

    @property
    def changes(self) -> list[float]:
        """Mean absolute difference that the shield made to each face, in [0, 1]."""
        changes: list[float] = (self.crops - self.found.crops).abs().mean((1, 2, 3)).tolist()
        return changes

    def photo(self) -> Photo:
        """The photograph with its purified faces put back; of an aligned crop, the purified crop."""
        if not self.found.faces:
            return to_photo(self.crops[0])
        photo = self.found.photo
        for face, crop in zip(self.found.faces, self.crops, strict=True):
            photo = paste(photo, crop, face)
        return photo


@dataclass(frozen=True, eq=False)
class _Answered(Shield):
    """A shield whose purified crops are there already: the library goes on with them as with any others."""

    answer: Tensor = field(kw_only=True)

    def trace(self, crops: Tensor, seeds: Sequence[int] | None = None) -> list[tuple[Stage, Tensor]]:
        """The crops that the engine made."""
        return [(self.purifier.stages[-1], self.answer)]


class Desk:
    """The shield, the recogniser and the gallery of one service. ``embedder`` and gallery are absent in a proxy."""

    def __init__(
        self, shield: Shield, identifier: Identifier | None, engine: Engine, settings: Settings, metrics: Metrics
    ) -> None:
        self.shield, self.engine, self.settings, self.metrics = shield, engine, settings, metrics
        self._identifier = identifier
        self._detector = Detector()
        self._gallery: Gallery | None = None
        self._where = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="desk")

    @property
    def embedder(self) -> str | None:
        """The recogniser's name."""
        return None if self._identifier is None else self._identifier.embedder.name

    def open(self) -> None:
        """Open the gallery and run every network once. Raises what the library raises for wrong settings."""
        self._thread.submit(self._open).result()

    def _open(self) -> None:
        blank = torch.full((1, 3, self.shield.size, self.shield.size), 0.5)
        self.shield.trace(blank, [0])
        self._detector.detect(np.full((64, 64, 3), 128, np.uint8))
        if self._identifier is not None:
            embedder = self._identifier.embedder
            with torch.inference_mode():
                embedder.embed(blank)
            if self.settings.gallery is not None:
                location = self.settings.gallery
                self._gallery = create_gallery(location, embedder=embedder.name, dimensions=embedder.dimensions)
                self._where = (Address.of(location).shown if "://" in location else str(Path(location))) + ": "

    async def close(self) -> None:
        """Finish what the engine accepted, then close the gallery."""
        await self.engine.stop()
        if self._gallery is not None:
            await self._do("search", self._gallery.close)
        self._thread.shutdown()

    async def _do(self, phase: str, work: Callable[[], T]) -> T:
        """``work`` in the desk's thread, measured; if cancelled before its turn, it is not done."""

        def measured() -> T:
            with self.metrics.phase(phase):
                return work()

        return await self._run(measured)

    async def _run(self, work: Callable[[], T]) -> T:
        def reported() -> T:
            try:
                return work()
            except GalleryError as error:  # where the gallery is, is not for callers
                raise ProblemError(409, "gallery", str(error).removeprefix(self._where)) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, reported)

    # --- purification -----------------------------------------------------------------------------

    async def find(self, data: bytes, *, aligned: bool = False) -> Found:
        """Read a photograph and find its faces. Raises ``ImageError``, ``NoFaceError`` or, for too many, 422."""

        def work() -> Found:  # in one go: photographs that are read must not pile up in front of the detector
            with self.metrics.phase("read"):
                photo = read_photo(data, max_pixels=self.settings.max_pixels, name="image")
            with self.metrics.phase("detect"):
                return self._find(photo, aligned)

        return await self._run(work)

    def _find(self, photo: Photo, aligned: bool) -> Found:
        if aligned:
            height, width = photo.shape[:2]
            if abs(height - width) > 0.02 * max(height, width):
                raise InputError(
                    f"an aligned crop is square, this image is {width} x {height}; leave aligned out to find its face"
                )
            return Found(photo, [], self.shield.aligned_crop(photo)[None])
        faces = self._detector.detect(photo)
        if not faces:
            raise NoFaceError("no face was found in the image")
        if len(faces) > self.settings.max_faces:
            raise ProblemError(422, "too-many-faces", f"{len(faces)} faces found, at most {self.settings.max_faces} are taken")
        return Found(photo, faces, torch.stack([self.shield.crop(photo, face) for face in faces]))

    async def _find_one(self, data: bytes) -> Found:
        found = await self.find(data)
        if len(found.faces) > 1:
            raise ProblemError(422, "too-many-faces", f"{len(found.faces)} faces found where one is meant; cut to the person")
        return found

    async def purify(self, found: Found, seed: int | None = None) -> Purified:
        """Purify the faces, together with those of others. Raises ``BusyError``."""
        if seed is not None and not self.settings.allow_seeds:
            raise SettingError("seed: this service chooses the noise itself; it may be chosen where allow_seeds is set")
        count = len(found.crops)
        seeds = fresh_seeds(count) if seed is None else [derive_seed(seed, n) for n in range(count)]
        purified = Purified(found, await self.engine.purify(found.crops, seeds))
        for change in purified.changes:
            self.metrics.change(change)
        return purified

    async def encode(self, purified: Purified, format: Format) -> bytes:
        """The purified photograph as a file."""
        return await self._do("encode", lambda: encode_photo(purified.photo(), format))

    async def encode_crops(self, crops: Sequence[Tensor]) -> list[bytes]:
        """Crops (3, S, S) as PNG files."""
        return await self._do("encode", lambda: [encode_photo(to_photo(crop), "png") for crop in crops])

    # --- identification ---------------------------------------------------------------------------

    def _answered(self, purified: Purified) -> Identifier:
        s = self.shield
        shield = _Answered(s.preset, s.purifier, s.size, s.prior_sha256, s.path, s.detector, answer=purified.crops)
        return Identifier(self._recogniser.embedder, shield)

    @property
    def _recogniser(self) -> Identifier:
        if self._identifier is None:
            raise ProblemError(404, "not-found", "this service does not identify")
        return self._identifier

    @property
    def gallery(self) -> Gallery:
        """The gallery; for the desk's thread alone. Raises 404 where there is none."""
        if self._gallery is None:
            raise ProblemError(404, "not-found", "this service has no gallery; it is started with --gallery")
        return self._gallery

    async def identify(self, data: bytes, count: int, threshold: float | None, seed: int | None) -> list[Identified]:
        """Everyone in a photograph, largest face first."""
        gallery = self.gallery
        purified = await self.purify(await self.find(data), seed)
        found, identifier = purified.found, self._answered(purified)
        people = await self._do(
            "search", lambda: identifier.identify(gallery, found.photo, threshold=threshold, count=count, faces=found.faces)
        )
        for person in people:
            self.metrics.tamper(person.tamper or 0.0)
        return people

    async def verify(self, data: bytes, person: str, threshold: float | None, seed: int | None) -> Verified:
        """Whether the one face is ``person``. Raises 404 for an unknown person."""
        gallery = self.gallery
        await self.person(person)
        rows = await self._rows(await self.purify(await self._find_one(data), seed))
        purifier = self._recogniser.purifier

        def compare() -> Verified:
            score = float((gallery.templates_of(person, purifier=purifier) @ rows[0]).max())
            return self._verdict(score, threshold)

        return await self._do("search", compare)

    async def compare(self, first: bytes, second: bytes, threshold: float | None, seed: int | None) -> Verified:
        """Whether the two photographs, of one face each, show one person."""
        one, other = await self._find_one(first), await self._find_one(second)
        both = await asyncio.gather(self.purify(one, seed), self.purify(other, seed))
        rows = [await self._rows(purified) for purified in both]
        return await self._do("search", lambda: self._verdict(float(rows[0][0] @ rows[1][0]), threshold))

    def _verdict(self, score: float, threshold: float | None) -> Verified:
        if threshold is None and self._gallery is not None:
            threshold = self._recogniser.threshold(self._gallery)
        return Verified(score, threshold, None if threshold is None else score >= threshold)

    async def _rows(self, purified: Purified) -> Rows:
        identifier, found = self._answered(purified), purified.found
        return await self._do("embed", lambda: identifier.rows(found.photo, found.faces))

    # --- the gallery ------------------------------------------------------------------------------

    async def person(self, person: str) -> Entry:
        """An enrolled person. Raises 404 for an unknown one."""
        gallery, name = self.gallery, checked_name(person)

        def look() -> Entry:
            found = gallery.people(name)
            if not found:
                raise ProblemError(404, "not-found", "nobody of this name is enrolled")
            return found[0]

        return await self._do("search", look)

    async def enrol(self, person: str, images: Sequence[bytes], which: Templates, seed: int | None) -> dict[str, int]:
        """Enrol a person from photographs of one face each, all of them or none: the number of templates by label."""
        gallery, name = self.gallery, checked_name(person)
        found = [await self._numbered(number, data) for number, data in enumerate(images, 1)]
        templates: dict[str, list[Rows]] = {}
        if which != "purified":
            raw = self._recogniser.raw_rows
            templates[RAW] = [await self._do("embed", lambda one=one: raw(one.photo, one.faces)) for one in found]  # type: ignore[misc]
        if which != "raw":
            purified = [await self.purify(one, seed) for one in found]
            templates[self._recogniser.purifier] = [await self._rows(one) for one in purified]
        joined: dict[str, Any] = {label: np.concatenate(rows) for label, rows in templates.items()}
        await self._do("search", lambda: gallery.enrol(name, joined))
        return {label: len(rows) for label, rows in joined.items()}

    async def _numbered(self, number: int, data: bytes) -> Found:
        try:
            return await self._find_one(data)
        except ProblemError as error:
            raise ProblemError(error.status, error.kind, f"photograph {number}: {error}") from error
        except InputError as error:
            raise type(error)(f"photograph {number}: {error}") from error

    async def remove(self, person: str) -> int:
        """Remove a person: the number of templates. Raises 404 for an unknown one."""
        gallery, entry = self.gallery, await self.person(person)
        return await self._do("search", lambda: gallery.remove(entry.person))
