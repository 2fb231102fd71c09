"""What a training keeps on the way: its curve, and that it goes on with the settings it was begun with."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from facesieve.errors import SettingError


def append_row(path: Path, header: Sequence[Any], row: Sequence[Any]) -> None:
    """Add a row to a CSV file; a new file gets the header first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(header)
        writer.writerow(row)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write it whole: a run that is killed leaves the old one or the new."""
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


def check_settings(path: Path, begun: Mapping[str, Any], given: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> None:
    """Raises ``SettingError`` where a run goes on with other settings than it was begun with, but for those that are ``free``."""
    for name in sorted((begun.keys() | given.keys()) - free):
        if begun.get(name) != given.get(name):
            raise SettingError(f"{path}: this run has {name} {begun.get(name)}, not {given.get(name)}; use another folder")
