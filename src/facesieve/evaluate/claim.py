"""The folder of a run: of one experiment on one selection of the data, and of no other.

``check`` and ``wanted_manifest`` only look; ``keep`` claims the folder, when everything else has been checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from facesieve.data.manifest import Manifest, load_manifest
from facesieve.data.select import select
from facesieve.data.sources import open_source
from facesieve.errors import InputError, SettingError, many
from facesieve.evaluate.experiment import Experiment
from facesieve.files import write_with_folder
from facesieve.progress import Progress, Report

EXPERIMENT, MANIFEST = "experiment.json", "manifest.json"
FREE: Any = {"targets": True, "run": {"samples"}}  # what no figure of a run depends on
SHOWN = 4  # keys that differ, of which both values are said


def check(out: Path, experiment: Experiment) -> None:
    """Raises ``SettingError`` where the folder holds a run of another experiment: it names each key that differs."""
    if out.exists() and not out.is_dir():
        raise InputError("not a folder", out)
    path = out / EXPERIMENT
    if not path.exists():
        return
    try:
        there = Experiment.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SettingError("holds a run whose experiment cannot be read", path, "choose another folder") from error
    plain = there.model_dump(mode="json", exclude=FREE), experiment.model_dump(mode="json", exclude=FREE)
    if found := list(differences(*plain)):
        more = f"; and {many(len(found) - SHOWN, 'more key')}" if len(found) > SHOWN else ""
        raise SettingError(f"holds a run of another experiment: {'; '.join(found[:SHOWN])}{more}", out, "choose another folder")


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """``run.batch is 15 there, 3 here`` for each key of plain data that differs; items of lists are counted from 1."""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = {name: (there.get(name), here.get(name)) for name in there | here}
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = {str(number): pair for number, pair in enumerate(zip(there, here, strict=True), 1)}
    elif isinstance(there, list) and isinstance(here, list):
        yield f"{key} has {many(len(there), 'entry', 'entries')} there, {len(here)} here"
        return
    else:
        if there != here:
            yield f"{key} is {_said(there)} there, {_said(here)} here"
        return
    for name, (one, other) in pairs.items():
        yield from differences(one, other, f"{key}.{name}" if key else name)


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def wanted_manifest(out: Path, experiment: Experiment, source: Path, given: Path | None, report: Report) -> Manifest:
    """The manifest that is ``given``, or the folder's own, or one selected from the data.

    Raises ``SettingError`` for one of another selection, or where the folder holds a run on other data; errors as ``select``.
    """
    own = out / MANIFEST
    if given is not None:
        manifest = load_manifest(given)
        if manifest.selection != experiment.data:
            plain = manifest.selection.model_dump(mode="json"), experiment.data.model_dump(mode="json")
            what = "; ".join(differences(*plain, "data"))
            raise SettingError(f"made with other settings than the experiment's [data]: {what}", given, "select anew")
    elif own.exists():
        return load_manifest(own)
    else:
        report(Progress(0, 1, "choosing people and images ..."))
        manifest = select(open_source(source), experiment.data)
    if own.exists() and (kept := load_manifest(own)).sha256 != manifest.sha256:
        what = next(differences(kept.model_dump(mode="json"), manifest.model_dump(mode="json")), "what was left out differs")
        raise SettingError(f"holds a run on other data: {what}", out, "choose another folder")
    return manifest


def keep(out: Path, experiment: Experiment, manifest: Manifest) -> None:
    """Claim the folder. Raises ``InputError`` where it cannot be written."""
    write_with_folder(out / MANIFEST, manifest.text().encode())
    write_with_folder(out / EXPERIMENT, (experiment.model_dump_json(indent=1) + "\n").encode())
