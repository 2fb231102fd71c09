"""Photographs, one per file: each result is a picture with a record for every face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from facesieve.errors import ExistsError, FacesieveError, InputError
from facesieve.files import make_folder, sha256_of, sha256_of_file, write_atomic
from facesieve.jobs.formats import FORMATS, PHOTOGRAPH, Sample, Task, Unit
from facesieve.jobs.record import Options, Record, Work, doubt_of, is_made, made_from, ran_on, read_record, write_record
from facesieve.runtime import PurifierCard


class _Photograph(Task):
    def __init__(self, unit: Unit, card: PurifierCard, options: Options) -> None:
        super().__init__(unit, card, options)
        if unit.problem is not None:
            raise InputError(unit.problem, unit.source)
        self.data = unit.bytes_of(options.max_pixels)
        self.made_from = made_from(sha256_of(self.data), card, options)

    def is_done(self) -> bool:
        first = self._read(0)
        others = [] if first is None else [self._read(number) for number in range(1, first["faces"])]
        results = [
            (self.unit.picture(None) if record is None else self._beside(record["output"]), record) for record in (first, *others)
        ]
        doubt = None if first is None else doubt_of(first, self.made_from)
        self.doubts = [f"{self.unit.source}: {doubt}"] if doubt else []
        return is_made(self.unit.sidecar(0), results, self.made_from)

    def samples(self) -> Iterator[Sample]:
        yield Sample(str(self.unit.source), self.data)

    def writing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def write(self, sample: Sample, work: Work | None, problem: FacesieveError | None) -> None:
        """Write a record for each face, then the pictures."""
        if problem is not None:
            raise problem
        assert work is not None
        faces, paste = len(work.before), self.options.paste or self.options.aligned
        pictures = work.pictures(self.options)
        before = self._made_before() if self.options.overwrite else set()
        paths = [self.unit.picture(None if paste else number) for number in range(len(pictures))]
        if not self.options.overwrite:
            self._refuse_others(paths, faces)
        make_folder(self.unit.target.parent)
        for number in range(faces):
            picture = 0 if paste else number
            made = {"output": paths[picture].name, "output_sha256": sha256_of(pictures[picture]), "made_from": self.made_from}
            write_record(self.unit.sidecar(number), self._record(work, number) | made)
        for path, data in zip(paths, pictures, strict=True):
            write_atomic(path, data)
        for path in before - {*paths, *(self.unit.sidecar(number) for number in range(faces))}:
            path.unlink(missing_ok=True)  # of other settings, or of a face that is no longer found
        self.photographs += 1
        self.doubts = [f"{self.unit.source}: {work.doubt}"] if work.doubt else []

    def _record(self, work: Work, number: int) -> Record:
        faces = len(work.before)
        return {
            "source": self.unit.name,
            "face": number + 1,
            "faces": faces,
            **work.face(number, self.options),
            **({"possible": work.possible, "doubt": work.doubt} if work.possible else {}),
            "seconds": round(work.seconds / faces, 4),
            **ran_on(self.card, self.options),
        }

    def _made_before(self) -> set[Path]:
        """What an earlier run left: its records, and the pictures that have the hash that they tell. Nothing else is ours."""
        made, number = set[Path](), 0
        while (path := self.unit.sidecar(number)).exists():
            with suppress(ExistsError):
                record = self._read(number) or {}
                pictures = {self._beside(record["output"]), self.unit.picture(number)}
                made |= {path, *(p for p in pictures if p.exists() and sha256_of_file(p) == record["output_sha256"])}
            number += 1
        return made

    def _refuse_others(self, paths: Sequence[Path], faces: int) -> None:
        """Raises ``ExistsError`` where something that is no result is in the way."""
        for number in range(faces):
            if self._read(number) is None and number < len(paths) and paths[number].exists():
                raise ExistsError("exists, but no sidecar says how it was made", paths[number])

    def _read(self, number: int) -> Record | None:
        return read_record(self.unit.sidecar(number), {"faces": int, "output": str})

    def _beside(self, name: str) -> Path:
        return self.unit.target.parent / Path(name).name  # a record must not name files elsewhere


FORMATS.register(PHOTOGRAPH, _Photograph)
