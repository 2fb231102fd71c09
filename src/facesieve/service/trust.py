"""Whom a service without keys on loopback answers: this machine's own programs and pages, and no web page of elsewhere."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from facesieve.hosts import names_loopback
from facesieve.service.problems import ProblemError


class OwnMachine:
    """ASGI middleware, for services that ask for no key because only this machine can reach them: its browser can, too.

    A name in ``Host`` that is not this machine's is refused at every address, health checks included: a web page has made its
    own name resolve to this machine. ``origins`` are those of pages that may call, as ``Origin`` says them; None takes any,
    for a server that decides this itself. A page of elsewhere may otherwise send forms here, though not read the answers.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] | None) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request of this machine on."""
        if scope["type"] == "http":
            self._check(scope["headers"])
        await self._app(scope, receive, send)

    def _check(self, headers: list[tuple[bytes, bytes]]) -> None:
        hosts, origins = ([value.decode("latin-1") for key, value in headers if key == name] for name in (b"host", b"origin"))
        if len(hosts) != 1 or not names_loopback(hosts[0]):
            raise ProblemError(421, "host", "without keys this service answers to localhost, 127.0.0.1 and [::1] alone")
        if self._origins is not None and not all(one in self._origins or _is_own(one) for one in origins):
            raise ProblemError(
                403, "origin", "a web page of elsewhere may not call this; the setting cors_origins names those that may"
            )


def _is_own(origin: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in {"http", "https"} and names_loopback(rest)
