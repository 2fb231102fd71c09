"""A report page: a line for each row of the tables."""

from facesieve.report.pages import PAGES


def plain(tables):
    return "".join(f"{row.attack} | {row.defence} | {row.accuracy.value:.3f}\n" for row in tables.rows)


PAGES.register("plain.txt", plain)
