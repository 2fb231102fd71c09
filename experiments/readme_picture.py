"""Draw the README's picture of the sample photographs: `python experiments/readme_picture.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from facesieve import load_shield, read_photo
from facesieve.files import write_atomic
from facesieve.images import encode_photo
from facesieve.pictures import Column, columns, sheet

ROOT = Path(__file__).parent.parent


def main() -> None:
    paper, fast = load_shield("paper"), load_shield("fast")
    photos = [read_photo(path) for path in sorted((ROOT / "samples").glob("*.jpg"))]
    crops = torch.stack([fast.crop(photo, fast.faces(photo)[0]) for photo in photos])
    seeds = range(len(crops))
    shown = [*columns(crops, paper.trace(crops, seeds)), Column("fast", fast.trace(crops, seeds)[-1][1])]
    write_atomic(ROOT / "docs" / "pictures" / "stages.jpg", encode_photo(sheet(shown, cell=192), "jpeg", quality=90))


if __name__ == "__main__":
    main()
