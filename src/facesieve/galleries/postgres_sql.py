"""What a gallery says to PostgreSQL: its tables, and the queries of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facesieve.rows import Rows

TABLES = """
CREATE TABLE about (
    one int PRIMARY KEY DEFAULT 1 CHECK (one = 1), format int NOT NULL, embedder text NOT NULL, dimensions int NOT NULL
);
CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person text COLLATE "C" NOT NULL UNIQUE,
    labels text COLLATE "C" NOT NULL  -- every purifier label that this person has
);
CREATE INDEX ON people (labels);
CREATE TABLE templates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint NOT NULL REFERENCES people ON DELETE CASCADE,
    purifier text NOT NULL,
    row vector({dimensions}) NOT NULL
);
CREATE INDEX ON templates (person_id);
CREATE TABLE calibrations (
    purifier text PRIMARY KEY, threshold float8 NOT NULL, false_accept_rate float8 NOT NULL, pairs bigint NOT NULL
);
"""

VECTOR_SCHEMA = """
SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""

INDEX = """
CREATE INDEX templates_row ON templates USING ivfflat ((row::halfvec({dimensions})) halfvec_ip_ops) WITH (lists = {lists})
"""

# The column `purifier` holds the key of the calibration, which is the purifier's label where no kind of templates is said.
SET_CALIBRATION = """
INSERT INTO calibrations (purifier, threshold, false_accept_rate, pairs)
VALUES (%(key)s, %(threshold)s, %(false_accept_rate)s, %(pairs)s)
ON CONFLICT (purifier) DO UPDATE SET (threshold, false_accept_rate, pairs)
= (EXCLUDED.threshold, EXCLUDED.false_accept_rate, EXCLUDED.pairs)
"""

COUNTS = """
SELECT p.person, t.purifier, count(*) FROM templates t JOIN people p ON p.id = t.person_id
WHERE %(only)s::text IS NULL OR p.person = %(only)s
GROUP BY p.person, t.purifier ORDER BY p.person, t.purifier COLLATE "C"
"""

TEMPLATES_OF = """
SELECT t.purifier, t.row::real[] FROM templates t JOIN people p ON p.id = t.person_id WHERE p.person = %s ORDER BY t.id
"""

EXPORT = """
SELECT p.person, t.purifier, t.row::real[] FROM templates t JOIN people p ON p.id = t.person_id ORDER BY p.person, t.id
"""

# Each distinct set of labels with a person who has it: from one to the next larger through the index,
# since reading everyone would take longer than the search.
LABEL_SETS = """
WITH RECURSIVE sets AS (
    (SELECT labels FROM people ORDER BY labels LIMIT 1)
    UNION ALL
    SELECT (SELECT p.labels FROM people p WHERE p.labels > sets.labels ORDER BY p.labels LIMIT 1) FROM sets
    WHERE sets.labels IS NOT NULL
)
SELECT labels, (SELECT person FROM people p WHERE p.labels = sets.labels LIMIT 1) FROM sets WHERE labels IS NOT NULL
"""

# <#> is the negative inner product, of unit rows the negative cosine. The index has 16 bits a
# dimension; what it finds is compared again by the rows themselves.
NEAREST = """
SELECT p.person, -(near.row <#> %(probe)s) AS cosine
FROM (SELECT person_id, row FROM templates {where} ORDER BY row{cast} <#> %(probe)s{cast} LIMIT %(limit)s) near
JOIN people p ON p.id = near.person_id ORDER BY cosine DESC
"""


@dataclass(frozen=True)
class Search:
    """Inside one transaction: the templates nearest to a probe."""

    run: Any
    kind: str | None  # the purifier label of the templates to look at; None: all
    cast: str  # the type that the index is over; without an index the empty string, and the search is exact

    def nearest(self, probe: Rows, limit: int) -> list[tuple[str, float]]:
        """The ``limit`` best as (person, cosine); exactly, where the index finds too few."""
        where = "" if self.kind is None else "WHERE purifier = %(kind)s"
        values = {"probe": probe, "limit": limit, "kind": self.kind}
        found: list[tuple[str, float]] = self.run(NEAREST.format(where=where, cast=self.cast), values).fetchall()
        if self.cast and len(found) < limit:
            found = self.run(NEAREST.format(where=where, cast=""), values).fetchall()
        return found
