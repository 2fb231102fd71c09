"""The same service on Ray Serve: replicas of the application in front, replicas of the model behind, as many as are needed.

The application reads photographs, finds faces and puts them back; its batcher hands each face to a replica of the
model, which batches the faces of all its callers. Settings mean what they mean on one machine, but
``queue_faces`` applies to each replica of the application, and there is no ``max_wait_s``: waiting faces are
what makes Ray start another replica.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import FastAPI

from facesieve.errors import InputError, PriorError, SettingError, one_line
from facesieve.faces import Crops
from facesieve.hosts import is_loopback
from facesieve.ray_cluster import joined, models_that_fit
from facesieve.runtime import PurifierCard, Trace
from facesieve.service.batcher_ray import RayBatcher
from facesieve.service.handlers import Handlers
from facesieve.service.logs import event, log_to_stderr
from facesieve.service.memory import give_freed_memory_back
from facesieve.service.metrics import Metrics
from facesieve.service.run import app_of, begin_log, identifier_of, limits_of, shield_of
from facesieve.service.settings import Settings

NAME = "facesieve"


def front_app(settings: Settings, model: Any, card: PurifierCard) -> FastAPI:
    """The service, or the proxy where ``upstream`` is set, in front of ``model``, the handle of a deployment."""
    metrics = Metrics()
    batcher = RayBatcher(model, limits_of(settings), metrics)
    handlers = Handlers(batcher, card, identifier_of(settings, card), settings, metrics)
    handlers.open()
    return app_of(settings, handlers)


def _model(settings: Settings, label: str) -> Any:
    """The deployment of the model, with as many replicas as the cluster has room for and the load asks for.

    A replica that would be another purifier than the one of this ``label``, since its files were replaced, does not start.
    """
    from ray import serve

    most, needs = models_that_fit(settings.device, gpu_share=settings.gpu_share)
    gathered: Any = serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.batch_wait_ms / 1000)

    class Model:
        def __init__(self) -> None:
            self._runtime = shield_of(settings).runtime
            if self._runtime.card.label != label:
                raise PriorError("is another one than the service began with", settings.prior, "start the service again")

        @gathered  # type: ignore[untyped-decorator]
        async def purify(self, crops: list[Crops], seeds: list[int]) -> list[Trace]:
            trace = await asyncio.to_thread(self._runtime.purify, np.stack(crops), seeds)  # the next batch fills meanwhile
            return [trace.part(n, n + 1) for n in range(len(crops))]

    return serve.deployment(
        Model,
        name="model",
        ray_actor_options=needs,
        max_ongoing_requests=4 * settings.max_batch,
        max_queued_requests=settings.queue_faces,
        autoscaling_config={"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 2 * settings.max_batch},
    )


def _application(settings: Settings, card: PurifierCard) -> Any:
    from ray import serve

    def build() -> FastAPI:
        from ray import serve

        log_to_stderr(settings.log_level)
        give_freed_memory_back()
        return front_app(settings, serve.get_deployment_handle("model", app_name=NAME), card)

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
    ).bind(_model(settings, card.label).bind())


@contextmanager
def deployed(settings: Settings, address: str) -> Iterator[None]:
    """The service on the Ray at ``address``, answering on the host and port of ``settings``; removed afterwards.

    Raises ``InputError`` for an address without a Ray and for a service that does not come up, and
    what loading the shield raises.
    """
    with joined(address):
        from ray import serve

        # Loaded here once, so that what does not fit is said before anything is started anywhere.
        loaded = shield_of(settings.model_copy(update={"device": "cpu", "precision": "fp32"})).card
        card = replace(loaded, ran_on="in front; the model runs in replicas of its own")
        where = "HeadOnly" if is_loopback(settings.host) else "EveryNode"
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        serve.start(where, {"host": settings.host, "port": settings.port}, logging_config=quiet)
        try:
            _run(_application(settings, card), quiet)
            yield
        finally:
            serve.shutdown()


def _run(application: Any, logging: dict[str, Any]) -> None:
    from ray import serve

    try:
        serve.run(application, name=NAME, logging_config=logging)
    except RuntimeError as error:
        reason = one_line(error)
        raise InputError(f"the service did not come up ({reason})", advice="the logs of Ray's replicas say why") from error


def serve_on(settings: Settings, address: str) -> None:
    """Serve on a cluster until SIGTERM or Ctrl-C; what was accepted is finished first."""
    if settings.page:
        raise SettingError("it is not served on a cluster", "page", "start another service for it")
    if settings.more_presets:
        raise SettingError("a cluster serves one preset", "presets", "start another service for each")
    if "max_wait_s" in settings.model_fields_set:
        raise SettingError("a cluster answers a queue with more replicas", "max_wait_s", "bound it by queue_faces and deadline_s")
    begin_log(settings)
    stop = threading.Event()
    with deployed(settings, address):
        for number in (signal.SIGTERM, signal.SIGINT):  # not before: joining Ray sets handlers of its own, which abort
            signal.signal(number, lambda *_: stop.set())
        event("listening", {"host": settings.host, "port": settings.port, "cluster": address})
        stop.wait()
    event("stopped", {})
