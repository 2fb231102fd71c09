"""Enrol the sample people, fool the recogniser with one probe, and see what the shield makes of it.

The second part of `make demo`. The attack is a few steps of PGD (Madry et al., 2018) on SFace alone,
the oblivious attacker of docs/threat-model.md: it pulls the probe toward another person's template
and away from the right one's, by at most EPS in any pixel, and is saved with 8 bits.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor

from facesieve import align, load_shield, read_photo, write_photo
from facesieve.galleries import create_gallery
from facesieve.galleries.base import Match
from facesieve.identification import CROP, Identifier
from facesieve.images import to_photo
from facesieve.pictures import Column, sheet
from facesieve.recognition.sface import load_sface

SAMPLES = Path(__file__).parent.parent / "samples"
ENROLLED = {
    "Biden": ["biden-1.jpg"],
    "Collins": ["collins-1.jpg"],
    "Hopper": ["hopper-1.jpg"],
    "Obama": ["obama-1.jpg", "obama-2.jpg"],
}
PROBE, PERSON, VICTIM = "obama-3.jpg", "Obama", "Hopper"
EPS, STEP, STEPS = 4 / 255, 1 / 255, 20


def perturb(embedder: torch.nn.Module, crop: Tensor, own: Tensor, victim: Tensor) -> Tensor:
    """A crop (1, 3, S, S) within EPS of ``crop`` that the embedder takes for the victim, in 8-bit values."""
    x = crop.clone()
    for _ in range(STEPS):
        x.requires_grad_(True)
        row = embedder(x)
        (gradient,) = torch.autograd.grad((row @ victim - row @ own).sum(), x)
        x = (x.detach() + STEP * gradient.sign()).clamp(crop - EPS, crop + EPS).clamp(0, 1)
    return torch.round(x * 255) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/demo"))
    args = parser.parse_args()
    folder = args.output / "gallery"
    if folder.exists():
        shutil.rmtree(folder)  # the demo's own, from its last run

    embedder = load_sface()
    guard = Identifier(embedder, load_shield("fast"))
    gallery = create_gallery(str(folder), embedder=embedder.name, dimensions=embedder.dimensions)
    for person, files in ENROLLED.items():
        gallery.enrol(person, guard.templates([read_photo(SAMPLES / name) for name in files]))
    print(f"enrolled {len(ENROLLED)} people in {folder}")

    def name(crops: Tensor, purifier: str = "raw") -> Match:
        with torch.inference_mode():
            return gallery.search(embedder.embed(crops).numpy(), purifier=purifier, count=1)[0][0]

    photo = read_photo(SAMPLES / PROBE)
    clean = align(photo, guard.one_face(photo), CROP)[None]
    own, victim = (torch.from_numpy(gallery.templates_of(p)).mean(0) for p in (PERSON, VICTIM))
    attacked = perturb(embedder, clean, own, victim)
    assert guard.shield is not None
    small = torch.nn.functional.interpolate(attacked, (guard.shield.size,) * 2, mode="bilinear", antialias=True)
    purified = guard.shield.trace(small, [0])[-1][1]

    said = {"the probe": name(clean), "perturbed": name(attacked), "purified": name(purified, guard.purifier)}
    for what, match in said.items():
        print(f"{what:10s} is named {match.person} (cosine {match.score:.2f})")
    titles = [f"{what}: {match.person} {match.score:.2f}" for what, match in said.items()]
    noise = (0.5 + 16 * (attacked - clean)).clamp(0, 1)
    shown = [
        Column(titles[0], clean),
        Column("perturbation x 16", noise),
        Column(titles[1], attacked),
        Column(titles[2], purified),
    ]
    for what, crop in (("probe", clean), ("attacked", attacked)):
        write_photo(args.output / f"{what}.png", to_photo(crop[0]))
    picture = args.output / "wrong-name.png"
    write_photo(picture, sheet(shown, cell=256))
    gallery.close()
    print(f"\nwho it is taken for, before and after: {picture}")


if __name__ == "__main__":
    main()
