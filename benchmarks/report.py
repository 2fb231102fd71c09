"""Time the numbers of a report as a ratio to the same numbers without shared draws, within one run.

    python benchmarks/report.py [--record docs/results/evaluation-sface-marks.json] [--repeats 5]

The baseline is a bootstrap of its own for every mean of every row; both give the same values, and that is checked. What a
report takes beyond its numbers (plots, files) is timed beside them, once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from facesieve.metrics.intervals import Estimate, bootstrap, of_share
from facesieve.metrics.rates import mean
from facesieve.report.pages import draw
from facesieve.report.record import Record, load_record
from facesieve.report.tables import tables_of

RECORD = Path(__file__).parent.parent / "docs" / "results" / "evaluation-sface-marks.json"


def without_sharing(record: Record) -> list[Estimate]:
    """The accuracy of each row, each with draws of its own."""
    found = []
    for cell in record.cells:
        if cell.point == "":
            labels = np.array(record.labels[: len(cell.predicted)])
            hits = np.array(cell.predicted) == labels
            found.append(of_share(bootstrap(lambda w, hits=hits: mean(hits, w), labels)))  # type: ignore[misc]
    return found


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    record = load_record(args.record)
    shared = [row.accuracy for row in tables_of(record).rows]
    for ours, theirs in zip(shared, without_sharing(record), strict=True):
        assert np.allclose([ours.value, ours.low, ours.high], [theirs.value, theirs.low, theirs.high], atol=1e-9)
    pairs = [(seconds(lambda: without_sharing(record)), seconds(lambda: tables_of(record))) for _ in range(args.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        drawn = seconds(lambda: draw(record, Path(folder)))
    ratios = sorted(baseline / ours for baseline, ours in pairs)
    print(f"{args.record.name}: {len(shared)} rows")
    print(f"numbers without shared draws (one mean a row): {median(pair[0] for pair in pairs):.3f} s")
    print(f"numbers of the report (all of them):           {median(pair[1] for pair in pairs):.3f} s")
    print(f"ratio to the baseline: {median(ratios):.1f} (from {ratios[0]:.1f} to {ratios[-1]:.1f})")
    print(f"all pages, with plots: {drawn:.2f} s")


if __name__ == "__main__":
    main()
