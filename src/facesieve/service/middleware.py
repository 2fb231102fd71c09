"""What surrounds every request: its id, its line in the log, its figures, a place among the requests, errors as problems."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facesieve.errors import FacesieveError, GalleryFailedError
from facesieve.service.batcher import BusyError
from facesieve.service.logs import event
from facesieve.service.metrics import Metrics
from facesieve.service.problems import MEDIA_TYPE, ProblemError, as_problem, defect

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SLOWEST = 16_384  # bytes per second of a body that is passed on as it comes
GONE = 499  # for logs and figures alone: the client went away before the answer


class ClientGoneError(FacesieveError):
    """The client closed the connection; nobody waits for the answer."""


class RequestMiddleware:
    """ASGI middleware. ``free`` are the paths that are answered however busy the service is.

    A body has ``body_timeout`` seconds to arrive, and one more for each ``SLOWEST`` bytes that came, whoever reads it: what
    takes the whole of it sets limits of its own. Time in which nobody reads does not count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_requests: int, free: frozenset[str], body_timeout: float) -> None:
        self._app, self._metrics, self._max, self._free, self._body_timeout = app, metrics, max_requests, free, body_timeout
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and account for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, send)
        counted = scope["path"] not in self._free
        try:
            if counted and self._active >= self._max:
                raise BusyError(f"too many requests at a time: {self._active} of {self._max} in progress")
            self._count(int(counted))
            try:
                await self._app(scope, _Body(receive, self._body_timeout).receive, call.send)
            finally:
                self._count(-int(counted))
        except (ClientGoneError, ClientDisconnect):
            call.status = GONE
        except (FacesieveError, MemoryError) as error:
            if isinstance(error, GalleryFailedError) or as_problem(error).status == 500:
                event("defect", {"request_id": call.id}, logging.ERROR, error=True)
            await call.refuse(as_problem(error))  # no name: it may be the error, which holds this frame
        except Exception:
            event("defect", {"request_id": call.id}, logging.ERROR, error=True)
            await call.refuse(defect())
        finally:
            self._close(call)

    def _count(self, change: int) -> None:
        self._active += change
        self._metrics.active(self._active)

    def _close(self, call: _Call) -> None:
        seconds = time.perf_counter() - call.begun
        self._metrics.request(call.route, call.method, call.status, seconds)
        fields = {"request_id": call.id, "method": call.method, "route": call.route, "status": call.status}
        event("request", {**fields, "ms": round(1000 * seconds, 1), **call.notes})


class _Body:
    """A body on its way: the time that was waited for it is measured."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive, self._left, self._whole = receive, seconds, False

    async def receive(self) -> Message:
        if self._whole:  # what comes next is that the client goes away, at any time
            return await self._receive()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(max(self._left, 0)):
                message = await self._receive()
        except TimeoutError:
            raise ProblemError(408, "slow-body", "the body arrives too slowly") from None
        self._left += len(message.get("body", b"")) / SLOWEST - (time.monotonic() - begun)
        self._whole = not message.get("more_body", False)
        return message


class _Call:
    """One request on its way."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.begun = time.perf_counter()
        self.status = 0
        self._started = False
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        self.id = given if _ID.fullmatch(given) else str(uuid.uuid4())
        self.notes: dict[str, object] = {}
        begun = asyncio.get_running_loop().time()  # what the request's deadline counts from
        scope.setdefault("state", {}).update(request_id=self.id, notes=self.notes, begun=begun)

    @property
    def route(self) -> str:
        """The route's pattern, never the path: that may hold the name of a person."""
        return str(getattr(self._scope.get("route"), "path_format", "none"))

    @property
    def method(self) -> str:
        known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
        return self._scope["method"] if self._scope["method"] in known else "other"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            if all(name.lower() != b"x-request-id" for name, _ in message["headers"]):
                message["headers"] = [*message["headers"], (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def refuse(self, problem: ProblemError) -> None:
        if self._started:  # too late to say so: the connection is cut, so that nobody takes a part of the answer for all of it
            raise ConnectionError("the answer had begun")
        body = problem.body(self.id)
        headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **problem.headers}
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})
