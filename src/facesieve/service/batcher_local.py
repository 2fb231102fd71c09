"""The batcher of one process: one thread owns the runtime, and the faces of many clients share its batches.

A request brings one or more faces and waits in a queue that is bounded by the number of faces, and by the time that
those before it will take, at the pace of the last batches: a queue that is right for a GPU would keep a processor's
clients waiting for minutes, even after the rush. A batch starts when ``max_batch`` faces are waiting, or when the
first of them has waited ``batch_wait`` seconds. While one batch runs, the next one fills. A request that is
cancelled leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from facesieve.faces import Crops
from facesieve.runtime import Runtime, Trace
from facesieve.service.batcher import Admission, Limits
from facesieve.service.metrics import Metrics

FIRST_PACE = 0.2  # seconds per face, until a batch was timed


@dataclass(eq=False)
class _Job:
    """One request: its faces are taken in order, perhaps for several batches."""

    crops: Crops
    seeds: Sequence[int]
    done: asyncio.Future[Trace]
    since: float = field(default_factory=time.monotonic)
    taken: int = 0
    parts: list[Trace] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.crops) - self.taken

    def add(self, part: Trace) -> None:
        """The next faces are purified; after the last the request has its result."""
        self.parts.append(part)
        if sum(map(len, self.parts)) == len(self.crops) and not self.done.done():
            self.done.set_result(Trace.joined(self.parts))

    def leave(self) -> None:
        """Nobody waits any more. An error holds frames that hold this job: it must not hold the error in turn."""
        self.done = self.done.get_loop().create_future()
        self.done.cancel()


_Piece = tuple[_Job, int, int]  # faces begin:end of a job


class LocalBatcher:
    """Micro-batching in front of a runtime; see ``Batcher``. With ``beside`` it uses the thread of another, which stops later."""

    def __init__(
        self,
        runtime: Runtime,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        *,
        beside: LocalBatcher | None = None,
    ) -> None:
        self._runtime = runtime
        self._limits, self._metrics = limits or Limits(), metrics or Metrics()
        self.admission = Admission(self._limits, self._metrics, pace=FIRST_PACE)
        self._jobs: deque[_Job] = deque()
        self._changed = asyncio.Event()
        self._own = beside is None
        self._thread: ThreadPoolExecutor = beside._thread if beside else ThreadPoolExecutor(1, thread_name_prefix="runtime")
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take batches."""
        self._loop = asyncio.create_task(self._run(), name="batcher")

    async def stop(self) -> None:
        """Refuse new requests, finish accepted ones, then end the thread."""
        self.admission.close()
        self._changed.set()
        if self._loop is not None:
            await self._loop
        if self._own:
            self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """How many faces wait; those of the running batch do not count."""
        return self.admission.waiting

    @property
    def ready(self) -> bool:
        """Whether faces are taken."""
        return self._loop is not None and not self._loop.done() and not self.admission.closed

    async def purify(self, crops: Crops, seeds: Sequence[int]) -> Trace:
        """See ``Batcher``."""
        self.admission.enter(len(crops))
        job = _Job(crops, seeds, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._changed.set()
        try:
            async with self.admission.deadline():
                return await job.done
        finally:
            self._remove(job)
            job.leave()

    def _remove(self, job: _Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self.admission.leave(job.left)

    async def _run(self) -> None:
        while await self._gather():
            pieces = self._take()
            try:
                await self._purify(pieces)
            except Exception as error:
                await self._one_by_one(pieces, error)
            del pieces  # else the last batch would stay in memory until there is another

    async def _gather(self) -> bool:
        """Wait until a batch is due; False when there will be none any more."""
        while True:
            if not self._jobs:
                if self.admission.closed:
                    return False
                await self._change(None)
                continue
            left = self._jobs[0].since + self._limits.batch_wait - time.monotonic()
            if self.waiting >= self._limits.max_batch or self.admission.closed or left <= 0:
                return True
            await self._change(left)

    async def _change(self, seconds: float | None) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _take(self) -> list[_Piece]:
        pieces: list[_Piece] = []
        room = self._limits.max_batch
        while self._jobs and room:
            job = self._jobs[0]
            if not job.taken:
                self._metrics.waited(time.monotonic() - job.since)
            count = min(room, job.left)
            pieces.append((job, job.taken, job.taken + count))
            job.taken += count
            room -= count
            if not job.left:
                self._jobs.popleft()
        self.admission.leave(sum(end - begin for _, begin, end in pieces))
        return pieces

    async def _purify(self, pieces: Sequence[_Piece]) -> None:
        crops = np.concatenate([job.crops[begin:end] for job, begin, end in pieces])
        seeds = [seed for job, begin, end in pieces for seed in job.seeds[begin:end]]
        begun = time.monotonic()
        trace = await asyncio.get_running_loop().run_in_executor(self._thread, self._runtime.purify, crops, seeds)
        seconds = time.monotonic() - begun
        self.admission.learn(len(crops), seconds)
        self._metrics.batch(len(crops), seconds)
        offset = 0
        for job, begin, end in pieces:
            job.add(trace.part(offset, offset + end - begin))
            offset += end - begin

    async def _one_by_one(self, pieces: Sequence[_Piece], error: Exception) -> None:
        """A batch failed: run each of its requests again alone, so that one does not fail its neighbours."""
        if len(pieces) == 1:
            self._fail(pieces[0][0], error)
            return
        for piece in pieces:
            try:
                await self._purify([piece])
            except Exception as own:
                self._fail(piece[0], own)

    def _fail(self, job: _Job, error: Exception) -> None:
        self._remove(job)
        if not job.done.done():
            job.done.set_exception(error)
