"""Purify photographs, in files or in shards: batched across all of them, resumable, one bad photograph stops nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field

import numpy as np

from facesieve.errors import FacesieveError, InputError, SettingError, one_line
from facesieve.faces import Crops
from facesieve.files import sha256_of
from facesieve.images import read_photo
from facesieve.jobs.formats import FORMATS, Sample, Task, Unit
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
    skipped: int = 0  # that were there already
    photographs: int = 0
    faces: int = 0
    seconds: float = 0.0  # inside the purifier
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Count ``other`` in."""
        self.units += other.units
        self.skipped += other.skipped
        self.photographs += other.photographs
        self.faces += other.faces
        self.seconds += other.seconds
        self.failures += other.failures

    def progress(self, done: int, total: int, what: str) -> Progress:
        """How far it is, with figures."""
        rate = {"faces/s": f"{self.faces / self.seconds:.1f}"} if self.seconds else {}
        return Progress(done, total, what, {"faces": str(self.faces), **rate})


def check(units: Iterable[Unit], options: Options) -> None:
    """Raises ``SettingError`` for what photographs can have and shards cannot."""
    if not options.paste and any(unit.is_shard for unit in units):
        raise SettingError("without pasting, a photograph becomes several pictures, and a sample of a shard has one")


def purify_units(
    units: Sequence[Unit],
    shield: Shield,
    options: Options,
    *,
    report: Report = silent,
    keep: Keep = lambda *_: None,
    guard: Guard = nullcontext,
) -> Summary:
    """Purify each photograph or shard and write its result; what is there already is not made again.

    ``report`` is called after each unit, ``keep`` with every batch of crops and what each stage made of it.
    ``guard`` is entered while a photograph is read, and may refuse it by an ``InputError``. What cannot be
    read, purified or written is a failure in the summary, and the next one is taken.
    """
    check(units, options)
    job = _Job(shield, options, Batches(shield, options.batch_size, keep), guard, report, len(units))
    try:
        for unit in units:
            job.take(unit)
        job.rest()
    except BaseException as error:
        job.abandon(error)
        raise
    return job.summary


def purify_alone(unit: Unit, shield: Shield, options: Options) -> list[bytes]:
    """One photograph, purified, as PNG files: one, or without ``paste`` one a face. Nothing is written.

    Raises ``ImageError``, ``NoFaceError``, for an aligned image that is not square ``NotSquareError``, and ``InputError``
    for a file that cannot be read.
    """
    try:
        data = unit.source.read_bytes() if unit.data is None else unit.data
        work = _opened(data, str(unit.source), shield, options)
    except (FacesieveError, OSError) as error:
        raise _known(error, unit) from error
    batches = Batches(shield, options.batch_size)
    batches.put(work)
    batches.rest()
    return work.pictures(paste=options.paste or options.aligned)


class Batches:
    """Purifies faces of many photographs together, in the order in which they were put in."""

    def __init__(self, shield: Shield, size: int, keep: Keep = lambda *_: None) -> None:
        self._shield, self._size, self._keep = shield, size, keep
        self._waiting: deque[tuple[Work, int]] = deque()
        self.faces = 0
        self.seconds = 0.0  # inside the purifier

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
        begun = time.perf_counter()
        crops = np.stack([work.before.crops[number] for work, number in batch])
        trace = self._shield.runtime.purify(crops, [work.seeds[number] for work, number in batch])
        seconds = time.perf_counter() - begun
        self.seconds += seconds
        self.faces += len(batch)
        self._keep(crops, trace)
        for (work, number), crop in zip(batch, trace.crops, strict=True):
            work.put(number, crop, seconds / len(batch))


@dataclass(eq=False)
class _Open:
    """A unit that is being written."""

    task: Task
    stack: ExitStack = field(default_factory=ExitStack)
    error: FacesieveError | None = None  # why it is given up


@dataclass(frozen=True, eq=False)
class _Place:
    """A sample in the order of its source; without one, the end of its unit."""

    unit: _Open
    sample: Sample | None = None
    work: Work | None = None
    problem: FacesieveError | None = None

    @property
    def is_ready(self) -> bool:
        return self.work is None or self.work.is_done


@dataclass(eq=False)
class _Job:
    """Units on their way. Only those samples are held that wait for a batch, and those behind them."""

    shield: Shield
    options: Options
    batches: Batches
    guard: Guard
    report: Report
    total: int
    summary: Summary = field(default_factory=Summary)
    ended: int = 0
    held: deque[_Place] = field(default_factory=deque)
    open: deque[_Open] = field(default_factory=deque)

    def take(self, unit: Unit) -> None:
        """Read a unit, and write what is ready."""
        try:
            task = FORMATS.load(unit.format).open(unit, self.shield.card, self.options)
            if not self.options.overwrite and task.is_done():
                self.summary.skipped += 1
                self.summary.failures += task.failures
                self._tell(unit)
                return
        except (FacesieveError, OSError) as error:
            self._fail(unit, error)
            return
        begun = _Open(task)
        self.open.append(begun)
        for sample in self._samples(begun):
            self._put(begun, sample)
            if begun.error is not None:
                break
        self.held.append(_Place(begun))
        if unit.is_shard and self.options.seed is not None:
            self.batches.rest()  # a result differs by rounding with its batch; a shard's bytes must depend on the shard alone
        self._write_ready()

    def rest(self) -> None:
        """Purify and write whatever is left."""
        self.batches.rest()
        self._write_ready()

    def abandon(self, error: BaseException) -> None:
        """Leave nothing of the units that are being written."""
        for begun in self.open:
            with suppress(BaseException):
                begun.stack.__exit__(type(error), error, None)

    def _samples(self, begun: _Open) -> Iterator[Sample]:
        try:
            begun.stack.enter_context(begun.task.writing())
            yield from begun.task.samples()
        except (FacesieveError, OSError) as error:
            begun.error = begun.error or _known(error, begun.task.unit)

    def _put(self, begun: _Open, sample: Sample) -> None:
        work: Work | None = None
        problem: FacesieveError | None = sample.problem
        try:
            if sample.image is not None:
                with self.guard(sample.key):
                    work = _opened(sample.image, sample.key, self.shield, self.options)
        except (FacesieveError, OSError) as error:
            problem = _known(error, sample.key)
        except Exception as error:  # one photograph in a hundred million must not stop the others; its reason names the defect
            problem = InputError(f"unforeseen {type(error).__name__}: {error}", sample.key)
        self.held.append(_Place(begun, sample, work, problem))
        if work is not None:
            self.batches.put(work)
        if len(self.held) > 4 * self.options.batch_size:  # what queues up behind a photograph whose batch does not fill
            self.batches.rest()
        self._write_ready()

    def _write_ready(self) -> None:
        while self.held and self.held[0].is_ready:
            place = self.held.popleft()
            begun = place.unit
            try:
                if place.sample is None:
                    self._end(begun)
                elif begun.error is None:
                    begun.task.write(place.sample, place.work, place.problem)
            except (FacesieveError, OSError) as error:
                begun.error = begun.error or _known(error, begun.task.unit)
            if place.sample is None:
                self._count(begun)

    def _end(self, begun: _Open) -> None:
        """Complete a unit's result, or leave nothing of it."""
        self.open.remove(begun)
        if begun.error is None:
            begun.stack.close()
        else:
            begun.stack.__exit__(type(begun.error), begun.error, None)

    def _count(self, begun: _Open) -> None:
        if begun.error is not None:
            self._fail(begun.task.unit, begun.error)
            return
        self.summary.units += 1
        self.summary.photographs += begun.task.photographs
        self.summary.failures += begun.task.failures
        self._tell(begun.task.unit)

    def _fail(self, unit: Unit, error: Exception) -> None:
        self.summary.failures.append(Failure.of(_known(error, unit), unit.name))
        self._tell(unit)

    def _tell(self, unit: Unit) -> None:
        self.ended += 1
        self.summary.faces, self.summary.seconds = self.batches.faces, self.batches.seconds
        self.report(self.summary.progress(self.ended, self.total, unit.name))


def _opened(data: bytes, name: str, shield: Shield, options: Options) -> Work:
    """A photograph's bytes, read, its faces cut out. Raises what ``Shield.cut`` does, and ``ImageError``."""
    before = shield.cut(read_photo(data, name=name), aligned=options.aligned, sha256=sha256_of(data))
    return Work(before, before.seeds(options.seed))


def _known(error: Exception, where: Unit | str) -> FacesieveError:
    """The error with its place; one of the operating system as a line."""
    place = where.source if isinstance(where, Unit) else where
    return error.at(place) if isinstance(error, FacesieveError) else InputError(one_line(error), place)
