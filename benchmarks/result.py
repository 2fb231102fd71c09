"""What a purified face looks like in its photograph, and what an attacker has of it: the two finishes, `secure` and `detail`.

    python benchmarks/result.py --photos DATA/free [--preset NAME] [--portraits N] [--faces N] [--targets]

Portraits, the samples first, are enlarged to 8 megapixels, and a known fine texture is added. *Sharpness* is the mean absolute
Laplacian over the middle of the face against the photograph's; *texture* is the share of the added texture that comes back.
The face that is found again in the result is what a server behind a proxy finds; *mixed* is how faces were put back before, with
some of the photograph at the border of the square. The attack is PGD on SFace alone, which reads photographs as `norm_crop`
does, without averaging, and so sees only one pixel in many: a perturbation as fine as can be. ``--targets`` records the
figures in docs/results/targets.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from results import origin
from torch import Tensor
from torch.nn import functional

from facesieve import load_shield, read_photo
from facesieve.errors import FacesieveError
from facesieve.faces import FINISHES, Face, FaceCrops, alignment
from facesieve.faces.align import resampled
from facesieve.identification import CROP
from facesieve.images import Photo
from facesieve.recognition.sface import load_sface
from facesieve.recognition.tampering import tamper_scores
from facesieve.report.targets import Target, keep_targets
from facesieve.shield import Shield
from facesieve.specs import DEFAULT_PRESET

ROOT = Path(__file__).parent.parent
TARGETS = ROOT / "docs" / "results" / "targets.json"
PIXELS = 8_000_000
TEXTURE = 6.0  # levels of 255, standard deviation
READ = 112  # pixels, SFace's
TAMPER = "tamper score of untouched photographs"
EPS, STEPS = 8 / 255, 10


@dataclass(frozen=True, eq=False)
class Portrait:
    """A large photograph, its one face, the texture that was added to it (H, W) in levels, and its purified crop."""

    photo: Photo
    texture: NDArray[np.float32]
    before: FaceCrops
    after: FaceCrops

    @property
    def middle(self) -> NDArray[np.bool_]:
        """The pixels in the middle of the face's square, (H, W): half of its side, so that no border counts."""
        size = self.after.size
        mask = np.zeros((size, size), np.uint8)
        mask[size // 4 : -size // 4, size // 4 : -size // 4] = 1
        back = cv2.invertAffineTransform(alignment(self.before.faces[0].landmarks, size))
        return cv2.warpAffine(mask, back, self.photo.shape[1::-1], flags=cv2.INTER_NEAREST) > 0


def photographs(folder: Path) -> Iterator[Path]:
    """The samples, then those of a folder, one from each tenth file, so that many people are met."""
    yield from sorted((ROOT / "samples").glob("*.jpg"))
    yield from sorted(folder.rglob("*.jpg"))[5::10]


def portraits(shield: Shield, paths: Iterator[Path], count: int) -> list[Portrait]:
    """The first ``count`` photographs with one face, enlarged, with texture."""
    found: list[Portrait] = []
    for path in paths:
        if len(found) == count:
            break
        small = read_photo(path)
        faces = shield.detector.detect(small)
        if len(faces) != 1 or np.ptp(faces[0].landmarks) < 40:
            continue
        scale = (PIXELS / (small.shape[0] * small.shape[1])) ** 0.5 + 0.01
        large = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        draws = np.random.default_rng(len(found)).normal(size=large.shape[:2]).astype(np.float32)
        fine = cv2.GaussianBlur(draws, (0, 0), 0.7)
        fine *= TEXTURE / fine.std()
        photo = np.rint(large + fine[..., None]).clip(0, 255).astype(np.uint8)
        try:
            before = shield.cut(photo).first(1)
        except FacesieveError:
            continue
        found.append(Portrait(photo, fine, before, shield.restore(before, before.seeds(1))))
        print(f"portrait {len(found)}: {photo.shape[1]} x {photo.shape[0]}", flush=True)
    return found


def sharpness(photo: Photo, where: NDArray[np.bool_]) -> float:
    """Mean absolute Laplacian of the brightness."""
    return float(np.abs(cv2.Laplacian(photo.mean(2).astype(np.float32), cv2.CV_32F))[where].mean())


def regained(photo: Photo, portrait: Portrait, where: NDArray[np.bool_]) -> float:
    """The share of the known texture in a photograph: the slope of its fine part over the texture's."""
    fine, known = (image - cv2.GaussianBlur(image, (0, 0), 3) for image in (photo.mean(2).astype(np.float32), portrait.texture))
    return float((fine[where] * known[where]).sum() / (known[where] ** 2).sum())


def mixed_with_the_photograph(after: FaceCrops) -> Photo:
    """As faces were put back before: the crop fades out over an eighth of its side, within its square."""
    photo, size = after.photo.copy(), after.size
    for face, crop in zip(after.faces, after.crops, strict=True):
        distance = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size)) / (0.12 * size)
        ramp = np.clip(distance, 0, 1) ** 2 * (3 - 2 * np.clip(distance, 0, 1))
        back = cv2.invertAffineTransform(alignment(face.landmarks, size))
        share = cv2.warpAffine(np.outer(ramp, ramp).astype(np.float32), back, photo.shape[1::-1])[..., None]
        pixels = np.ascontiguousarray(crop.transpose(1, 2, 0))
        moved = cv2.warpAffine(pixels, back, photo.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        photo = np.rint(photo * (1 - share) + 255 * moved.clip(0, 1) * share).astype(np.uint8)
    return photo


# --- a recogniser that reads without averaging -------------------------------------------------------


def reading(face: Face, window: tuple[int, int, int, int]) -> Tensor:
    """Where in a window (left, top, right, bottom) of the photograph the recogniser's pixels are, for ``grid_sample``."""
    left, top, right, bottom = window
    back = cv2.invertAffineTransform(alignment(face.landmarks, READ))
    rows, columns = np.mgrid[:READ, :READ]
    x, y = (back[:, :2] @ np.stack([columns.ravel(), rows.ravel()]) + back[:, 2:]).reshape(2, READ, READ)
    grid = np.stack([(2 * (x - left) + 1) / (right - left) - 1, (2 * (y - top) + 1) / (bottom - top) - 1], -1)
    return torch.from_numpy(grid[None]).float()


def attacked(photo: Photo, face: Face, embed: torch.nn.Module) -> Photo:
    """PGD away from the face's own embedding, as the recogniser reads it in the photograph."""
    side = int(3.2 * np.ptp(face.landmarks))
    left, top = np.maximum(face.landmarks.mean(0).astype(int) - side // 2, 0).tolist()
    right, bottom = min(left + side, photo.shape[1]), min(top + side, photo.shape[0])
    grid = reading(face, (left, top, right, bottom))
    clean = torch.from_numpy(photo[top:bottom, left:right].copy()).permute(2, 0, 1)[None].float() / 255

    def row(pixels: Tensor) -> Tensor:
        return embed.embed(functional.grid_sample(pixels, grid, align_corners=False, padding_mode="border"))

    own = row(clean).detach()
    generator = torch.Generator().manual_seed(0)
    delta = EPS * (2 * torch.rand(clean.shape, generator=generator) - 1)
    for _ in range(STEPS):
        delta.requires_grad_(True)
        (slope,) = torch.autograd.grad((row((clean + delta).clamp(0, 1)) * own).sum(), delta)
        delta = (delta.detach() - EPS / 6 * slope.sign()).clamp(-EPS, EPS)
    made = photo.copy()
    seen = (clean + delta).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    made[top:bottom, left:right] = np.rint(255 * seen).astype(np.uint8)
    return made


def read(photo: Photo, face: Face, *, averaged: bool) -> NDArray[np.float32]:
    """The crop that a recogniser sees, (1, 3, 112, 112): by ``norm_crop``'s rule, or averaged where it shrinks, as here."""
    forward = alignment(face.landmarks, READ)
    crop = resampled(photo, forward, (READ, READ)) if averaged else cv2.warpAffine(photo, forward, (READ, READ))
    return (crop.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)


Cosines = dict[str, list[float]]


def of_attacks(shield: Shield, portrait: Portrait, sface: torch.nn.Module, cosines: Cosines) -> None:
    """Cosines of the clean photograph's face, as it came, with the same face attacked, without and behind each finish."""
    face = portrait.before.faces[0]
    attack = attacked(portrait.photo, face, sface)
    before = FaceCrops.cut(attack, [face], shield.card.size)
    after = shield.restore(before, before.seeds(1))
    shown: dict[str, tuple[Photo, Photo]] = {"as it came": (portrait.photo, attack)}
    shown |= {finish: (portrait.after.paste(finish), after.paste(finish)) for finish in FINISHES}
    for name, (clean, hostile) in shown.items():
        for averaged in (False, True):
            pair = [sface.rows(read(photo, face, averaged=averaged))[0] for photo in (clean, hostile)]
            cosines.setdefault(f"{name}, {'averaged' if averaged else 'not averaged'}", []).append(float(pair[0] @ pair[1]))


def of_borders(shield: Shield, paths: Sequence[Path], sface: torch.nn.Module) -> Cosines:
    """SFace's cosine of each purified crop with the face found again in the photograph, by how it was put back."""
    found: Cosines = {}
    for path in paths:
        try:
            before = shield.cut(read_photo(path)).first(1)
        except FacesieveError:
            continue
        after = shield.restore(before, before.seeds(1))
        wanted = sface.rows(after.crops)[0]
        found.setdefault(TAMPER, []).extend(tamper_scores(sface.rows(before.at(CROP).crops), sface.rows(after.crops)))
        shown = {"mixed": mixed_with_the_photograph(after)} | {finish: after.paste(finish) for finish in FINISHES}
        for name, photo in shown.items():
            again = max(shield.detector.detect(photo), key=lambda face: overlap(face, before.faces[0]), default=None)
            crop = None if again is None else FaceCrops.cut(photo, [again], shield.card.size).crops
            found.setdefault(name, []).append(-1.0 if crop is None else float(sface.rows(crop)[0] @ wanted))
    return found


def overlap(face: Face, other: Face) -> float:
    """How near two faces lie: minus the distance of their landmarks."""
    return -float(np.abs(face.landmarks - other.landmarks).mean())


Figures = dict[str, tuple[str, float, int]]  # by name: what is wanted, the value, observations


def measured(shield: Shield, folder: Path, count: int, faces: int) -> Figures:
    """All figures."""
    sface = load_sface()
    large = portraits(shield, photographs(folder), count)
    found: dict[str, list[float]] = {}
    cosines: Cosines = {}
    for portrait in large:
        where = portrait.middle
        for finish in FINISHES:
            seen = portrait.after.paste(finish)
            ratio = sharpness(seen, where) / sharpness(portrait.photo, where)
            found.setdefault(f"sharpness of {finish} against the photograph, portraits of 8 MP with texture", []).append(ratio)
            found.setdefault(f"known texture that comes back in {finish}", []).append(regained(seen, portrait, where))
        of_attacks(shield, portrait, sface, cosines)
        print(f"attacked {len(cosines['as it came, averaged'])}", flush=True)
    paths = [path for path, _ in zip(photographs(folder), range(faces), strict=False)]
    borders = of_borders(shield, paths, sface)
    highest = float(np.percentile(scores := borders.pop(TAMPER), 99))
    for name, values in borders.items():
        found[f"SFace's cosine of the face found again with the purified crop, {name}"] = values
    for name, values in cosines.items():
        found[f"SFace's cosine under the finest attack, 8/255, {name}"] = values
    wanted = {"sharpness of detail against the photograph, portraits of 8 MP with texture": ">= 0.9"}
    figures = {name: (wanted.get(name, "none set"), float(np.mean(values)), len(values)) for name, values in found.items()}
    return {f"{name}, {shield.card.name}": each for name, each in figures.items()} | {
        f"{TAMPER}, 99th percentile, {shield.card.name}": ("none set", highest, len(scores))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    parser.add_argument("--portraits", type=int, default=10)
    parser.add_argument("--faces", type=int, default=60, help="whose photographs are searched again after purification")
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    found = measured(load_shield(args.preset), args.photos, args.portraits, args.faces)
    for name, (wanted, value, n) in found.items():
        print(f"{name}: {value:.4g} (wanted {wanted}, n = {n})")
    if args.targets:
        about = {"area": "result", **origin("result.py", {str(args.photos): "DATA/free"})}
        rounded = {name: (wanted, float(f"{value:.4g}"), n) for name, (wanted, value, n) in found.items()}
        keep_targets(TARGETS, [Target(target=t, wanted=w, value=value, n=n, **about) for t, (w, value, n) in rounded.items()])


if __name__ == "__main__":
    main()
