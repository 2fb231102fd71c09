"""The command `enrol`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from facesieve.cli.identify import Front, finish
from facesieve.cli.options import (
    Embedding,
    Location,
    MaxPixels,
    PriorFolder,
    RuntimeName,
    Scale,
    Seed,
    ShieldName,
    everyone_in,
    nobodys,
    opened,
)
from facesieve.cli.terminal import counted, errors, out
from facesieve.errors import FacesieveError, InputError, many
from facesieve.specs import DEFAULT_PRESET, MAX_PIXELS

if TYPE_CHECKING:
    from facesieve.faces import FaceCrops
    from facesieve.galleries import Gallery
    from facesieve.identification import Templates

Usable = tuple[Path, "FaceCrops | InputError"]  # a photograph, and its one face or why it is left out


def enrol(
    person: Annotated[str, typer.Argument(help="The person's name; with --folders, a folder with one folder per person.")],
    photos: Annotated[list[Path] | None, typer.Argument(help="Photographs of this person, one face each.")] = None,
    gallery: Location = "gallery",
    folders: Annotated[bool, typer.Option("--folders", help="Enrol everyone in a folder with one folder per person.")] = False,
    pick: Annotated[
        int | None, typer.Option(min=1, help="Take only so many of a person's photographs, those with the best faces.")
    ] = None,
    refuse_poor: Annotated[
        bool, typer.Option("--refuse-poor", help="Leave photographs out whose face is small, blurred, turned away or hardly one.")
    ] = False,
    templates: Annotated[
        str, typer.Option(help="raw, purified or both: what the templates are made from; with --shield none raw alone.")
    ] = "both",
    embedder: Embedding = "sface",
    shield: ShieldName = DEFAULT_PRESET,
    scale: Scale = None,
    seed: Seed = None,
    runtime: RuntimeName = "auto",
    prior: PriorFolder = None,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Add people to a gallery. Photographs are not stored, only templates made from them."""
    everyone = everyone_in(person, photos or [], folders)
    which = _wanted(templates, shield)
    front = Front.load(embedder, "none" if which == "raw" else shield, scale, seed, runtime, prior, max_pixels)
    failures: list[str] = nobodys(Path(person)) if folders else []
    with opened(gallery, front.identifier, create=True) as store, counted(list(everyone.items()), "enrolling") as each:
        for name, files in each:
            try:
                _enrol_one(store, front, name, _faces(front, files, pick, refuse_poor), which, failures)
            except FacesieveError as error:
                failures.append(f"{name}: not enrolled: {error}")
    finish(failures)


def _wanted(templates: str, shield: str) -> Templates:
    """The kinds of templates to make. Without a shield there are raw ones alone."""
    from facesieve.identification import Templates

    known: tuple[Templates, ...] = get_args(Templates)
    which = next((kind for kind in known if kind == templates), None)
    if which is None:
        raise InputError(f"--templates {templates}: choose raw, purified or both")
    if shield != "none":
        return which
    if which == "purified":
        raise InputError("--templates purified needs a shield: leave --shield none out")
    return "raw"


def _faces(front: Front, files: Sequence[Path], pick: int | None, refuse_poor: bool) -> Iterator[Usable]:
    """The photographs with their faces; of those that can be used the ``pick`` best, in their order."""
    found = (_face(front, path, refuse_poor) for path in files)
    if pick is None or len(files) <= pick:
        yield from found
        return
    best: list[tuple[float, int, FaceCrops]] = []
    others: dict[int, InputError] = {}
    for number, (_, one) in enumerate(found):
        if isinstance(one, InputError):
            others[number] = one
        else:
            best = sorted([*best, (-one.qualities[0].total, number, one)], key=lambda entry: entry[:2])[:pick]
    chosen: dict[int, FaceCrops | InputError] = {number: one for _, number, one in best}
    for number, one in sorted({**chosen, **others}.items()):
        yield files[number], one


def _face(front: Front, path: Path, refuse_poor: bool) -> Usable:
    """A photograph's one face; a poor one is told of, or refused."""
    try:
        before = front.before(path, one=True)
    except InputError as error:
        return path, error
    problem = before.qualities[0].problem
    if problem and refuse_poor:
        return path, InputError(f"a poor photograph of the face: {problem}", path)
    return path, before


def _enrol_one(store: Gallery, front: Front, name: str, faces: Iterator[Usable], which: Templates, failures: list[str]) -> None:
    """Enrol a person by what can be used. Raises ``InputError`` where that is nothing: of a single photograph its own."""
    from facesieve.identification import stacked

    made, refused = [], list[InputError]()
    for path, before in faces:
        if isinstance(before, InputError):
            refused.append(before)
            continue
        made.append(front.identifier.templates(before, front.restored(before), which))
        if problem := before.qualities[0].problem:
            errors.print(f"{name}: {path}: a poor photograph of the face: {problem}; others may be better")
    if not made and len(refused) == 1:
        raise refused[0]
    failures += [f"{name}: left out: {error}" for error in refused]
    if not made:
        raise InputError(f"none of {many(len(refused), 'photograph')} can be used")
    joined = stacked(made)
    store.enrol(name, joined)
    count = sum(len(rows) for rows in joined.values())
    out.print(f"{name}: enrolled with {many(count, 'template')} from {many(len(made), 'photograph')}")
