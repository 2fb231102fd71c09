"""The command `ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facesieve.cli.options import Device, Embedding, MaxPixels, Precision, PriorFolder, RuntimeName
from facesieve.errors import InputError
from facesieve.specs import DEFAULT_PRESET, MAX_PIXELS


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback only with --password-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    password_file: Annotated[
        Path | None, typer.Option(help="File with a password; the user is called facesieve. Without it nobody is asked.")
    ] = None,
    gallery: Annotated[
        str | None,
        typer.Option(envvar="FACESIEVE_GALLERY", help="A gallery's folder, or postgresql://user@host/database: who people are."),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs to choose from. With the repository's samples their people are known."),
    ] = None,
    preset: Annotated[str, typer.Option(help="The preset that the page begins with; see `facesieve presets`.")] = DEFAULT_PRESET,
    embedder: Embedding = "sface",
    precision: Precision = "auto",
    device: Device = "auto",
    runtime: RuntimeName = "torch",
    prior: PriorFolder = None,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Open a page in which people drop a photograph, see it purified, and try to fool the recogniser."""
    from facesieve.page.run import serve_page
    from facesieve.recognition.embedders import load_embedder
    from facesieve.shield import load_shield

    serve_page(
        load_embedder(embedder),
        load_shield(preset, prior=prior, device=device, precision=precision, runtime=runtime),
        gallery=gallery,
        samples=samples,
        host=host,
        port=port,
        max_pixels=max_pixels,
        password=None if password_file is None else _password(password_file),
    )


def _password(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", path, "write a password into it") from error
    if len(text) < 8:
        raise InputError("a password of at least 8 characters is needed", path)
    return text
