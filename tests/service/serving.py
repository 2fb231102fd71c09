"""What the tests of the service share: a service with a quick prior, and real servers on free ports."""

import base64
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO

import numpy as np
import uvicorn
from PIL import Image

from facesieve.hardware import choose_hardware
from facesieve.identification import Identifier
from facesieve.purify import preset
from facesieve.recognition.sface import load_sface
from facesieve.runtime import Trace, TraceStep
from facesieve.runtime.torch import TorchRuntime
from facesieve.service.app import create_app
from facesieve.service.batcher_local import LocalBatcher
from facesieve.service.handlers import Handlers
from facesieve.service.metrics import Metrics
from facesieve.service.run import limits_of, local_handlers, server_config
from facesieve.service.settings import Settings
from facesieve.shield import Shield
from white_prior import WhitePrior


def quick_shield(called="robust", **changed):
    """The robust preset with the exact denoiser of white noise: everything real but the network."""
    chosen = replace(preset("robust").changed(**changed), name=called)
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))


def handlers_of(shield=None, others=(), **settings):
    """Handlers that are open, with the quick shield if no other is given; ``others`` are shields that may be asked for."""
    handlers = local_handlers(Settings(**settings), (shield or quick_shield()).runtime, [one.runtime for one in others])
    handlers.open()
    return handlers


class Gate:
    """A runtime that waits until it is opened, and remembers its batches; it inverts the crops, in so many seconds."""

    def __init__(self, *, opened=True, seconds=0.0):
        self.seconds = seconds
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches = []
        self.threads = set()
        if opened:
            self.open.set()

    def purify(self, crops, seeds):
        self.batches.append(list(seeds))
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.open.wait(30)
        time.sleep(self.seconds)
        return Trace((TraceStep("inverted", 1 - crops),))


def gated_handlers(gate, **settings):
    """Handlers whose batcher runs ``gate``."""
    chosen, metrics, card = Settings(**settings), Metrics(), quick_shield().card
    handlers = Handlers(
        LocalBatcher(gate, limits_of(chosen), metrics), card, Identifier(load_sface(), card.label), chosen, metrics
    )
    handlers.open()
    return handlers


@contextmanager
def running(app, config=None):
    """A real server of an ASGI application, or of a configuration of uvicorn; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config or uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


@contextmanager
def service(handlers, keys=None):
    """A running service of these handlers."""
    app = create_app(handlers, keys=keys)
    with running(app, server_config(app, handlers.settings)) as url:
        yield url


class StandIn:
    """An ASGI server that remembers every call, byte for byte, and answers with chunks, odd headers and an odd status."""

    def __init__(self):
        self.calls = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"]
        self.calls.append((scope["method"], scope["raw_path"] + (b"?" + query if query else b""), scope["headers"], body))
        headers = [(b"content-type", b"application/json"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-own", b"\xe9")]
        await send({"type": "http.response.start", "status": 207, "headers": headers})
        for chunk in (b'{"result": ', b"[1.0, ", b"2]}"):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def until(true, seconds=20):
    """Wait until ``true()``; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def pixels(data):
    """An image file as (H, W, 3)."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def png(array):
    """(H, W, 3) as the bytes of a file."""
    file = BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(file, "png")
    return file.getvalue()


def two_faces(one):
    """A photograph with the same face twice."""
    photo = pixels(one)
    return png(np.concatenate([photo, photo], axis=1))


def problem(answer, status, kind):
    """The detail of a refusal, which must be problem JSON."""
    assert answer.headers["content-type"] == "application/problem+json"
    plain = answer.json()
    assert (answer.status_code, plain["status"], plain["type"]) == (status, status, f"urn:facesieve:problem:{kind}")
    assert plain["title"]
    assert plain["instance"].removeprefix("urn:uuid:") == answer.headers["x-request-id"]
    return plain["detail"]


def b64(data):
    return base64.b64encode(data).decode()


def is_purified(data, original):
    """A readable image of the same size and format that differs in its face by far more than JPEG does."""
    kind, same = Image.open(BytesIO(data)).format, Image.open(BytesIO(original)).format
    before, after = pixels(original), pixels(data)
    assert (kind, after.shape) == (same, before.shape)
    difference = np.abs(before - after).mean(2)
    return bool(difference.max() > 60 and np.median(difference) < 4)
