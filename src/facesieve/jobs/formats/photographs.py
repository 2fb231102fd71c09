"""Photographs, one per file: each result is a picture with a record for every face."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from facesieve.errors import FacesieveError
from facesieve.files import make_folder, sha256_of, write_atomic
from facesieve.jobs.formats import FORMATS, PHOTOGRAPH, Sample, Task, Unit
from facesieve.jobs.record import Options, Record, Work, is_made, made_from, ran_on, read_record, write_record
from facesieve.runtime import PurifierCard


class _Photograph(Task):
    def __init__(self, unit: Unit, card: PurifierCard, options: Options) -> None:
        super().__init__(unit, card, options)
        self.data = unit.source.read_bytes() if unit.data is None else unit.data
        self.made_from = made_from(sha256_of(self.data), card, options)

    def is_done(self) -> bool:
        first = self._read(0)
        others = [] if first is None else [self._read(number) for number in range(1, first["faces"])]
        results = [
            (self._picture(None) if record is None else self._beside(record["output"]), record) for record in (first, *others)
        ]
        return is_made(self._sidecar(0), results, self.made_from)

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
        pictures = work.pictures(paste=paste)
        paths = [self._picture(None if paste else number) for number in range(len(pictures))]
        make_folder(self.unit.target.parent)
        for number in range(faces):
            picture = 0 if paste else number
            made = {"output": paths[picture].name, "output_sha256": sha256_of(pictures[picture]), "made_from": self.made_from}
            write_record(self._sidecar(number), self._record(work, number) | made)
        for path, data in zip(paths, pictures, strict=True):
            write_atomic(path, data)
        if self.options.overwrite:
            self._remove_others(faces, set(paths))
        self.photographs += 1

    def _record(self, work: Work, number: int) -> Record:
        faces = len(work.before)
        return {
            "source": self.unit.name,
            "face": number + 1,
            "faces": faces,
            **work.face(number),
            "seconds": round(work.seconds / faces, 4),
            **ran_on(self.card),
        }

    def _remove_others(self, faces: int, written: set[Path]) -> None:
        """What an earlier run with other settings left: pictures of another kind, and of faces that are no longer found."""
        number = 0
        while number < faces or self._sidecar(number).exists() or self._picture(number).exists():
            if number >= faces:
                self._sidecar(number).unlink(missing_ok=True)
            if self._picture(number) not in written:
                self._picture(number).unlink(missing_ok=True)
            number += 1
        if self._picture(None) not in written:
            self._picture(None).unlink(missing_ok=True)

    def _read(self, number: int) -> Record | None:
        return read_record(self._sidecar(number), {"faces": int, "output": str})

    def _sidecar(self, number: int) -> Path:
        return self._beside(f"{self.unit.target.name}.face{number + 1}.json")

    def _picture(self, number: int | None) -> Path:
        return self._beside(f"{self.unit.target.name}.png" if number is None else f"{self.unit.target.name}.face{number + 1}.png")

    def _beside(self, name: str) -> Path:
        return self.unit.target.parent / Path(name).name  # a record must not name files elsewhere


FORMATS.register(PHOTOGRAPH, _Photograph)
