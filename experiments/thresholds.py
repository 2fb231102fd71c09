"""Choose the default thresholds: what one stranger in a hundred scores against so many people.

    python experiments/thresholds.py --source DATA/identities --work WORK [--write src/facesieve/recognition/thresholds.json]

The photographs are those for choosing, `tuning-105.json`, which are in no test: ten of each of 105 people are enrolled, every
other one is a probe, and a stranger to all but its own person. Its best score against some of the others, drawn at random, is
what `facesieve gallery calibrate` chooses a threshold from; the more people, the higher it is. For each recogniser that ships,
with and without the default preset in front of the probes and of the templates. About 20 minutes on one core; the rows are
kept in WORK.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesieve.data.crops import aligned_crops
from facesieve.data.manifest import load_manifest
from facesieve.data.sources import open_source
from facesieve.galleries.base import RAW
from facesieve.identification import CROP
from facesieve.images import to_floats
from facesieve.metrics.intervals import bootstrap
from facesieve.metrics.rates import frr, threshold_at_far
from facesieve.recognition.embedders import load_embedder
from facesieve.rows import Rows
from facesieve.runtime import Runtime
from facesieve.shield import load_shield
from facesieve.specs import DEFAULT_PRESET

HERE = Path(__file__).parent
MANIFEST = HERE / "tuning-105.json"
RECOGNISERS = ("sface", "dlib")
ENROLLED, FAR, BATCH = 10, 0.01, 16
SIZES, DRAWS, SEED = (1, 3, 10, 30, 104), 20, 0  # people that a stranger is compared with; how often they are drawn
Floats = NDArray[np.float32]
SOURCE = f"experiments/{MANIFEST.name}, the photographs for choosing, {ENROLLED} of each person enrolled"
COMMAND = (
    "python experiments/thresholds.py --source DATA/identities --work WORK --write src/facesieve/recognition/thresholds.json"
)


def rows(source: Path, work: Path, runtime: Runtime) -> dict[str, dict[str, Rows]]:
    """Of each recogniser the rows (N, D) of the manifest's photographs as they are, and behind the preset; made once."""
    path = work / f"rows-{runtime.card.label}.npz"
    if not path.exists():
        manifest, opened = load_manifest(MANIFEST), open_source(source)
        found: dict[str, list[Rows]] = {}
        recognisers = [load_embedder(name, gradients=False) for name in RECOGNISERS]
        crops = {size: aligned_crops(manifest, opened, work, size) for size in (CROP, runtime.card.size)}
        for begin in range(0, len(manifest.images), BATCH):
            plain, small = (to_floats(crops[size][begin : begin + BATCH]) for size in (CROP, runtime.card.size))
            purified = runtime.purify(small, range(begin, begin + len(small))).crops
            for recogniser in recognisers:
                for label, faces in ((RAW, plain), (runtime.card.label, purified)):
                    found.setdefault(f"{recogniser.name} {label}", []).append(recogniser.rows(faces))
            print(f"  {begin + len(small)} of {len(manifest.images)} photographs", file=sys.stderr)
        np.savez(path, **{name: np.concatenate(parts) for name, parts in found.items()})
    made: dict[str, dict[str, Rows]] = {}
    with np.load(path) as kept:
        for name in kept.files:
            recogniser, label = name.split(" ")
            made.setdefault(recogniser, {})[label] = kept[name]
    return made


def parts() -> tuple[list[int], list[int], list[str]]:
    """The numbers of the manifest's enrolled photographs and of its probes, and who each photograph shows."""
    people = [image.person for image in load_manifest(MANIFEST).images]
    seen = [people[:number].count(person) for number, person in enumerate(people)]
    enrolled = [number for number, before in enumerate(seen) if before < ENROLLED]
    return enrolled, [number for number, before in enumerate(seen) if before >= ENROLLED], people


def stranger_scores(cosines: Floats, own: NDArray[np.int64], size: int) -> tuple[Floats, NDArray[np.int64]]:
    """Best scores of probes against ``size`` of the other people, drawn ``DRAWS`` times, highest first; and whose each is.

    ``cosines`` (N, people): each probe's best with each person; ``own`` (N,): who it shows.
    """
    rng, rows = np.random.default_rng(SEED), np.arange(len(own))
    scores = []
    for _ in range(DRAWS if size < cosines.shape[1] - 1 else 1):
        order = rng.random(cosines.shape)
        order[rows, own] = np.inf  # never their own person
        chosen = np.argpartition(order, size - 1, axis=1)[:, :size]
        scores.append(np.take_along_axis(cosines, chosen, 1).max(1))
    joined = np.concatenate(scores)
    places = np.argsort(-joined)
    return joined[places], np.tile(own, len(scores))[places]


def chosen(probes: Rows, own: NDArray[np.int64], templates: Rows, owners: NDArray[np.int64]) -> dict[str, list[object]]:
    """The threshold at each number of people, its interval, and genuine probes refused by it."""
    each = probes @ templates.T
    cosines = np.stack([each[:, owners == person].max(1) for person in range(owners.max() + 1)], 1)
    genuine = cosines[np.arange(len(own)), own]
    made: dict[str, list[object]] = {"people": [], "threshold": [], "interval": [], "frr": []}
    for size in SIZES:
        scores, people = stranger_scores(cosines, own, size)
        found = bootstrap(lambda w, scores=scores: threshold_at_far(scores, FAR, w).value, people, draws=300)
        made["people"].append(size)
        made["threshold"].append(round(found.value, 3))
        made["interval"].append([round(found.low, 3), round(found.high, 3)])
        made["frr"].append(round(frr(genuine, found.value), 4))
    return made


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Of a script that chooses defaults; ``about`` is what it says of itself."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for crops and rows")
    parser.add_argument("--write", type=Path, help="the list of defaults that is written")
    return parser


def listed(about: Mapping[str, object], thresholds: Sequence[Mapping[str, object]]) -> str:
    """JSON of what they were chosen from, and of the ``thresholds``, one a line."""
    lines = ",\n".join(f"  {json.dumps(one)}" for one in thresholds)
    return f'{json.dumps(about, indent=1)[:-2]},\n "thresholds": [\n{lines}\n ]\n}}\n'


def main() -> None:
    args = arguments(__doc__).parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    label = (runtime := load_shield(DEFAULT_PRESET).runtime).card.label
    enrolled, probes, names = parts()
    people = np.unique(names, return_inverse=True)[1]
    thresholds = []
    for name, of in rows(args.source, args.work, runtime).items():
        for probe, template in ((RAW, RAW), (label, label), (label, RAW)):
            found = chosen(of[probe][probes], people[probes], of[template][enrolled], people[enrolled])
            thresholds.append({"embedder": name, "purifier": probe, "templates": template, **found})
            print(json.dumps(thresholds[-1]))
    if args.write:
        about = {"source": SOURCE, "command": COMMAND, "false_accept_rate": FAR, "probes": len(probes)}
        args.write.write_text(listed(about, thresholds))


if __name__ == "__main__":
    main()
