"""The application: the routes, the routes of its health, errors as problems, and the handlers behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import facesieve
from facesieve.service.access import allowed
from facesieve.service.handlers import Handlers
from facesieve.service.keys import Keys
from facesieve.service.middleware import RequestMiddleware
from facesieve.service.problems import MEDIA_TYPE, ProblemError
from facesieve.service.routes import router

DESCRIPTION = "Removes adversarial perturbations from face photographs before they are identified."


def create_app(handlers: Handlers, *, keys: Keys | None = None) -> FastAPI:
    """The service as an ASGI application. ``keys`` None asks for no keys: only on loopback."""
    app = bare_app(handlers, keys=keys, prefix="")
    app.include_router(router)
    return app


def bare_app(handlers: Handlers, *, keys: Keys | None, prefix: str, docs: bool = True) -> FastAPI:
    """An application with its handlers, its health and its errors, and nothing else yet; ``prefix`` goes before ``/healthz``."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await handlers.batcher.start()
        yield
        await handlers.close()

    places = {"docs_url": "/docs", "redoc_url": None, "openapi_url": "/openapi.json"} if docs else dict.fromkeys(_DOCS)
    app = FastAPI(title="facesieve", version=facesieve.__version__, description=DESCRIPTION, lifespan=lifespan, **places)
    app.state.handlers, app.state.keys = handlers, keys
    _add_health(app, handlers, prefix)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    free = frozenset(prefix + path for path in ("/healthz", "/readyz", "/metrics"))
    settings = handlers.settings
    app.add_middleware(
        RequestMiddleware,
        metrics=handlers.metrics,
        max_requests=settings.max_requests,
        free=free,
        body_timeout=settings.body_timeout_s,
    )
    return app


_DOCS = ("docs_url", "redoc_url", "openapi_url")


def _add_health(app: FastAPI, handlers: Handlers, prefix: str) -> None:
    @app.get(prefix + "/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get(prefix + "/readyz")
    async def readyz() -> dict[str, str]:
        """Photographs are taken; 503 before the model is loaded and while the service stops."""
        if not handlers.batcher.ready:
            raise ProblemError(503, "not-ready", "no faces are taken now", {"Retry-After": "1"})
        return {"status": "ready"}

    open_ = [] if handlers.settings.open_metrics else [Depends(allowed(None))]

    @app.get(prefix + "/metrics", dependencies=open_)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(handlers.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _answer(request: Request, problem: ProblemError) -> Response:
    body = problem.body(request.state.request_id)
    return Response(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "method"}.get(error.status_code, "input")
    return _answer(request, ProblemError(error.status_code, kind, str(error.detail), dict(error.headers or {})))


async def _validation(request: Request, error: Exception) -> Response:
    """What was wrong with the query; without the value, which may be anything."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _answer(request, ProblemError(422, "input", f"{first['loc'][-1]}: {first['msg']}"))
