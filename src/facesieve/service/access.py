"""Who may do what: keys and their scopes as dependencies of the routes; clients that disconnect."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from facesieve.errors import printable
from facesieve.service.batcher import BusyError
from facesieve.service.keys import Keys
from facesieve.service.middleware import ClientGoneError
from facesieve.service.problems import ProblemError

T = TypeVar("T")

_bearer = HTTPBearer(auto_error=False, description="An API key of `facesieve serve keys add`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


def check_key(keys: Keys | None, given: str | None, scope: str | None, *, header: str | None = None) -> str | None:
    """The name of the key; None where no keys are asked for. Raises 401, or 403 for a key without ``scope``.

    ``header`` is the one that the key is read from where that is none of the usual two.
    """
    if keys is None:
        return None
    found = keys.find(given) if given else None
    if found is None:
        wanted = f"{header}: KEY" if header else "Authorization: Bearer KEY"
        detail = "the API key is unknown" if given else f"send an API key: {wanted}"
        raise ProblemError(401, "no-key", detail, {"WWW-Authenticate": f'ApiKey header="{header}"' if header else "Bearer"})
    if scope is not None and scope not in found.scopes:
        raise ProblemError(403, "scope", f"this needs a key with the scope {scope}")
    return found.name


def allowed(scope: str | None) -> Callable[..., Awaitable[None]]:
    """A dependency: a key with ``scope``, or any key for None; and a query that the route knows."""

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        header: Annotated[str | None, Depends(_header)],
    ) -> None:
        name = check_key(request.app.state.keys, bearer.credentials if bearer else header, scope)
        if name is not None:
            request.state.notes["key"] = name
        check_query(request)

    return check


def check_query(request: Request) -> None:
    """Raise 422 for a parameter that the route does not have, or that is given twice: it would change nothing, unnoticed."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            near = next(iter(get_close_matches(name, known, 1)), None)
            advice = f"did you mean {near}?" if near else f"there are {', '.join(known)}" if known else "there are none here"
            raise ProblemError(422, "input", f"{printable(name[:40])}: no such parameter; {advice}")
        if count > 1:
            raise ProblemError(422, "input", f"{name}: give it once")


async def in_time(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """As ``unless_gone``; and ``BusyError`` where the deadline, counted from the request's start, passes before ``work`` is done.

    What had begun to be written by then is finished and its result given: 503 says that nothing was done.
    """
    seconds: float = request.app.state.handlers.settings.deadline_s
    return await _wait_for(request, work, request.state.begun + seconds, f"no result within {seconds:g} s")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled if the client closes the connection. The body must have been read."""
    return await _wait_for(request, work, None, "")


async def _wait_for(request: Request, work: Coroutine[Any, Any, T], until: float | None, late: str) -> T:
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        left = None if until is None else max(until - asyncio.get_running_loop().time(), 0)
        await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        went = gone.done()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            return task.result()
        raise ClientGoneError("the client went away") if went else BusyError(late)
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
        # An error holds this frame by its traceback: with the task in it, which holds the error, they and the
        # photograph in their frames would stay until the collector of cycles happens to run.
        del task, gone


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
