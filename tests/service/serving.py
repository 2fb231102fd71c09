"""What the tests of the service share: a service with a quick prior, and real servers on free ports."""

import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

from facesieve.hardware import choose_hardware
from facesieve.identification import Identifier
from facesieve.purify import preset
from facesieve.recognition.sface import load_sface
from facesieve.service.app import create_app
from facesieve.service.batcher_local import Engine, Limits
from facesieve.service.handlers import Desk
from facesieve.service.metrics import Metrics
from facesieve.service.run import make_desk
from facesieve.service.settings import Settings
from facesieve.shield import Shield
from white_prior import WhitePrior


def quick_shield(**changed):
    """The fast preset with the exact denoiser of white noise: everything real but the network."""
    chosen = preset("fast").changed(**changed)
    return Shield(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32"))


def desk_of(shield=None, **settings):
    """A desk that is open, with the quick shield if no other is given."""
    shield = shield or quick_shield()
    desk = make_desk(Settings(**settings), shield, Identifier(load_sface(), shield))
    desk.open()
    return desk


class Gate:
    """A model that waits until it is opened, and remembers its batches; it inverts the crops, in so many seconds."""

    def __init__(self, *, opened=True, seconds=0.0):
        self.seconds = seconds
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches = []
        self.threads = set()
        if opened:
            self.open.set()

    def __call__(self, crops, seeds):
        self.batches.append(list(seeds))
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.open.wait(30)
        time.sleep(self.seconds)
        return [("inverted", 1 - crops)]


def gated_desk(gate, **settings):
    """A desk whose engine runs ``gate``."""
    chosen, metrics, shield = Settings(**settings), Metrics(), quick_shield()
    limits = Limits(chosen.max_batch, chosen.batch_wait_ms / 1000, chosen.queue_faces, chosen.deadline_s, chosen.max_wait_s)
    desk = Desk(shield, Identifier(load_sface(), shield), Engine(gate, limits, metrics), chosen, metrics)
    desk.open()
    return desk


@contextmanager
def running(app):
    """A real server of an ASGI application; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
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
def service(desk, keys=None):
    """A running service of this desk."""
    with running(create_app(desk, keys=keys)) as url:
        yield url


def until(true, seconds=20):
    """Wait until ``true()``; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
