"""What the service does with photographs: threads read, detect and write, the batcher purifies, one thread embeds and searches.

A gallery serves one thread, and this is it. The library decides everything; here is only what waits for what.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from facesieve.errors import InputError, ManyFacesError
from facesieve.faces import Crops, Detector, FaceCrops, Finish, Quality, one_face
from facesieve.files import sha256_of
from facesieve.galleries import create_gallery
from facesieve.galleries.base import Entry, Gallery
from facesieve.galleries.checks import checked_name, new_name
from facesieve.identification import Identified, Identifier, Templates, Verified, stacked
from facesieve.images import encode_photo, read_photo, to_photo
from facesieve.recognition.tampering import Tampering
from facesieve.rows import Rows
from facesieve.runtime import PurifierCard, Trace
from facesieve.service.batcher import Batcher
from facesieve.service.judging import Asking, Judging
from facesieve.service.logs import event
from facesieve.service.metrics import Metrics
from facesieve.service.presets import Presets
from facesieve.service.problems import ProblemError
from facesieve.service.readers import Readers
from facesieve.service.settings import Format, Settings
from facesieve.specs import retired_among
from facesieve.tamper_policy import OnTamper

T = TypeVar("T")


class Handlers:
    """The purifier, the recogniser and the gallery of one service. ``identifier`` and gallery are absent in a proxy."""

    def __init__(
        self,
        batcher: Batcher,
        card: PurifierCard,
        identifier: Identifier | None,
        settings: Settings,
        metrics: Metrics,
        *,
        others: Mapping[str, tuple[Batcher, PurifierCard]] | None = None,
    ) -> None:
        self.batcher, self.card, self.settings, self.metrics = batcher, card, settings, metrics
        self.presets = Presets(batcher, card, others or {})
        self._identifier = identifier
        self.judging = Judging(identifier, self.presets)
        self._detector = Detector()
        self._readers = Readers(settings.readers, batcher.admission)
        self._gallery: Gallery | None = None
        self._told_shortfall = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handlers")

    @property
    def embedder(self) -> str | None:
        """The recogniser's name."""
        return None if self._identifier is None else self._identifier.embedder.name

    def open(self) -> None:
        """Open the gallery, and run detector and recogniser once. Raises what the library raises for wrong settings."""
        self._thread.submit(self._open).result()

    def _open(self) -> None:
        self._detector.detect(np.full((64, 64, 3), 128, np.uint8))
        if self._identifier is not None:
            embedder = self._identifier.embedder
            embedder.rows(np.full((1, 3, self.card.size, self.card.size), 0.5, np.float32))
            if self.settings.gallery is not None:
                self._gallery = create_gallery(self.settings.gallery, embedder=embedder.name, dimensions=embedder.dimensions)

    async def close(self) -> None:
        """Finish what the batcher accepted, then close the gallery."""
        await self.presets.stop()
        if self._gallery is not None:
            await self._do("search", self._gallery.close)
        self._thread.shutdown()
        self._readers.close()

    async def _do(self, phase: str, work: Callable[[], T]) -> T:
        """``work`` in the gallery's thread, measured; if cancelled before its turn, it is not done."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._measured(phase, work))

    async def _write(self, work: Callable[[], T]) -> T:
        """As ``_do``, for what changes the gallery: once begun it is finished, so that who was refused can ask again."""
        writing = asyncio.ensure_future(self._do("search", work))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            return await writing
        finally:
            del writing

    def _measured(self, phase: str, work: Callable[[], T]) -> Callable[[], T]:
        def measured() -> T:
            with self.metrics.phase(phase):
                return work()

        return measured

    # --- purification -----------------------------------------------------------------------------

    async def cut(self, data: bytes, *, aligned: bool = False, where: str = "image") -> FaceCrops:
        """Read a photograph and cut its faces out; ``where`` it stands in the request is for messages.

        Raises ``ImageError``, ``NoFaceError``, ``NotSquareError``, ``ManyFacesError`` for more than ``max_faces``, or at once
        ``BusyError``.
        """

        def work() -> FaceCrops:
            with self.metrics.phase("read"):
                photo, sha256 = read_photo(data, max_pixels=self.settings.max_pixels, name=where), sha256_of(data)
            with self.metrics.phase("detect"):
                if aligned:
                    return FaceCrops.whole(photo, self.card.size, sha256=sha256)
                faces = self._detector.detect(photo)
                if len(faces) > self.settings.max_faces:
                    raise ManyFacesError(f"{len(faces)} faces found, at most {self.settings.max_faces} are taken")
                return FaceCrops.cut(photo, faces, self.card.size, sha256=sha256)

        try:
            return await self._readers.read(work)
        except InputError as error:
            error.at(where)
            raise

    async def _cut_one(self, data: bytes, where: str = "image") -> FaceCrops:
        before = await self.cut(data, where=where)
        try:
            return one_face(before)
        except ManyFacesError as error:
            error.at(where)
            raise

    def check_place(self, preset: str | None = None) -> None:
        """Raise ``BusyError`` where a photograph would be refused now; asked before its body is read."""
        for batcher in {self.batcher, self.presets.batcher(preset)}:
            batcher.admission.check()

    def check_seed(self, seed: int | None) -> None:
        """Raise 422 for a seed where the noise may not be chosen."""
        if seed is not None and not self.settings.allow_seeds:
            said = "seed: this service chooses the noise itself; it may be chosen where allow_seeds is set"
            raise ProblemError(422, "input", said)

    async def purify(self, before: FaceCrops, seed: int | None = None, preset: str | None = None) -> Trace:
        """Purify the faces, together with those of others, by the service's own preset or another. Raises ``BusyError``."""
        self.check_seed(seed)
        trace = await self.presets.batcher(preset).purify(before.crops, before.seeds(seed))
        for change in before.with_crops(trace.crops).changes(before):
            self.metrics.change(change)
        return trace

    async def restore(self, before: FaceCrops, seed: int | None = None) -> FaceCrops:
        """The same faces, purified."""
        return before.with_crops((await self.purify(before, seed)).crops)

    async def tampering(
        self, before: FaceCrops, after: FaceCrops, preset: str | None = None, asked: OnTamper | None = None
    ) -> list[Tampering]:
        """How far each face looks tampered with; none without a recogniser. Raises ``TamperedError``, or as ``judging``."""
        if (identifier := self.judging.of(preset, asked)) is None:
            return []
        found = await self._do("embed", lambda: identifier.tampering(before, after))
        for one in found:
            self.metrics.tamper(one.change)
            one.checked()
        return found

    async def encode(self, after: FaceCrops, format: Format, finish: Finish = "secure") -> bytes:
        """The photograph with its faces put back, as a file."""
        return await self._readers.write(self._measured("encode", lambda: encode_photo(after.paste(finish), format)))

    async def qualities(self, before: FaceCrops) -> list[Quality]:
        """How well each face can be recognised; none of an aligned crop."""
        return await self._readers.write(lambda: before.qualities)

    async def encode_crops(self, crops: Crops) -> list[bytes]:
        """Crops (N, 3, S, S) as PNG files."""
        work = self._measured("encode", lambda: [encode_photo(to_photo(crop), "png") for crop in crops])
        return await self._readers.write(work)

    # --- identification ---------------------------------------------------------------------------

    @property
    def identifier(self) -> Identifier:
        """The recogniser. Raises 404 where there is none."""
        return self.judging.required()

    @property
    def gallery(self) -> Gallery:
        """The gallery; for the handlers' thread alone. Raises 404 where there is none."""
        if self._gallery is None:
            raise ProblemError(404, "not-found", "this service has no gallery")
        return self._gallery

    async def identify(self, data: bytes, count: int, asking: Asking) -> tuple[list[Identified], FaceCrops]:
        """Everyone in a photograph, largest face first, and the faces as they were cut."""
        identifier, gallery = self.judging.required(asking.on_tamper), self.gallery
        before = await self.cut(data)
        after = await self.restore(before, asking.seed)
        work = partial(identifier.identify, gallery, before, after, threshold=asking.threshold, count=count)
        people = await self._do("search", work)
        for person in people:
            await self._tell_shortfall(person.templates)
            self.metrics.tamper(person.tamper or 0.0)
        return people, before

    async def verify(self, data: bytes, person: str, asking: Asking) -> Verified:
        """Whether the one face is ``person``. Raises 404 for an unknown person, ``TamperedError`` for a face that is refused."""
        identifier, gallery = self.judging.required(asking.on_tamper), self.gallery
        name = (await self.person(person)).person
        before = await self._cut_one(data)
        after = await self.restore(before, asking.seed)
        found = await self._do("search", lambda: identifier.verify(gallery, name, before, after, threshold=asking.threshold))
        await self._tell_shortfall(found.templates)
        return found

    async def _tell_shortfall(self, searched: str | None) -> None:
        """Log once that raw templates are searched behind the shield; without a name, which no log holds."""
        if self._told_shortfall or searched == self.card.label:
            return
        self._told_shortfall = True
        gallery, again = self.gallery, "remove them and enrol them again for better accuracy"
        gone = await self._do("search", lambda: retired_among(label for labels in gallery.label_sets() for label in labels))
        reason = f"not everybody has templates behind this shield; {gone or again}"
        event("raw-templates-searched", {"shield": self.card.label, "reason": reason}, logging.WARNING)

    async def compare(self, first: bytes, second: bytes, asking: Asking) -> Verified:
        """Whether the two photographs, of one face each, show one person. Raises ``TamperedError`` where one is refused."""
        identifier, gallery = self.judging.required(asking.on_tamper), self._gallery
        before = await self._cut_one(first), await self._cut_one(second)
        after = await asyncio.gather(*(self.restore(one, asking.seed) for one in before))
        work = partial(identifier.compare, *before, after=after, threshold=asking.threshold, gallery=gallery)
        return await self._do("embed", work)

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

    async def people(self, limit: int, after: str | None) -> tuple[list[Entry], bool]:
        """The first ``limit`` people, by name, behind ``after``; and whether there are more."""
        gallery, last = self.gallery, after or ""

        def look() -> list[Entry]:
            return sorted((entry for entry in gallery.people() if entry.person > last), key=lambda entry: entry.person)[
                : limit + 1
            ]

        found = await self._do("search", look)
        return found[:limit], len(found) > limit

    async def enrol(self, person: str, images: Sequence[bytes], which: Templates, seed: int | None) -> dict[str, int]:
        """Enrol a person from photographs of one face each, all of them or none: the number of templates by label."""
        gallery, name = self.gallery, new_name(person)
        templates = await self._templates(images, which, seed)
        await self._write(lambda: gallery.enrol(name, templates))
        return {label: len(rows) for label, rows in templates.items()}

    async def add(self, person: str, images: Sequence[bytes], which: Templates, seed: int | None) -> Entry:
        """Add photographs of somebody who is enrolled, as ``enrol``: what there is of them now. Raises 404 for an unknown one."""
        gallery, name = self.gallery, (await self.person(person)).person
        templates = await self._templates(images, which, seed)
        await self._write(lambda: gallery.add(name, templates))
        return await self.person(name)

    async def _templates(self, images: Sequence[bytes], which: Templates, seed: int | None) -> dict[str, Rows]:
        identifier = self.identifier
        refusing = identifier.policy.on == "refuse"
        found = [await self._cut_one(data, f"photograph {number}") for number, data in enumerate(images, 1)]
        parts = []
        for before in found:
            after = None if which == "raw" and not refusing else await self.restore(before, seed)
            if refusing and after is not None:
                await self.tampering(before, after)
            parts.append(await self._do("embed", partial(identifier.templates, before, after, which)))
        return stacked(parts)

    async def remove(self, person: str) -> int:
        """Remove a person: the number of templates. Raises 404 for an unknown one."""
        gallery, entry = self.gallery, await self.person(person)
        return await self._write(lambda: gallery.remove(entry.person))
