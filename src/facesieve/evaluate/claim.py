"""The folder of a run: of one experiment on one selection of the data, and of no other."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from facesieve.data.manifest import Manifest, load_manifest, save_manifest
from facesieve.data.select import select
from facesieve.data.sources import open_source
from facesieve.errors import InputError, SettingError
from facesieve.evaluate.experiment import Experiment
from facesieve.files import write_with_folder
from facesieve.progress import Progress, Report


def claim(out: Path, experiment: Experiment) -> None:
    """Keep the experiment in the folder. Raises ``SettingError`` where it holds a run of another, ``InputError`` for a file."""
    path, text = out / "experiment.json", experiment.model_dump_json(indent=1) + "\n"
    if path.exists() and _stored(path) != experiment:
        raise SettingError("holds a run of another experiment", out, "choose another folder")
    if out.exists() and not out.is_dir():
        raise InputError("not a folder", out)
    write_with_folder(path, text.encode())


def claimed_manifest(out: Path, experiment: Experiment, source: Path, given: Path | None, report: Report) -> Manifest:
    """The manifest that is ``given``, or the folder's own, or one selected from the data; kept in the folder.

    Raises ``SettingError`` for one of another selection, or where the folder holds a run on other data; errors as ``select``.
    """
    own = out / "manifest.json"
    if given is not None:
        manifest = load_manifest(given)
        if manifest.selection != experiment.data:
            raise SettingError("made with other settings than the experiment's [data]", given, "select anew")
    elif own.exists():
        return load_manifest(own)
    else:
        report(Progress(0, 1, "choosing people and images ..."))
        manifest = select(open_source(source), experiment.data)
    if own.exists() and load_manifest(own).sha256 != manifest.sha256:
        raise SettingError("holds a run on other data", out, "choose another folder")
    save_manifest(own, manifest)
    return manifest


def _stored(path: Path) -> Experiment | None:
    """The experiment that a run's folder was claimed by; None where it cannot be told."""
    try:
        return Experiment.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
