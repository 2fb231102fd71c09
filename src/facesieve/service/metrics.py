"""The service's figures for Prometheus. No label holds anything that a caller chose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_FACES = (1, 2, 4, 8, 16, 32, 64)
_TAMPER = tuple(tenth / 10 for tenth in range(1, 11))
_CHANGE = tuple(level / 255 for level in (1, 2, 4, 6, 8, 12, 16, 24, 32))

Outcome = Literal["purified", "passed", "refused"]  # of an image in a call to the server behind


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("facesieve_requests", "Requests", ["route", "method", "status"], registry=registry)
        self._seconds = Histogram(
            "facesieve_request_seconds", "Time of a request", ["route"], buckets=_SECONDS, registry=registry
        )
        self._phases = Histogram(
            "facesieve_phase_seconds", "Time of a phase of a request", ["phase"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram("facesieve_batch_faces", "Faces in a batch", buckets=_FACES, registry=registry)
        self._queue = Gauge("facesieve_queue_faces", "Faces that wait", registry=registry)
        self._active = Gauge("facesieve_active_requests", "Requests in progress", registry=registry)
        self._faces = Counter("facesieve_faces", "Faces purified", registry=registry)
        self._images = Counter("facesieve_gate_images", "Images in calls to the server behind", ["outcome"], registry=registry)
        self._change = Histogram(
            "facesieve_face_change",
            "Mean absolute difference that the shield made to a face, 0 to 1",
            buckets=_CHANGE,
            registry=registry,
        )
        self._tamper = Histogram(
            "facesieve_tamper_score",
            "1 - cosine of a face before and behind the shield, of identified faces",
            buckets=_TAMPER,
            registry=registry,
        )

    def queue(self, faces: int) -> None:
        """So many faces more wait now, or fewer: there may be several queues."""
        self._queue.inc(faces)

    def waited(self, seconds: float) -> None:
        """A request waited this long for its batch."""
        self._phases.labels("wait").observe(seconds)

    def batch(self, faces: int, seconds: float) -> None:
        """A batch was purified."""
        self._batches.observe(faces)
        self._faces.inc(faces)
        self._phases.labels("purify").observe(seconds)

    def change(self, amount: float) -> None:
        """The shield changed a face by so much."""
        self._change.observe(amount)

    def tamper(self, score: float) -> None:
        """A face that was identified has this tamper score."""
        self._tamper.observe(score)

    def images(self, outcome: Outcome, count: int) -> None:
        """So many images of a call to the server behind were purified, passed on as they were, or refused."""
        self._images.labels(outcome).inc(count)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def active(self, requests: int) -> None:
        """So many requests are in progress."""
        self._active.set(requests)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase: read, detect, embed, search, encode, upstream."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._phases.labels(name).observe(time.perf_counter() - begun)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
