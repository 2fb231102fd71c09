"""Where commands print: results to standard output, what went wrong to standard error; both as they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, NoReturn, TypeVar

from rich.console import Console
from rich.text import Text

from facesieve.errors import (
    AmbiguousImageError,
    ExistsError,
    FacesieveError,
    InputError,
    ManifestError,
    NoFaceError,
    NotSquareError,
    OtherPeopleError,
    ProfileError,
    RecordError,
)
from facesieve.progress import Progress

if TYPE_CHECKING:
    from facesieve.progress import Report

Item = TypeVar("Item")

SILENCE = 30.0  # seconds without a word about how far something is, where there is no terminal to draw a bar on

out = Console(highlight=False, soft_wrap=True, markup=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

# What can be done about an error on the command line; the library, which has other callers too, cannot say it.
ADVICE: dict[type[FacesieveError], str] = {
    NoFaceError: "if the image is an aligned face crop already, use --aligned",
    NotSquareError: "leave --aligned out to find its face",
    ExistsError: "use another folder or --overwrite",
    AmbiguousImageError: "say by --image-column which one is meant",
    ProfileError: "`facesieve choose-scale` writes a profile",
    ManifestError: "`facesieve data select` writes a manifest",
    RecordError: "`facesieve evaluate` writes it",
    OtherPeopleError: "train it on this manifest with `facesieve train recogniser`",
}


def speak_anywhere() -> None:
    """What a console's encoding does not have is written as ``\\u674e``: a name must not stop a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(plain: object) -> None:
    """Plain data as JSON, in ASCII, which every console holds. Raises ``InputError`` for NaN and infinity, which JSON has not."""
    try:
        out.print_json(data=plain, ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise InputError("it holds NaN or infinity, which JSON does not have") from error


OPTIONS = {"on_tamper", "tamper_score", "tamper_threshold"}  # settings that are named by the library and given by an option


def advised(error: FacesieveError) -> FacesieveError:
    """The error with what can be done about it here, unless it says so itself; a setting is called as its option is."""
    if error.where in OPTIONS:
        error.where = f"--{error.where.replace('_', '-')}"
    return error.advised(next((ADVICE[kind] for kind in type(error).__mro__ if kind in ADVICE), None))


def advised_line(line: str, kind: str) -> str:
    """As ``advised``, for an error of which only its line and the name of its type are left."""
    advice = next((text for known, text in ADVICE.items() if known.__name__ == kind), None)
    return line if advice is None else f"{line}; {advice}"


def fail(error: FacesieveError | str) -> NoReturn:
    """Print one line and exit with code 2."""
    line = str(advised(error)) if isinstance(error, FacesieveError) else error
    errors.print(Text.assemble(("error:", "bold red"), f" {line}"))
    sys.exit(2)


@contextmanager
def progress_bar(title: str, *, lines: bool = True) -> Iterator[Report]:
    """How far something is, with its figures and the time left, on a terminal; until it is told, that something goes on.

    Elsewhere, as in a log, with ``lines`` a line whenever there was none for ``SILENCE`` seconds.
    """
    from rich import progress as rich

    texts = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    times = (rich.TextColumn("{task.fields[facts]}"), rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    # Results that go to a file must not be caught with those that a terminal shows.
    silent, catch = not errors.is_terminal, out.is_terminal
    with rich.Progress(*texts, *times, console=errors, transient=True, disable=silent, redirect_stdout=catch) as bar:
        task, told = bar.add_task(title, total=None, facts=""), time.monotonic()

        def tell(progress: Progress) -> None:
            nonlocal told
            bar.update(task, completed=progress.done, total=progress.total, facts=_facts(progress))
            if lines and not errors.is_terminal and time.monotonic() - told >= SILENCE:
                told = time.monotonic()
                errors.print(f"{title}: {progress.done:g} of {progress.total:g}")

        yield tell


@contextmanager
def counted(items: Sequence[Item], title: str) -> Iterator[Iterator[Item]]:
    """The items, one after the other, with a bar that says how many are done."""

    def each(tell: Report) -> Iterator[Item]:
        for number, item in enumerate(items):
            tell(Progress(number, len(items)))
            yield item

    with progress_bar(title) as tell:
        yield each(tell)


def _facts(progress: Progress) -> str:
    return ", ".join(f"{value} {name}" for name, value in progress.facts.items())
