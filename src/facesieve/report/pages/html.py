"""One self-contained HTML file that loads nothing else."""

from __future__ import annotations

import json

from facesieve.report.checks import checks
from facesieve.report.pages import PAGES
from facesieve.report.plots import plots
from facesieve.report.summary import glance, summary
from facesieve.report.tables import Tables
from facesieve.report.templates import fill
from facesieve.report.text import Table, title, worded


def html(tables: Tables) -> str:
    """Three sentences, the warnings, the tables, the plots, the sample faces, then what made them."""
    record, warnings = tables.record, checks(tables)
    return fill(
        "report.html.j2",
        title=title(record),
        summary=summary(tables, len(warnings)),
        warnings=warnings,
        tables=[*filter(None, [glance(tables)]), *worded(tables)],
        plots=plots(tables),
        pictures=record.pictures,
        environment=Table("", ("what", "value"), tuple(record.environment.items())),
        settings=json.dumps(record.experiment, indent=1, ensure_ascii=False),
    )


PAGES.register("report.html", html)
