"""Purify the sample photographs and draw what happened: `make demo`.

The photographs are purified with the default preset, as `facesieve purify` would; beside it the
published two stages are run on the same faces, so that one picture shows both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from facesieve import load_shield, preset, read_photo, write_photo
from facesieve.errors import MissingExtraError
from facesieve.pictures import Column, columns, sheet
from facesieve.shield import Shield

SAMPLES = Path(__file__).parent.parent / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"))
    parser.add_argument("--photos", type=int, default=100, help="how many of the samples")
    parser.add_argument("--paper-steps", type=int, default=100, help="steps of each published stage")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    print("loading the detector and the prior ...")
    shield = load_shield()
    name = shield.card.name
    crops = np.concatenate([restored(shield, path, args.output) for path in sorted(SAMPLES.glob("*.jpg"))[: args.photos]])

    begun = time.perf_counter()
    quick = shield.runtime.purify(crops, range(len(crops)))
    per_face = (time.perf_counter() - begun) / len(crops)
    print(f"{name}: {per_face:.2f} s a face, evaluations of the prior: {shield.card.evaluations}, on {shield.card.ran_on}")
    shown = []
    try:
        paper = shield.with_preset(preset("paper").changed(steps=args.paper_steps))
    except MissingExtraError as error:
        print(f"the published two stages are left out: {error}")
    else:
        print("now the published two stages on the same faces; this takes a minute or two ...")
        begun = time.perf_counter()
        published = paper.runtime.purify(crops, range(len(crops)))
        paper_face = (time.perf_counter() - begun) / len(crops)
        print(f"paper: {paper_face:.2f} s a face, {paper.card.evaluations} evaluations")
        print(f"{name} is {paper_face / per_face:.0f} times faster")
        shown = columns(crops, published)
    theirs = columns(crops, quick)
    shown += [Column(f"{name}: {c.title}", c.images) for c in (theirs[2:] if shown else theirs)]
    picture = args.output / "stages.png"
    write_photo(picture, sheet(shown))
    print(f"\nthe restored photographs are in {args.output}")
    print(f"input, stages and amplified difference of each face: {picture}")


def restored(shield: Shield, path: Path, output: Path) -> np.ndarray:
    """Purify a photograph into ``output``; its faces (N, 3, S, S) as they came."""
    before = shield.cut(read_photo(path))
    write_photo(output / f"{path.stem}.png", shield.restore(before, before.seeds(0)).paste())
    print(f"{path.name}: {len(before)} face{'s' * (len(before) != 1)}")
    return before.crops


if __name__ == "__main__":
    main()
