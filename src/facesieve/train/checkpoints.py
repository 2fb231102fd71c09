"""What a training keeps meanwhile: its curves, and checkpoints to resume from with the settings it began with."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from facesieve.errors import InputError, SettingError, one_line
from facesieve.files import draft, write_atomic


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row to a CSV file; a new file gets a header first. Floats are written to 6 digits, None as nothing.

    Raises ``InputError`` where it cannot be written.
    """
    new = not path.exists()
    try:
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(row)
            writer.writerow("" if v is None else f"{v:.6f}" if isinstance(v, float) else v for v in row.values())
    except OSError as error:
        raise InputError(f"cannot be written: {one_line(error)}", path, "make room, then resume") from error


def cut_rows(path: Path, step: int) -> None:
    """Leave out of a CSV file, if there is one, what a killed run added after its last checkpoint, at ``step``, and half a row.

    Of half a header nothing is left. Those steps are made again: their rows would stand there twice. Raises ``InputError``
    where it cannot be written.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {one_line(error)}", path, "move it away, then resume") from error
    fields = _fields(lines[0]) if lines else 0

    def stays(line: str) -> bool:
        number = line.partition(",")[0]
        return line.endswith("\n") and _fields(line) == fields and number.isdecimal() and int(number) <= step

    kept = [line for place, line in enumerate(lines) if stays(line) or (place == 0 and line.endswith("\n"))]
    if not kept:
        path.unlink()
    elif kept != lines:
        write_atomic(path, "".join(kept).encode())


def _fields(line: str) -> int:
    """How many there are, of which each may hold commas between quotation marks; none of a damaged line."""
    try:
        return len(next(csv.reader([line]), []))
    except csv.Error:
        return 0


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write it atomically: a run that is killed leaves the old one or the new. Raises ``InputError``."""
    try:
        with draft(path) as (file, _):
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's for a full disk, of which it says only where in its code
        reason = one_line(error) if isinstance(error, OSError) else "the disk is full, or fails"
        raise InputError(f"the checkpoint cannot be written: {reason}", path, "make room, then resume") from error


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote; no code in it is run. Raises ``InputError`` for anything else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if {"step", "seconds", "settings", "optimiser"} <= state.keys() and isinstance(state["settings"], dict):
            return dict(state)
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(path) from error
    raise damaged(path)


def damaged(path: Path) -> InputError:
    """The error that a checkpoint is of which nothing can be resumed."""
    return InputError("damaged, or no checkpoint of this training", path, "move it away to begin anew, or use another folder")


def check_settings(path: Path, begun: Mapping[str, Any], given: Mapping[str, Any], *, may_change: frozenset[str]) -> None:
    """Raises ``SettingError`` if a run is resumed with other settings than it began with, except those that may change."""
    for name in sorted((begun.keys() | given.keys()) - may_change):
        if begun.get(name) != given.get(name):
            raise SettingError(f"this run has {name} {begun.get(name)}, not {given.get(name)}", path, "use another folder")
