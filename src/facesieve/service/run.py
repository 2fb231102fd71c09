"""From settings to a running server."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import uvicorn
from fastapi import FastAPI

from facesieve.errors import InputError, MissingExtraError, one_line
from facesieve.galleries import open_gallery
from facesieve.identification import Identifier
from facesieve.recognition.embedders import load_embedder, second_beside
from facesieve.runtime import PurifierCard, Runtime
from facesieve.service.app import create_app
from facesieve.service.batcher import Limits
from facesieve.service.batcher_local import LocalBatcher
from facesieve.service.connections import connections_of
from facesieve.service.handlers import Handlers
from facesieve.service.keys import Keys
from facesieve.service.logs import event, log_to_stderr
from facesieve.service.memory import give_freed_memory_back
from facesieve.service.metrics import Metrics
from facesieve.service.proxy import create_proxy
from facesieve.service.settings import Settings, has_service_link
from facesieve.shield import Shield, load_shield

SWITCH = 0.001  # seconds that a busy thread keeps the interpreter before the event loop has its turn


def build_app(settings: Settings) -> FastAPI:
    """The service, or the proxy where ``upstream`` is set, with its networks loaded and its gallery open.

    Raises ``MissingExtraError`` where the page is wanted and its extra is not installed.
    """
    if settings.page and find_spec("gradio") is None:  # before the recogniser asks for PyTorch, which the extra brings
        raise MissingExtraError("the page", "page")
    shield = shield_of(settings)
    others = [shield_of(settings.model_copy(update={"preset": name, "scale": None})).runtime for name in settings.more_presets]
    handlers = local_handlers(settings, shield.runtime, others)
    handlers.open()
    app = app_of(settings, handlers)
    if settings.page:
        _add_page(app, settings, handlers, shield)
    return app


def shield_of(settings: Settings) -> Shield:
    """The shield, with its network loaded and run once."""
    from facesieve.purify import chosen_preset

    preset = chosen_preset(settings.preset).changed(scale=settings.scale)
    how = {"device": settings.device, "precision": settings.precision, "runtime": settings.runtime}
    shield = load_shield(preset, prior=settings.prior, **how)
    shield.runtime.purify(np.full((1, 3, shield.card.size, shield.card.size), 0.5, np.float32), [0])
    return shield


def identifier_of(settings: Settings, card: PurifierCard) -> Identifier:
    """The recogniser behind the purifier, and what is done about tampering; a proxy has it for that alone.

    Raises ``SettingError`` for a policy without a threshold.
    """
    policy, own = settings.policy, load_embedder(settings.embedder, gradients=settings.page)
    return Identifier(own, card.label, policy, second_beside(own, policy))


def app_of(settings: Settings, handlers: Handlers) -> FastAPI:
    """The service, or the proxy where ``upstream`` is set, over handlers that are open."""
    keys = None if settings.keys is None else Keys(settings.keys)
    return create_proxy(handlers, keys=keys) if settings.upstream else create_app(handlers, keys=keys)


def _add_page(app: FastAPI, settings: Settings, handlers: Handlers, shield: Shield) -> None:
    """The page at ``/ui``, with a gallery handle of its own: the handlers' serves their thread alone."""
    from facesieve.page.run import mount

    gallery = None if settings.gallery is None else open_gallery(settings.gallery)
    mount(app, handlers.identifier.embedder, shield, gallery, settings.samples, max_pixels=settings.max_pixels)


def local_handlers(settings: Settings, runtime: Runtime, others: Sequence[Runtime] = ()) -> Handlers:
    """Handlers whose batchers have the purifiers in this process, all in one thread; not opened yet."""
    metrics, limits = Metrics(), limits_of(settings)
    batcher, card = LocalBatcher(runtime, limits, metrics), runtime.card
    beside = {one.card.name: (LocalBatcher(one, limits, metrics, beside=batcher), one.card) for one in others}
    return Handlers(batcher, card, identifier_of(settings, card), settings, metrics, others=beside)


def limits_of(settings: Settings) -> Limits:
    """How faces are gathered."""
    wait = settings.batch_wait_ms / 1000
    return Limits(settings.max_batch, wait, settings.queue_faces, settings.deadline_s, settings.max_wait_s, settings.readers)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted is finished first. Raises for settings that do not fit."""
    give_freed_memory_back()
    listener = _listen(settings.host, settings.port)
    begin_log(settings)
    try:
        app = build_app(settings)
        config = server_config(app, settings)
        # uvicorn raises the signal again once it has stopped; it must not end the process as if it had crashed.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, lambda *_: None)
        event("listening", {"host": settings.host, "port": listener.getsockname()[1], "proxy": settings.upstream is not None})
        sys.setswitchinterval(SWITCH)
        uvicorn.Server(config).run(sockets=[listener])
        event("stopped", {})
    finally:
        listener.close()


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        http=connections_of(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=settings.upstream is None,  # the proxy passes that of the server behind
        ws="none",
        timeout_graceful_shutdown=settings.stop_timeout_s,
    )


def begin_log(settings: Settings) -> None:
    """Log to standard error from now on, beginning with a variable that is not taken for a setting."""
    log_to_stderr(settings.log_level)
    if has_service_link():
        fields: dict[str, object] = {
            "variable": "FACESIEVE_PORT",
            "reason": "Kubernetes made it for a Service; set enableServiceLinks: false",
        }
        event("ignored", fields, logging.WARNING)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, before anything slow: a taken port is reported at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen there: {one_line(error)}", f"{host}:{port}", "choose another host or port") from error
    return listener
