"""Run commands on a disk that fills up at every place in turn, and on one that is read-only; then make room and run again.

    python benchmarks/full_disk.py [KIND ...] [--steps 12] [--results FOLDER]

KIND is one of those of ``kills.py``, but the service and PostgreSQL, or of ``disk_kinds.py``. Results go to a file system in
memory (Linux, as root), of a size between nothing and what an undisturbed run leaves, in ``--steps`` equal steps; the first has
no room at all. Wanted: no traceback, an exit code other than 0 and a line of why where something could not be written, and
nothing there but whole results and drafts whose names begin with a dot; after the file system has grown, the same command ends
with all of it. ``--results`` adds a row for each kind to ``full-disk.json`` there, and their sums to ``targets.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from disk_kinds import more_kinds
from kill_kinds import Kind, Tree, in_fork, kinds
from kills import begin, ended, faults, load_libraries
from results import origin, write

from facesieve.jobs.record import FAILURES

ROOM = 2**28  # bytes, enough for anything
PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def mounted(place: Path, size: int) -> Iterator[None]:
    """A file system with so many bytes to spare."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + PAGE}", "none", place], check=True)
    try:
        (place / ".filler").write_bytes(bytes(PAGE))  # a file system of no bytes would be one without a limit
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def trouble(kind: Kind, words: list[str], log: Path, fresh: Tree, out: Path) -> list[str]:
    """Run the command where something cannot be written, and say what is wrong with how it ends."""
    log.unlink(missing_ok=True)
    code = ended(begin(words, log))
    said = log.read_text().strip()
    wrong = ["a traceback"] if "Traceback" in said else []
    if code < 0:
        wrong.append(f"ended by signal {-code}")
    elif code == 0 and in_fork(lambda: kind.left(out)).keys() != fresh.keys():
        wrong.append("exit code 0, and results are missing")
    elif code and not said:
        wrong.append("nothing was said")
    if kind.meanwhile:
        left = in_fork(lambda: kind.left(out))
        left.pop(FAILURES, None)  # it lists what could not be written
        wrong += faults(fresh, left, kind, whole=False)
    return [f"{one}: {said[-600:]}" for one in wrong]


def tried(kind: Kind, steps: int, work: Path) -> tuple[int, list[str]]:
    """How many runs there were, and what was wrong."""
    inputs, log, place = work / "inputs", work / "log", work / "disk"
    kind.make(inputs)
    words, out = kind.words(inputs, place / "out"), place / "out"
    with mounted(place, ROOM):
        if ended(begin(words, log)):
            raise SystemExit(log.read_text()[-3000:])
        fresh = in_fork(lambda: kind.left(out))
        state = os.statvfs(place)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize - PAGE
    wrong: list[str] = []
    sizes = sorted({PAGE * (used * step // steps // PAGE) for step in range(steps)})
    for size in sizes:
        with mounted(place, size):
            found = trouble(kind, words, log, fresh, out)
            remount(place, f"size={ROOM}")
            code = ended(begin(words, log))
            found += faults(fresh, in_fork(lambda: kind.left(out)), kind, whole=True)
            if code and kind.again:
                found.append(f"with room again it ended with {code}: {log.read_text()[-600:]}")
        wrong += [f"{size} bytes: {one}" for one in found]
    with mounted(place, ROOM):
        remount(place, "ro")
        wrong += [f"read-only: {one}" for one in trouble(kind, words, log, fresh, out)]
    return len(sizes) + 1, wrong


def keep(folder: Path, row: dict[str, object], made: dict[str, str]) -> None:
    """The row, and the sum of all that are there."""
    from facesieve.report.targets import Target, keep_targets

    write(folder / "full-disk.json", [row | made], ("kind",))
    every = json.loads((folder / "full-disk.json").read_text())
    runs, wrong = sum(row["runs"] for row in every), sum(len(row["wrong"]) for row in every)
    figure = Target(
        area="service",
        target="runs on full disks: tracebacks, losses, half results",
        wanted="<= 0",
        value=wrong,
        n=runs,
        **made,  # type: ignore[arg-type]
    )
    keep_targets(folder / "targets.json", [figure])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    load_libraries()
    every, failed = kinds() | more_kinds(), False
    for name in args.kinds or every:
        with tempfile.TemporaryDirectory() as folder:
            runs, wrong = tried(every[name], args.steps, Path(folder))
        row = {"kind": name, "runs": runs, "wrong": wrong}
        print(json.dumps(row), flush=True)
        failed |= bool(wrong)
        if args.results is not None:
            keep(args.results, row, origin("full_disk.py", {str(args.results): "FOLDER"}))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
