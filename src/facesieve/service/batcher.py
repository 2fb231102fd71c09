"""Batchers: the faces of many clients go through one purifier together.

``LocalBatcher`` has the purifier in this process, ``RayBatcher`` in replicas on a cluster. The ``Admission``
that each of them holds decides who is let in.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from facesieve.errors import FacesieveError
from facesieve.faces import Crops
from facesieve.runtime import Trace
from facesieve.service.metrics import Metrics


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


class Batcher(Protocol):
    """Used from one event loop, between ``start`` and ``stop``."""

    @property
    def ready(self) -> bool:
        """Whether faces are taken."""

    @property
    def waiting(self) -> int:
        """How many faces wait."""

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

    ``pace`` is how long a face takes, seconds, until ``learn`` is told; 0 where it is unknown, so that nobody is
    refused for time.
    """

    def __init__(self, limits: Limits, metrics: Metrics, *, pace: float) -> None:
        self.limits, self.waiting, self.closed = limits, 0, False
        self._metrics, self._pace = metrics, pace
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self, faces: int) -> None:
        """Give ``faces`` their places. Raises ``BusyError`` where there are none, or those before them take too long."""
        if self.closed:
            raise BusyError("the service is stopping")
        if self.waiting + faces > self.limits.queue_faces:
            raise BusyError(f"the queue is full: {self.waiting} of {self.limits.queue_faces} places taken", self._retry_after())
        if self._pace * self.waiting > self.limits.max_wait:
            raise BusyError(f"the queue takes longer than {self.limits.max_wait:g} s", self._retry_after())
        self._count(faces)

    def leave(self, faces: int) -> None:
        """Free the places of ``faces``."""
        self._count(-faces)

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
            raise BusyError(f"no result within {self.limits.deadline:g} s", self._retry_after()) from None

    def _retry_after(self) -> int:
        return min(max(math.ceil(self._pace * self.waiting), 1), 60)

    def _count(self, faces: int) -> None:
        self.waiting += faces
        self._metrics.queue(self.waiting)
        if self.waiting:
            self._empty.clear()
        else:
            self._empty.set()
