"""Kinds of input: photographs, and shards that hold many photographs.

A job takes one unit after another; a unit is what resumes. A format says how a unit is read, how its result
is written, and when it is complete. A shard's format is two functions, ``read`` and ``writer``, registered by suffix::

    FORMATS.register(".tar", ShardFormat(read, writer))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from facesieve.errors import ExistsError, FacesieveError, InputError, many
from facesieve.files import draft, make_folder, remove_drafts, sha256_of, sha256_of_file
from facesieve.images import photo_bytes
from facesieve.jobs.record import Failure, Options, Record, Work, doubt_of, is_made, made_from, ran_on, read_record, write_record
from facesieve.registry import Registry
from facesieve.runtime import PurifierCard

PHOTOGRAPH = "photograph"


@dataclass(frozen=True)
class Unit:
    """A photograph or a shard, and where its result goes: of a photograph ``target`` is a path without suffix.

    ``format`` is a name of ``FORMATS``, ``name`` what records and messages call it. ``data`` holds the bytes of a
    photograph that is no file; ``problem`` says why what may be, or hold, photographs cannot be taken.
    """

    source: Path
    target: Path
    name: str
    format: str = PHOTOGRAPH
    data: bytes | None = None
    problem: str | None = None
    suffix: str = ".png"

    @property
    def is_shard(self) -> bool:
        """Whether it holds many photographs."""
        return self.format != PHOTOGRAPH

    def bytes_of(self, max_pixels: int) -> bytes:
        """A photograph's file, as far as one of ``max_pixels`` goes. Raises ``ImageError``."""
        return photo_bytes(self.source if self.data is None else self.data, max_pixels=max_pixels, name=str(self.source))

    def picture(self, number: int | None) -> Path:
        """Where the result of a photograph goes, or of its face ``number``, from 0."""
        return self.target.with_name(f"{self.target.name}{'' if number is None else f'.face{number + 1}'}{self.suffix}")

    def sidecar(self, number: int) -> Path:
        """Where the record of a photograph's face ``number`` goes."""
        return self.target.with_name(f"{self.target.name}.face{number + 1}.json")


@dataclass(frozen=True, eq=False)
class Sample:
    """One photograph with whatever accompanies it in its shard.

    ``key`` names it within the shard. ``image`` holds the bytes of its file, or None; then ``problem``
    says why. Without a key it is no sample, and is passed on as it is. ``rest`` is what its format
    needs to write it again.

    No other picture passes in silence: ``hidden`` names those in the sample that nobody would look for, which go with its
    failures, and ``bare`` is the ``rest`` without them; ``others`` names those that were left when its image was chosen.
    """

    key: str
    image: bytes | None
    problem: InputError | None = None
    rest: Any = None
    bare: Any = None
    hidden: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Task(ABC):
    """A unit at work."""

    def __init__(self, unit: Unit, card: PurifierCard, options: Options) -> None:
        self.unit, self.card, self.options = unit, card, options
        self.photographs = 0  # written so far
        self.failures: list[Failure] = []
        self.doubts: list[str] = []  # a line for each photograph in which there may be faces that were not purified
        self.error: FacesieveError | None = None  # why it is given up
        self._stack = ExitStack()

    def begin(self) -> None:
        """Make the place for the result. Raises ``InputError``."""
        self._stack.enter_context(self.writing())

    def end(self) -> None:
        """Complete the result, or after an ``error`` leave nothing of it. Raises ``InputError``."""
        if self.error is None:
            self._stack.close()
        else:
            self.drop(self.error)

    def drop(self, error: BaseException) -> None:
        """Leave nothing of the result."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    @abstractmethod
    def is_done(self) -> bool:
        """Whether the result is there; then ``failures`` and ``doubts`` are those of when it was made. Raises ``ExistsError``."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Its photographs, one after the other. Raises ``InputError`` for a file that is damaged."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[object]:
        """Surrounds the calls of ``write``; the result is complete when this is left without an error, and absent before."""

    @abstractmethod
    def write(self, sample: Sample, work: Work | None, problem: FacesieveError | None) -> None:
        """Write a sample, in the order of the source: as purified, or what becomes of one that could not be."""


Format = Callable[[Unit, PurifierCard, Options], Task]  # makes a unit a task; raises ``InputError`` for an unreadable file


class Writer(Protocol):
    """Writes the samples of one shard, in the order in which they are read."""

    def write(self, sample: Sample, png: bytes | None, record: Record | None) -> None:
        """Write ``sample`` with the purified ``png`` in the place of its image, or as it was if None; and its record, if any."""


@dataclass(frozen=True)
class ShardFormat:
    """Shards of one kind: ``read(source, column)`` yields samples; ``writer(file, source, column)`` writes a shard like it.

    ``column`` names the image of a sample, None finds it. The shard in the open ``file`` is complete when the
    writer's context is left. Both raise ``InputError`` for a file that is no such shard, or is damaged.
    """

    read: Callable[[Path, str | None], Iterator[Sample]]
    writer: Callable[[BinaryIO, Path, str | None], AbstractContextManager[Writer]]

    def __call__(self, unit: Unit, card: PurifierCard, options: Options) -> Task:
        """A shard, to be worked on."""
        return _Shard(unit, card, options, self)


class _Shard(Task):
    """A shard is written under another name and renamed at the end; its record has the settings in full."""

    def __init__(self, unit: Unit, card: PurifierCard, options: Options, form: ShardFormat) -> None:
        super().__init__(unit, card, options)
        self.form = form
        self.faces = 0
        self._others: Counter[str] = Counter()  # pictures that are copied, since another is the image
        self.sidecar = unit.target.with_name(unit.target.name + ".json")
        more = {"image_column": options.image_column, "on_failure": options.on_failure}
        self.made_from = {**made_from(sha256_of_file(unit.source), card, options), **more}

    def is_done(self) -> bool:
        record = read_record(self.sidecar, {"failures": list})
        if not is_made(self.sidecar, [(self.unit.target, record)], self.made_from):
            return False
        assert record is not None
        try:
            self.failures = [Failure(**failure) for failure in record["failures"]]
            self.doubts = list(map(str, record.get("doubts", ())))
            self.doubts += [f"{self.unit.name}: {doubt}"] if (doubt := doubt_of(record, self.made_from)) else []
        except TypeError as error:
            raise ExistsError("is no sidecar of this program", self.sidecar) from error
        return True

    def samples(self) -> Iterator[Sample]:
        return self.form.read(self.unit.source, self.options.image_column)

    @contextmanager
    def writing(self) -> Iterator[None]:
        target = self.unit.target
        make_folder(target.parent)
        remove_drafts(target)
        with draft(target) as (file, part):
            with self.form.writer(file, self.unit.source, self.options.image_column) as self._out:
                yield
            file.flush()
            for name, count in self._others.items():
                copied = InputError(f"{many(count, 'picture')} of this name copied unpurified, beside the image that was chosen")
                self.failures.append(Failure.of(copied, self.unit.name, name, kept=True))
            write_record(self.sidecar, self._record(sha256_of_file(part)))

    def write(self, sample: Sample, work: Work | None, problem: FacesieveError | None) -> None:
        keep = self.options.on_failure == "keep"
        for name in sample.hidden:
            found = InputError("a picture where none is looked for, not purified", f"{sample.key} {name}")
            self.failures.append(Failure.of(found, self.unit.name, sample.key, kept=keep))
        if sample.hidden and not keep:
            sample = replace(sample, rest=sample.bare)
        if keep or problem is None:
            self._others.update(sample.others)
        if work is not None:
            (png,) = work.pictures(self.options)
            self._out.write(sample, png, self._sample_record(work, png))
            self.photographs += 1
            self.faces += len(work.before)
            self.doubts += [f"{self.unit.name}, {sample.key}: {work.doubt}"] if work.doubt else []
        elif problem is None:
            self._out.write(sample, None, None)
        else:
            self.failures.append(Failure.of(problem, self.unit.name, sample.key, kept=keep))
            if keep:
                self._out.write(sample, None, {"failure": str(problem)})

    def _sample_record(self, work: Work, png: bytes) -> Record:
        """A photograph's record; settings in full are in the shard's, under the same label."""
        return {
            "faces": [work.face(number, self.options) for number in range(len(work.before))],
            **({"possible": work.possible} if work.possible else {}),
            "preset": self.card.name,
            "shield": self.card.label,
            "prior_sha256": self.card.prior_sha256,
            "source_sha256": work.before.sha256,
            "output_sha256": sha256_of(png),
            **ran_on(self.card, self.options),
        }

    def _record(self, sha256: str) -> Record:
        return {
            "source": self.unit.source.name,
            "photographs": self.photographs,
            "faces": self.faces,
            "failures": [failure.as_dict() for failure in self.failures],
            **({"doubts": self.doubts} if self.doubts else {}),
            "output": self.unit.target.name,
            "output_sha256": sha256,
            "made_from": self.made_from,
            **ran_on(self.card, self.options),
        }


FORMATS: Registry[Format] = Registry("format", "facesieve.jobs.formats")
