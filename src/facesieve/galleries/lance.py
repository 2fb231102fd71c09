"""A gallery in a folder, by LanceDB: any folder that holds its table, and new ones at ``lancedb://FOLDER``.

    FOLDER/gallery.json       embedder, dimensions, calibrations; without it the folder is no gallery
    FOLDER/templates.lance    one table, one row per template
    FOLDER/lock               held while something is written

Every write is one commit of the table, or one file that is replaced, so it is atomic for readers and
in a crash. Writers wait for each other on a lock on the file ``lock``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np

from facesieve.errors import GalleryError, GalleryFailedError, MissingExtraError, one_line
from facesieve.galleries.base import GALLERIES, Calibration, Gallery, Nearest, Template, Templates, label_set
from facesieve.galleries.folder_files import (
    ABOUT,
    LANCE,
    LANCE_FORMAT,
    calibrate,
    calibrations_in,
    claimed,
    folder_of,
    locked,
    read_about,
    write_about,
)
from facesieve.rows import Rows

TABLE = "templates"
FILES = 64  # each enrolment adds one; from here on they are merged
ALL = 2**31 - 1  # more parts than an index has
KEEP_VERSIONS = timedelta(hours=1)  # searches in progress still read them
NAMES_AT_ONCE = 500  # a filter of many thousand names would be slow to parse


@dataclass(frozen=True)
class LanceSettings:
    """How the index is searched. The index holds 8 bits per dimension; the best rows are compared again exactly."""

    nprobes: int | None = None  # parts of the index that are searched; None: all
    refine: int = 1  # times as many rows as asked for are compared exactly


class LanceGallery(Gallery):
    """A ``Gallery`` in a folder. ``settings`` may be replaced at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.where, self.settings = folder, str(folder), LanceSettings()
        about = read_about(folder, LANCE_FORMAT)
        self.embedder, self.dimensions = about["embedder"], about["dimensions"]
        self._seen: tuple[int, dict[str, str]] | None = None  # version of the table, label set -> a person who has it
        with _reported(folder, "the table of templates does not work"):
            self._table: Any = _connected(folder).open_table(TABLE)

    @classmethod
    def open(cls, location: str) -> Self:
        """The gallery in the folder ``location``."""
        return cls(folder_of(location))

    @classmethod
    def create(cls, location: str, embedder: str, dimensions: int) -> Self:
        """The gallery in the folder ``location``, made if there is none. Raises ``GalleryError`` where something else is."""
        _lancedb()  # said before a folder is made
        folder = claimed(folder_of(location), LANCE)
        with locked(folder):
            if not (folder / ABOUT).exists():
                _make(folder, embedder, dimensions)
        return cls(folder)

    def close(self) -> None:
        """Forget the table."""
        self._table = None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._table is None:
            raise GalleryError("the gallery was closed", self.where, "open it again")
        with _reported(self.where, "the table of templates does not work"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with locked(self._folder), self._reading():
            yield

    # --- writing ----------------------------------------------------------------------------------

    def _add(self, people: Mapping[str, Templates]) -> str | None:
        names = list(people)
        for begin in range(0, len(names), NAMES_AT_ONCE):
            theirs = f"person IN ({', '.join(map(_quoted, names[begin : begin + NAMES_AT_ONCE]))})"
            if found := self._table.search().where(theirs).select(["person"]).limit(1).to_list():
                person: str = found[0]["person"]
                return person
        self._table.add(_arrow(people, self.dimensions))  # the commit
        if self._table.stats()["fragment_stats"]["num_fragments"] > FILES:
            with suppress(RuntimeError, OSError, ValueError):  # what was committed stays so, whatever happens here
                self._optimise()
        return None

    def _remove(self, person: str) -> int:
        theirs = f"person = {_quoted(person)}"
        count: int = self._table.count_rows(theirs)
        if count:
            self._table.delete(theirs)
        return count

    def _replace(self, person: str, templates: Templates) -> None:
        merged = self._table.merge_insert(["person", "number"]).when_matched_update_all().when_not_matched_insert_all()
        merged.execute(_arrow({person: templates}, self.dimensions))  # the commit

    def _calibrate(self, calibration: Calibration) -> None:
        calibrate(self._folder, LANCE_FORMAT, calibration)

    def _index(self, at_least: int) -> bool:
        """The index is IVF-SQ: 8 bits per dimension, and parts of about 8,192 rows."""
        from lancedb.index import IvfSq

        wanted = bool(self._table.count_rows() >= at_least)
        if wanted:
            self._table.create_index("row", config=IvfSq(distance_type="dot", max_iterations=15))
        self._optimise()
        return wanted

    def _optimise(self) -> None:
        """Merge small files, and index what was added."""
        self._table.optimize(cleanup_older_than=KEEP_VERSIONS)

    # --- reading ----------------------------------------------------------------------------------

    def _label_sets(self) -> Mapping[str, str]:
        """Kept until the table changes."""
        version = self._table.version
        if self._seen is None or self._seen[0] != version:
            table = self._table.search().select(["labels", "person"]).to_arrow()
            groups = table.group_by("labels").aggregate([("person", "min")])
            self._seen = version, dict(zip(groups["labels"].to_pylist(), groups["person_min"].to_pylist(), strict=True))
        return self._seen[1]

    def _nearest(self, kind: str | None) -> Nearest:
        """Searches all parts of the index if some of them hold too few. Rows that are not indexed yet are found, too."""
        where = None if kind is None else f"purifier = {_quoted(kind)}"

        def nearest(probe: Rows, limit: int) -> list[tuple[str, float]]:
            found: list[tuple[str, float]] = []
            for nprobes in dict.fromkeys([self.settings.nprobes or ALL, ALL]):  # once, where they are the same
                query = self._table.search(probe, vector_column_name="row").distance_type("dot")
                query = query.nprobes(nprobes).refine_factor(self.settings.refine)
                if where:
                    query = query.where(where, prefilter=True)
                table = query.select(["person", "_distance"]).limit(limit).to_arrow()
                found = list(zip(table["person"].to_pylist(), (1 - table["_distance"].to_numpy()).tolist(), strict=True))
                if len(found) == limit:
                    break
            return found

        return nearest

    def _templates_of(self, person: str) -> tuple[Sequence[str], Rows]:
        query = self._table.search().where(f"person = {_quoted(person)}")
        table = query.select(["purifier", "number", "row"]).to_arrow().sort_by("number")
        return table["purifier"].to_pylist(), _rows(table)

    def _counts(self, only: str | None) -> Iterable[tuple[str, str, int]]:
        query = self._table.search()
        query = query if only is None else query.where(f"person = {_quoted(only)}")
        groups = query.select(["person", "purifier"]).to_arrow().group_by(["person", "purifier"]).aggregate([([], "count_all")])
        table = groups.sort_by([("person", "ascending"), ("purifier", "ascending")])
        return zip(*(table[name].to_pylist() for name in table.column_names), strict=True)

    def _export(self) -> Iterator[Template]:
        from lancedb.query import ColumnOrdering

        order = [ColumnOrdering(column_name=name) for name in ("person", "number")]
        with self._reading():
            for batch in self._table.search().select(["person", "number", "purifier", "row"]).order_by(order).to_batches(1024):
                columns = batch["person"].to_pylist(), batch["purifier"].to_pylist(), _rows(batch)
                yield from map(Template, *columns)

    def _calibrations(self) -> Sequence[Calibration]:
        return calibrations_in(self._folder, read_about(self._folder, LANCE_FORMAT))


GALLERIES.register("lancedb", LanceGallery)


def _lancedb() -> Any:
    """The library, slow to import; it comes with an extra."""
    try:
        import lancedb
    except ImportError as missing:
        raise MissingExtraError("a gallery of LanceDB", "lancedb") from missing
    return lancedb


def _connected(folder: Path) -> Any:
    # Each read looks whether another process has written.
    return _lancedb().connect(str(folder), read_consistency_interval=timedelta(0))


@contextmanager
def _reported(where: object, what: str) -> Iterator[None]:
    """What LanceDB raises, as a ``GalleryFailedError`` of one line."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise GalleryFailedError(f"{what} ({one_line(error, limit=160)})", where) from error


def _make(folder: Path, embedder: str, dimensions: int) -> None:
    """An empty table, then gallery.json, with which the folder becomes a gallery."""
    with _reported(folder, "no gallery can be made here"):
        database = _connected(folder)
        there = any((folder / LANCE / "_versions").glob("*.manifest"))  # the folder alone, where a full disk ended its creation
        if there and database.open_table(TABLE).count_rows():
            raise GalleryError(f"holds templates, but {ABOUT} is missing", folder, "restore it from a copy")
        # What is there and empty was left by a creation that was killed.
        database.create_table(TABLE, schema=_schema(dimensions), mode="overwrite" if there else "create")
    write_about(folder, LANCE_FORMAT, {"embedder": embedder, "dimensions": dimensions, "calibrations": []})


def _schema(dimensions: int) -> Any:
    import pyarrow as pa

    row = pa.list_(pa.float32(), dimensions)
    return pa.schema(
        [
            ("person", pa.string()),
            ("labels", pa.string()),  # every purifier label that this person has
            ("purifier", pa.string()),
            ("number", pa.int32()),  # of the template, within the person
            ("row", row),
        ]
    )


def _arrow(people: Mapping[str, Templates], dimensions: int) -> Any:
    """The rows of many people as one table, so that they are one commit."""
    import pyarrow as pa

    persons: list[str] = []
    labels: list[str] = []
    purifiers: list[str] = []
    numbers: list[int] = []
    for person, templates in people.items():
        each = [label for label, rows in templates.items() for _ in range(len(rows))]
        persons += [person] * len(each)
        labels += [label_set(templates)] * len(each)
        purifiers += each
        numbers += range(len(each))
    rows = np.concatenate([rows for templates in people.values() for rows in templates.values()])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dimensions)
    return pa.table([persons, labels, purifiers, pa.array(numbers, pa.int32()), vectors], schema=_schema(dimensions))


def _rows(table: Any) -> Rows:
    """The column ``row`` of a table or batch as an array (N, D)."""
    column = table["row"]
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    rows: Rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return rows


def _quoted(text: str) -> str:
    """A text as a literal of a filter. LanceDB takes no parameters; in its SQL a doubled quote is the one escape."""
    return "'" + text.replace("'", "''") + "'"
