"""The application: the routes, the routes of its health, errors as problems, and the handlers behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

import facesieve
from facesieve.hosts import is_loopback
from facesieve.service import routes_gallery
from facesieve.service.access import allowed
from facesieve.service.handlers import Handlers
from facesieve.service.keys import Keys
from facesieve.service.middleware import RequestMiddleware
from facesieve.service.problems import MEDIA_TYPE, ProblemError
from facesieve.service.routes import router
from facesieve.service.schemas import problem_responses
from facesieve.service.trust import OwnMachine

DESCRIPTION = "Removes adversarial perturbations from face photographs before they are identified."


def create_app(handlers: Handlers, *, keys: Keys | None = None) -> FastAPI:
    """The service as an ASGI application. ``keys`` None asks for no keys: only on loopback."""
    app = bare_app(handlers, keys=keys, prefix="")
    app.include_router(router)
    app.include_router(routes_gallery.router)
    return app


def bare_app(handlers: Handlers, *, keys: Keys | None, prefix: str, docs: bool = True) -> FastAPI:
    """An application with its handlers, its health and its errors, and nothing else yet; ``prefix`` goes before ``/healthz``."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await handlers.presets.start()
        yield
        await handlers.close()

    address = "/openapi.json" if docs else None
    app = FastAPI(
        title="facesieve",
        version=facesieve.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=address,
    )
    if docs:
        _add_docs(app, with_keys=keys is not None)
    app.state.handlers, app.state.keys = handlers, keys
    _add_health(app, handlers, prefix)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    free = frozenset(prefix + path for path in ("/healthz", "/readyz", "/metrics"))
    settings = handlers.settings
    if keys is None and is_loopback(settings.host):
        app.add_middleware(OwnMachine, origins=None if settings.upstream else settings.origins)
    app.add_middleware(
        RequestMiddleware,
        metrics=handlers.metrics,
        max_requests=settings.max_requests,
        free=free,
        body_timeout=settings.body_timeout_s,
    )
    if settings.origins:
        _add_cors(app, settings.origins)
    return app


def _add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins call, with keys; outermost, so that refusals can be read and preflights need no key."""
    told = ["Facesieve-Faces", "Facesieve-Possible-Faces", "X-Facesieve-Faces", "X-Request-ID", "Retry-After"]
    methods, sent = ["GET", "POST", "PUT", "DELETE"], ["Authorization", "X-API-Key", "X-Request-ID", "Content-Type"]
    app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=sent, expose_headers=told)


def _add_docs(app: FastAPI, *, with_keys: bool) -> None:
    """The page of the addresses, with everything that it needs: FastAPI's own takes its scripts from the internet.

    The description says that there are keys where there are.
    """
    inner = app.openapi

    def described() -> dict[str, Any]:
        found = inner()
        if not with_keys:
            found.get("components", {}).pop("securitySchemes", None)
            for operation in (one for path in found["paths"].values() for one in path.values()):
                operation.pop("security", None)
        return found

    app.openapi = described  # type: ignore[method-assign]
    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="facesieve",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon.png",
        )


def _add_health(app: FastAPI, handlers: Handlers, prefix: str) -> None:
    @app.get(prefix + "/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get(prefix + "/readyz", responses=problem_responses(503))
    async def readyz() -> dict[str, str]:
        """Photographs are taken; 503 before the model is loaded and while the service stops."""
        if not handlers.batcher.ready:
            raise ProblemError(503, "not-ready", "no faces are taken now", {"Retry-After": "1"})
        return {"status": "ready"}

    open_ = [] if handlers.settings.open_metrics else [Depends(allowed(None))]

    text = {200: {"content": {CONTENT_TYPE_LATEST: {}}}, **({} if not open_ else problem_responses(401, 422))}

    @app.get(prefix + "/metrics", dependencies=open_, response_class=PlainTextResponse, responses=text)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(handlers.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _answer(request: Request, problem: ProblemError) -> Response:
    body = problem.body(request.state.request_id)
    return Response(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "method"}.get(error.status_code, "input")
    headers = dict(error.headers or {})
    path = getattr(request.scope.get("route"), "path_format", None)
    if error.status_code == 405 and path in (described := request.app.openapi()["paths"]):
        headers["Allow"] = ", ".join(sorted(map(str.upper, described[path])))  # Starlette names those of the first route alone
    return _answer(request, ProblemError(error.status_code, kind, str(error.detail), headers))


async def _validation(request: Request, error: Exception) -> Response:
    """What was wrong with the query; without the value, which may be anything."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][:2][-1]  # after it the kinds of a union may follow, which are no names of the caller's
    return _answer(request, ProblemError(422, "input", f"{name}: {first['msg']}"))
