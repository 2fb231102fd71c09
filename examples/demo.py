"""Purify the sample photographs and draw what happened: `make demo`.

The photographs are purified with the fast preset, as `facesieve purify` would; beside it the
published two stages are run on the same faces, so that one picture shows both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from facesieve import load_shield, preset, read_photo, write_photo
from facesieve.noise import derive_seed
from facesieve.pictures import Column, columns, sheet

SAMPLES = Path(__file__).parent.parent / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"))
    parser.add_argument("--photos", type=int, default=100, help="how many of the samples")
    parser.add_argument("--paper-steps", type=int, default=100, help="steps of each published stage")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    print("loading the detector and the prior ...")
    fast = load_shield("fast")
    paper = load_shield(preset("paper").changed(steps=args.paper_steps))
    photos = {path: read_photo(path) for path in sorted(SAMPLES.glob("*.jpg"))[: args.photos]}
    crops = []
    for path, photo in photos.items():
        restored, faces = fast.purify(photo, seeds=[derive_seed(0, path.name, n) for n in range(len(fast.faces(photo)))])
        write_photo(args.output / f"{path.stem}.png", restored)
        print(f"{path.name}: {len(faces)} face{'s' * (len(faces) != 1)}")
        crops += [fast.crop(photo, face) for face in faces]

    faces_in = torch.stack(crops)
    seeds = range(len(faces_in))
    begun = time.perf_counter()
    quick = fast.trace(faces_in, seeds)
    per_face = (time.perf_counter() - begun) / len(faces_in)
    print(f"fast: {per_face:.2f} s a face, {fast.preset.evaluations} evaluations of the prior, on {fast.path}")
    print("now the published two stages on the same faces; this takes a minute or two ...")
    begun = time.perf_counter()
    published = paper.trace(faces_in, seeds)
    paper_face = (time.perf_counter() - begun) / len(faces_in)
    print(f"paper: {paper_face:.2f} s a face, {paper.preset.evaluations} evaluations")
    print(f"fast is {paper_face / per_face:.0f} times faster")

    shown = columns(faces_in, published)
    shown += [Column(f"fast: {c.title}", c.images) for c in columns(faces_in, quick)[2:]]
    picture = args.output / "stages.png"
    write_photo(picture, sheet(shown))
    print(f"\nthe restored photographs are in {args.output}")
    print(f"input, stages and amplified difference of each face: {picture}")


if __name__ == "__main__":
    main()
