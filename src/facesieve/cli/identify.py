"""The commands `enrol`, `identify` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from facesieve.cli.identifying import (
    AsJson,
    Embedding,
    Location,
    Scale,
    Seed,
    ShieldName,
    Threshold,
    everyone_in,
    load_identifier,
    opened,
)
from facesieve.cli.terminal import errors, out
from facesieve.errors import FacesieveError, InputError

if TYPE_CHECKING:
    from facesieve.galleries.base import Gallery
    from facesieve.identification import Identified, Identifier, Templates, Verified


def enrol(
    person: Annotated[str, typer.Argument(help="The person's name; with --folders, a folder with one folder a person.")],
    photos: Annotated[list[Path] | None, typer.Argument(help="Photographs of this person, one face each.")] = None,
    gallery: Location = "gallery",
    folders: Annotated[bool, typer.Option("--folders", help="Enrol everyone in a folder that has one folder a person.")] = False,
    templates: Annotated[str, typer.Option(help="raw, purified or both: what the templates are made from.")] = "raw",
    embedder: Embedding = "sface",
    shield: ShieldName = "fast",
    scale: Scale = None,
    seed: Seed = None,
) -> None:
    """Add people to a gallery. Photographs are not stored, only templates made from them."""
    everyone = everyone_in(person, photos or [], folders)
    identifier = load_identifier(embedder, "none" if templates == "raw" else shield, scale)
    failures: list[str] = []
    with opened(gallery, identifier, create=True) as store:
        for name, files in everyone.items():
            try:
                _enrol_one(store, identifier, name, files, templates, seed, failures)  # type: ignore[arg-type]
            except FacesieveError as error:
                failures.append(f"{name}: not enrolled: {error}")
    for line in failures:
        errors.print(f"  {line}")
    if failures:
        raise typer.Exit(1)


def _enrol_one(
    store: Gallery, identifier: Identifier, name: str, files: list[Path], which: Templates, seed: int | None, failures: list[str]
) -> None:
    from facesieve.images import read_photo
    from facesieve.noise import derive_seed

    made: list[dict[str, object]] = []
    for number, path in enumerate(files):
        try:
            seeds = None if seed is None else [derive_seed(seed, name, number)]
            made.append(dict(identifier.templates([read_photo(path)], which, seeds)))
        except InputError as error:
            failures.append(f"{name}: {path.name} left out: {error}" if str(path) not in str(error) else f"{name}: {error}")
    if not made:
        raise InputError(f"none of {len(files)} photographs can be used")
    import numpy as np

    labels = dict.fromkeys(label for part in made for label in part)
    joined = {label: np.concatenate([part[label] for part in made]) for label in labels}
    store.enrol(name, joined)
    out.print(f"{name}: enrolled with {sum(len(rows) for rows in joined.values())} templates from {len(made)} photographs")


def identify(
    photos: Annotated[list[Path], typer.Argument(help="Photographs; every face in them is looked up.")],
    gallery: Location = "gallery",
    shield: ShieldName = "fast",
    scale: Scale = None,
    embedder: Embedding = "sface",
    threshold: Threshold = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the best matches to show.")] = 3,
    seed: Seed = None,
    json_: AsJson = False,
) -> None:
    """Name the people in photographs, with the shield in front of the recogniser."""
    identifier = load_identifier(embedder, shield, scale)
    failures: list[str] = []
    results: dict[str, list[Identified]] = {}
    with opened(gallery, identifier) as store:
        for path in photos:
            try:
                results[str(path)] = _identify_one(store, identifier, path, threshold, count, seed)
            except InputError as error:
                failures.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    if json_:
        out.print_json(json.dumps({path: [_plain(face) for face in faces] for path, faces in results.items()}))
    elif results:
        _print_faces(results, shield)
    for line in failures:
        errors.print(f"  {line}")
    if failures:
        raise typer.Exit(1)


def _identify_one(
    store: Gallery, identifier: Identifier, path: Path, threshold: float | None, count: int, seed: int | None
) -> list[Identified]:
    from facesieve.images import read_photo
    from facesieve.noise import derive_seed

    photo = read_photo(path)
    faces = identifier.faces(photo)
    seeds = None if seed is None else [derive_seed(seed, n) for n in range(len(faces))]
    return identifier.identify(store, photo, threshold=threshold, count=count, seeds=seeds, faces=faces)


def _plain(face: Identified) -> dict[str, object]:
    return {
        "box": list(map(float, face.face.box)),
        "person": face.person,
        "threshold": face.threshold,
        "matches": [{"person": match.person, "score": match.score} for match in face.matches],
        "unshielded": None if face.unshielded is None else {"person": face.unshielded.person, "score": face.unshielded.score},
        "shield_change": face.change,
        "tamper_score": face.tamper,
    }


def _print_faces(results: dict[str, list[Identified]], shield: str) -> None:
    shielded = shield != "none"
    table = Table(
        "photograph", "face", "name", "best matches", *(["without the shield", "changed by", "tamper score"] if shielded else [])
    )
    for path, faces in results.items():
        for number, face in enumerate(faces, 1):
            matches = "\n".join(f"{match.score:.3f} {match.person}" for match in face.matches)
            row = [path, str(number), _name(face), matches]
            if shielded:
                alone = "-" if face.unshielded is None else f"{face.unshielded.score:.3f} {face.unshielded.person}"
                row += [alone, f"{255 * (face.change or 0):.1f}/255", f"{face.tamper or 0:.2f}"]
            table.add_row(*row)
    Console(highlight=False, markup=False, width=None if out.is_terminal else 140).print(table)
    if any(face.threshold is None for faces in results.values() for face in faces):
        out.print("no threshold: nobody can be called unknown yet; run `facesieve gallery calibrate`, or give --threshold")


def _name(face: Identified) -> str:
    if face.threshold is None:
        return f"{face.matches[0].person}?"
    return face.person or "unknown"


def verify(
    photo: Annotated[Path, typer.Argument(help="A photograph with one face.")],
    other: Annotated[Path | None, typer.Argument(help="Another photograph, to compare with instead of a person.")] = None,
    person: Annotated[str | None, typer.Option(help="The enrolled person that it is said to be.")] = None,
    gallery: Location = "gallery",
    shield: ShieldName = "fast",
    scale: Scale = None,
    embedder: Embedding = "sface",
    threshold: Threshold = None,
    seed: Seed = None,
    json_: AsJson = False,
) -> None:
    """Say whether a photograph shows a person, or two photographs the same one; exit code 1 if not."""
    from facesieve.images import read_photo

    if (other is None) == (person is None):
        raise InputError("give either a second photograph or --person NAME")
    identifier = load_identifier(embedder, shield, scale)
    seeds = None if seed is None else [seed]
    if person is not None:
        with opened(gallery, identifier) as store:
            result = identifier.verify(store, read_photo(photo), person, threshold=threshold, seeds=seeds)
    else:
        assert other is not None
        result = identifier.compare(read_photo(photo), read_photo(other), threshold=threshold, seeds=seeds)
    _say(result, json_)
    if result.same is None:
        raise typer.Exit(3)
    if not result.same:
        raise typer.Exit(1)


def _say(result: Verified, json_: bool) -> None:
    if json_:
        out.print_json(json.dumps({"same": result.same, "score": result.score, "threshold": result.threshold}))
    elif result.same is None:
        out.print(f"score {result.score:.3f}; no threshold to decide by: run `facesieve gallery calibrate`, or give --threshold")
    else:
        verdict = "same person" if result.same else "not the same person"
        out.print(f"{verdict}: score {result.score:.3f}, threshold {result.threshold:.3f}")
