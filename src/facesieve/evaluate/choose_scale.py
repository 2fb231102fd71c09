"""Choose the resolution scale on your own samples: indicators at each scale, and a recommendation with its reason.

The two steps of the publication: identification indicators over pairs of clean and adversarial
photographs from the target environment, and a look at the restored images by a person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facesieve.data.sources import FolderSource
from facesieve.errors import InputError
from facesieve.faces import TEMPLATE, Crops, Detector, FaceCrops
from facesieve.images import Floats, Photo, read_photo, to_photo
from facesieve.limits import SCALES, number
from facesieve.noise import derive_seed
from facesieve.pictures import Column
from facesieve.progress import Progress, Report, silent
from facesieve.purify import Preset
from facesieve.recognition import Embedder
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.templates import nearest_without_own
from facesieve.rows import Rows
from facesieve.runtime.torch import TorchRuntime

PARTS = {"eyes": (0, 1), "nose": (2,), "mouth": (3, 4)}  # of the five landmarks
MOST_SHIFT = 0.10  # of the distance between the eyes: a tenth is what a person sees at a glance
BATCH = 8
SHOWN = 32  # faces in a picture
NOBODY_FOOLED = "the attack fooled nobody: nothing can be recommended"


@dataclass(frozen=True, eq=False)
class Samples:
    """Aligned crops of clean photographs, whose each is, and the same crops of adversarial ones."""

    clean: Crops  # (N, 3, S, S) in [0, 1]
    adversarial: Crops  # (N, 3, S, S) in [0, 1]
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
    """The recommended scale, and why."""

    preset: Preset  # at that scale
    scale: int
    reason: str
    unprotected: tuple[float, float]  # accuracy on clean and adversarial images without a shield
    indicators: tuple[Indicators, ...]
    sheets: dict[int, list[Column]]  # by scale: images for a person's look


def read_samples(clean: Path, adversarial: Path | None, size: int) -> Samples:
    """Pairs from two folders with one folder per person and the same file names (whatever the suffix), cut at ``size``.

    Without ``adversarial`` both parts are the clean ones: attack them. The face is found in the clean
    photograph, and cut out at the same place of its twin. Raises ``InputError`` for a photograph
    without a twin, twins of two sizes, fewer than two people, or a person with fewer than two usable photographs.
    """
    source, detector = FolderSource(clean), Detector()
    twins = None if adversarial is None else _by_stem(adversarial)
    parts: list[tuple[Crops, Crops]] = []
    labels: list[int] = []
    people = tuple(source.identities())
    for label, person in enumerate(people):
        for ref in source.identities()[person]:
            photo = read_photo(clean / ref)
            other = photo if twins is None else _twin(twins, ref, adversarial or clean, photo)
            try:
                faces = detector.detect(photo)[:1]
                parts.append((FaceCrops.cut(photo, faces, size).crops, FaceCrops.cut(other, faces, size).crops))
            except InputError as error:
                error.at(clean / ref).advised("take it out of the samples")
                raise
            labels.append(label)
    counts = np.bincount(labels, minlength=len(people))
    if len(people) < 2 or counts.min() < 2:
        raise InputError("at least two people with two photographs each are needed, to tell one from another", clean)
    first, second = zip(*parts, strict=True)
    return Samples(np.concatenate(first), np.concatenate(second), np.array(labels), people)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*") if path.is_file()}


def _twin(twins: dict[str, Path], ref: str, folder: Path, photo: Photo) -> Photo:
    path = twins.get(str(Path(ref).with_suffix("")))
    if path is None:
        raise InputError(f"no adversarial twin of {ref}", folder, "give both folders the same names")
    other = read_photo(path)
    if other.shape != photo.shape:
        sizes = f"{other.shape[1]} x {other.shape[0]} pixels, its clean twin has {photo.shape[1]} x {photo.shape[0]}"
        raise InputError(sizes, path)
    return other


def choose_scale(
    samples: Samples,
    runtime: TorchRuntime,
    embedder: Embedder,
    *,
    most_lost: float = 0.0225,
    scales: Sequence[int] = SCALES,
    seed: int = 0,
    report: Report = silent,
) -> Choice:
    """Purify the samples at each scale of the runtime's preset and weigh the results.

    Of the scales that lose at most ``most_lost`` of the clean accuracy (the published loss) and shift no part
    of the face by more than a tenth of the distance between the eyes, the one that recovers most of what the
    attack took is recommended; if there are none, the one that loses least. See ``check_attack``.
    """
    names = _Names(embedder, samples)
    bare = (names.accuracy(samples.clean), names.accuracy(samples.adversarial))
    line = f"without a shield: clean {100 * bare[0]:.1f} %, adversarial {100 * bare[1]:.1f} % of {len(samples.clean)}"
    report(Progress(0, len(scales), line))
    found: list[Indicators] = []
    sheets: dict[int, list[Column]] = {}
    for scale in scales:
        scaled = runtime.with_preset(runtime.preset.changed(scale=scale))
        done, part = len(found), partial(_told, report, len(scales))
        clean = _purified(scaled, samples.clean, seed, partial(part, done))
        adversarial = _purified(scaled, samples.adversarial, seed, partial(part, done + 0.5))
        found.append(_indicators(scale, samples, clean, adversarial, names, bare))
        sheets[scale] = [
            Column("clean", samples.clean[:SHOWN]), Column("clean, purified", clean[:SHOWN]),
            Column("adversarial", samples.adversarial[:SHOWN]), Column("adversarial, purified", adversarial[:SHOWN]),
        ]  # fmt: skip
        report(Progress(len(found), len(scales), in_words(found[-1])))
    best, reason = recommend(found, bare[0], most_lost)
    return Choice(runtime.preset.changed(scale=best.scale), best.scale, reason, bare, tuple(found), sheets)


def check_attack(samples: Samples, embedder: Embedder) -> None:
    """Raises ``InputError`` where the attack fooled nobody: no scale can then recover anything."""
    names = _Names(embedder, samples)
    if not (names.correct(samples.clean) & ~names.correct(samples.adversarial)).any():
        raise InputError(NOBODY_FOOLED, advice="take a larger eps, or photographs under an attack that fools the recogniser")


def recommend(found: Sequence[Indicators], clean: float, most_lost: float) -> tuple[Indicators, str]:
    """The recommended scale, and the reason in a sentence."""
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
        f"scale {best.scale} names {100 * best.adversarial:.1f} % of the adversarial faces correctly, most of the scales that "
        f"lose at most {100 * most_lost:g} points of clean accuracy and leave the face in its place ({others}); "
        f"it loses {100 * (clean - best.clean):.1f} points"
    )


def in_words(found: Indicators) -> str:
    """One scale's indicators in a line."""
    shifts = ", ".join(f"{part} {100 * shift:.1f} %" for part, shift in found.shift.items())
    recovery = "–" if found.recovery is None else f"{100 * found.recovery:.1f} %"
    return (
        f"scale {found.scale}: clean {100 * found.clean:.1f} %, adversarial {100 * found.adversarial:.1f} %, "
        f"recovery {recovery}, similarity {found.similarity:.3f}, shift {shifts}, "
        f"faces lost {100 * found.lost_faces:.1f} %, sharpness {found.sharpness:.2f}"
    )


@dataclass(frozen=True, eq=False)
class _Names:
    """Nearest mean template, each image's own photograph left out of its person's."""

    embedder: Embedder
    samples: Samples

    @cached_property
    def rows(self) -> Rows:
        """Of the clean samples: (N, D)."""
        return self.embedder.rows(self.samples.clean)

    def correct(self, crops: Crops) -> NDArray[np.bool_]:
        """Which of the crops (the samples', or what became of them, in their order) get the correct name: (N,)."""
        found = nearest_without_own(self.embedder.rows(crops), self.rows, self.samples.labels)
        correct: NDArray[np.bool_] = found == self.samples.labels
        return correct

    def accuracy(self, crops: Crops) -> float:
        """The share of them."""
        return float(self.correct(crops).mean())


def _told(report: Report, scales: int, done: float, share: float) -> None:
    """Half of a scale's work is on clean images, half on adversarial ones."""
    report(Progress(done + share / 2, scales))


def _purified(runtime: TorchRuntime, crops: Crops, seed: int, told: Callable[[float], None]) -> Crops:
    parts = []
    for start in range(0, len(crops), BATCH):
        if start:
            told(start / len(crops))
        part = crops[start : start + BATCH]
        parts.append(runtime.purify(part, [derive_seed(seed, "scale", start + i) for i in range(len(part))]).crops)
    return np.concatenate(parts)


def _indicators(
    scale: int, samples: Samples, clean: Crops, adversarial: Crops, names: _Names, bare: tuple[float, float]
) -> Indicators:
    kept, back = names.accuracy(clean), names.accuracy(adversarial)
    shift, lost = _shifts(samples.clean, clean)
    return Indicators(
        scale=scale,
        clean=kept,
        adversarial=back,
        recovery=(back - bare[1]) / (bare[0] - bare[1]) if bare[0] > bare[1] else None,
        similarity=float((names.embedder.rows(clean) * names.rows).sum(1).mean()),
        shift=shift,
        lost_faces=lost,
        sharpness=float((_laplacian(clean) / _laplacian(samples.clean).clip(min=1e-12)).mean()),
    )


def _laplacian(crops: Crops) -> NDArray[np.float32]:
    """Mean square of the Laplacian of the luminance: (N,)."""
    grey = crops.mean(1)
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    energy: NDArray[np.float32] = np.square(around - 4 * grey[:, 1:-1, 1:-1]).mean((1, 2))
    return energy


def _shifts(before: Crops, after: Crops) -> tuple[dict[str, float], float]:
    """Mean shift of each part, in distances between the eyes, and the share of faces that are no longer found."""
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


def _landmarks(detector: Detector, image: Floats) -> NDArray[np.float64] | None:
    """Five landmarks of an aligned crop, at twice its size, where the detector is more certain."""
    side = 2 * image.shape[-1]
    faces = detector.detect(cv2.resize(to_photo(image), (side, side), interpolation=cv2.INTER_CUBIC))  # type: ignore[arg-type]
    return faces[0].landmarks if faces else None


def attacked(samples: Samples, embedder: Embedder, eps: float, *, seed: int = 0, report: Report = silent) -> Samples:
    """The samples with adversarial images made here: PGD-40 away from each face's own embedding, saved as 8 bit.

    Raises ``EmbedderError`` for an embedder that gives no gradients, ``SettingError`` for an ``eps`` outside [0, 1].
    """
    from facesieve.attacks.gradient import pgd
    from facesieve.attacks.objectives import PushAway
    from facesieve.attacks.quantise import as_uint8

    number(eps, "eps", 0, 1)
    network, parts = differentiable(embedder), []
    for start in range(0, len(samples.clean), BATCH):
        report(Progress(start, len(samples.clean)))
        part = torch.from_numpy(samples.clean[start : start + BATCH])
        own = torch.from_numpy(embedder.rows(samples.clean[start : start + BATCH]))
        seeds = [derive_seed(seed, "attack", start + i) for i in range(len(part))]
        parts.append(as_uint8(pgd(PushAway(network, own), part, eps=eps, step=eps / 4, iterations=40, seeds=seeds)))
    return Samples(samples.clean, torch.cat(parts).numpy(), samples.labels, samples.people)
