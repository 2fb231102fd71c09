"""From settings to a running server."""

from __future__ import annotations

import signal
import socket
from dataclasses import replace

import uvicorn
from fastapi import FastAPI

from facesieve.errors import InputError
from facesieve.faces import Detector
from facesieve.galleries import open_gallery
from facesieve.identification import Identifier
from facesieve.purify import Preset, chosen_preset
from facesieve.recognition.embedders import load_embedder
from facesieve.service.app import create_app
from facesieve.service.batcher_local import Engine, Limits
from facesieve.service.handlers import Desk
from facesieve.service.keys import Keys
from facesieve.service.logs import event, log_to_stderr
from facesieve.service.metrics import Metrics
from facesieve.service.proxy import create_proxy
from facesieve.service.settings import Settings
from facesieve.shield import Shield, load_shield


def build_app(settings: Settings) -> FastAPI:
    """The service, or the proxy where ``upstream`` is set, with its networks loaded and its gallery open."""
    shield = shield_of(settings)
    identifier = identifier_of(settings, shield)
    desk = make_desk(settings, shield, identifier)
    desk.open()
    app = app_of(settings, desk)
    if settings.page:
        assert identifier is not None  # a proxy has no page
        _add_page(app, settings, identifier, shield)
    return app


def preset_of(settings: Settings) -> Preset:
    """The preset, or the profile's, at the scale that is set."""
    return chosen_preset(settings.preset).changed(scale=settings.scale)


def shield_of(settings: Settings) -> Shield:
    """The shield, with its network loaded."""
    return load_shield(preset_of(settings), prior=settings.prior, device=settings.device, precision=settings.precision)


def identifier_of(settings: Settings, shield: Shield) -> Identifier | None:
    """The recogniser behind the shield; a proxy has none."""
    return None if settings.upstream else Identifier(load_embedder(settings.embedder), shield)


def app_of(settings: Settings, desk: Desk) -> FastAPI:
    """The service, or the proxy where ``upstream`` is set, over an open desk."""
    keys = None if settings.keys is None else Keys(settings.keys)
    return create_proxy(desk, keys=keys) if settings.upstream else create_app(desk, keys=keys)


def _add_page(app: FastAPI, settings: Settings, identifier: Identifier, shield: Shield) -> None:
    """The page at ``/ui``, with a gallery handle and a detector of its own: the desk's serve the desk's thread alone."""
    from facesieve.page.run import mount

    own = replace(shield, detector=Detector())
    gallery = None if settings.gallery is None else open_gallery(settings.gallery)
    mount(app, identifier.embedder, own, gallery, settings.samples)


def make_desk(settings: Settings, shield: Shield, identifier: Identifier | None) -> Desk:
    """The desk of these parts, with its engine; not opened yet."""
    metrics = Metrics()
    limits = Limits(
        settings.max_batch, settings.batch_wait_ms / 1000, settings.queue_faces, settings.deadline_s, settings.max_wait_s
    )
    engine = Engine(lambda crops, seeds: [(s.name, r) for s, r in shield.trace(crops, seeds)], limits, metrics)
    return Desk(shield, identifier, engine, settings, metrics)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted is finished first. Raises for settings that do not fit."""
    listener = _listen(settings.host, settings.port)
    log_to_stderr(settings.log_level)
    try:
        app = build_app(settings)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=settings.upstream is None,  # the proxy passes that of the server behind
            ws="none",
            timeout_graceful_shutdown=settings.stop_timeout_s,
        )
        # uvicorn raises the signal again once it has stopped; then it must not end the process as if it had crashed.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, lambda *_: None)
        event("listening", {"host": settings.host, "port": listener.getsockname()[1], "proxy": settings.upstream is not None})
        uvicorn.Server(config).run(sockets=[listener])
        event("stopped", {})
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, before anything slow: a taken port is said at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}; choose another host or port") from error
    return listener
