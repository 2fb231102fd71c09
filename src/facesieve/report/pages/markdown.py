"""The warnings and the tables as Markdown."""

from __future__ import annotations

from facesieve.report.checks import checks
from facesieve.report.pages import PAGES
from facesieve.report.summary import glance, summary
from facesieve.report.tables import Tables
from facesieve.report.templates import fill
from facesieve.report.text import title, worded


def markdown(tables: Tables) -> str:
    """Three sentences, the warnings, the tables, then what made them."""
    record, warnings = tables.record, checks(tables)
    return fill(
        "report.md.j2",
        title=title(record),
        summary=summary(tables, len(warnings)),
        warnings=warnings,
        tables=[*filter(None, [glance(tables)]), *worded(tables)],
        environment=record.environment,
    )


PAGES.register("report.md", markdown)
