"""An exercise: a page of a report, by one new file such as this one."""

import csv
import io
import json
from pathlib import Path

import pytest

from facesieve.report.pages import PAGES

RECORD = Path(__file__).parents[2] / "docs" / "results" / "evaluation-sface-adaptive.json"

# --- the new file --------------------------------------------------------------------------------


def spreadsheet(tables):
    """The accuracies for a spreadsheet."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["attack", "defence", "accuracy", "low", "high"])
    for row in tables.rows:
        lines.writerow([row.attack, row.defence, row.accuracy.value, row.accuracy.low, row.accuracy.high])
    return text.getvalue()


# --- what it can do then -------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    len(PAGES)  # the room's own files come first, as they do outside of tests
    monkeypatch.setattr(PAGES, "_things", dict(PAGES._things))
    PAGES.register("accuracy.csv", spreadsheet)


def test_the_command_draws_it_beside_the_others(registered, facesieve, tmp_path):
    done = facesieve("report", RECORD, "-o", tmp_path)
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "tables.json", "accuracy.csv"}
    rows = list(csv.DictReader((tmp_path / "accuracy.csv").open()))
    assert len(rows) == len(json.loads((tmp_path / "tables.json").read_text())["rows"])
    assert rows[0]["attack"] == "none"
