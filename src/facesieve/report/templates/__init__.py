"""The templates of pages, and how they are filled in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from facesieve.errors import MissingExtraError


def fill(template: str, *, folder: Path = Path(__file__).parent, **facts: object) -> str:
    """The text of a Jinja2 template of ``folder`` with the facts; those for HTML escape them.

    ``row`` is a filter: cells as a line of a Markdown table. Raises ``MissingExtraError`` without Jinja2.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
    except ImportError as error:
        raise MissingExtraError("drawing a report", "evaluate") from error
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["row"] = markdown_row
    return environment.get_template(template).render(facts)


def markdown_row(cells: Iterable[object]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
