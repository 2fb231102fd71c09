"""Pictures for a person's inspection.

    python experiments/contact_sheets.py scales --photos DIR --output sheet.png [--faces 32]
    python experiments/contact_sheets.py readme

``scales``: super-resolution at scales 2, 4, 8, colorization, `paper` and the default. Look for distorted eyes, noses and
mouths, for artifacts at block borders, for unnatural skin tones. ``readme``: the pictures of the README and of the
documentation's first page, of the sample photographs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facesieve import load_shield, preset, read_photo, write_photo
from facesieve.faces import Crops
from facesieve.files import write_atomic
from facesieve.folders import images_in
from facesieve.images import Photo, encode_photo
from facesieve.pictures import Column, columns, sheet
from facesieve.shield import Shield
from facesieve.specs import DEFAULT_PRESET

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
GAP, HEAD = 6, 34
PORTRAIT = "obama-2.jpg"  # the README's


def largest_faces(shield: Shield, paths: list[Path], most: int) -> Crops:
    """The largest face in each photograph that has one: (N, 3, S, S)."""
    photos = (read_photo(path) for path in paths)
    found = [shield.cut(photo).first(1).crops for photo in photos if shield.detector.detect(photo)]
    return np.concatenate(found[:most])


def scales(photos: Path, output: Path, faces: int, cell: int, prior: Path | None) -> None:
    """Every restoration a column, in two blocks where there are many faces."""
    shield = load_shield(prior=prior)
    shown = {f"x {scale}": preset("stage1").changed(scale=scale) for scale in (2, 4, 8)}
    shown |= {"colorization": preset("stage2"), "paper": preset("paper"), DEFAULT_PRESET: preset(DEFAULT_PRESET)}
    paths = sorted(photos.rglob("*.jpg"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(2 * faces, len(paths))).astype(int)]
    crops = largest_faces(shield, paths, faces)
    done = [Column("input", crops)]
    for title, chosen in shown.items():
        done.append(Column(title, shield.with_preset(chosen).runtime.purify(crops, range(len(crops))).crops))
        print(title, flush=True)
    half = (len(crops) + 1) // 2 if len(crops) > 8 else len(crops)
    parts = [[Column(c.title, c.images[i : i + half]) for c in done] for i in range(0, len(crops), half)]
    write_photo(output, side_by_side([sheet(part, cell=cell) for part in parts]))


def side_by_side(blocks: list[Photo]) -> Photo:
    """Pictures of unequal height on white."""
    height = max(len(block) for block in blocks)
    return np.hstack([np.pad(b, ((0, height - len(b)), (0, 0), (0, 0)), constant_values=255) for b in blocks])


def sheet_of_one(title: str, photo: Photo) -> Photo:
    """A photograph at full size under its title."""
    canvas = Image.new("RGB", (photo.shape[1] + GAP, photo.shape[0] + HEAD), "white")
    canvas.paste(Image.fromarray(photo), (GAP // 2, HEAD))
    at, font = (canvas.width // 2, HEAD // 2), ImageFont.load_default(size=15)
    ImageDraw.Draw(canvas).text(at, title, fill="black", font=font, anchor="mm")
    return np.asarray(canvas)


def readme() -> None:
    """A photograph before and after, at full size; and every step of `paper` and the end of the default."""
    shield = load_shield()
    before = shield.cut(read_photo(ROOT / "samples" / PORTRAIT))
    photos = {"before": before.photo}
    for name in ("gentle", "balanced", "robust"):
        photos[f"behind {name}"] = load_shield(name).restore(before, before.seeds(0)).paste()
    titled = [sheet_of_one(title, photo) for title, photo in photos.items()]
    write_atomic(PICTURES / "before-after.jpg", encode_photo(side_by_side(titled), "jpeg", quality=90))
    crops = largest_faces(shield, images_in(ROOT / "samples"), 100)
    seeds = range(len(crops))
    trace = shield.with_preset(preset("paper")).runtime.purify(crops, seeds)
    shown = [*columns(crops, trace), Column(DEFAULT_PRESET, shield.runtime.purify(crops, seeds).crops)]
    write_atomic(PICTURES / "stages.jpg", encode_photo(sheet(shown, cell=192), "jpeg", quality=90))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("readme")
    of_scales = kinds.add_parser("scales")
    of_scales.add_argument("--photos", type=Path, required=True)
    of_scales.add_argument("--output", type=Path, required=True)
    of_scales.add_argument("--faces", type=int, default=32)
    of_scales.add_argument("--prior", type=Path)
    of_scales.add_argument("--cell", type=int, default=128)
    args = parser.parse_args()
    if args.kind == "readme":
        readme()
    else:
        scales(args.photos, args.output, args.faces, args.cell, args.prior)


if __name__ == "__main__":
    main()
