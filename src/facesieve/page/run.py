"""Serve the page: alone, or at ``/ui`` of the HTTP service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facesieve.errors import InputError, SettingError
from facesieve.hosts import is_loopback
from facesieve.identification import Identifier
from facesieve.images import read_photo
from facesieve.page.layout import appearance, build, gradio_library
from facesieve.page.studio import Studio
from facesieve.recognition import Embedder
from facesieve.recognition.gallery import Gallery
from facesieve.recognition.open_gallery import create_gallery, open_gallery
from facesieve.shield import Shield

SAMPLE_PEOPLE = {  # the first photographs are enrolled, the others are probes
    "Biden": ["biden-1.jpg"],
    "Collins": ["collins-1.jpg"],
    "Hopper": ["hopper-1.jpg"],
    "Obama": ["obama-1.jpg", "obama-2.jpg"],
}
LARGEST = "20mb"  # of an upload


def serve_page(
    embedder: Embedder, shield: Shield, *, gallery: str | None, samples: Path | None, host: str, port: int, password: str | None
) -> None:
    """Serve the page until Ctrl-C; prints its address.

    ``gallery`` is a folder or an address; without one, and with ``samples``, the sample people are known for as
    long as the page runs. Raises ``SettingError`` for a host that others can reach without a ``password``,
    ``InputError`` for samples or a gallery that are not there, or a port that is taken.
    """
    if password is None and not is_loopback(host):
        raise SettingError(f"host {host} can be reached by others: give --password-file, or listen on 127.0.0.1")
    gr = gradio_library()
    with opened(embedder, gallery, samples) as known:
        page = build(Studio(embedder, shield, known), photographs(samples))
        try:
            page.launch(
                server_name=host,
                server_port=port,
                auth=None if password is None else ("facesieve", password),
                share=False,
                show_error=False,
                max_file_size=LARGEST,
                allowed_paths=[] if samples is None else [str(samples.resolve())],
                ssr_mode=False,
                **appearance(gr),
            )
        except OSError as error:
            raise InputError(f"cannot listen on {host}:{port}; choose another --host or --port") from error


def mount(app: Any, embedder: Embedder, shield: Shield, gallery: Gallery | None, samples: Path | None) -> Any:
    """The page at ``/ui`` of a FastAPI application, which is returned."""
    gr = gradio_library()
    page = build(Studio(embedder, shield, gallery), photographs(samples))
    allowed = [] if samples is None else [str(samples.resolve())]
    return gr.mount_gradio_app(
        app, page, path="/ui", show_error=False, max_file_size=LARGEST, allowed_paths=allowed, ssr_mode=False, **appearance(gr)
    )


def photographs(samples: Path | None) -> list[Path]:
    """The photographs in a folder of samples. Raises ``InputError`` for one that has none."""
    if samples is None:
        return []
    found = sorted(path for path in samples.glob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not found:
        raise InputError(f"{samples}: no photographs (.jpg, .png) in this folder")
    return found


@contextmanager
def opened(embedder: Embedder, gallery: str | None, samples: Path | None) -> Iterator[Gallery | None]:
    """The gallery at an address; else one of the sample people, for as long as the block lasts; else none."""
    if gallery is not None:
        with_gallery = open_gallery(gallery)
        try:
            yield with_gallery
        finally:
            with_gallery.close()
        return
    if samples is None or not all((samples / name).is_file() for names in SAMPLE_PEOPLE.values() for name in names):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="facesieve-page-") as folder:
        own = create_gallery(str(Path(folder) / "gallery"), embedder=embedder.name, dimensions=embedder.dimensions)
        identifier = Identifier(embedder)
        for person, names in SAMPLE_PEOPLE.items():
            own.enrol(person, identifier.templates([read_photo(samples / name) for name in names]))
        try:
            yield own
        finally:
            own.close()
