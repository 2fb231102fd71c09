"""What commands share: options, and how they open what they need."""

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

PresetName = Annotated[str, typer.Option(help="A preset (see `facesieve presets`), or a profile of `facesieve choose-scale`.")]
Scale = Annotated[int | None, typer.Option(help="Resolution scale: 2, 4 or 8.")]
Seed = Annotated[int | None, typer.Option(help="Makes results repeatable; leave it out where an attacker might guess it.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]

Location = Annotated[
    str, typer.Option("--gallery", envvar="FACESIEVE_GALLERY", help="A gallery's folder, or postgresql://user@host/database.")
]
Embedding = Annotated[
    str,
    typer.Option("--embedder", help="sface, dlib, a FaceNet folder or .pt file, an .onnx recogniser, or package.module:object."),
]
ShieldName = Annotated[
    str, typer.Option("--shield", help="A preset in front of the recogniser, a profile of `facesieve choose-scale`, or none.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Cosine below which nobody is named; by default what the gallery was calibrated to.")
]


def load_identifier(embedder: str, shield: str, scale: int | None = None) -> tuple[Identifier, Shield | None]:
    """The embedder's identifier, and the shield of that name that faces go through; ``none`` for no shield."""
    from facesieve.identification import Identifier
    from facesieve.recognition.embedders import load_embedder

    loaded = load_embedder(embedder)
    if shield == "none":
        return Identifier(loaded), None
    from facesieve.purify import chosen_preset
    from facesieve.shield import load_shield

    front = load_shield(chosen_preset(shield).changed(scale=scale))
    return Identifier(loaded, front.card.label), front


@contextmanager
def opened(location: str, identifier: Identifier | None = None, *, create: bool = False) -> Iterator[Gallery]:
    """The gallery, closed afterwards; with ``create`` it is made if there is none."""
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
    """Photographs by person: those of one person, or with ``folders`` of everyone who has a folder in ``person``."""
    if not folders:
        if not photos:
            raise InputError(f"no photographs of {person}: facesieve enrol {person!r} PHOTO... (or --folders with a folder)")
        return {person: photos}
    if photos:
        raise InputError("--folders takes one folder; everything in it is enrolled under its folders' names")
    from facesieve.files import images_in

    if not Path(person).is_dir():
        raise InputError("no such folder", person)
    found = {folder.name: images_in(folder) for folder in sorted(Path(person).iterdir()) if folder.is_dir()}
    if not found:
        raise InputError("no folders in it; --folders expects one folder a person", person)
    return found
