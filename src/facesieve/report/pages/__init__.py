"""The pages of a report: each a function of a record's tables, registered under the name of the file it is written to.

A file of this room registers the page that it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from facesieve.files import write_with_folder
from facesieve.registry import Registry
from facesieve.report.record import Record
from facesieve.report.tables import Tables, tables_of

Page = Callable[[Tables], str]

PAGES: Registry[Page] = Registry("report page", "facesieve.report.pages")


def draw(record: Record, folder: Path) -> list[Path]:
    """Write every page into ``folder``; returns their paths. The numbers are computed once, for all of them.

    Raises ``MissingExtraError`` without Matplotlib or Jinja2, ``InputError`` where a page cannot be written.
    """
    tables, names = tables_of(record), sorted(PAGES)
    for name in names:
        write_with_folder(folder / name, PAGES[name](tables).encode())
    return [folder / name for name in names]
