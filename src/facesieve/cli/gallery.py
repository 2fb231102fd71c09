"""The commands under `gallery`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesieve.cli.identify import Front, tell_shortfall
from facesieve.cli.options import (
    AsJson,
    Embedding,
    Location,
    MaxPixels,
    PriorFolder,
    RuntimeName,
    Scale,
    Seed,
    ShieldName,
    everyone_in,
    opened,
)
from facesieve.cli.terminal import counted, errors, out, print_json, progress_bar
from facesieve.errors import GalleryError, InputError, many
from facesieve.limits import number
from facesieve.specs import DEFAULT_PRESET, MAX_PIXELS, in_use

if TYPE_CHECKING:
    from facesieve.rows import Rows

gallery_app = typer.Typer(no_args_is_help=True, help="Galleries of known people: list, remove, export, copy, calibrate, index.")


@gallery_app.command("list")
def list_(gallery: Location = "gallery", json_: AsJson = False) -> None:
    """Everyone in a gallery, with the number of their templates."""
    with opened(gallery) as store:
        people = store.people()
        if json_:
            entries = [{"person": entry.person, "templates": dict(entry.templates)} for entry in people]
            calibrations = [vars(calibration) for calibration in store.calibrations()]
            print_json({"embedder": store.embedder, "people": entries, "calibrations": calibrations})
            return
        for entry in people:
            out.print(f"{entry.person}: " + ", ".join(f"{count} {label}" for label, count in entry.templates.items()))
        out.print(f"{many(len(people), 'person', 'people')}, templates by {store.embedder}")
        for known in store.calibrations():
            against = "" if known.templates is None else f" against templates {known.templates}"
            out.print(
                f"threshold {known.threshold:.3f} for probes {known.purifier}{against}, "
                f"false-accept rate {known.false_accept_rate:g}"
            )


@gallery_app.command()
def remove(person: Annotated[str, typer.Argument(help="The person's name.")], gallery: Location = "gallery") -> None:
    """Remove a person with all templates."""
    with opened(gallery) as store:
        out.print(f"{person}: {many(store.remove(person), 'template')} removed")


@gallery_app.command()
def export(
    target: Annotated[Path, typer.Argument(help="A .jsonl file; one template per line.")], gallery: Location = "gallery"
) -> None:
    """Write every template to a file, one JSON object per line: person, purifier, row."""
    from facesieve.files import write_atomic

    with progress_bar("exporting"), opened(gallery) as store:
        lines = [
            json.dumps({"person": t.person, "purifier": t.purifier, "embedder": store.embedder, "row": t.row.tolist()})
            for t in store.export()
        ]
    write_atomic(target, "".join(line + "\n" for line in lines).encode())
    out.print(f"{many(len(lines), 'template')} written to {target}")


@gallery_app.command()
def copy(
    source: Annotated[str, typer.Argument(help="A gallery: a folder, or postgresql://user@host/database.")],
    target: Annotated[str, typer.Argument(help="A new one: a folder, lancedb://FOLDER, or postgresql://user@host/database.")],
) -> None:
    """Copy everyone, and the thresholds, to a new gallery of any kind."""
    from facesieve.galleries import copy_gallery

    with progress_bar("copying"):
        copied = copy_gallery(source, target)
    out.print(f"{many(copied, 'template')} copied")  # no addresses: they may hold a password


@gallery_app.command()
def calibrate(
    probes: Annotated[Path, typer.Argument(help="A folder with one folder per person, of photographs that are not enrolled.")],
    far: Annotated[float, typer.Option(min=0, max=1, help="The desired false-accept rate.")] = 0.01,
    gallery: Location = "gallery",
    shield: ShieldName = DEFAULT_PRESET,
    scale: Scale = None,
    embedder: Embedding = "sface",
    seed: Seed = None,
    runtime: RuntimeName = "auto",
    prior: PriorFolder = None,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Choose the threshold under which a face is unknown, from photographs of known people."""
    import numpy as np

    from facesieve.galleries.base import Calibration
    from facesieve.metrics.open_set import calibrate_threshold
    from facesieve.metrics.rates import check_count

    number(far, "--far", 0, 1)
    in_use(shield)
    everyone = everyone_in(str(probes), [], folders=True)
    check_count(sum(map(len, everyone.values())), far, "photographs")
    if len(everyone) < 2:
        raise InputError("photographs of at least two people are needed", probes)
    front = Front.load(embedder, shield, scale, seed, runtime, prior, max_pixels)
    identifier = front.identifier
    with opened(gallery, identifier) as store:
        names, kind = [entry.person for entry in store.people()], identifier.kind(store)
        templates = [store.templates_of(name, kind=kind) for name in names]
        if not templates:
            raise GalleryError("nobody is enrolled", store.where, "enrol people first")
        rows, people = _probe_rows(front, everyone)
        owners = [name for name, own in zip(names, templates, strict=True) for _ in own]
        found = calibrate_threshold(rows, people, np.concatenate(templates), owners, far)
        store.calibrate(Calibration(float(found.threshold.value), far, identifier.purifier, len(rows), kind))
        tell_shortfall(identifier, store)
    out.print(
        f"threshold {found.threshold} for probes {identifier.purifier} against templates {kind}, "
        f"from {many(len(rows), 'photograph')} of {many(len(everyone), 'person', 'people')}"
    )
    out.print(
        f"false accepts {found.reached}" + ("" if found.dir is None else f"; known people named {found.dir}, refused {found.frr}")
    )


def _probe_rows(front: Front, everyone: dict[str, list[Path]]) -> tuple[Rows, list[str]]:
    """An embedding of every usable photograph, and whose it is; the others are reported."""
    import numpy as np

    rows, people = [], []
    with counted([(name, path) for name, files in everyone.items() for path in files], "calibrating") as each:
        for name, path in each:
            try:
                rows.append(front.identifier.rows(*front.faces(path, one=True)))
                people.append(name)
            except InputError as error:
                errors.print(f"  left out: {error}")
    if not rows:
        raise InputError("none of the photographs can be used")
    return np.concatenate(rows), people


@gallery_app.command()
def index(gallery: Location = "gallery") -> None:
    """Make searches of a large gallery faster; people enrolled later are found as well."""
    with progress_bar("indexing"), opened(gallery) as store:
        indexed, where = store.build_index(), store.where
    out.print(f"{where}: indexed" if indexed else f"{where}: too small to need an index; tidied up")
