"""A gallery on a PostgreSQL server, with pgvector.

A gallery is a schema, ``facesieve`` or ``facesieve_NAME`` for a URL with ``?gallery=NAME``. Every
write is one transaction. That a person is enrolled once is a unique key, so that it holds among any
number of writers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from facesieve.errors import GalleryError, MissingExtraError
from facesieve.galleries import Address
from facesieve.galleries.base import INDEX_FROM, RAW, Calibration, Entry, Match, Rows, Template, Templates
from facesieve.galleries.postgres_sql import LABEL_SETS, TABLES, Search
from facesieve.recognition import gallery as shared

try:
    import psycopg
    from pgvector.psycopg import register_vector
    from psycopg import sql
except ImportError as missing:
    raise MissingExtraError("PostgreSQL galleries", "postgres") from missing

FORMAT = 1
CREATION = 0x666163657369  # the advisory lock that those who make galleries wait for
INLINE = 1900  # dimensions: up to here a row fits a page, and is kept there rather than in a side table


@dataclass(frozen=True)
class PostgresSettings:
    """How the IVFFlat index is built and searched."""

    rows_per_list: int = 2500  # templates; the index has as many lists as that gives
    probes: float = 0.9  # share of the lists that are searched; more of them are where too few people were found
    build_memory: str = "1GB"  # maintenance_work_mem while building


class PostgresGallery(shared.BackEnd):
    """A ``Gallery`` on a server; ``create`` and ``open`` make one. ``settings`` may be replaced at any time."""

    def __init__(self, location: str) -> None:
        self._address, self.settings = Address.of(location), PostgresSettings()
        self._schema, self._where = self._address.schema, self._address.shown
        try:
            # Not prepared: a plan that knows no LIMIT reads every row rather than the index.
            self._connection = psycopg.connect(self._address.url, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            reason = self._address.clean(error)
            raise GalleryError(f"{self._where}: the server cannot be reached ({reason}); is the address right?") from None
        self._embedder, self._dimensions = "", 0

    @classmethod
    def open(cls, location: str, *, embedder: str | None = None, dimensions: int | None = None) -> PostgresGallery:
        """The gallery at a URL. Raises ``GalleryError`` if there is none, or one of another embedder."""
        gallery = cls(location)
        try:
            gallery._attach(embedder, dimensions)
        except BaseException:
            gallery.close()
            raise
        return gallery

    @classmethod
    def create(cls, location: str, *, embedder: str, dimensions: int) -> PostgresGallery:
        """The gallery at a URL, made if there is none. Raises ``GalleryError`` where it cannot be made."""
        gallery = cls(location)
        try:
            gallery._make(shared.checked_name(embedder, "an embedder's name"), dimensions)
            gallery._attach(embedder, dimensions)
        except BaseException:
            gallery.close()
            raise
        return gallery

    def _make(self, embedder: str, dimensions: int) -> None:
        with self._transaction() as run:
            run("SELECT pg_advisory_xact_lock(%s)", [CREATION])
            if self._exists(run):
                return
            run("CREATE EXTENSION IF NOT EXISTS vector")
            run(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
            self._find_tables(run)
            run(sql.SQL(TABLES).format(dimensions=sql.Literal(dimensions)))
            if dimensions <= INLINE:
                run("ALTER TABLE templates ALTER COLUMN row SET STORAGE PLAIN")
            run("INSERT INTO about (format, embedder, dimensions) VALUES (%s, %s, %s)", [FORMAT, embedder, dimensions])

    def _attach(self, embedder: str | None, dimensions: int | None) -> None:
        with self._transaction() as run:
            if not self._exists(run):
                raise GalleryError(f"{self._where}: there is no gallery in this database; enrol somebody to make one")
            self._find_tables(run, local=False)
            [(form, self._embedder, self._dimensions)] = run("SELECT format, embedder, dimensions FROM about").fetchall()
        if form != FORMAT:
            raise GalleryError(f"{self._where}: a gallery of format {form}, not {FORMAT}; update facesieve")
        shared.check_same(self._where, (self.embedder, self.dimensions), (embedder, dimensions))
        with self._reported():
            register_vector(self._connection)

    def _exists(self, run: Any) -> bool:
        return bool(run("SELECT to_regclass(%s) IS NOT NULL", [f"{self._schema}.about"]).fetchone()[0])

    def _find_tables(self, run: Any, *, local: bool = True) -> None:
        """Names without a schema mean this gallery's tables, and pgvector's type wherever it was installed."""
        found = "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        where = run(f"{found} WHERE e.extname = 'vector'").fetchone()
        path = ", ".join([self._schema, *(where or [])])
        run("SELECT set_config('search_path', %s, %s)", [path, local])

    # --- writing ----------------------------------------------------------------------------------

    def enrol_all(self, people: Mapping[str, Templates]) -> None:
        """See ``Gallery``."""
        checked = shared.checked_people(people, self.dimensions)
        names = sorted(checked)  # in one order, so that two writers cannot wait for each other in a ring
        with self._transaction() as run:
            added = run(
                "INSERT INTO people (person, labels) SELECT * FROM unnest(%s::text[], %s::text[]) "
                "ON CONFLICT (person) DO NOTHING RETURNING person, id",
                [names, [shared.label_set(checked[name]) for name in names]],
            )
            ids = dict(added.fetchall())
            if missing := next((name for name in names if name not in ids), None):
                raise shared.known(self._where, missing)
            with added.copy("COPY templates (person_id, purifier, row) FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "text", "vector"])
                for name, templates in checked.items():
                    for label, rows in templates.items():
                        for row in rows:
                            copy.write_row((ids[name], label, row))

    def remove(self, person: str) -> int:
        """See ``Gallery``."""
        person = shared.checked_name(person)
        with self._transaction() as run:
            found = run("SELECT id FROM people WHERE person = %s FOR UPDATE", [person]).fetchone()
            if found is None:
                raise shared.unknown(self._where, person)
            count: int = run("DELETE FROM templates WHERE person_id = %s", found).rowcount
            run("DELETE FROM people WHERE id = %s", found)
        return count

    def calibrate(self, calibration: Calibration) -> None:
        """See ``Gallery``."""
        c = calibration
        with self._transaction() as run:
            run(
                "INSERT INTO calibrations (purifier, threshold, false_accept_rate, pairs) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (purifier) DO UPDATE SET (threshold, false_accept_rate, pairs) "
                "= (EXCLUDED.threshold, EXCLUDED.false_accept_rate, EXCLUDED.pairs)",
                [c.purifier, c.threshold, c.false_accept_rate, c.pairs],
            )

    def build_index(self, *, at_least: int = INDEX_FROM) -> bool:
        """See ``Gallery``. The index is IVFFlat; templates that are enrolled later join it by themselves."""
        settings = self.settings
        with self._transaction() as run:
            run("LOCK TABLE templates IN SHARE MODE")
            [count] = run("SELECT count(*) FROM templates").fetchone()
            if wanted := count >= max(at_least, 1):
                run("SELECT set_config('maintenance_work_mem', %s, true)", [settings.build_memory])
                run("DROP INDEX IF EXISTS templates_row")
                lists, dimensions = max(1, count // settings.rows_per_list), sql.Literal(self.dimensions)
                index = (
                    "CREATE INDEX templates_row ON templates USING ivfflat ((row::halfvec({})) halfvec_ip_ops) WITH (lists = {})"
                )
                run(sql.SQL(index).format(dimensions, sql.Literal(lists)))
        with self._reported():
            self._connection.execute("VACUUM ANALYZE templates, people")
        return bool(wanted)

    # --- reading ----------------------------------------------------------------------------------

    def search(self, rows: Rows, *, purifier: str = RAW, count: int = 5) -> list[list[Match]]:
        """See ``Gallery``."""
        rows = shared.checked_rows(rows, self.dimensions, "probes")
        purifier = shared.checked_name(purifier, "a purifier's label")
        shared.checked_count(count)
        with self._transaction() as run:
            run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # one state of the gallery for all that follows
            every = shared.check_usable(self._where, dict(run(LABEL_SETS).fetchall()), purifier)
            search = Search(run, None if every else [RAW, purifier], self._index(run))
            return [shared.best_people(partial(search.nearest, row), count) for row in rows]

    def _index(self, run: Any) -> str:
        """Set the search by index up, and return the type that it is over; without an index, the empty string."""
        [options] = run("SELECT (SELECT reloptions FROM pg_class WHERE oid = to_regclass('templates_row'))").fetchone()
        if options is None:
            return ""
        lists = int(dict(option.split("=") for option in options)["lists"])
        probes = min(lists, max(1, math.ceil(lists * self.settings.probes)))
        run("SELECT set_config('ivfflat.probes', %s, true)", [str(probes)])
        run("SET LOCAL enable_seqscan = off")  # for many probes the planner takes reading the table to be as good; it is not
        run("SET LOCAL ivfflat.iterative_scan = relaxed_order")  # goes on to other lists if a filter leaves too few
        return f"::halfvec({self.dimensions})"

    def templates_of(self, person: str, *, purifier: str = RAW) -> Rows:
        """See ``Gallery``."""
        person, purifier = shared.checked_name(person), shared.checked_name(purifier, "a purifier's label")
        with self._transaction() as run:
            found = run("SELECT id, labels FROM people WHERE person = %s", [person]).fetchone()
            if found is None:
                raise shared.unknown(self._where, person)
            shared.check_person_usable(self._where, person, json.loads(found[1]), purifier)
            query = "SELECT row::real[] FROM templates WHERE person_id = %s AND purifier = ANY(%s) ORDER BY id"
            return np.array([row for (row,) in run(query, [found[0], [RAW, purifier]])], np.float32)

    def people(self, only: str | None = None) -> list[Entry]:
        """See ``Gallery``."""
        query = (
            "SELECT p.person, t.purifier, count(*) FROM templates t JOIN people p ON p.id = t.person_id "
            "WHERE %(only)s::text IS NULL OR p.person = %(only)s "
            'GROUP BY p.person, t.purifier ORDER BY p.person, t.purifier COLLATE "C"'
        )
        counts: dict[str, dict[str, int]] = {}
        with self._transaction() as run:
            for person, purifier, count in run(query, {"only": only}):
                counts.setdefault(person, {})[purifier] = count
        return [Entry(person, templates) for person, templates in counts.items()]

    def export(self) -> Iterator[Template]:
        """See ``Gallery``. Read through a cursor of a connection of its own, so that this one stays free."""
        query = (
            "SELECT p.person, t.purifier, t.row::real[] FROM templates t "
            "JOIN people p ON p.id = t.person_id ORDER BY p.person, t.id"
        )
        own = PostgresGallery.open(self._address.location)
        with closing(own), own._transaction(), own._connection.cursor(name="export") as cursor:
            for person, purifier, row in cursor.execute(query):
                yield Template(person, purifier, np.array(row, np.float32))

    def calibrations(self) -> Sequence[Calibration]:
        """See ``Gallery``."""
        query = "SELECT threshold, false_accept_rate, purifier, pairs FROM calibrations ORDER BY purifier"
        with self._transaction() as run:
            return [Calibration(*row) for row in run(query)]

    def close(self) -> None:
        """See ``Gallery``."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Something to run statements with, all of them or none."""
        with self._reported(), self._connection.transaction(), self._connection.cursor() as cursor:
            yield cursor.execute

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """What PostgreSQL raises, as a ``GalleryError`` of one line."""
        try:
            yield
        except psycopg.Error as error:
            raise GalleryError(f"{self._where}: the server refused ({self._address.clean(error)})") from None
