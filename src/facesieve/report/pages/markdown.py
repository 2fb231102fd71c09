"""The warnings and the tables as Markdown."""

from __future__ import annotations

from facesieve.report.checks import checks
from facesieve.report.pages import PAGES
from facesieve.report.tables import Tables
from facesieve.report.templates import fill
from facesieve.report.text import title, worded


def markdown(tables: Tables) -> str:
    """The warnings, then the tables, then what made them."""
    record = tables.record
    return fill(
        "report.md.j2", title=title(record), warnings=checks(tables), tables=worded(tables), environment=record.environment
    )


PAGES.register("report.md", markdown)
