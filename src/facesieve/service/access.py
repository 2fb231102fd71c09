"""Who may do what: keys and their scopes as dependencies of the routes; clients that disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from facesieve.service.keys import Keys
from facesieve.service.middleware import ClientGoneError
from facesieve.service.problems import ProblemError

T = TypeVar("T")

_bearer = HTTPBearer(auto_error=False, description="An API key of `facesieve serve keys add`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


def check_key(keys: Keys | None, given: str | None, scope: str | None) -> str | None:
    """The name of the key; None where no keys are asked for. Raises 401, or 403 for a key without ``scope``."""
    if keys is None:
        return None
    found = keys.find(given) if given else None
    if found is None:
        detail = "the API key is unknown" if given else "send an API key: Authorization: Bearer KEY"
        raise ProblemError(401, "no-key", detail, {"WWW-Authenticate": "Bearer"})
    if scope is not None and scope not in found.scopes:
        raise ProblemError(403, "scope", f"this needs a key with the scope {scope}")
    return found.name


def allowed(scope: str | None) -> Callable[..., Awaitable[None]]:
    """A dependency: a key with ``scope``, or any key for None."""

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        header: Annotated[str | None, Depends(_header)],
    ) -> None:
        name = check_key(request.app.state.keys, bearer.credentials if bearer else header, scope)
        if name is not None:
            request.state.notes["key"] = name

    return check


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled if the client closes the connection. The body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("the client went away")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
