"""Contact sheets for a person's inspection: super-resolution at scales 2, 4, 8, colorization, and fast.

    python experiments/contact_sheets.py --photos DIR --output sheet.png [--faces 32]

Look for distorted eyes, noses and mouths, for artifacts at block borders, for unnatural skin tones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from facesieve import load_shield, preset, read_photo, write_photo
from facesieve.pictures import Column, sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=32)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--cell", type=int, default=128)
    args = parser.parse_args()

    shields = {
        **{f"x {scale}": load_shield(preset("stage1").changed(scale=scale), prior=args.prior) for scale in (2, 4, 8)},
        "colorization": load_shield("stage2", prior=args.prior),
        "paper": load_shield("paper", prior=args.prior),
        "fast": load_shield("fast", prior=args.prior),
    }
    shield = shields["fast"]
    paths = sorted(p for p in args.photos.rglob("*.jpg"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(2 * args.faces, len(paths))).astype(int)]
    photos = [read_photo(path) for path in paths]
    found = [(photo, faces[0]) for photo in photos if (faces := shield.detector.detect(photo))][: args.faces]
    crops = torch.stack([shield.crop(photo, face) for photo, face in found])
    columns = [Column("input", crops)]
    for title, chosen in shields.items():
        parts = [chosen.trace(part, range(len(part)))[-1][1] for part in crops.split(16)]
        columns.append(Column(title, torch.cat(parts)))
        print(title, flush=True)
    half = (len(crops) + 1) // 2 if len(crops) > 8 else len(crops)
    blocks = [
        sheet([Column(c.title, c.images[i : i + half]) for c in columns], cell=args.cell) for i in range(0, len(crops), half)
    ]
    height = max(len(block) for block in blocks)
    padded = [np.pad(b, ((0, height - len(b)), (0, 0), (0, 0)), constant_values=255) for b in blocks]
    write_photo(args.output, np.hstack(padded))


if __name__ == "__main__":
    main()
