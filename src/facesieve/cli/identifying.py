"""What the commands of identification share: their options, and how they open what they need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesieve.errors import InputError

if TYPE_CHECKING:
    from facesieve.galleries.base import Gallery
    from facesieve.identification import Identifier
    from facesieve.shield import Shield


Location = Annotated[
    str, typer.Option("--gallery", envvar="FACESIEVE_GALLERY", help="A gallery's folder, or postgresql://user@host/database.")
]
Embedding = Annotated[str, typer.Option("--embedder", help="sface, a FaceNet folder or .pt file, or an .onnx recogniser.")]
ShieldName = Annotated[
    str, typer.Option("--shield", help="A preset in front of the recogniser, a profile of `facesieve calibrate`, or none.")
]
Scale = Annotated[int | None, typer.Option(help="Resolution scale of the shield: 2, 4 or 8.")]
Seed = Annotated[int | None, typer.Option(help="Makes results repeatable; leave it out where an attacker might guess it.")]
Threshold = Annotated[
    float | None, typer.Option(help="Cosine below which nobody is named; by default what the gallery was calibrated to.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def load_identifier(embedder: str, shield: str, scale: int | None = None) -> Identifier:
    """The embedder with the shield of that name in front; ``none`` for no shield."""
    from facesieve.identification import Identifier
    from facesieve.recognition.embedders import load_embedder

    return Identifier(load_embedder(embedder), None if shield == "none" else _shield(shield, scale))


def _shield(name: str, scale: int | None) -> Shield:
    from facesieve.purify import chosen_preset
    from facesieve.shield import load_shield

    return load_shield(chosen_preset(name).changed(scale=scale))


@contextmanager
def opened(location: str, identifier: Identifier | None = None, *, create: bool = False) -> Iterator[Gallery]:
    """The gallery, closed afterwards; with ``create`` made where there is none."""
    from facesieve.galleries import create_gallery, open_gallery

    if create and identifier is not None:
        gallery = create_gallery(location, embedder=identifier.embedder.name, dimensions=identifier.embedder.dimensions)
    else:
        gallery = open_gallery(location)
    try:
        if identifier is not None:
            identifier.check(gallery)
        yield gallery
    finally:
        gallery.close()


def everyone_in(person: str, photos: list[Path], folders: bool) -> dict[str, list[Path]]:
    """Whose photographs: those of one person, or with ``folders`` of everyone who has a folder in ``person``."""
    if not folders:
        if not photos:
            raise InputError(f"no photographs of {person}: facesieve enrol {person!r} PHOTO... (or --folders with a folder)")
        return {person: photos}
    if photos:
        raise InputError("--folders takes one folder; everything in it is enrolled under its folders' names")
    from facesieve.files import IMAGE_SUFFIXES

    if not Path(person).is_dir():
        raise InputError(f"{person}: no such folder")
    found = {
        folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        for folder in sorted(Path(person).iterdir())
        if folder.is_dir()
    }
    if not found:
        raise InputError(f"{person}: no folders in it; --folders expects one folder a person")
    return found
