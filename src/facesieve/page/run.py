"""Serve the page: alone, or at ``/ui`` of the HTTP service."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from facesieve.errors import InputError, SettingError
from facesieve.faces import Detector, FaceCrops
from facesieve.folders import images_in
from facesieve.galleries import create_gallery, open_gallery
from facesieve.galleries.base import Gallery
from facesieve.hosts import is_loopback, names_loopback
from facesieve.identification import CROP, Identifier, stacked
from facesieve.images import read_photo
from facesieve.page.actions import Actions
from facesieve.page.layout import appearance, build, gradio_library
from facesieve.recognition import Embedder
from facesieve.rows import Rows
from facesieve.shield import Shield
from facesieve.specs import MAX_PIXELS

SAMPLE_PEOPLE = {  # the first photographs are enrolled, the others are probes
    "Biden": ["biden-1.jpg"],
    "Collins": ["collins-1.jpg"],
    "Hopper": ["hopper-1.jpg"],
    "Obama": ["obama-1.jpg", "obama-2.jpg"],
}
LARGEST = "20mb"  # of an upload


def serve_page(
    embedder: Embedder,
    shield: Shield,
    *,
    gallery: str | None,
    samples: Path | None,
    host: str,
    port: int,
    password: str | None,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; prints its address. Then its files are deleted.

    ``gallery`` is a folder or an address; without one, and with ``samples``, the sample people are known for as
    long as the page runs. Raises ``SettingError`` for a host that others can reach without a ``password``,
    ``InputError`` for samples or a gallery that are not there, or a port that is taken.
    """
    if password is None and not is_loopback(host):
        raise SettingError("can be reached by others", f"host {host}", "give a password file, or listen on 127.0.0.1")
    gradio_library()
    found, stop = photographs(samples), _stopped()
    with own_folder(), opened(embedder, gallery, samples, shield) as known:
        actions = Actions(embedder, shield, known, max_pixels=max_pixels)
        with launched(actions, found, host=host, port=port, password=password) as address:
            print(f"the page is at {address}; stop it with Ctrl-C", flush=True)
            stop.wait()


@contextmanager
def launched(actions: Actions, samples: Sequence[Path], *, host: str, port: int, password: str | None) -> Iterator[str]:
    """The page, served from a thread as long as the block lasts; gives its address. Raises ``InputError`` for a taken port."""
    gr = gradio_library()
    page = build(actions, samples)
    _past_proxies(host)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=None if password is None else ("facesieve", password),
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            app_kwargs=_guarded() if password is None else {},
            **_common(gr, samples),
        )
    except OSError as error:
        raise InputError("cannot listen there", f"{host}:{port}", "choose another host or port") from error
    try:
        yield str(page.local_url)
    finally:
        page.close(verbose=False)


def mount(
    app: Any,
    embedder: Embedder,
    shield: Shield,
    gallery: Gallery | None,
    samples: Path | None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """The page at ``/ui`` of a FastAPI application, which is returned. Raises as ``serve_page``."""
    gr = gradio_library()
    found = photographs(samples)
    app.state.page_folder = _temporary()  # deleted with the application, when the process ends at the latest
    os.environ["GRADIO_TEMP_DIR"] = app.state.page_folder.name
    actions = Actions(embedder, shield, gallery, max_pixels=max_pixels)
    return gr.mount_gradio_app(app, build(actions, found), path="/ui", **_common(gr, found))


def _guarded() -> dict[str, Any]:
    """What makes the page answer to this machine's own names alone: without a password its browser is the only guard."""
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse

    class OwnNames:
        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
            inner = self._app
            if scope["type"] == "http" and not (len(hosts) == 1 and names_loopback(hosts[0])):
                inner = PlainTextResponse("without a password this page answers to localhost and 127.0.0.1 alone", 421)
            await inner(scope, receive, send)

    return {"middleware": [Middleware(OwnNames)]}


def _past_proxies(host: str) -> None:
    """Gradio asks itself whether it runs; by the proxy of this machine's environment, if any, it would not be found."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host, "127.0.0.1", "localhost"]))


def _common(gr: Any, samples: Sequence[Path]) -> dict[str, Any]:
    """What the page is served with, alone or by the service. Gradio keeps no history of runs in the browser."""
    allowed = [str(path.resolve()) for path in samples]
    private = {"show_error": False, "run_history": False, "ssr_mode": False, "mcp_server": False}
    return {"max_file_size": LARGEST, "allowed_paths": allowed, **private, **appearance(gr)}


def _stopped() -> threading.Event:
    """Set once the process is asked to end: what is on disk is deleted first, which a signal alone would not do."""
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    return stop


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that nobody else can read, for Gradio's uploads and results; deleted after the block."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with _temporary() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def _temporary() -> tempfile.TemporaryDirectory[str]:
    where = os.environ.get("GRADIO_TEMP_DIR")
    try:
        # Cleaning up may meet a photograph that is still worked on.
        return tempfile.TemporaryDirectory(prefix="facesieve-page-", dir=where or None, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError("no folder to write to", f"GRADIO_TEMP_DIR {where}", "make it first") from error


def photographs(samples: Path | None) -> list[Path]:
    """The photographs in a folder of samples. Raises ``InputError`` for one that has none."""
    if samples is None:
        return []
    if not samples.is_dir():
        raise InputError("no such folder of samples", samples)
    if not (found := images_in(samples)):
        raise InputError("no photographs in this folder", samples)
    return found


@contextmanager
def opened(
    embedder: Embedder, gallery: str | None, samples: Path | None, shield: Shield | None = None
) -> Iterator[Gallery | None]:
    """The gallery at an address; else one of the sample people, for as long as the block lasts; else none.

    With a ``shield`` the sample people have templates behind it, too.
    """
    if gallery is not None:
        with closing(open_gallery(gallery)) as existing:
            yield existing
        return
    if samples is None or not all((samples / name).is_file() for names in SAMPLE_PEOPLE.values() for name in names):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="facesieve-page-") as folder:
        where = str(Path(folder) / "gallery")
        with closing(create_gallery(where, embedder=embedder.name, dimensions=embedder.dimensions)) as own:
            for person, names in SAMPLE_PEOPLE.items():
                own.enrol(person, stacked([_templates(embedder, shield, samples / name) for name in names]))
            yield own


def _templates(embedder: Embedder, shield: Shield | None, path: Path) -> dict[str, Rows]:
    photo = read_photo(path)
    if shield is None:
        return Identifier(embedder).templates(FaceCrops.cut(photo, Detector().detect(photo), CROP))
    before = shield.cut(photo)
    return Identifier(embedder, shield.card.label).templates(before, shield.restore(before), "both")
