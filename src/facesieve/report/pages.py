"""A report as pages: one self-contained HTML file, Markdown, and the numbers of the tables as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from pathlib import Path

from facesieve.files import write_with_folder
from facesieve.report.checks import doubts
from facesieve.report.plots import plots
from facesieve.report.record import Report
from facesieve.report.tables import rows
from facesieve.report.text import Table, tables

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
.warnings { border-left: 4px solid #b00; background: #fdf3f3; padding: .5rem 1rem; }
.wide { overflow-x: auto; } svg, img { max-width: 100%; height: auto; } .note { color: #666; font-size: 13px; }
"""


def draw(report: Report, folder: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``tables.json`` into ``folder``; returns their paths.

    Raises ``MissingExtraError`` without Matplotlib.
    """
    numbers = {"warnings": doubts(report), "rows": [asdict(row) for row in rows(report)], "environment": report.environment}
    pages = {
        "report.html": html(report),
        "report.md": markdown(report),
        "tables.json": json.dumps(numbers, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in pages.items():
        write_with_folder(folder / name, text.encode())
    return [folder / name for name in pages]


def markdown(report: Report) -> str:
    """The warnings, then the tables, then what made them."""
    parts = [f"# {title(report)}", "", "**Read this first.**", ""]
    parts += [f"- {line}" for line in doubts(report)] or ["- Nothing was found that voids these numbers."]
    for table in tables(report):
        parts += ["", f"## {table.title}", "", _row(table.header), _row(["---"] * len(table.header))]
        parts += [_row(row) for row in table.rows]
        parts += ["", table.note] if table.note else []
    parts += ["", "## What ran", "", *(f"- {name}: {value}" for name, value in report.environment.items()), ""]
    return "\n".join(parts)


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def html(report: Report) -> str:
    """One page with everything in it; nothing is loaded from anywhere."""
    warnings = (
        "".join(f"<li>{escape(line)}</li>" for line in doubts(report)) or "<li>Nothing was found that voids these numbers.</li>"
    )
    body = [f"<h1>{escape(title(report))}</h1>", f'<div class="warnings"><b>Read this first.</b><ul>{warnings}</ul></div>']
    body += [_html_table(table) for table in tables(report)]
    body += [f"<h2>{escape(name)}</h2>{svg}" for name, svg in plots(report)]
    for name, picture in report.pictures.items():
        what = f"Sample faces through {name}"
        body.append(f'<h2>{escape(what)}</h2><img alt="{escape(what)}" src="data:image/jpeg;base64,{picture}">')
    body += ["<h2>What ran</h2>", _html_table(Table("", ("what", "value"), tuple(report.environment.items())))]
    settings = escape(json.dumps(report.experiment, indent=1, ensure_ascii=False))
    body.append(f"<details><summary>The experiment</summary><pre>{settings}</pre></details>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title(report))}</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"


def _html_table(table: Table) -> str:
    heading = f"<h2>{escape(table.title)}</h2>" if table.title else ""
    header = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'{heading}<div class="wide"><table><tr>{header}</tr>{lines}</table></div>{note}'


def title(report: Report) -> str:
    """What was evaluated, in a line."""
    return f"Evaluation: {report.environment['recogniser']}; {len(report.people)} people, {len(report.labels)} images"
