"""What weights are worth, on photographs that are in no test: clean, obliviously attacked, and attacked by one who knows them.

    python experiments/choosing.py --source DATA/identities [--prior FOLDER ...] [--preset robust] [--probes N]

Runs ``choosing-sface.toml`` and ``choosing-dlib.toml`` for each folder of weights (those that ship, if none is given), in
``--output``, where a run that was stopped goes on and what weights have in common is made once. The n first photographs are
of n people. Prints a line for each recogniser: accuracy with raw templates and with those behind the preset, FRR at FAR 1 %,
accuracy and mean margin (the score of the correct person minus the best other one's) under attack. The mean margin tells
weights apart before the accuracy does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from facesieve.errors import FacesieveError
from facesieve.evaluate.experiment import Experiment, read_experiment
from facesieve.evaluate.run import evaluate
from facesieve.files import sha256_of
from facesieve.metrics.intervals import Estimate
from facesieve.progress import Progress
from facesieve.report.record import Record

HERE = Path(__file__).parent
RECOGNISERS = ("sface", "dlib")
# title, measure, figure; PRESET and the experiment's attacks as it names them
COLUMNS = (
    ("clean", "accuracy", "accuracy, PRESET"),
    ("raw templates", "raw_templates", "accuracy, PRESET"),
    ("FRR", "accuracy", "FRR, PRESET"),
    ("raw FRR", "raw_templates", "FRR, PRESET"),
    ("margin", "accuracy", "margin, PRESET"),
    ("oblivious 2", "accuracy", "accuracy, PRESET, oblivious, eps 2/255, uint8"),
    ("adaptive 2", "accuracy", "accuracy, PRESET, EOT, eps 2/255, uint8"),
    ("its margin", "accuracy", "margin, PRESET, EOT, eps 2/255, uint8"),
)


def experiment(recogniser: str, preset: str, prior: Path | None, probes: int | None) -> Experiment:
    """The experiment of a recogniser for a preset with these weights."""
    written = read_experiment(HERE / f"choosing-{recogniser}.toml")
    [defence] = written.defences
    run = written.run.model_copy(update={"prior": None if prior is None else str(prior), "probes": probes})
    return written.model_copy(update={"defences": (defence.model_copy(update={"preset": preset}),), "run": run})


def cells(record: Record, preset: str) -> list[str]:
    """The figures of a line."""
    found = []
    for title, measure, figure in COLUMNS:
        estimate = record.measures[measure].get(figure.replace("PRESET", preset))
        found.append(f"{'-' if estimate is None else number(estimate, share='margin' not in title):>{width(title)}}")
    return found


def number(estimate: Estimate, *, share: bool) -> str:
    """``45.7 [36, 55]`` in percent; a margin as it is."""
    if share:
        return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
    return f"{estimate.value:.3f}"


def width(title: str) -> int:
    """Of a column."""
    return max(len(title), 16 if "margin" not in title else 6)


def tell(progress: Progress) -> None:
    """How far it is, apart from what is printed."""
    print(f"  {100 * progress.done / progress.total:3.0f} % {progress.what}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the photographs of experiments/tuning-105.json")
    parser.add_argument("--manifest", type=Path, default=HERE / "tuning-105.json")
    parser.add_argument("--prior", type=Path, action="append", help="a folder of weights; may be given several times")
    parser.add_argument("--preset", default="robust")
    parser.add_argument("--probes", type=int, help="the first so many photographs; all if not given")
    parser.add_argument("-o", "--output", type=Path, default=Path("choosing"))
    args = parser.parse_args()
    print(f"{'recogniser':10}  {'  '.join(f'{title:>{width(title)}}' for title, *_ in COLUMNS)}  weights", flush=True)
    for prior in args.prior or [None]:
        for recogniser in RECOGNISERS:
            wanted = experiment(recogniser, args.preset, prior, args.probes)
            folder = args.output / f"{recogniser}-{sha256_of(wanted.model_dump_json().encode())[:12]}"
            cache = args.output / "cache"
            record = evaluate(wanted, args.source, folder, manifest=args.manifest, cache=cache, report=tell)
            print(f"{recogniser:10}  {'  '.join(cells(record, args.preset))}  {prior or 'those that ship'}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except FacesieveError as error:
        sys.exit(f"error: {error}")
