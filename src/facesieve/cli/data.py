"""The commands under `data`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from facesieve.cli.options import (
    AlignedData,
    Beyond,
    DataSource,
    LabelColumn,
    ManifestFile,
    Minimum,
    People,
    SelectionFile,
    SelectionSeed,
    TestImages,
    TrainImages,
)
from facesieve.cli.terminal import errors, out
from facesieve.errors import InputError, SettingError, many
from facesieve.progress import Progress

data_app = typer.Typer(no_args_is_help=True, help="Labelled photographs: choose people and images by the published protocol.")


@data_app.command()
def select(
    source: DataSource,
    output: ManifestFile,
    config: SelectionFile = None,
    minimum: Minimum = None,
    people: People = None,
    train: TrainImages = None,
    test: TestImages = None,
    seed: SelectionSeed = None,
    aligned: AlignedData = None,
    beyond: Beyond = None,
    label: LabelColumn = None,
) -> None:
    """Choose people and images at random; write every file, its hash and its role into a manifest."""
    import cv2

    from facesieve.data.manifest import load_manifest, save_manifest
    from facesieve.data.select import read_selection, select_beyond
    from facesieve.data.select import select as choose
    from facesieve.data.sources import FolderSource, open_source
    from facesieve.folders import passed_over

    cv2.setNumThreads(1)
    _check_place(output)
    photographs = open_source(source, label=label)
    given: dict[str, Any] = {
        "minimum": minimum, "people": people, "train": train, "test": test, "seed": seed, "aligned": aligned,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if beyond is not None:
        if config is not None or given:
            raise SettingError("--beyond takes its settings from the manifest, and no others")
        manifest = select_beyond(photographs, load_manifest(beyond), report=_tell)
    else:
        manifest = choose(photographs, read_selection(config, given), report=_tell)
    save_manifest(output, manifest)
    passed = photographs.passed if isinstance(photographs, FolderSource) else None
    if passed:
        errors.print(f"passed over: {passed_over(passed)}")
    whole = sum(entry.ref is None for entry in manifest.replaced)
    chosen, learnt = many(len(manifest.people), "person", "people"), many(len(manifest.of("train")), "image")
    out.print(f"{chosen}, {learnt} to train, {len(manifest.of('test'))} to test")
    if manifest.replaced:
        unused = f"{many(len(manifest.replaced) - whole, 'image')} and {many(whole, 'person', 'people')}"
        out.print(f"{unused} could not be used; the manifest lists them")
    out.print(f"manifest {manifest.sha256[:16]} in {output}")


@data_app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="A folder with index.csv (file, person, role) and the folders it lists.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the manifests, one for each folder listed.")],
) -> None:
    """Make the manifests of photographs that come with a table of who is enrolled and who is probed."""
    import cv2

    from facesieve.data.manifest import save_manifest
    from facesieve.data.prepare import prepare as prepared
    from facesieve.files import check_folder, make_folder

    cv2.setNumThreads(1)
    check_folder(output)
    made = prepared(source, report=_tell)
    make_folder(output)
    for part, manifest in made.items():
        path = output / f"{part}.json"
        save_manifest(path, manifest)
        left_out = f"; {many(len(manifest.replaced), 'person', 'people')} could not be used" if manifest.replaced else ""
        out.print(f"{many(len(manifest.people), 'person', 'people')}{left_out}: manifest {manifest.sha256[:16]} in {path}")


def _check_place(output: Path) -> None:
    """Before the work: a selection may take an hour, and would be lost if it cannot be written."""
    if output.is_dir() or not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise InputError("cannot be written", output, "name a file in a folder that exists")


def _tell(progress: Progress) -> None:
    done, wanted = int(progress.done), int(progress.total)
    if errors.is_terminal or done % 50 == 0 or done == wanted:
        errors.print(f"{done} of {wanted} {progress.what}", end="\r" if errors.is_terminal and done < wanted else "\n")
