"""The same service on Ray Serve: replicas of the application in front, replicas of the model behind, as many as are needed.

The application reads, finds faces, and puts them back; its engine hands each face to a replica of the
model, which gathers faces of all its callers into batches. Settings mean what they mean on one
machine, but that ``queue_faces`` counts for each replica of the application, and that there is no
``max_wait_s``: faces that wait are what makes Ray start another replica.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from torch import Tensor

from facesieve.errors import FacesieveError, InputError, SettingError
from facesieve.hardware import Hardware
from facesieve.hosts import is_loopback
from facesieve.purify import Stage
from facesieve.ray_cluster import joined, models_that_fit
from facesieve.service.batcher_local import BusyError, Engine, Limits, Stages, Watch
from facesieve.service.handlers import Desk
from facesieve.service.logs import event, log_to_stderr
from facesieve.service.metrics import Metrics
from facesieve.service.run import app_of, identifier_of, preset_of, shield_of
from facesieve.service.settings import Settings
from facesieve.shield import Shield

NAME = "facesieve"
TRIES = 3  # of a face whose replica dies

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _ElsewherePrior:
    """Stands where the network is on one machine; here it is in the model's replicas."""

    shape: tuple[int, int, int]

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        raise FacesieveError("the prior runs in the replicas of the model, not here")


@dataclass(frozen=True, eq=False)
class _FrontShield(Shield):
    """Finds and cuts faces; they are purified elsewhere."""

    def trace(self, crops: Tensor, seeds: Sequence[int] | None = None) -> list[tuple[Stage, Tensor]]:
        """The crops as they are: called to warm up, and there is nothing to warm."""
        return [(self.purifier.stages[-1], crops)]


class ClusterEngine(Engine):
    """An engine whose batches are made by the replicas of the model; ``model`` is their handle."""

    def __init__(self, model: Any, limits: Limits, watch: Watch) -> None:
        super().__init__(lambda *_: [], limits, watch)
        self._replicas = model
        self._started = False

    async def start(self) -> None:
        """Faces are taken from now on."""
        self._started = True

    async def stop(self) -> None:
        """Refuse what comes from now on, and finish what was accepted."""
        self._closing = True
        while self.waiting:
            await asyncio.sleep(0.01)

    @property
    def ready(self) -> bool:
        """Whether faces are taken."""
        return self._started and not self._closing

    async def purify(self, crops: Tensor, seeds: Sequence[int]) -> Stages:
        """As any engine; a face whose replica dies is handed to another."""
        if self._closing:
            raise BusyError("the service is stopping", 1)
        if self.waiting + len(crops) > self.limits.queue_faces:
            raise BusyError(f"{self.waiting} faces wait already, of {self.limits.queue_faces} places", 1)
        self._count(len(crops))
        faces = [asyncio.ensure_future(self._face(crop, seed)) for crop, seed in zip(crops.numpy(), seeds, strict=True)]
        try:
            async with asyncio.timeout(self.limits.deadline):
                results = await asyncio.gather(*faces)
        except TimeoutError:
            raise BusyError(f"no result within {self.limits.deadline:g} s", 1) from None
        finally:
            for face in faces:
                face.cancel()
            self._count(-len(crops))
        return [
            (stages[0][0], torch.from_numpy(np.stack([result for _, result in stages]))) for stages in zip(*results, strict=True)
        ]

    async def _face(self, crop: Array, seed: int) -> list[tuple[str, Array]]:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        for left in reversed(range(TRIES)):
            try:
                result: list[tuple[str, Array]] = await self._replicas.purify.remote(crop, seed)
                return result
            except BackPressureError as error:
                raise BusyError("the replicas of the model have no room", 1) from error
            except RayActorError:  # the same seed gives the same result, whoever computes it
                if not left:
                    raise
        raise AssertionError


def _front(settings: Settings, size: int, prior_sha256: str) -> _FrontShield:
    preset = preset_of(settings)
    path = Hardware(torch.device("cpu"), torch.float32, "in front; the model runs in replicas of its own")
    return _FrontShield(preset, preset.with_prior(_ElsewherePrior((3, size, size))), size, prior_sha256, path)


def front_app(settings: Settings, model: Any, size: int, prior_sha256: str) -> FastAPI:
    """The service, or the proxy where ``upstream`` is set, in front of ``model``, the handle of a deployment."""
    shield, metrics = _front(settings, size, prior_sha256), Metrics()
    limits = Limits(settings.max_batch, 0.0, settings.queue_faces, settings.deadline_s)
    desk = Desk(shield, identifier_of(settings, shield), ClusterEngine(model, limits, metrics), settings, metrics)
    desk.open()
    return app_of(settings, desk)


def _model(settings: Settings) -> Any:
    """The deployment of the model, with as many replicas as the cluster has room for and the load asks for."""
    from ray import serve

    most, needs = models_that_fit(settings.device)
    gathered: Any = serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.batch_wait_ms / 1000)

    class Model:
        def __init__(self) -> None:
            self._shield = shield_of(settings)
            self._shield.trace(torch.full((1, 3, self._shield.size, self._shield.size), 0.5), [0])

        @gathered  # type: ignore[untyped-decorator]
        async def purify(self, crops: list[Array], seeds: list[int]) -> list[list[tuple[str, Array]]]:
            batch = torch.from_numpy(np.stack(crops))
            stages = await asyncio.to_thread(self._shield.trace, batch, seeds)  # one batch at a time; the next one gathers
            return [[(stage.name, result[n].numpy()) for stage, result in stages] for n in range(len(crops))]

    return serve.deployment(
        Model,
        name="model",
        ray_actor_options=needs,
        max_ongoing_requests=4 * settings.max_batch,
        max_queued_requests=settings.queue_faces,
        autoscaling_config={"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 2 * settings.max_batch},
    )


def _application(settings: Settings, size: int, prior_sha256: str) -> Any:
    from ray import serve

    def build() -> FastAPI:
        from ray import serve

        log_to_stderr(settings.log_level)
        return front_app(settings, serve.get_deployment_handle("model", app_name=NAME), size, prior_sha256)

    # A gallery in a folder has one owner; one on a server, or none, may have many callers.
    alone = settings.gallery is not None and "://" not in settings.gallery
    most = 1 if alone else models_that_fit("cpu")[0]
    return serve.deployment(
        serve.ingress(build)(),
        name="service",
        max_ongoing_requests=settings.max_requests,
        graceful_shutdown_timeout_s=settings.stop_timeout_s,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": most,
            "target_ongoing_requests": max(1, settings.max_requests // 4),
        },
    ).bind(_model(settings).bind())


@contextmanager
def deployed(settings: Settings, address: str) -> Iterator[None]:
    """The service on the Ray at ``address``, answering on the host and port of ``settings``; removed afterwards.

    Raises ``InputError`` for an address without a Ray and for a service that does not come up, and
    what loading the shield raises.
    """
    with joined(address):
        from ray import serve

        # Loaded here once, so that what does not fit is said before anything is started anywhere.
        shield = shield_of(settings.model_copy(update={"device": "cpu", "precision": "fp32"}))
        where = "HeadOnly" if is_loopback(settings.host) else "EveryNode"
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        serve.start(where, {"host": settings.host, "port": settings.port}, logging_config=quiet)
        try:
            _run(_application(settings, shield.size, shield.prior_sha256), quiet)
            yield
        finally:
            serve.shutdown()


def _run(application: Any, logging: dict[str, Any]) -> None:
    from ray import serve

    try:
        serve.run(application, name=NAME, logging_config=logging)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the service did not come up ({reason}); the logs of Ray's replicas say why") from error


def serve_on(settings: Settings, address: str) -> None:
    """Serve on a cluster until SIGTERM or Ctrl-C; what was accepted is finished first."""
    if settings.page:
        raise SettingError("page: it is not served on a cluster; start another service, or `facesieve ui`")
    if "max_wait_s" in settings.model_fields_set:
        raise SettingError("max_wait_s: a cluster answers a queue with more replicas; bound it by queue_faces and deadline_s")
    log_to_stderr(settings.log_level)
    stop = threading.Event()
    with deployed(settings, address):
        for number in (signal.SIGTERM, signal.SIGINT):  # not before: joining Ray sets handlers of its own, which abort
            signal.signal(number, lambda *_: stop.set())
        event("listening", {"host": settings.host, "port": settings.port, "cluster": address})
        stop.wait()
    event("stopped", {})
