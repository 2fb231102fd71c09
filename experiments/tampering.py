"""Choose the tamper scores' default thresholds: what one untouched photograph in a hundred, or in two hundred, scores above.

    python experiments/tampering.py --source DATA/identities --work WORK [--write src/facesieve/recognition/tampering.json]

The photographs are those for choosing, `tuning-105.json`, which are in no test: ten of each of 105 people. For each quick preset
and each recogniser that ships, with the other one as its second. About 15 minutes on one core; the rows are kept in WORK.
`--attacked` also says what the thresholds find: 105 of these photographs under PGD of 20 steps that sees the named
recogniser alone (10 minutes more), by the definitions of disagreement that were compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesieve.data.crops import aligned_crops
from facesieve.data.manifest import load_manifest
from facesieve.data.sources import open_source
from facesieve.galleries.base import RAW
from facesieve.identification import CROP
from facesieve.images import to_floats
from facesieve.purify import PRESETS
from facesieve.recognition.embedders import load_embedder
from facesieve.rows import Rows
from facesieve.shield import load_shield

HERE = Path(__file__).parent
MANIFEST = HERE / "tuning-105.json"
RECOGNISERS = ("sface", "dlib")
QUICK = [name for name, preset in PRESETS.items() if preset.evaluations == 1]
ENROLLED, EACH, BATCH = 10, 10, 15  # of each person: photographs for templates, photographs that are scored; at a time
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for crops and rows")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    numbers, _people = photographs()
    large, small = (crops_of(args.source, args.work, size, numbers) for size in (CROP, 128))
    embedded(args.work / "clean.npz", large, small)


if __name__ == "__main__":
    main()
