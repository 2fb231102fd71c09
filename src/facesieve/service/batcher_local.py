"""One thread owns the model; faces of many clients are purified together.

A request brings one face or more and waits in a queue that is bounded by faces, and by the time that
those before it will take, at the pace of the last batches: a queue that is right for a GPU would hold
a processor's clients for minutes, and go on doing so after the rush. A batch is begun
when ``max_batch`` faces wait, or when the first of them has waited for ``batch_wait`` seconds. While
one batch runs the next one gathers. A request that is cancelled leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from facesieve.errors import FacesieveError

Stages = list[tuple[str, Tensor]]  # each stage's name and its result (N, 3, S, S)
Model = Callable[[Tensor, Sequence[int]], Stages]  # crops (B, 3, S, S) in [0, 1] and a seed for each


class BusyError(FacesieveError):
    """No place in the queue, or none in time; ``retry_after`` seconds from now there may be one."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """How faces are gathered; times in seconds."""

    max_batch: int = 8
    batch_wait: float = 0.01
    queue_faces: int = 64
    deadline: float = 30.0
    max_wait: float = 60.0


class Watch:
    """What an engine tells of itself; does nothing. Called in the event loop's thread."""

    def queue(self, faces: int) -> None:
        """So many faces wait now."""

    def waited(self, seconds: float) -> None:
        """A request waited this long until its first face was taken."""

    def batch(self, faces: int, seconds: float) -> None:
        """A batch of so many faces took this long."""


@dataclass(eq=False)
class _Job:
    """One request: its faces are taken in order, perhaps for several batches."""

    crops: Tensor
    seeds: Sequence[int]
    done: asyncio.Future[Stages]
    since: float = field(default_factory=time.monotonic)
    taken: int = 0
    parts: list[Stages] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.crops) - self.taken


_Piece = tuple[_Job, int, int]  # faces begin:end of a job


class Engine:
    """Micro-batching in front of a model. Used from one event loop, between ``start`` and ``stop``."""

    def __init__(self, model: Model, limits: Limits | None = None, watch: Watch | None = None) -> None:
        self._model = model
        self.limits = limits or Limits()
        self._watch = watch or Watch()
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._pace = 0.2  # seconds a face, learnt from the batches; decides who is refused, and Retry-After
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take batches."""
        self._loop = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """Refuse what comes from now on, finish what was accepted, then let the thread go."""
        self._closing = True
        self._changed.set()
        if self._loop is not None:
            await self._loop
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """How many faces wait; those of the running batch do not count."""
        return self._waiting

    @property
    def ready(self) -> bool:
        """Whether faces are taken."""
        return self._loop is not None and not self._loop.done() and not self._closing

    async def purify(self, crops: Tensor, seeds: Sequence[int]) -> Stages:
        """Each stage's result for ``crops`` (N, 3, S, S) in [0, 1] with their ``seeds``; (N, 3, S, S) each.

        Raises ``BusyError`` where the queue has no room for all of them or takes too long, where they
        were not done within the deadline, and after ``stop``. Cancelling frees the places.
        """
        if self._closing:
            raise BusyError("the service is stopping", 1)
        if self._waiting + len(crops) > self.limits.queue_faces:
            raise BusyError(f"{self._waiting} faces wait already, of {self.limits.queue_faces} places", self._retry_after())
        if self._pace * self._waiting > self.limits.max_wait:
            raise BusyError(f"{self._waiting} faces wait already, longer than {self.limits.max_wait:g} s", self._retry_after())
        job = _Job(crops, seeds, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._count(len(crops))
        self._changed.set()
        try:
            async with asyncio.timeout(self.limits.deadline):
                return await job.done
        except TimeoutError:
            raise BusyError(f"no result within {self.limits.deadline:g} s", self._retry_after()) from None
        finally:
            self._leave(job)

    def _retry_after(self) -> int:
        return min(max(math.ceil(self._pace * self._waiting), 1), 60)

    def _count(self, faces: int) -> None:
        self._waiting += faces
        self._watch.queue(self._waiting)

    def _leave(self, job: _Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self._count(-job.left)

    async def _run(self) -> None:
        while await self._gather():
            pieces = self._take()
            try:
                await self._purify(pieces)
            except Exception as error:
                await self._one_by_one(pieces, error)

    async def _gather(self) -> bool:
        """Wait until a batch is due; False when there will be none any more."""
        while True:
            if not self._jobs:
                if self._closing:
                    return False
                await self._change(None)
                continue
            left = self._jobs[0].since + self.limits.batch_wait - time.monotonic()
            if self._waiting >= self.limits.max_batch or self._closing or left <= 0:
                return True
            await self._change(left)

    async def _change(self, seconds: float | None) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _take(self) -> list[_Piece]:
        pieces: list[_Piece] = []
        room = self.limits.max_batch
        while self._jobs and room:
            job = self._jobs[0]
            if not job.taken:
                self._watch.waited(time.monotonic() - job.since)
            count = min(room, job.left)
            pieces.append((job, job.taken, job.taken + count))
            job.taken += count
            room -= count
            if not job.left:
                self._jobs.popleft()
        self._count(-sum(end - begin for _, begin, end in pieces))
        return pieces

    async def _purify(self, pieces: Sequence[_Piece]) -> None:
        crops = torch.cat([job.crops[begin:end] for job, begin, end in pieces])
        seeds = [seed for job, begin, end in pieces for seed in job.seeds[begin:end]]
        begun = time.monotonic()
        stages = await asyncio.get_running_loop().run_in_executor(self._thread, self._model, crops, seeds)
        seconds = time.monotonic() - begun
        self._pace = 0.8 * self._pace + 0.2 * seconds / len(crops)
        self._watch.batch(len(crops), seconds)
        offset = 0
        for job, begin, end in pieces:
            job.parts.append([(name, result[offset : offset + end - begin]) for name, result in stages])
            offset += end - begin
            if sum(len(part[0][1]) for part in job.parts) == len(job.crops) and not job.done.done():
                job.done.set_result([(parts[0][0], torch.cat([p for _, p in parts])) for parts in zip(*job.parts, strict=True)])

    async def _one_by_one(self, pieces: Sequence[_Piece], error: Exception) -> None:
        """A batch failed: each of its requests again by itself, so that one does not fail its neighbours."""
        for piece in pieces:
            job = piece[0]
            try:
                if len(pieces) == 1:
                    raise error
                await self._purify([piece])
            except Exception as own:
                self._leave(job)
                if not job.done.done():
                    job.done.set_exception(own)
