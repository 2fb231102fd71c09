"""Threads that read photographs, find their faces and write results, beside the thread of the network.

What is to be written goes before what is to be read: its photograph is in memory, and
leaves it the sooner, so that no more of them are held than the queue has places.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from facesieve.service.batcher import Admission

T = TypeVar("T")


class Readers:
    """So many threads; who is let in before a photograph is read, ``admission`` says. Used from one event loop."""

    def __init__(self, threads: int, admission: Admission) -> None:
        self._admission = admission
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="readers")
        self._lock = threading.Lock()
        self._to_write, self._to_read = (
            deque[tuple[Future[Any], Callable[[], Any]]](),
            deque[tuple[Future[Any], Callable[[], Any]]](),
        )

    def close(self) -> None:
        """Finish what was begun, and end the threads."""
        self._threads.shutdown()

    async def read(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which reads a photograph. Raises ``BusyError`` at once where there is no place.

        If cancelled before its turn it is not done; after that its place is free when it ends.
        """
        loop, begun = asyncio.get_running_loop(), list[float]()

        def timed() -> T:
            begun.append(time.monotonic())
            return work()

        def end(_: Future[T]) -> None:
            seconds = time.monotonic() - begun[0] if begun else None
            loop.call_soon_threadsafe(partial(self._admission.end_reading, seconds))

        self._admission.begin_reading()
        return await asyncio.wrap_future(self._submit(timed, self._to_read, end))  # no name: see _next

    async def write(self, work: Callable[[], T]) -> T:
        """The result of ``work``, before all that is to be read."""
        return await asyncio.wrap_future(self._submit(work, self._to_write))

    def _submit(
        self,
        work: Callable[[], T],
        queue: deque[tuple[Future[Any], Callable[[], Any]]],
        end: Callable[[Future[T]], None] | None = None,
    ) -> Future[T]:
        future = Future[T]()
        if end is not None:  # before the loop is told of the result: the place is free by then
            future.add_done_callback(end)
        with self._lock:
            queue.append((future, work))
        self._threads.submit(self._next)
        return future

    def _next(self) -> None:
        with self._lock:
            future, work = (self._to_write or self._to_read).popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
        del future, work  # an error holds this frame, and would hold itself by the future
