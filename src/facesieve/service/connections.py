"""What a connection may cost: how long a request may take to arrive and an answer to be taken, how large a head may be.

Uvicorn bounds neither: whoever opens connections and sends little, or takes little, would hold them for ever. Once a second
each connection looks at itself. Where there are as many as are taken, the one that has been silent for longest goes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from facesieve.service.settings import Settings

LONGEST_HEAD = 32 * 1024  # bytes of the line and the headers
MOST_HEADERS = 100
PIPELINED = 8  # requests that may wait behind one that is being answered
LINGER = 1.0  # seconds in which who is turned away may read why
TAKEN = 2**20  # bytes of an answer, or the rest of it, that a client takes in ``send_timeout_s``

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\r\n"
    b'{"type": "urn:facesieve:problem:busy", "title": "The service is busy", "status": 503, "detail": "too many connections"}'
)
_REFUSALS = {
    408: b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
}


@dataclass(frozen=True)
class Patience:
    """Seconds for a head, for a body that nobody reads any more, and for an answer to be taken; and the most connections."""

    head: float
    body: float
    send: float
    connections: int

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        """That of these settings."""
        return cls(settings.head_timeout_s, settings.body_timeout_s, settings.send_timeout_s, settings.max_connections)


def connections_of(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol for uvicorn's ``http``, with the patience of these settings."""
    return type("BoundedConnection", (Connection,), {"patience": Patience.of(settings)})


class Connection(HttpToolsProtocol):
    """One connection."""

    patience = Patience(10, 30, 30, 512)
    _turned_away = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head; or end at once, where all the others are in use."""
        super().connection_made(transport)
        self._head_since: float | None = self.loop.time()
        self._came = self._headers = self._head_size = 0
        self._whole = self._headed = False  # the request's body, its head has arrived
        self._rest_since: float | None = None
        self._useful = self.loop.time()  # when a head last came or an answer last went
        self._sent_since, self._unsent = self.loop.time(), 0
        self._watch: asyncio.TimerHandle | None = self.loop.call_later(1, self._look)
        if len(self.connections) > self.patience.connections and not self._make_room():
            self._turn_away(transport)

    def _turn_away(self, transport: asyncio.Transport) -> None:
        """Say why, and close a little later: closed with a request unread, the system would reset it, and the answer be lost."""
        self._turned_away = True
        self.connections.discard(self)
        transport.write(_FULL)
        transport.write_eof()
        self.loop.call_later(LINGER, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More of a request, as long as its head is not too large or too slow."""
        if self._turned_away or self.transport.is_closing():
            return
        if self._idle and self._head_since is None:  # also line ends between requests, which begin none
            self._head_since, self._came = self.loop.time(), 0
        self._came += len(data)
        super().data_received(data)
        if self._head_since is not None and self._came > LONGEST_HEAD:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A request begins. Raises where more wait than a browser would send."""
        if len(self.pipeline) >= PIPELINED:
            raise httptools.HttpParserError("too many requests wait")
        super().on_message_begin()
        self._headers, self._head_size, self._whole, self._headed = 0, 0, False, False

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        super().on_url(url)
        self._check_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one behind the body is not taken for one of the head's."""
        if not self._headed:
            self._headers += 1
            self._check_head(len(name) + len(value) + 4)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there in time."""
        self._head_since, self._headed, self._useful = None, True, self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there."""
        self._whole, self._rest_since = True, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written; of a body that nobody reads any more the rest has its time, too."""
        super().on_response_complete()
        self._useful = self.loop.time()
        if not self._whole and not self.pipeline:
            self._rest_since = self.loop.time()

    @property
    def _idle(self) -> bool:
        """No request is being answered or read."""
        return self.cycle is None or (self.cycle.response_complete and self._whole)

    def _check_head(self, more: int) -> None:
        self._head_size += more
        if self._head_size > LONGEST_HEAD or self._headers > MOST_HEADERS:
            self._refuse(431)
            raise httptools.HttpParserError("the head is too large")

    def send_400_response(self, msg: str) -> None:
        """As uvicorn, unless the refusal is said already."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def _refuse(self, status: int) -> None:
        if not self.transport.is_closing() and self._idle_or_reading():
            self.transport.write(_REFUSALS[status])
        self.transport.close()

    def _idle_or_reading(self) -> bool:
        """No answer to an earlier request is on its way."""
        return self.cycle is None or self.cycle.response_complete or not self.cycle.response_started

    def _make_room(self) -> bool:
        """Close the connection that has been without a whole request for longest, if there is one."""
        others = (one for one in self.connections if isinstance(one, Connection) and one is not self)
        silent = [one for one in others if one._idle and not one.transport.is_closing()]
        if not silent:
            return False
        min(silent, key=lambda one: one._useful).transport.abort()
        return True

    def _look(self) -> None:
        """End what takes too long."""
        now, patience = self.loop.time(), self.patience
        self._watch = self.loop.call_later(1, self._look)
        if self._head_since is not None and now - self._head_since > patience.head:
            self._refuse(408)
        if self._rest_since is not None and now - self._rest_since > patience.body:
            self.transport.abort()
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent > self._unsent or unsent <= self._unsent - TAKEN:
            self._unsent, self._sent_since = unsent, now
        elif now - self._sent_since > patience.send:
            self.transport.abort()
