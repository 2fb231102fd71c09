"""Purify photographs, in files or in shards: batched across all of them, resumable, and not stopped by a bad photograph."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from facesieve.errors import FacesieveError, InputError, SettingError, many, one_line
from facesieve.faces import Crops
from facesieve.files import sha256_of
from facesieve.images import Encoding, read_with_dates
from facesieve.jobs.formats import FORMATS, Sample, Task, Unit
from facesieve.jobs.plan import refuse_overwriting
from facesieve.jobs.record import Failure, Options, Work
from facesieve.progress import Progress, Report, silent
from facesieve.runtime import Trace
from facesieve.shield import Shield

__all__ = ["Failure", "Options", "Summary", "purify_alone", "purify_units"]

Guard = Callable[[str], AbstractContextManager[object]]  # entered with a photograph's name before it is read; may refuse
Keep = Callable[[Crops, Trace], None]  # is handed a batch of crops, and what each stage made of it


@dataclass
class Summary:
    """What a job did."""

    units: int = 0  # photographs or shards that were made
    skipped: int = 0  # that were already complete
    photographs: int = 0
    faces: int = 0
    seconds: float = 0.0  # inside the purifier
    failures: list[Failure] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # a line for each photograph with possible faces that were not purified

    def add(self, other: Summary) -> None:
        """Count ``other`` in."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def progress(self, done: int, total: int, what: str) -> Progress:
        """How far it is, with figures."""
        rate = {"faces/s": f"{self.faces / self.seconds:.1f}"} if self.seconds else {}
        return Progress(done, total, what, {"purified": many(self.faces, "face"), **rate})


def check(units: Sequence[Unit], options: Options) -> None:
    """Raises ``SettingError`` for what photographs can have and shards cannot, ``InputError`` for a result over an input."""
    refuse_overwriting(units)
    if not options.paste and any(unit.is_shard for unit in units):
        raise SettingError("without pasting, a photograph becomes several pictures, and a sample of a shard has one")
    if options.encoding != Encoding() and any(unit.is_shard for unit in units):
        raise SettingError("results in shards are PNG, without EXIF: a format, a quality and EXIF go with photographs")
    wrong = next((unit for unit in units if not unit.is_shard and not options.encoding.fits(unit.suffix)), None)
    if wrong is not None:
        raise SettingError(f"a result that is named {wrong.suffix} cannot be written as {options.encoding.format}")


def purify_units(
    units: Sequence[Unit],
    shield: Shield,
    options: Options,
    *,
    report: Report = silent,
    watch: Report = silent,
    keep: Keep = lambda *_: None,
    guard: Guard = nullcontext,
) -> Summary:
    """Purify each photograph or shard and write its result; what is there already is not made again.

    ``report`` is called after each unit, ``watch`` before each evaluation of the prior, ``keep`` with every batch of crops
    and what each stage made of it.
    ``guard`` is entered while a photograph is read, and may refuse it by an ``InputError``. What cannot be
    read, purified or written is a failure in the summary, and the job continues with the next one.
    """
    check(units, options)
    batches = Batches(shield, options.batch_size, keep)
    job = _Job(shield, options, batches, guard, report, len(units))
    batches.watch = silent if watch is silent else lambda progress: watch(job.evaluated(progress))
    return job.run(units)


def purify_alone(unit: Unit, shield: Shield, options: Options, tell: Callable[[str], object] = lambda _: None) -> list[bytes]:
    """One photograph, purified, as files: one, or without ``paste`` one per face. Nothing is written.

    ``tell`` is handed a line about possible faces that were not purified, if there are any.

    Raises ``ImageError``, ``NoFaceError``, for an aligned image that is not square ``NotSquareError``, and ``InputError``
    for a file that cannot be read.
    """
    try:
        data = unit.bytes_of(options.max_pixels)
        work = _opened(data, str(unit.source), shield, options)
    except (FacesieveError, OSError) as error:
        raise _known(error, unit.source) from error
    batches = Batches(shield, options.batch_size)
    batches.put(work)
    batches.rest()
    if work.doubt:
        tell(f"{unit.source}: {work.doubt}")
    return work.pictures(options)


class Batches:
    """Purifies faces of many photographs together, in the order in which they were added."""

    def __init__(self, shield: Shield, size: int, keep: Keep = lambda *_: None) -> None:
        self._shield, self._size, self._keep = shield, size, keep
        self._waiting: deque[tuple[Work, int]] = deque()
        self.faces = 0
        self.seconds = 0.0  # inside the purifier
        self.watch: Report = silent  # told how far the batch is
        self.completed = 0  # photographs that the batch completes

    def put(self, work: Work) -> None:
        """Add a photograph, and purify what fills a batch."""
        self._waiting += [(work, number) for number in range(len(work.before))]
        while len(self._waiting) >= self._size:
            self._flush()

    def rest(self) -> None:
        """Purify whatever waits."""
        while self._waiting:
            self._flush()

    def _flush(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        waiting = {id(work) for work, _ in self._waiting}
        self.completed = len({id(work) for work, _ in batch} - waiting)
        begun = time.perf_counter()
        crops = np.stack([work.before.crops[number] for work, number in batch])
        watch = () if self.watch is silent else (self.watch,)
        trace = self._shield.runtime.purify(crops, [work.seeds[number] for work, number in batch], *watch)
        seconds = time.perf_counter() - begun
        self.seconds += seconds
        self.faces += len(batch)
        self._keep(crops, trace)
        for (work, number), crop in zip(batch, trace.crops, strict=True):
            work.put(number, crop, seconds / len(batch))


@dataclass(frozen=True, eq=False)
class _Place:
    """A sample in the order of its source: as it is purified, or why it is not. Without a sample, the unit's end."""

    task: Task
    sample: Sample | None = None
    work: Work | None = None
    problem: FacesieveError | None = None


@dataclass(eq=False)
class _Job:
    """Units on their way: read, purified together, written in order."""

    shield: Shield
    options: Options
    batches: Batches
    guard: Guard
    report: Report
    total: int
    summary: Summary = field(default_factory=Summary)
    ended: int = 0
    open: list[Task] = field(default_factory=list)

    def run(self, units: Sequence[Unit]) -> Summary:
        """Do all of it. Where it is stopped, nothing is left of the units that are being written."""
        try:
            for place in self._in_order(self._read(units)):
                self._write(place)
        except BaseException as error:
            for task in self.open:
                task.drop(error)
            raise
        return self.summary

    def _read(self, units: Sequence[Unit]) -> Iterator[_Place]:
        """The samples of all units that are to be made, and each unit's end."""
        for unit in units:
            try:
                task = FORMATS.load(unit.format)(unit, self.shield.card, self.options)
                if not self.options.overwrite and task.is_done():
                    self.summary.skipped += 1
                    self._tell(unit, task.failures, task.doubts)
                    continue
            except (FacesieveError, OSError) as error:
                self._tell(unit, [Failure.of(_known(error, unit.source), unit.name)])
                continue
            self.open.append(task)
            try:
                task.begin()
                for sample in task.samples():
                    yield _Place(task, sample, *self._opened(sample))
                    if task.error is not None:
                        break
            except (FacesieveError, OSError) as error:
                task.error = task.error or _known(error, unit.source)
            yield _Place(task)

    def _opened(self, sample: Sample) -> tuple[Work | None, FacesieveError | None]:
        if sample.image is None:
            return None, sample.problem
        try:
            with self.guard(sample.key):
                return _opened(sample.image, sample.key, self.shield, self.options), None
        except (FacesieveError, OSError) as error:
            return None, _known(error, sample.key)
        except Exception as error:  # one photograph in a hundred million must not stop the others; its reason names the defect
            return None, InputError(f"unforeseen {type(error).__name__}: {one_line(error)}", sample.key)

    def _in_order(self, places: Iterator[_Place]) -> Iterator[_Place]:
        """The same, purified. Only those are held that wait for a batch, and those behind them."""
        held: deque[_Place] = deque()
        for place in places:
            held.append(place)
            if place.work is not None:
                self.batches.put(place.work)
            # A result differs by rounding with its batch: with a seed, a shard's bytes must depend on the shard alone.
            ends = place.sample is None and place.task.unit.is_shard and self.options.seed is not None
            if ends or len(held) > 4 * self.options.batch_size:  # what queues up behind a batch that does not fill
                self.batches.rest()
            while held and (held[0].work is None or held[0].work.is_done):
                yield held.popleft()
        self.batches.rest()
        yield from held

    def _write(self, place: _Place) -> None:
        task = place.task
        try:
            if place.sample is None:
                self.open.remove(task)
                task.end()
            elif task.error is None:
                task.write(place.sample, place.work, place.problem)
        except (FacesieveError, OSError) as error:
            task.error = task.error or _known(error, task.unit.source)
        if place.sample is not None:
            return
        if task.error is not None:
            self._tell(task.unit, [Failure.of(task.error, task.unit.name)])
            return
        self.summary.units += 1
        self.summary.photographs += task.photographs
        self._tell(task.unit, task.failures, task.doubts)

    def evaluated(self, batch: Progress) -> Progress:
        """How far all of it is, while a batch is on its way; of shards, the part of one that is done is not known."""
        done = self.ended + (
            0 if self.open and self.open[-1].unit.is_shard else self.batches.completed * batch.done / batch.total
        )
        told = self.summary.progress(self.ended, self.total, "")
        return replace(told, done=done, facts={**told.facts, "evaluations": f"{batch.done:.0f} of {batch.total:.0f}"})

    def _tell(self, unit: Unit, failures: Sequence[Failure], doubts: Sequence[str] = ()) -> None:
        """A unit has ended."""
        self.ended += 1
        self.summary.failures += failures
        self.summary.doubts += doubts
        self.summary.faces, self.summary.seconds = self.batches.faces, self.batches.seconds
        self.report(self.summary.progress(self.ended, self.total, unit.name))


def _opened(data: bytes, name: str, shield: Shield, options: Options) -> Work:
    """A photograph's bytes, read, its faces cut out. Raises what ``Shield.cut`` does, and ``ImageError``."""
    photo, dates = read_with_dates(data, max_pixels=options.max_pixels, name=name)
    before = shield.cut(photo, aligned=options.aligned, sha256=sha256_of(data))
    return Work(before, before.seeds(options.seed), dates)


def _known(error: Exception, place: Path | str) -> FacesieveError:
    """The error with its place; one of the operating system as a line."""
    return error.at(place) if isinstance(error, FacesieveError) else InputError(one_line(error), place)
