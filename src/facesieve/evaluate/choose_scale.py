"""Choose the resolution scale on samples of one's own: indicators at each scale, and a recommendation with its reason.

The two steps of the publication: identification indicators over pairs of clean and adversarial
photographs from the target environment, and a person's look at the restored images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from facesieve.data.sources import FolderSource
from facesieve.errors import InputError, NoFaceError
from facesieve.faces import TEMPLATE, Detector, align
from facesieve.images import Photo, read_photo, to_photo
from facesieve.noise import derive_seed
from facesieve.purify import Preset
from facesieve.recognition import Embedder
from facesieve.shield import Shield

SCALES = (2, 4, 8)
PARTS = {"eyes": (0, 1), "nose": (2,), "mouth": (3, 4)}  # of the five landmarks
MOST_SHIFT = 0.10  # of the distance between the eyes: a tenth is what a person sees at a glance
BATCH = 8

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Samples:
    """Aligned crops of clean photographs, whose each is, and the same crops of adversarial ones."""

    clean: Tensor  # (N, 3, S, S) in [0, 1]
    adversarial: Tensor  # (N, 3, S, S) in [0, 1]
    labels: NDArray[np.int64]
    people: tuple[str, ...]


@dataclass(frozen=True)
class Indicators:
    """One scale; accuracies and shares in [0, 1]."""

    scale: int
    clean: float  # accuracy on purified clean images
    adversarial: float  # accuracy on purified adversarial images
    recovery: float | None  # of what the attack took; None where it took nothing
    similarity: float  # mean cosine of a purified clean face with the face as it was
    shift: dict[str, float]  # mean landmark shift of eyes, nose, mouth, in distances between the eyes
    lost_faces: float  # share of purified faces that the detector no longer finds
    sharpness: float  # energy of the Laplacian over that of the clean image; 1 is as sharp, above 1 hints at artifacts


@dataclass(frozen=True)
class Choice:
    """The scale to take, and why."""

    preset: Preset  # at that scale
    scale: int
    reason: str
    unprotected: tuple[float, float]  # accuracy on clean and adversarial images without a shield
    indicators: tuple[Indicators, ...]
    sheets: dict[int, list[tuple[str, Tensor]]]  # by scale: titles and images for a person's look


def read_samples(clean: Path, adversarial: Path | None, shield: Shield) -> Samples:
    """Pairs from two folders that hold a folder a person with the same file names (whatever the suffix).

    Without ``adversarial`` both parts are the clean ones: attack them. The face is sought in the clean
    photograph, and cut out at the same place of its twin. Raises ``InputError`` for a photograph
    without a twin, twins of two sizes, fewer than two people, or a person with fewer than two usable photographs.
    """
    source, detector = FolderSource(clean), Detector()
    twins = None if adversarial is None else _by_stem(adversarial)
    parts: list[tuple[Tensor, Tensor]] = []
    labels: list[int] = []
    people = tuple(source.identities())
    for number, person in enumerate(people):
        for ref in source.identities()[person]:
            photo = read_photo(clean / ref)
            other = photo if twins is None else _twin(twins, ref, adversarial or clean, photo)
            try:
                face = detector.detect_largest(photo)
            except NoFaceError as error:
                raise InputError(f"{clean / ref}: no face found; take it out of the samples") from error
            parts.append((align(photo, face, shield.size), align(other, face, shield.size)))
            labels.append(number)
    counts = np.bincount(labels, minlength=len(people))
    if len(people) < 2 or counts.min() < 2:
        raise InputError(f"{clean}: at least two people with two photographs each are needed, to tell one from another")
    first, second = zip(*parts, strict=True)
    return Samples(torch.stack(first), torch.stack(second), np.array(labels), people)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*") if path.is_file()}


def _twin(twins: dict[str, Path], ref: str, folder: Path, photo: Photo) -> Photo:
    path = twins.get(str(Path(ref).with_suffix("")))
    if path is None:
        raise InputError(f"{folder}: no adversarial twin of {ref}; both folders need the same names")
    other = read_photo(path)
    if other.shape != photo.shape:
        raise InputError(
            f"{path}: {other.shape[1]} x {other.shape[0]} pixels, its clean twin has {photo.shape[1]} x {photo.shape[0]}"
        )
    return other


def choose_scale(
    samples: Samples,
    shield: Shield,
    embedder: Embedder,
    *,
    most_lost: float = 0.0225,
    scales: Sequence[int] = SCALES,
    seed: int = 0,
    say: Say = print,
) -> Choice:
    """Purify the samples at each scale and weigh the results.

    Recommended is the scale that gives back most of what the attack took, among those that lose at
    most ``most_lost`` of the clean accuracy (the published loss) and shift no part of the face by
    more than a tenth of the distance between the eyes; where none does, the one that loses least.
    """
    name = _Names(embedder, samples)
    bare = (name.accuracy(samples.clean), name.accuracy(samples.adversarial))
    say(f"without a shield: clean {100 * bare[0]:.1f} %, adversarial {100 * bare[1]:.1f} % of {len(samples.clean)}")
    found: list[Indicators] = []
    sheets: dict[int, list[tuple[str, Tensor]]] = {}
    for scale in scales:
        purifier = shield.with_preset(shield.preset.changed(scale=scale)).purifier
        clean, adversarial = (_purified(purifier, images, seed) for images in (samples.clean, samples.adversarial))
        found.append(_indicators(scale, samples, clean, adversarial, name, bare))
        shown = slice(0, 32)
        sheets[scale] = [
            ("clean", samples.clean[shown]), ("clean, purified", clean[shown]),
            ("adversarial", samples.adversarial[shown]), ("adversarial, purified", adversarial[shown]),
        ]  # fmt: skip
        say(line(found[-1]))
    best, reason = recommend(found, bare[0], most_lost)
    return Choice(shield.preset.changed(scale=best.scale), best.scale, reason, bare, tuple(found), sheets)


def recommend(found: Sequence[Indicators], clean: float, most_lost: float) -> tuple[Indicators, str]:
    """The scale to take, and the reason in a sentence."""
    fit = [i for i in found if clean - i.clean <= most_lost + 1e-9 and max(i.shift.values()) <= MOST_SHIFT and i.lost_faces == 0]
    if not fit:
        best = max(found, key=lambda i: (i.clean, i.adversarial))
        return best, (
            f"no scale keeps the clean accuracy within {100 * most_lost:g} points and the face in its place; "
            f"scale {best.scale} loses least ({100 * (clean - best.clean):.1f} points)"
        )
    best = max(fit, key=lambda i: (i.adversarial, i.clean, -i.scale))
    others = ", ".join(f"scale {i.scale} {100 * i.adversarial:.1f} %" for i in fit if i is not best) or "no other scale qualifies"
    return best, (
        f"scale {best.scale} names {100 * best.adversarial:.1f} % of the adversarial faces rightly, most of the scales that "
        f"lose at most {100 * most_lost:g} points of clean accuracy and leave the face in its place ({others}); "
        f"it loses {100 * (clean - best.clean):.1f} points"
    )


def line(found: Indicators) -> str:
    """One scale's indicators in a line."""
    shifts = ", ".join(f"{part} {100 * shift:.1f} %" for part, shift in found.shift.items())
    recovery = "–" if found.recovery is None else f"{100 * found.recovery:.1f} %"
    return (
        f"scale {found.scale}: clean {100 * found.clean:.1f} %, adversarial {100 * found.adversarial:.1f} %, "
        f"recovery {recovery}, similarity {found.similarity:.3f}, shift {shifts}, "
        f"faces lost {100 * found.lost_faces:.1f} %, sharpness {found.sharpness:.2f}"
    )


class _Names:
    """Nearest mean template, each image's own photograph left out of its person's."""

    def __init__(self, embedder: Embedder, samples: Samples) -> None:
        self.embedder, self.labels = embedder, samples.labels
        self.rows = self.embed(samples.clean)  # (N, D)

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        return torch.cat([self.embedder.embed(part) for part in torch.split(images, 16)])

    def accuracy(self, images: Tensor) -> float:
        """Share of images (the samples' or what became of them, in their order) that are given the right name."""
        probes, labels = self.embed(images), torch.from_numpy(self.labels)
        members = functional.one_hot(labels).float()  # (N, people)
        sums = members.T @ self.rows  # (people, D)
        right = 0
        for number, probe in enumerate(probes):
            own = sums.clone()
            own[labels[number]] -= self.rows[number]
            right += int((functional.normalize(own) @ probe).argmax() == labels[number])
        return right / len(probes)


@torch.inference_mode()
def _purified(purifier: Callable[..., Tensor], images: Tensor, seed: int) -> Tensor:
    parts = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        parts.append(purifier(part, seeds=[derive_seed(seed, "scale", start + i) for i in range(len(part))]))
    return torch.cat(parts)


def _indicators(
    scale: int, samples: Samples, clean: Tensor, adversarial: Tensor, name: _Names, bare: tuple[float, float]
) -> Indicators:
    kept, back = name.accuracy(clean), name.accuracy(adversarial)
    shift, lost = _shifts(samples.clean, clean)
    return Indicators(
        scale=scale,
        clean=kept,
        adversarial=back,
        recovery=(back - bare[1]) / (bare[0] - bare[1]) if bare[0] > bare[1] else None,
        similarity=float((name.embed(clean) * name.rows).sum(1).mean()),
        shift=shift,
        lost_faces=lost,
        sharpness=float((_laplacian(clean) / _laplacian(samples.clean).clamp(min=1e-12)).mean()),
    )


def _laplacian(images: Tensor) -> Tensor:
    """Mean square of the Laplacian of the luminance: (N,)."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return functional.conv2d(images.mean(1, keepdim=True), kernel).square().mean((1, 2, 3))


def _shifts(before: Tensor, after: Tensor) -> tuple[dict[str, float], float]:
    """Mean shift of each part, in distances between the eyes, and the share of faces that are found no longer."""
    detector, moved, lost = Detector(), [], 0
    eyes = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])) * 2 * before.shape[-1]
    for one, two in zip(before, after, strict=True):
        was, now = (_landmarks(detector, image) for image in (one, two))
        if was is None:
            continue
        if now is None:
            lost += 1
        else:
            moved.append(np.linalg.norm(now - was, axis=1) / eyes)
    if not moved:
        return dict.fromkeys(PARTS, float("inf")), 1.0
    mean = np.mean(moved, axis=0)
    return {part: float(mean[list(points)].mean()) for part, points in PARTS.items()}, lost / (lost + len(moved))


def _landmarks(detector: Detector, image: Tensor) -> NDArray[np.float64] | None:
    """Five landmarks of an aligned crop, at twice its size: the detector is surer of them there."""
    side = 2 * image.shape[-1]
    faces = detector.detect(cv2.resize(to_photo(image), (side, side), interpolation=cv2.INTER_CUBIC))  # type: ignore[arg-type]
    return faces[0].landmarks if faces else None


def attacked(samples: Samples, embedder: Embedder, eps: float, *, seed: int = 0) -> Samples:
    """The samples with adversarial images made here: PGD-40 away from each face's own embedding, saved as 8 bit."""
    from facesieve.attacks.gradient import pgd
    from facesieve.attacks.objectives import PushAway
    from facesieve.attacks.quantise import as_uint8

    parts = []
    for start in range(0, len(samples.clean), BATCH):
        part = samples.clean[start : start + BATCH]
        with torch.no_grad():  # not inference_mode: what it makes cannot take part in a gradient
            own = embedder.embed(part)
        seeds = [derive_seed(seed, "attack", start + i) for i in range(len(part))]
        parts.append(as_uint8(pgd(PushAway(embedder, own), part, eps=eps, step=eps / 4, iterations=40, seeds=seeds)))
    return Samples(samples.clean, torch.cat(parts), samples.labels, samples.people)
