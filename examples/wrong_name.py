"""Enrol the sample people, fool the recogniser with one probe, and see what the shield makes of it.

The second part of `make demo`. The attack is a few steps of PGD (Madry et al., 2018) on SFace alone,
the oblivious attacker of docs/threat-model.md: it pulls the probe toward another person's template
and away from the right one's, by at most EPS in any pixel, and is saved with 8 bits. Two quick presets
are shown: `gentle`, the default, which costs next to nothing on clean photographs, and `robust`, which
holds against larger perturbations. An attack has gradients, so this needs PyTorch.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    print("fooling a recogniser is left out: it needs PyTorch (pip install 'facesieve[torch]')")
    raise SystemExit from None

from facesieve import FaceCrops, load_shield, read_photo, write_photo
from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import TargetedMargin, similarities
from facesieve.galleries import create_gallery
from facesieve.galleries.base import Gallery
from facesieve.identification import CROP, Identifier, stacked
from facesieve.images import Photo, to_photo
from facesieve.pictures import Column, sheet
from facesieve.recognition import TorchEmbedder
from facesieve.recognition.sface import load_sface
from facesieve.recognition.templates import mean_template

SAMPLES = Path(__file__).parent.parent / "samples"
ENROLLED = {
    "Biden": ["biden-1.jpg"],
    "Collins": ["collins-1.jpg"],
    "Hopper": ["hopper-1.jpg"],
    "Obama": ["obama-1.jpg", "obama-2.jpg"],
}
PROBE, PERSON, VICTIM = "obama-3.jpg", "Obama", "Hopper"
EPS, STEP, STEPS = 4 / 255, 1 / 255, 20


def perturbed(embedder: TorchEmbedder, clean: FaceCrops, gallery: Gallery) -> Photo:
    """The aligned face within EPS of ``clean`` that the embedder takes for the victim, in 8-bit values."""
    templates = np.stack([mean_template(gallery.templates_of(person)) for person in (PERSON, VICTIM)])
    goal = TargetedMargin(similarities(embedder, torch.from_numpy(templates)), torch.tensor([1]))
    return to_photo(pgd(goal, torch.from_numpy(clean.crops), eps=EPS, step=STEP, iterations=STEPS)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"))
    args = parser.parse_args()
    folder = args.output / "gallery"
    if folder.exists():
        shutil.rmtree(folder)  # the demo's own, from its last run

    embedder, shields = load_sface(), {name: load_shield(name) for name in ("gentle", "robust")}
    shield = shields["gentle"]
    bare = Identifier(embedder)
    gallery = create_gallery(str(folder), embedder=embedder.name, dimensions=embedder.dimensions)
    for person, files in ENROLLED.items():
        gallery.enrol(person, stacked([bare.templates(shield.cut(read_photo(SAMPLES / name))) for name in files]))
    print(f"enrolled {len(ENROLLED)} people in {folder}")

    # The aligned face alone, as the recogniser sees it.
    clean = FaceCrops.whole(to_photo(shield.cut(read_photo(SAMPLES / PROBE)).at(CROP).crops[0]), CROP)
    attacked = FaceCrops.whole(perturbed(embedder, clean, gallery), CROP)
    faces = {"the probe": clean, "perturbed": attacked}
    for name, each in shields.items():
        small = attacked.at(each.card.size)
        faces[f"by {name}"] = each.restore(small, small.seeds(0))

    titles = []
    for what, face in faces.items():
        match = gallery.search(embedder.rows(face.crops), count=1)[0][0]  # raw templates, at which the attack aims
        print(f"{what:10s} is named {match.person} (cosine {match.score:.2f})")
        titles.append(f"{what}: {match.person} {match.score:.2f}")
    noise = Column("perturbation x 16", (0.5 + 16 * (attacked.crops - clean.crops)).clip(0, 1))
    first, *rest = (Column(title, face.crops) for title, face in zip(titles, faces.values(), strict=True))
    picture = args.output / "wrong-name.png"
    write_photo(picture, sheet([first, noise, *rest], cell=256))
    write_photo(args.output / "probe.png", clean.photo)
    write_photo(args.output / "attacked.png", attacked.photo)
    gallery.close()
    print(f"\nwho it is taken for, before and after: {picture}")


if __name__ == "__main__":
    main()
