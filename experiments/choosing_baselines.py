"""Choose the strengths of the baselines by the rule that `balanced` was chosen by, on photographs that are in no test.

    python experiments/choosing_baselines.py --source DATA/identities --work WORK \
        --write docs/results/strengths.json [--only jpeg gaussian-blur]

The rule: the strongest of the tried strengths that loses at most 1 point of clean accuracy on SFace and 1.5 on dlib. People are
enrolled behind the baseline with ten photographs each, and probed with five more, as in `choosing_gentle.py`. Where every
evaluation costs a network's time, as in DiffPure, people are enrolled as they are and probed with one photograph, as the slow
presets are measured. `--write` keeps what was found; `worst-case.toml` and its twin name the chosen strengths, which a test
compares. About a minute a strength on one core, a quarter of an hour a strength for DiffPure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from choosing_gentle import ENROLLED, HERE, with_more_probes

from facesieve.data.manifest import Manifest, load_manifest, save_manifest
from facesieve.evaluate.experiment import DefenceSettings, Experiment
from facesieve.evaluate.run import evaluate
from facesieve.files import write_with_folder
from facesieve.metrics.intervals import Estimate
from facesieve.report.targets import commit

MOST_LOST = {"sface": 0.01, "dlib": 0.015}  # of clean accuracy
# From weak to strong. A block mean has its two scales as two rows, DDSA nothing to set: no choice is made there.
LADDERS: dict[str, tuple[str, tuple[float, ...]]] = {
    "jpeg": ("quality", (75, 50, 25, 10)),
    "gaussian-blur": ("sigma", (0.5, 1.0, 1.5, 2.0)),
    "faceguard": ("threshold", (0.5, 0.1, 0.01)),
    "diffpure": ("t", (0.025, 0.05, 0.1, 0.15)),
}
FIXED: dict[str, dict[str, int]] = {"diffpure": {"steps": 10}}  # of such short times more steps change little
SLOW = {"diffpure"}


def experiment(baselines: list[str], recogniser: str, manifest: Manifest, *, slow: bool) -> Experiment:
    """Every strength of the baselines on clean photographs."""
    defences = [
        {"baseline": name, "settings": FIXED.get(name, {}), "sweep": {LADDERS[name][0]: LADDERS[name][1]}} for name in baselines
    ]
    return Experiment.model_validate(
        {
            "data": manifest.selection.model_dump(),
            "recogniser": {"embedder": recogniser, "templates": ENROLLED, "enrolled": "raw" if slow else "purified"},
            "defences": defences,
            "run": {"measures": ["accuracy"], "precision": "fp32"},
        }
    )


def named(baseline: str, strength: float) -> str:
    """A strength's name in the run."""
    setting, _ = LADDERS[baseline]
    settings = DefenceSettings.model_validate({"baseline": baseline, "sweep": {setting: [strength]}})
    return settings.each()[0].name


def chosen(rows: list[dict[str, Any]]) -> float | None:
    """The last of a baseline's rows, from weak to strong, that loses no more than the rule allows before any row that does."""
    strength = None
    for row in rows:
        if any(recogniser not in row or row[recogniser]["value"] > most + 1e-9 for recogniser, most in MOST_LOST.items()):
            break
        strength = row["strength"]
    return strength


def tables(baselines: list[str], source: Path, work: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """For each baseline its rows: a strength, and the points that it loses on each recogniser."""
    tuning = load_manifest(HERE / "tuning-105.json")
    for slow in (False, True):
        names = [name for name in baselines if (name in SLOW) == slow]
        if not names:
            continue
        manifest = tuning if slow else with_more_probes(tuning)
        path = work / f"manifest-{'slow' if slow else 'quick'}.json"
        save_manifest(path, manifest)
        figures: dict[str, dict[str, Estimate]] = {}
        for recogniser in MOST_LOST:
            wanted = experiment(names, recogniser, manifest, slow=slow)
            run = work / f"{recogniser}-{'-'.join(names)}"
            record = evaluate(
                wanted, source, run, manifest=path, cache=work / "cache", report=lambda p: print(p.what, flush=True)
            )
            figures[recogniser] = dict(record.measures["accuracy"])
        for name in names:
            yield name, [row(name, strength, figures) for strength in LADDERS[name][1]]


def row(baseline: str, strength: float, figures: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    """One strength of a baseline, on the recognisers that it was tried on."""
    figure = f"clean accuracy lost, {named(baseline, strength)}"
    lost = {recogniser: found[figure] for recogniser, found in figures.items() if figure in found}
    numbers = {
        r: {"value": round(e.value, 5), "low": round(e.low, 5), "high": round(e.high, 5), "n": e.n} for r, e in lost.items()
    }
    return {"strength": strength, **numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the manifests, the runs and their cache")
    parser.add_argument("--only", nargs="*", choices=sorted(LADDERS), default=sorted(LADDERS))
    parser.add_argument("--write", type=Path, help="a JSON file; what it has of other baselines stays")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.write.read_text()) if args.write and args.write.exists() else {}
    command = f"python experiments/choosing_baselines.py --source DATA/identities --work WORK --only {' '.join(args.only)}"
    for name, rows in tables(args.only, args.source, args.work):
        setting, _ = LADDERS[name]
        for each in rows:
            print(f"{name}, {setting} {each['strength']:g}: " + ", ".join(f"{r} {100 * each[r]['value']:.2f}" for r in MOST_LOST))
        kept[name] = {"setting": setting, "chosen": chosen(rows), "rows": rows, "command": command, "commit": commit()}
        print(f"{name}: {setting} {kept[name]['chosen']}", flush=True)
    if args.write:
        write_with_folder(args.write, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main()
