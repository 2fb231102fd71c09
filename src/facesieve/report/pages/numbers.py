"""The numbers of the tables as JSON, for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from facesieve.report.checks import checks
from facesieve.report.pages import PAGES
from facesieve.report.summary import summary
from facesieve.report.tables import Tables


def numbers(tables: Tables) -> str:
    """The summary, the warnings, a list of rows, and what made them."""
    rows = [asdict(row) for row in tables.rows]
    warnings = checks(tables)
    content = {
        "summary": summary(tables, len(warnings)),
        "warnings": warnings,
        "rows": rows,
        "environment": tables.record.environment,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


PAGES.register("tables.json", numbers)
