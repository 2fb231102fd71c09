"""The terms of everything in an installation: weight files by their cards, dependencies by their metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from facesieve.cli.terminal import out, print_json
from facesieve.errors import InputError
from facesieve.weights import CARD, FOLDER, card_path, file_hash, read_json

SUFFIXES = frozenset({".safetensors", ".onnx", ".bin", ".pt", ".pth", ".ckpt"})  # of weights
LONGEST = 100  # characters of a licence; some packages put the whole text where its name belongs


@dataclass(frozen=True)
class Terms:
    """One thing, and the terms under which it may be used."""

    kind: str  # "weights" or "package"
    name: str
    terms: str
    files: tuple[str, ...] = ()  # of weights: all that one card is about
    attribution: tuple[str, ...] = ()  # who has to be named where it is used


def licences(
    also: Annotated[
        list[Path] | None, typer.Argument(help="Weights elsewhere: files, or folders of them such as `models`.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    cyclonedx: Annotated[bool, typer.Option("--cyclonedx", help="As a bill of materials: CycloneDX, in JSON.")] = False,
) -> None:
    """List every weight file that ships and every dependency that is installed, each with its terms."""
    found = [*weight_terms(), *(terms for path in also or [] for terms in weight_terms(path)), *package_terms()]
    if cyclonedx:
        print_json(bill_of_materials(found))
        return
    if json_:
        print_json([asdict(terms) for terms in found])
        return
    from rich.table import Column, Table

    table = Table("kind", Column("name", overflow="fold"), "terms")
    for terms in found:
        named = [f"to be named: {line}" for line in terms.attribution]
        table.add_row(
            terms.kind,
            "\n".join([terms.name, *terms.files]),
            "\n".join([terms.terms, *named]),
            end_section=terms.kind == "weights",
        )
    out.print(table)


def bill_of_materials(found: Iterable[Terms]) -> dict[str, Any]:
    """What is installed as CycloneDX 1.5: packages with their versions, weights with the SHA-256 of each file."""
    itself = _component("facesieve", "application", licence_of(metadata.metadata("facesieve")))
    parts = [_component(terms.name, "library", terms.terms) if terms.kind == "package" else _model(terms) for terms in found]
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": itself}, "components": parts}


def _component(package: str, kind: str, terms: str) -> dict[str, Any]:
    version, name = metadata.version(package), _plain(package)
    place = f"pkg:pypi/{name}@{version}"
    return {"type": kind, "bom-ref": place, "name": name, "version": version, "purl": place, "licenses": _licenses(terms)}


def _model(terms: Terms) -> dict[str, Any]:
    files = [{"type": "file", "name": name, "hashes": _hashes(FOLDER / name)} for name in terms.files]
    return {"type": "machine-learning-model", "name": terms.name, "licenses": _licenses(terms.terms), "components": files}


def _licenses(terms: str) -> list[dict[str, Any]]:
    return [{"license": {"name": terms}}]


def _hashes(file: Path) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": file_hash(file)}]


def weight_terms(where: Path = FOLDER) -> Iterator[Terms]:
    """Those of a weight file, or of every one below a folder, from the card next to each. Raises ``InputError``."""
    files = [where] if where.is_file() else sorted(path for path in where.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        raise InputError("no weights there" if where.exists() else "no such file or folder", where)
    about: dict[Path, list[Path]] = {}
    for file in files:
        places = [card_path(file), file.parent / CARD, file.parent.parent / CARD]  # the last of a pipeline's folder
        about.setdefault(next((place for place in places if place.is_file()), file), []).append(file)
    for place, covered in about.items():
        card = {} if place in covered else read_json(place, what="card")
        shown = tuple(str(file.relative_to(FOLDER) if file.is_relative_to(FOLDER) else file) for file in covered)
        terms = str(card.get("licence") or card.get("terms") or "not stated")
        yield Terms("weights", str(card.get("name", covered[0].name)), terms, shown, tuple(card.get("attribution", ())))


def package_terms(root: str = "facesieve") -> Iterator[Terms]:
    """Of every installed package that ``root`` depends on, with its extras, directly or through another one."""
    waiting, found = _needed(root, extras=True), dict[str, metadata.PackageMetadata]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            try:
                found[name] = metadata.metadata(name)
            except metadata.PackageNotFoundError:  # of an extra, or of another platform
                continue
            waiting += _needed(name, extras=False)
    for name, about in sorted(found.items()):
        yield Terms("package", name, licence_of(about))


def _needed(package: str, *, extras: bool) -> list[str]:
    wanted = [line for line in metadata.requires(package) or [] if extras or "extra ==" not in line]
    names = [_plain(re.match(r"[\w.-]+", line).group()) for line in wanted]  # type: ignore[union-attr]
    return [name for name in names if name != _plain(package)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(about: metadata.PackageMetadata) -> str:
    """A package's licence in a line: its SPDX expression where it has one, else its classifiers, else its own words."""
    named = _field(about, "License-Expression")
    if named:
        return named
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    if classifiers:
        return ", ".join(classifiers)
    first = next((line.strip() for line in _field(about, "License").splitlines() if line.strip()), "not stated")
    return first[:LONGEST]


def _field(about: metadata.PackageMetadata, name: str) -> str:
    return str(next(iter(about.get_all(name) or []), ""))
