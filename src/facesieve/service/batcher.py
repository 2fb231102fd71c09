"""Batchers: the faces of many clients go through one purifier together.

``LocalBatcher`` has the purifier in this process, ``RayBatcher`` in replicas on a cluster. The ``Admission``
that each of them holds decides who is let in.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from facesieve.errors import FacesieveError
from facesieve.faces import Crops
from facesieve.runtime import Trace
from facesieve.service.metrics import Metrics

FIRST_READING = 0.1  # seconds for a photograph to be read and its faces found, until one was timed
LASTING = 4  # a queue that does not empty for as long as one may wait is cut to this part of it


class BusyError(FacesieveError):
    """No place in the queue, or none in time; ``retry_after`` seconds from now there may be one."""

    def __init__(self, what: str, retry_after: int = 1) -> None:
        super().__init__(what)
        self.retry_after = retry_after
        self.args = (what, retry_after)  # what unpickling calls the class with


@dataclass(frozen=True)
class Limits:
    """How faces are gathered; times in seconds."""

    max_batch: int = 8
    batch_wait: float = 0.01
    queue_faces: int = 64
    deadline: float = 30.0
    max_wait: float = 60.0
    readers: int = 2  # threads that read photographs and find their faces


class Batcher(Protocol):
    """Used from one event loop, between ``start`` and ``stop``."""

    @property
    def ready(self) -> bool:
        """Whether faces are taken."""

    @property
    def waiting(self) -> int:
        """How many faces wait."""

    @property
    def admission(self) -> Admission:
        """Who may wait; it is asked before a photograph is read."""

    async def start(self) -> None:
        """Begin to take faces."""

    async def stop(self) -> None:
        """Refuse what comes from now on, and finish what was accepted."""

    async def purify(self, crops: Crops, seeds: Sequence[int]) -> Trace:
        """Purify ``crops`` (N, 3, S, S) in [0, 1], each with its seed.

        Raises ``BusyError`` where there is no room for all of them or it takes too long, where they were not
        done within the deadline, and after ``stop``. Cancelling frees the places.
        """


class Admission:
    """Who may wait: so many faces, for so long, until it is closed.

    A photograph takes a place before it is read: how many faces it has nobody knows yet, most have one. Reading and the
    network run beside each other, so a photograph waits for the slower of the two. ``pace`` is how long a face takes in the
    network, seconds, until ``learn`` is told; 0 where it is unknown, so that nobody is refused for time.

    Callers at once may wait for ``max_wait``. A queue that was not empty for that long is no crowd but more work than can be
    done: a long one would only make everybody wait, also after the rush. Then a quarter of the time is allowed, behind more
    than a batch of faces or two photographs a reader.
    """

    def __init__(self, limits: Limits, metrics: Metrics, *, pace: float) -> None:
        self.limits, self.waiting, self.unread, self.closed = limits, 0, 0, False
        self._metrics, self._pace, self._reading_pace = metrics, pace, FIRST_READING
        self._busy_since = math.inf  # since when somebody has been waiting all the time
        self._empty = asyncio.Event()
        self._empty.set()

    def check(self, faces: int = 1) -> None:
        """Raise ``BusyError`` where ``faces`` that come now have no place behind all that is here, or wait too long."""
        self._check(faces, self.waiting + self.unread)

    def enter(self, faces: int) -> None:
        """Give ``faces``, whose photograph is read, their places. Raises ``BusyError`` as ``check``: unread ones come later."""
        self._check(faces, self.waiting)
        self._count(faces)

    def leave(self, faces: int) -> None:
        """Free the places of ``faces``."""
        self._count(-faces)

    def begin_reading(self) -> None:
        """Give a photograph that is to be read its place. Raises as ``check``."""
        self.check()
        self.unread += 1
        self._note()

    def end_reading(self, seconds: float | None) -> None:
        """Free that place; reading took so long, or was not begun."""
        self.unread -= 1
        self._note()
        if seconds is not None:
            self._reading_pace = 0.8 * self._reading_pace + 0.2 * seconds

    def close(self) -> None:
        """Let nobody in any more."""
        self.closed = True

    async def empty(self) -> None:
        """Wait until nobody waits."""
        await self._empty.wait()

    def learn(self, faces: int, seconds: float) -> None:
        """A batch of ``faces`` took so long: the pace follows the last few."""
        self._pace = 0.8 * self._pace + 0.2 * seconds / faces

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """What is inside has the deadline's time, or is a ``BusyError``."""
        try:
            async with asyncio.timeout(self.limits.deadline):
                yield
        except TimeoutError:
            raise BusyError(f"no result within {self.limits.deadline:g} s", self.retry_after()) from None

    def retry_after(self) -> int:
        """In how many seconds there may be a place, 1 to 60."""
        return min(max(math.ceil(self._seconds(self.waiting + self.unread)), 1), 60)

    def _check(self, faces: int, before: int) -> None:
        if self.closed:
            raise BusyError("the service is stopping")
        if before + faces > self.limits.queue_faces:
            raise BusyError(f"the queue is full: {before} of {self.limits.queue_faces} places taken", self.retry_after())
        if self._seconds(before) > (longest := self._longest(before)):
            raise BusyError(f"the queue takes longer than {longest:g} s", self.retry_after())

    def _longest(self, before: int) -> float:
        """How long one may wait now behind so many, seconds."""
        limits = self.limits
        lasting = time.monotonic() - self._busy_since > limits.max_wait
        many = self.waiting > limits.max_batch or before - self.waiting > 2 * limits.readers
        return limits.max_wait / LASTING if lasting and many else limits.max_wait

    def _note(self) -> None:
        """Somebody came or left."""
        if not self.waiting + self.unread:
            self._busy_since = math.inf
        elif self._busy_since == math.inf:
            self._busy_since = time.monotonic()

    def _seconds(self, before: int) -> float:
        """How long it takes until so many are through. Without a pace it is not known."""
        if not self._pace:
            return 0.0
        unread = before - self.waiting
        return max(self._pace * before, self._reading_pace * unread / self.limits.readers)

    def _count(self, faces: int) -> None:
        self.waiting += faces
        self._metrics.queue(faces)
        self._note()
        if self.waiting:
            self._empty.clear()
        else:
            self._empty.set()
