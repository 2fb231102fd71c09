"""What `purify` and `identify` do with clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from facesieve.cli.summaries import print_doubts
from facesieve.cli.terminal import advised_line, errors, out, progress_bar
from facesieve.errors import InputError, many

if TYPE_CHECKING:
    from facesieve.jobs.clips import ClipSummary, Voted
    from facesieve.jobs.cluster import Recipe
    from facesieve.jobs.record import Options


def purify_alone(
    inputs: Sequence[str], output: str, recipe: Recipe, options: Options, *, others: bool, strict: bool = False
) -> None:
    """Purify the one clip among ``inputs``; exit with code 1 if not all of it could be.

    ``others``: options of other inputs. ``strict``: possible faces that were not purified are a failure as well.
    """
    from facesieve.jobs.clips import purify_clip
    from facesieve.jobs.video import video_library

    if len(inputs) != 1:
        raise InputError("one clip is purified in a call, without photographs beside it")
    if others or options.aligned or not options.paste:
        raise InputError(
            "--aligned, --no-paste, --grid, --image-column, --format, --cluster and --workers go with photographs and shards"
        )
    if output == "-" or not Path(output).suffix:
        raise InputError("a clip is written to a file", f"-o {output}", "name it, such as -o out.mp4")
    video_library()  # before a network is loaded
    shield = recipe.load()
    with progress_bar("purifying") as report:
        summary = purify_clip(Path(inputs[0]), Path(output), shield, options, report)
    _say(summary, output, f"{recipe.preset.name} on {shield.card.ran_on}")
    doubted = print_doubts(summary.doubts, strict=strict)
    if summary.failures or doubted:
        raise typer.Exit(1)


def _say(summary: ClipSummary, output: str, how: str) -> None:
    if summary.skipped:
        out.print(f"{output} is there already; {how}")
        return
    where = f", {summary.held} of them where they had been seen last" if summary.held else ""
    people = many(summary.people, "face was followed", "faces were followed")
    out.print(f"{many(summary.frames, 'frame')}, {many(summary.faces, 'face')} purified{where}; {people}; {how}")
    out.print(f"the result is {output}")
    if summary.failures:
        errors.print(f"{many(len(summary.failures), 'stretch', 'stretches')} of it could not be purified:", style="bold red")
        for failure in summary.failures:
            became = "passed on as it was" if failure.kept else "left out: the frame before stays"
            errors.print(f"  {advised_line(failure.reason, failure.kind)} ({became})")


def plain(one: Voted) -> dict[str, object]:
    """A face of a clip, for JSON."""
    return {
        "track": one.track,
        "frames": one.frames,
        "votes": one.votes,
        "person": one.person,
        "threshold": one.threshold,
        "threshold_from": one.origin,
        "templates": one.templates,
        "nearest": None if one.nearest is None else {"person": one.nearest, "score": one.score},
        "tampered_frames": one.tampered,
        "refused": one.refused,
    }


def print_votes(results: dict[str, list[Voted]]) -> None:
    """Who is in each clip, a line a face."""
    for path, faces in results.items():
        for one in faces:
            if one.refused is not None:
                out.print(f"{path}, face {one.track}: refused")
                continue
            name = f"{one.nearest}?" if one.threshold is None else one.person or "unknown"
            said = f"{one.votes} of {many(one.frames, 'frame')}; nearest {one.nearest}, mean cosine {one.score:.3f}"
            doubt = f"; looks tampered with in {many(one.tampered, 'frame')}" if one.tampered else ""
            out.print(f"{path}, face {one.track}: {name} ({said}{doubt})")


def refusals(results: dict[str, list[Voted]]) -> list[str]:
    """A line for each face that is refused."""
    return [
        f"{path}, face {one.track}: refused: {one.refused}" for path, faces in results.items() for one in faces if one.refused
    ]
