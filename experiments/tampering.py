"""Choose the tamper scores' default thresholds: what one untouched photograph in a hundred, or in two hundred, scores above.

    python experiments/tampering.py --source DATA/identities --work WORK [--write src/facesieve/recognition/tampering.json]

The photographs are those for choosing, `tuning-105.json`, which are in no test: ten of each of 105 people. For each quick preset
and each recogniser that ships, with the other one as its second. About 15 minutes on one core; the rows are kept in WORK.
`--attacked` also compares definitions of disagreement: 42 of these photographs under PGD of 10 steps at 2/255 that sees the named
recogniser alone (3 minutes more).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from thresholds import MANIFEST, RECOGNISERS, arguments, listed

from facesieve.data.crops import aligned_crops
from facesieve.data.manifest import load_manifest
from facesieve.data.sources import open_source
from facesieve.galleries.base import RAW
from facesieve.identification import CROP
from facesieve.images import to_floats
from facesieve.metrics.intervals import bootstrap
from facesieve.purify import PRESETS
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.tampering import disagreements, tamper_scores
from facesieve.rows import Rows
from facesieve.shield import load_shield

QUICK = [name for name, preset in PRESETS.items() if preset.evaluations == 1]
ENROLLED, EACH, BATCH = 10, 10, 15  # of each person: photographs for templates, photographs that are scored; at a time
RATES = (0.01, 0.005)  # of false alarms: of one score alone, and of each where either is enough
ATTACKED, EPS = 42, 2
SOURCE = f"experiments/{MANIFEST.name}, the photographs for choosing, {EACH} of each person"
COMMAND = "python experiments/tampering.py --source DATA/identities --work WORK --write src/facesieve/recognition/tampering.json"
Floats = NDArray[np.float32]


def photographs() -> tuple[list[int], list[str]]:
    """The numbers of the manifest's photographs that are scored, each person's first, then each one's second; whose they are."""
    people = [image.person for image in load_manifest(MANIFEST).images]
    turn = [people[:number].count(person) - ENROLLED for number, person in enumerate(people)]
    order = sorted((each, number) for number, each in enumerate(turn) if 0 <= each < EACH)
    return [number for _, number in order], [people[number] for _, number in order]


def embedded(path: Path, large: Floats, small: Floats) -> dict[str, dict[str, Rows]]:
    """Rows (N, D) by recogniser and by preset (raw: as they came), kept in a file.

    ``large`` (N, 3, 160, 160) in [0, 1] are raw crops, ``small`` (N, 3, 128, 128) the same for the presets.
    """
    if not path.exists():
        recognisers = [load_embedder(name, gradients=False) for name in RECOGNISERS]
        runtimes = {name: load_shield(name).runtime for name in QUICK}
        found: dict[str, list[Rows]] = {}
        for begin in range(0, len(small), BATCH):
            part = slice(begin, begin + BATCH)
            faces = {RAW: large[part]}
            for name, runtime in runtimes.items():
                faces[name] = runtime.purify(small[part], range(begin, begin + len(small[part]))).crops
            for recogniser in recognisers:
                for name, crops in faces.items():
                    found.setdefault(f"{recogniser.name} {name}", []).append(recogniser.rows(crops))
            print(f"  {begin + len(small[part])} of {len(small)} photographs", file=sys.stderr, flush=True)
        np.savez(path, **{name: np.concatenate(parts) for name, parts in found.items()})
    made: dict[str, dict[str, Rows]] = {}
    with np.load(path) as kept:
        for key in kept.files:
            recogniser, name = key.split(" ")
            made.setdefault(recogniser, {})[name] = kept[key]
    return made


def crops_of(source: Path, work: Path, size: int, numbers: list[int]) -> Floats:
    """Those photographs' crops (N, 3, size, size) in [0, 1]."""
    return to_floats(aligned_crops(load_manifest(MANIFEST), open_source(source), work, size)[numbers])


def attacked(
    path: Path, name: str, large: Floats, small: Floats, clean: Rows, own: NDArray[np.int64]
) -> dict[str, dict[str, Rows]]:
    """Rows as ``embedded`` of the first ``ATTACKED`` photographs under PGD on the recogniser ``name``, kept in a file.

    It wants another of the people named, whose mean templates are of the raw rows ``clean`` (N, D); ``own`` (N,) is who is shown.
    """
    import torch
    from torch.nn import functional

    from facesieve.attacks.gradient import pgd
    from facesieve.attacks.objectives import Margin, similarities
    from facesieve.recognition.embedder import differentiable
    from facesieve.recognition.templates import mean_templates

    large, small = large[:ATTACKED], small[:ATTACKED]
    if not path.exists():
        scores = similarities(differentiable(load_embedder(name)), torch.from_numpy(mean_templates(clean, own)))

        def reduced(images: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=images.requires_grad):
                return scores(images).float()

        images = torch.from_numpy(small)
        goal = Margin(reduced, torch.from_numpy(own[:ATTACKED]))
        made = pgd(goal, images, eps=EPS / 255, step=EPS / 4 / 255, iterations=10, seeds=range(ATTACKED))
        made = (255 * made).round() / 255
        change = functional.interpolate(made - images, size=CROP, mode="bicubic", align_corners=False).numpy()
        large, small = (large + change).clip(0, 1), made.numpy()
    return embedded(path, large, small)


def changes(rows: dict[str, dict[str, Rows]], preset: str) -> dict[str, Floats]:
    """The tamper scores behind a preset, by recogniser: (N,)."""
    return {name: np.array(tamper_scores(of[RAW], of[preset])) for name, of in rows.items()}


def limit(scores: Floats, rate: float) -> float:
    """The smallest of the scores above which at most this share of them lies."""
    return float(np.quantile(scores, 1 - rate, method="inverted_cdf"))


def thresholds(clean: dict[str, dict[str, Rows]], people: list[str], labels: dict[str, str]) -> list[dict[str, object]]:
    """Of each recogniser and preset the thresholds of both scores, with intervals, at each rate."""
    found = []
    for preset, label in labels.items():
        moved = changes(clean, preset)
        for name, second in (tuple(moved), tuple(moved)[::-1]):
            made: dict[str, object] = {"embedder": name, "second": second, "purifier": label}
            scores = {"change": moved[name], "disagreement": np.array(disagreements(moved[name], moved[second]))}
            over = []
            for score, values in scores.items():
                made[score] = {str(rate): round(limit(values, rate), 4) for rate in RATES}
                drawn = {
                    str(rate): bootstrap(lambda w, values=values, rate=rate: _weighted(values, w, rate), people, draws=300)
                    for rate in RATES
                }
                made[f"{score} interval"] = {rate: [round(one.low, 4), round(one.high, 4)] for rate, one in drawn.items()}
                over.append(values > limit(values, RATES[-1]))
            made["both"] = round(float((over[0] | over[1]).mean()), 4)  # false alarms where either is enough
            found.append(made)
            print(json.dumps(made))
    return found


def _weighted(values: Floats, weights: NDArray[np.float64], rate: float) -> float:
    """As ``limit``, where each score counts as often as its weight says."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, (1 - rate) * below[-1] - 1e-9)])


def compared(clean: dict[str, dict[str, Rows]], attacked: dict[str, dict[str, Rows]], named: str, own: NDArray[np.int64]) -> None:
    """Print what each definition of disagreement finds at 1 % of false alarms, alone and with the tamper score at half each."""
    [second] = clean.keys() - {named}
    for preset in QUICK:
        every: dict[str, tuple[Floats, Floats]] = {}
        moved, moved_attacked = changes(clean, preset), changes(attacked, preset)
        middle = {name: np.median(values) for name, values in moved.items()}
        every["change"] = moved[named], moved_attacked[named]
        for power in (0.25, 0.5, 1):
            pairs = [of[named] / of[second] ** power for of in (moved, moved_attacked)]
            every[f"over the second's to the power of {power}"] = pairs[0], pairs[1]
        every["difference, in medians"] = tuple(
            of[named] / middle[named] - of[second] / middle[second] for of in (moved, moved_attacked)
        )
        for where in (preset, RAW):
            gaps = [preferred(clean, rows, named, second, where, own) for rows in (clean, attacked)]
            every[f"gap to the other's best match, {where}"] = gaps[0], gaps[1]
        half = RATES[-1]
        base = every["change"][1] > limit(every["change"][0], half)
        for name, (untouched, touched) in every.items():
            alone = np.mean(touched > limit(untouched, RATES[0]))
            both = np.mean(base | (touched > limit(untouched, half)))
            print(f"{named}, {preset}, {name}: {100 * alone:.1f} % found; {100 * both:.1f} % with the tamper score")


def preferred(
    clean: dict[str, dict[str, Rows]],
    rows: dict[str, dict[str, Rows]],
    named: str,
    second: str,
    where: str,
    own: NDArray[np.int64],
) -> Floats:
    """How much the second recogniser prefers its own best match to the named one's: (N,), of mean templates without the probe."""
    tables = []
    for name in (named, second):
        raw, sums = clean[name][RAW], np.zeros((own.max() + 1, clean[name][RAW].shape[1]))
        np.add.at(sums, own, raw)
        table = np.empty((len(rows[name][where]), len(sums)))
        for number, row in enumerate(rows[name][where]):
            means = sums.copy()
            means[own[number]] -= raw[number]
            table[number] = means @ row / np.linalg.norm(means, axis=1)
        tables.append(table)
    return tables[1].max(1) - tables[1][np.arange(len(tables[1])), tables[0].argmax(1)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--attacked", action="store_true", help="compare definitions of disagreement under attack")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    numbers, people = photographs()
    large, small = (crops_of(args.source, args.work, size, numbers) for size in (CROP, 128))
    clean, own = embedded(args.work / "clean.npz", large, small), np.unique(people, return_inverse=True)[1]
    found = thresholds(clean, people, {name: load_shield(name).runtime.card.label for name in QUICK})
    if args.attacked:
        for spec, name in zip(RECOGNISERS, clean, strict=True):
            made = attacked(args.work / f"attacked-{spec}-{EPS}.npz", spec, large, small, clean[name][RAW], own)
            compared(clean, made, name, own)
    if args.write:
        about = {"source": SOURCE, "command": COMMAND, "false_alarm_rates": RATES, "photographs": len(numbers)}
        args.write.write_text(listed(about, found))


if __name__ == "__main__":
    main()
