"""What a job says at its end: what it made, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facesieve.cli.terminal import errors, out
from facesieve.errors import many

if TYPE_CHECKING:
    from facesieve.jobs.record import Failure
    from facesieve.jobs.run import Summary

LISTED = 20  # failures that are printed where a file lists them all


def print_summary(summary: Summary, place: Path, how: str, *, shards: bool, single: bool = False) -> None:
    """What was made, on what, and where it is: in a folder or, a ``single`` one, in a file."""
    per_face = f", {1000 * summary.seconds / summary.faces:.0f} ms a face" if summary.faces else ""
    skipped = f", {many(summary.skipped, 'shard') if shards else summary.skipped} there already" if summary.skipped else ""
    made = f"{many(summary.photographs, 'photograph')}, {many(summary.faces, 'face')} purified"
    out.print(f"{many(summary.units, 'shard') + ', ' if shards else ''}{made}{skipped}{per_face}; {how}")
    if summary.units or summary.skipped:
        record = place.with_name(f"{place.stem}.face{'*' if summary.faces > 1 else 1}.json")
        out.print(f"the result is {place}, its record {record}" if single else f"results in {place}")


def print_doubts(doubts: Sequence[str], *, strict: bool) -> bool:
    """Where there may be faces that were not purified; whether that counts as a failure."""
    for line in doubts[:LISTED]:
        errors.print(line)
    if len(doubts) > LISTED:
        errors.print(f"... and possible faces in {many(len(doubts) - LISTED, 'more photograph')}; the records name them")
    return strict and bool(doubts)


def print_failures(failures: list[Failure], folder: Path | None) -> None:
    """The failures; the first of them, where all are listed in ``folder``."""
    if not failures:
        return
    from facesieve.jobs.record import FAILURES

    listed = "" if folder is None else f", listed in {folder / FAILURES}"
    errors.print(f"{len(failures)} failed{listed}:", style="bold red")
    for failure in failures if folder is None else failures[:LISTED]:
        errors.print(f"  {failure.reason}" if failure.key is None else f"  {failure.source}: {failure.reason}")
    if folder is not None and len(failures) > LISTED:
        errors.print("  ...")
