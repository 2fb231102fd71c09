"""A gallery on a PostgreSQL server, with pgvector.

A gallery is a schema, ``facesieve`` or ``facesieve_NAME`` for a URL with ``?gallery=NAME``. Every
write is one transaction. A unique key ensures that a person is enrolled only once, whatever the number
of writers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from facesieve.errors import GalleryFailedError, MissingExtraError
from facesieve.galleries import postgres_sql as queries
from facesieve.galleries.address import Address
from facesieve.galleries.base import GALLERIES, Calibration, Gallery, Nearest, Template, Templates, label_set
from facesieve.rows import Rows

FORMAT = 1
CREATION = 0x666163657369  # the advisory lock that those who make galleries wait for
INLINE = 1900  # dimensions: up to here a row fits a page, and is kept there rather than in a side table


@dataclass(frozen=True)
class PostgresSettings:
    """How the IVFFlat index is built and searched."""

    rows_per_list: int = 2500  # templates; the index has as many lists as that gives
    probes: float = 0.9  # share of the lists that are searched; more of them are where too few people were found
    build_memory: str = "1GB"  # maintenance_work_mem while building


class PostgresGallery(Gallery):
    """A ``Gallery`` on a server. ``settings`` may be replaced at any time."""

    def __init__(self, location: str) -> None:
        """A connection. It is a gallery once ``_attach`` has found the tables."""
        self._psycopg = _psycopg()
        self._address, self.settings = Address.of(location), PostgresSettings()
        self._schema, self.where = self._address.schema, self._address.shown
        self.embedder, self.dimensions = "", 0
        self._connect()

    def _connect(self) -> None:
        try:
            # Not prepared: a plan that knows no LIMIT reads every row rather than the index.
            self._connection = self._psycopg.connect(self._address.url, autocommit=True, prepare_threshold=None)
        except self._psycopg.Error as error:
            reason = self._address.clean(error)
            raise GalleryFailedError(f"the server cannot be reached ({reason})", self.where, "is the address right?") from None
        self._run = self._connection.execute  # inside a transaction where one was begun

    @classmethod
    def open(cls, location: str) -> Self:
        """The gallery at a URL."""
        return cls(location)._attached()

    @classmethod
    def create(cls, location: str, embedder: str, dimensions: int) -> Self:
        """The gallery at a URL, made if there is none."""
        return cls(location)._attached((embedder, dimensions))

    def _attached(self, made_with: tuple[str, int] | None = None) -> Self:
        """This, with its tables; they are made for this embedder and length where they are missing."""
        try:
            if made_with:
                self._make(*made_with)
            self._attach()
        except BaseException:
            self.close()
            raise
        return self

    def _make(self, embedder: str, dimensions: int) -> None:
        from psycopg import sql

        with self._writing():
            self._run("SELECT pg_advisory_xact_lock(%s)", [CREATION])
            if self._exists():
                return
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            self._run(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
            self._find_tables()
            self._run(sql.SQL(queries.TABLES).format(dimensions=sql.Literal(dimensions)))
            if dimensions <= INLINE:
                self._run("ALTER TABLE templates ALTER COLUMN row SET STORAGE PLAIN")
            self._run("INSERT INTO about (format, embedder, dimensions) VALUES (%s, %s, %s)", [FORMAT, embedder, dimensions])

    def _attach(self) -> None:
        from pgvector.psycopg import register_vector

        with self._writing():
            if not self._exists():
                raise self._error("there is no gallery in this database", "enrol somebody to make one")
            self._find_tables(local=False)
            [(form, self.embedder, self.dimensions)] = self._run("SELECT format, embedder, dimensions FROM about").fetchall()
        if form != FORMAT:
            raise self._error(f"a gallery of format {form}, not {FORMAT}", "update facesieve")
        with self._reported():
            register_vector(self._connection)

    def _connect_again(self) -> None:
        """The server ended the connection: it was restarted, or is gone. Raises ``GalleryFailedError`` while it is gone."""
        from pgvector.psycopg import register_vector

        self._connect()
        self._find_tables(local=False)
        register_vector(self._connection)

    def _exists(self) -> bool:
        return bool(self._run("SELECT to_regclass(%s) IS NOT NULL", [f"{self._schema}.about"]).fetchone()[0])

    def _find_tables(self, *, local: bool = True) -> None:
        """Names without a schema mean this gallery's tables, and pgvector's type wherever it was installed."""
        path = ", ".join([self._schema, *(self._run(queries.VECTOR_SCHEMA).fetchone() or [])])
        self._run("SELECT set_config('search_path', %s, %s)", [path, local])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._writing():
            self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # one state of the gallery for all that follows
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._reported(), ExitStack() as stack:
            try:
                stack.enter_context(self._connection.transaction())
            except self._psycopg.OperationalError:
                if not self._connection.broken:  # it was closed by ``close``, or the server has another reason
                    raise
                self._connect_again()  # nothing was begun yet, so nothing is done twice
                stack.enter_context(self._connection.transaction())
            yield

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """What PostgreSQL raises, as a ``GalleryFailedError`` of one line."""
        try:
            yield
        except self._psycopg.Error as error:
            raise GalleryFailedError(f"the server refused ({self._address.clean(error)})", self.where) from None

    # --- writing ----------------------------------------------------------------------------------

    def _add(self, people: Mapping[str, Templates]) -> str | None:
        names = sorted(people)  # in one order, so that two writers cannot wait for each other in a ring
        added = self._run(
            "INSERT INTO people (person, labels) SELECT * FROM unnest(%s::text[], %s::text[]) "
            "ON CONFLICT (person) DO NOTHING RETURNING person, id",
            [names, [label_set(people[name]) for name in names]],
        )
        ids = dict(added.fetchall())
        if known := next((name for name in names if name not in ids), None):
            return known  # the caller's error takes the others back
        with added.copy("COPY templates (person_id, purifier, row) FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", "vector"])
            for name, templates in people.items():
                for label, rows in templates.items():
                    for row in rows:
                        copy.write_row((ids[name], label, row))
        return None

    def _remove(self, person: str) -> int:
        found = self._run("SELECT id FROM people WHERE person = %s FOR UPDATE", [person]).fetchone()
        if found is None:
            return 0
        count: int = self._run("DELETE FROM templates WHERE person_id = %s", found).rowcount
        self._run("DELETE FROM people WHERE id = %s", found)
        return count

    def _calibrate(self, calibration: Calibration) -> None:
        self._run(queries.SET_CALIBRATION, {**vars(calibration), "key": calibration.key})

    def _index(self, at_least: int) -> bool:
        """The index is IVFFlat; templates that are enrolled later join it by themselves."""
        from psycopg import sql

        self._run("LOCK TABLE templates IN SHARE MODE")
        [count] = self._run("SELECT count(*) FROM templates").fetchone()
        if count < at_least:
            return False
        self._run("SELECT set_config('maintenance_work_mem', %s, true)", [self.settings.build_memory])
        self._run("DROP INDEX IF EXISTS templates_row")
        lists = max(1, count // self.settings.rows_per_list)
        self._run(sql.SQL(queries.INDEX).format(dimensions=sql.Literal(self.dimensions), lists=sql.Literal(lists)))
        return True

    def _tidy(self) -> None:
        with self._reported():
            self._run("VACUUM ANALYZE templates, people")  # in no transaction: PostgreSQL refuses it there

    # --- reading ----------------------------------------------------------------------------------

    def _label_sets(self) -> Mapping[str, str]:
        return dict(self._run(queries.LABEL_SETS).fetchall())

    def _nearest(self, kind: str | None) -> Nearest:
        return queries.Search(self._run, kind, self._indexed_type()).nearest

    def _indexed_type(self) -> str:
        """Set the search by index up, and return the type that it is over; without an index, the empty string."""
        [options] = self._run("SELECT (SELECT reloptions FROM pg_class WHERE oid = to_regclass('templates_row'))").fetchone()
        if options is None:
            return ""
        lists = int(dict(option.split("=") for option in options)["lists"])
        probes = min(lists, max(1, math.ceil(lists * self.settings.probes)))
        self._run("SELECT set_config('ivfflat.probes', %s, true)", [str(probes)])
        self._run("SET LOCAL enable_seqscan = off")  # for many probes the planner prefers to read the table, which is slower
        self._run("SET LOCAL ivfflat.iterative_scan = relaxed_order")  # continues with other lists if a filter leaves too few
        return f"::halfvec({self.dimensions})"

    def _templates_of(self, person: str) -> tuple[Sequence[str], Rows]:
        found = self._run(queries.TEMPLATES_OF, [person]).fetchall()
        return [label for label, _ in found], np.array([row for _, row in found], np.float32)

    def _counts(self, only: str | None) -> Iterable[tuple[str, str, int]]:
        counts: list[tuple[str, str, int]] = self._run(queries.COUNTS, {"only": only}).fetchall()
        return counts

    def _export(self) -> Iterator[Template]:
        """Read through a cursor of a connection of its own, so that this one stays free."""
        own = type(self).open(self._address.location)
        with closing(own), own._reading(), own._connection.cursor(name="export") as cursor:
            for person, purifier, row in cursor.execute(queries.EXPORT):
                yield Template(person, purifier, np.array(row, np.float32))

    def _calibrations(self) -> Sequence[Calibration]:
        query = "SELECT purifier, threshold, false_accept_rate, pairs FROM calibrations ORDER BY purifier"
        return [Calibration.of(*row) for row in self._run(query)]


for _scheme in ("postgresql", "postgres"):
    GALLERIES.register(_scheme, PostgresGallery)


def _psycopg() -> Any:
    """The library; it and pgvector come with an extra."""
    try:
        import pgvector.psycopg  # noqa: F401  needed later; said at once
        import psycopg
    except ImportError as missing:
        raise MissingExtraError("PostgreSQL galleries", "postgres") from missing
    return psycopg
