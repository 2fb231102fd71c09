"""A gallery in a folder, by LanceDB.

    FOLDER/gallery.json       embedder, dimensions, calibrations; without it the folder is no gallery
    FOLDER/templates.lance    one table, one row a template
    FOLDER/lock               held while something is written

Every write is one commit of the table, or one file that is replaced, so that a reader, and a crash,
see all of it or nothing. Writers wait for each other by ``flock``: between looking whether a person
is there and adding them nobody else writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfSq
from lancedb.query import ColumnOrdering

from facesieve.errors import GalleryError
from facesieve.galleries.base import INDEX_FROM, RAW, Calibration, Entry, Match, Rows, Template, Templates
from facesieve.galleries.lance_files import locked, read_about, write_about
from facesieve.recognition import gallery as shared

TABLE = "templates"
FILES = 64  # each enrolment adds one; from here on they are merged
ALL = 2**31 - 1  # more parts than an index has
KEEP_VERSIONS = timedelta(hours=1)  # searches that are under way still read them


@dataclass(frozen=True)
class LanceSettings:
    """How the index is searched. The index holds 8 bits a dimension; the best rows are compared again exactly."""

    nprobes: int | None = None  # parts of the index that are searched; None: all
    refine: int = 1  # times as many rows as asked for are compared exactly


class LanceGallery(shared.BackEnd):
    """A ``Gallery`` in a folder; ``create`` and ``open`` make one. ``settings`` may be replaced at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._where, self.settings = folder, str(folder), LanceSettings()
        about = read_about(folder)
        self._embedder: str = about["embedder"]
        self._dimensions: int = about["dimensions"]
        self._seen: tuple[int, dict[str, str]] | None = None  # version of the table, label set -> somebody who has it
        with self._reported():
            # Each read looks whether another process has written.
            database = lancedb.connect(str(folder), read_consistency_interval=timedelta(0))
            self._table: Any = database.open_table(TABLE)

    @classmethod
    def open(cls, folder: Path, *, embedder: str | None = None, dimensions: int | None = None) -> LanceGallery:
        """The gallery in ``folder``. Raises ``GalleryError`` if there is none, or one of another embedder."""
        gallery = cls(folder)
        shared.check_same(str(folder), (gallery.embedder, gallery.dimensions), (embedder, dimensions))
        return gallery

    @classmethod
    def create(cls, folder: Path, *, embedder: str, dimensions: int) -> LanceGallery:
        """The gallery in ``folder``, made if there is none. Raises ``GalleryError`` where something else is."""
        embedder = shared.checked_name(embedder, "an embedder's name")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = [p.name for p in folder.iterdir() if p.name not in {"gallery.json", "lock", f"{TABLE}.lance"}]
        except OSError as error:
            raise GalleryError(f"{folder}: no gallery can be made here ({error.strerror}); choose another folder") from error
        if others and not (folder / "gallery.json").exists() and not all(name.endswith(".part") for name in others):
            raise GalleryError(f"{folder}: holds other files and no gallery; choose an empty or a new folder")
        with locked(folder):
            if not (folder / "gallery.json").exists():
                _make(folder, embedder, dimensions)
        return cls.open(folder, embedder=embedder, dimensions=dimensions)

    # --- writing ----------------------------------------------------------------------------------

    def enrol_all(self, people: Mapping[str, Templates]) -> None:
        """See ``Gallery``."""
        checked = shared.checked_people(people, self.dimensions)
        with locked(self._folder), self._reported():
            names = list(checked)
            for begin in range(0, len(names), 500):  # a filter of many thousand names would be slow to parse
                part = f"person IN ({', '.join(map(_quoted, names[begin : begin + 500]))})"
                if found := self._table.search().where(part).select(["person"]).limit(1).to_list():
                    raise shared.known(self._where, found[0]["person"])
            self._table.add(_arrow(checked, self.dimensions))  # the commit
            self._tidy()

    def remove(self, person: str) -> int:
        """See ``Gallery``."""
        person = shared.checked_name(person)
        theirs = f"person = {_quoted(person)}"
        with locked(self._folder), self._reported():
            count: int = self._table.count_rows(theirs)
            if not count:
                raise shared.unknown(self._where, person)
            self._table.delete(theirs)
        return count

    def calibrate(self, calibration: Calibration) -> None:
        """See ``Gallery``."""
        with locked(self._folder):
            about = read_about(self._folder)
            kept = [entry for entry in about["calibrations"] if entry["purifier"] != calibration.purifier]
            write_about(self._folder, {**about, "calibrations": [*kept, asdict(calibration)]})

    def build_index(self, *, at_least: int = INDEX_FROM) -> bool:
        """See ``Gallery``. The index is IVF-SQ: 8 bits a dimension, and parts of about 8,192 rows."""
        with locked(self._folder), self._reported():
            wanted = bool(self._table.count_rows() >= max(at_least, 1))
            if wanted:
                self._table.create_index("row", config=IvfSq(distance_type="dot", max_iterations=15))
            self._table.optimize(cleanup_older_than=KEEP_VERSIONS)
        return wanted

    def _tidy(self) -> None:
        """Merge small files, and index what was added. What was committed stays so, whatever happens here."""
        if self._table.stats()["fragment_stats"]["num_fragments"] > FILES:
            with suppress(RuntimeError, OSError, ValueError):
                self._table.optimize(cleanup_older_than=KEEP_VERSIONS)

    # --- reading ----------------------------------------------------------------------------------

    def search(self, rows: Rows, *, purifier: str = RAW, count: int = 5) -> list[list[Match]]:
        """See ``Gallery``."""
        rows, purifier = shared.checked_rows(rows, self.dimensions, "probes"), shared.checked_name(purifier, "a purifier's label")
        shared.checked_count(count)
        with self._reported():
            every = shared.check_usable(self._where, self._label_sets(), purifier)
            labels = None if every else _usable(purifier)
            return [shared.best_people(partial(self._nearest, row, labels), count) for row in rows]

    def _nearest(self, probe: Rows, labels: str | None, limit: int) -> list[tuple[str, float]]:
        """The ``limit`` best templates as (person, cosine), from all parts where some parts hold too few.

        Rows that are not indexed yet are among them.
        """
        found: list[tuple[str, float]] = []
        for nprobes in dict.fromkeys([self.settings.nprobes or ALL, ALL]):  # once, where they are the same
            query = self._table.search(probe, vector_column_name="row").distance_type("dot")
            query = query.nprobes(nprobes).refine_factor(self.settings.refine)
            if labels:
                query = query.where(labels, prefilter=True)
            table = query.select(["person", "_distance"]).limit(limit).to_arrow()
            found = list(zip(table["person"].to_pylist(), (1 - table["_distance"].to_numpy()).tolist(), strict=True))
            if len(found) == limit:
                break
        return found

    def _label_sets(self) -> dict[str, str]:
        """Each set of labels that people have, with one of them; kept until the table changes."""
        version = self._table.version
        if self._seen is None or self._seen[0] != version:
            table = self._table.search().select(["labels", "person"]).to_arrow()
            groups = table.group_by("labels").aggregate([("person", "min")])
            self._seen = version, dict(zip(groups["labels"].to_pylist(), groups["person_min"].to_pylist(), strict=True))
        return self._seen[1]

    def templates_of(self, person: str, *, purifier: str = RAW) -> Rows:
        """See ``Gallery``."""
        person, purifier = shared.checked_name(person), shared.checked_name(purifier, "a purifier's label")
        with self._reported():
            query = self._table.search().where(f"person = {_quoted(person)}")
            table = query.select(["purifier", "number", "row"]).to_arrow().sort_by("number")
        labels = table["purifier"].to_pylist()
        if not labels:
            raise shared.unknown(self._where, person)
        shared.check_person_usable(self._where, person, labels, purifier)
        return _rows(table)[[label in (RAW, purifier) for label in labels]]

    def people(self, only: str | None = None) -> list[Entry]:
        """See ``Gallery``."""
        with self._reported():
            query = self._table.search()
            query = query if only is None else query.where(f"person = {_quoted(only)}")
            table = query.select(["person", "purifier"]).to_arrow()
        counts: dict[str, dict[str, int]] = {}
        groups = (
            table.group_by(["person", "purifier"])
            .aggregate([([], "count_all")])
            .sort_by([("person", "ascending"), ("purifier", "ascending")])
        )
        for person, purifier, count in zip(*(groups[name].to_pylist() for name in groups.column_names), strict=True):
            counts.setdefault(person, {})[purifier] = count
        return [Entry(person, templates) for person, templates in counts.items()]

    def export(self) -> Iterator[Template]:
        """See ``Gallery``."""
        order = [ColumnOrdering(column_name=name) for name in ("person", "number")]
        with self._reported():
            for batch in self._table.search().select(["person", "number", "purifier", "row"]).order_by(order).to_batches(1024):
                for person, purifier, row in zip(
                    *(batch[n].to_pylist() for n in ("person", "purifier")), _rows(batch), strict=True
                ):
                    yield Template(person, purifier, row)

    def calibrations(self) -> Sequence[Calibration]:
        """See ``Gallery``."""
        return [Calibration(**entry) for entry in read_about(self._folder)["calibrations"]]

    def close(self) -> None:
        """See ``Gallery``."""
        self._table = None

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """What LanceDB raises, as a ``GalleryError`` of one line."""
        if getattr(self, "_table", self) is None:
            raise GalleryError(f"{self._where}: the gallery was closed; open it again")
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise GalleryError(f"{self._where}: the table of templates does not work ({lines[0][:160]})") from error


def _make(folder: Path, embedder: str, dimensions: int) -> None:
    """An empty table, then gallery.json, with which the folder becomes a gallery."""
    try:
        database = lancedb.connect(str(folder))
        there = (folder / f"{TABLE}.lance" / "_versions").exists()
        if there and database.open_table(TABLE).count_rows():
            raise GalleryError(f"{folder}: holds templates, but gallery.json is missing; restore it from a copy")
        # What is there and empty was left by a creation that was killed.
        database.create_table(TABLE, schema=_schema(dimensions), mode="overwrite" if there else "create")
    except (RuntimeError, OSError, ValueError) as error:
        raise GalleryError(f"{folder}: no gallery can be made here ({str(error).splitlines()[0][:160]})") from error
    write_about(folder, {"embedder": embedder, "dimensions": dimensions, "calibrations": []})


def _schema(dimensions: int) -> Any:
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
    persons: list[str] = []
    labels: list[str] = []
    purifiers: list[str] = []
    numbers: list[int] = []
    for person, templates in people.items():
        each = [label for label, rows in templates.items() for _ in range(len(rows))]
        persons += [person] * len(each)
        labels += [shared.label_set(templates)] * len(each)
        purifiers += each
        numbers += range(len(each))
    rows = np.concatenate([rows for templates in people.values() for rows in templates.values()])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dimensions)
    return pa.table([persons, labels, purifiers, pa.array(numbers, pa.int32()), vectors], schema=_schema(dimensions))


def _rows(table: Any) -> Rows:
    """The column ``row`` of a table or batch as an array (N, D)."""
    column = table["row"]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    rows: Rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return rows


def _usable(purifier: str) -> str:
    return f"purifier IN ({_quoted(RAW)}, {_quoted(purifier)})"


def _quoted(text: str) -> str:
    """A text as a literal of a filter. LanceDB takes no parameters; in its SQL a doubled quote is the one escape."""
    return "'" + text.replace("'", "''") + "'"
