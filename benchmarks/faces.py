"""Which faces are found: of every size and angle, in scenes made of the samples; what is taken for one; how long it takes.

    python benchmarks/faces.py [--crops N] [--rounds N] [--targets]

The search of commit ``BASELINE`` is measured beside it, in one run. ``--targets`` records the figures in
docs/results/targets.json. Times are of the processor, on one core: set OMP_NUM_THREADS=1. It needs scikit-image and
scikit-learn for their photographs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from results import origin

from facesieve.faces import Detector, align
from facesieve.images import Photo
from facesieve.recognition.embedders import load_embedder
from facesieve.report.targets import Target, keep_targets

ROOT = Path(__file__).parent.parent
TARGETS = ROOT / "docs" / "results" / "targets.json"
SAMPLES = ROOT / "samples"
BASELINE = "7641588"  # two sizes, up to 1,440 pixels, one turn for a whole photograph
TILTS = (20, 30, 45, 60, 75, 90, 105, 120, 135)
CALLS, THREADS = 200, 8
PHOTOGRAPHS = ("brick", "grass", "gravel", "coffee", "chelsea", "coins", "rocket", "hubble_deep_field", "moon", "retina")

sys.path.insert(0, str(ROOT / "tests"))
import make_scenes as scenes  # noqa: E402  the tests' own

Figures = dict[str, tuple[str, float, int]]  # by name: what is wanted, the value, observations


def baseline() -> Any:
    """The detector of ``BASELINE``."""
    words = ["git", "show", f"{BASELINE}:src/facesieve/faces/detect.py"]
    source = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "baseline.py"
        file.write_text(source)
        spec = spec_from_file_location("baseline", file)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules["baseline"] = module
        spec.loader.exec_module(module)
    return module.Detector()


def of_sizes(detector: Detector) -> Figures:
    """Faces found in scenes; those that are found twice, or where there is none, are taken off."""
    made = {
        "30 of 40 px in 24 megapixels": (lambda: scenes.crowd(SAMPLES, 40), 28),
        "30 of 60 px in 24 megapixels": (lambda: scenes.crowd(SAMPLES, 60), 30),
        "6 of 75 px across 9,000": (lambda: scenes.panorama(SAMPLES), 6),
        "10 of 70 px beside one of 1,500": (lambda: scenes.beside(SAMPLES), 11),
    }
    found: Figures = {}
    for name, (make, least) in made.items():
        photo, wanted = make()
        hits, more = scenes.matched(detector.detect(photo), wanted)
        found[f"faces found, {name}"] = (f">= {least}", hits - more, len(wanted))
    counts = [len(detector.detect(photo)) for photo in scenes.close_ups(SAMPLES)]
    found["faces found, close-ups: six samples and their mirror images, six crops each"] = (
        f">= {len(counts)}",
        counts.count(1),
        len(counts),
    )
    return found


def of_angles(detector: Detector) -> Figures:
    """Cosines of tilted faces with the same ones upright, for SFace."""
    embedder, photos = load_embedder("sface", gradients=False), scenes.samples(SAMPLES)

    def row(photo: Photo) -> Any:
        faces = detector.detect(photo)
        return embedder.rows(align(photo, faces[0], 160)[None])[0] if faces else np.zeros(embedder.dimensions)

    upright = {name: row(photo) for name, photo in photos.items()}
    means = [
        float(np.mean([row(scenes.tilted(photo, scenes.BOXES[n], tilt)) @ upright[n] for n, photo in photos.items()]))
        for tilt in TILTS
    ]
    for tilt, mean in zip(TILTS, means, strict=True):
        print(f"tilt of {tilt} degrees: mean cosine {mean:.3f}")
    one, other = photos["biden-1"], photos["collins-1"]
    turned = np.ascontiguousarray(np.rot90(other))
    canvas = np.full((720, one.shape[1] + turned.shape[1], 3), 120, np.uint8)
    canvas[: len(one), : one.shape[1]], canvas[: len(turned), one.shape[1] :] = one, turned
    sideways = max(detector.detect(canvas), key=lambda face: face.box[0])
    cosine = float(embedder.rows(align(canvas, sideways, 160)[None])[0] @ upright["collins-1"])
    return {
        f"mean cosine with the same upright face, six samples, worst of {len(TILTS)} tilts of 20 to 135 degrees": (
            ">= 0.9", min(means), 6 * len(TILTS),
        ),
        "cosine of a sideways face beside an upright one": (">= 0.9", cosine, 1),
    }  # fmt: skip


def backgrounds(count: int) -> Iterator[Photo]:
    """Crops in which there is no face: of photographs without people, and of the samples beside their faces."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = [np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS] + [np.asarray(load_sample_image("china.jpg"))]
    photos = [np.repeat(p[..., None], 3, axis=2) if p.ndim == 2 else p[..., :3] for p in photos]
    for name, photo in scenes.samples(SAMPLES).items():
        x, y, w, h = scenes.BOXES[name]
        beside = [photo[:, : x - w // 3], photo[:, x + w + w // 3 :], photo[y + h + h // 2 :]]
        photos.append(max(beside, key=lambda part: min(part.shape[:2])))
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        least = min(photo.shape[:2])
        side = int(rng.integers(min(96, least // 2), least))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        yield np.ascontiguousarray(photo[top : top + side, left : left + side], np.uint8)


def of_backgrounds(detector: Detector, before: Any, count: int) -> Figures:
    """What is taken for a face, or for a possible one, where there is none."""
    now = then = possible = 0
    for crop in backgrounds(count):
        found = detector.detect(crop)
        now, possible = now + len(found), possible + bool(found.possible)
        then += len(before.detect(crop))
    return {
        f"false faces on {count:,} crops of backgrounds": (f"<= {then} (at {BASELINE})", now, count),
        f"crops of {count:,} of backgrounds in which a possible face is named": ("as few as may be", possible, count),
    }


def of_doubts(detector: Detector) -> Figures:
    """Of faces that are missed, being very small, blurred, noisy or covered, how many are named as possible ones."""
    missed = named = 0
    for photo, (x, y, side) in scenes.hard(SAMPLES):
        found = detector.detect(photo)
        if scenes.matched(found, [(x, y, side)])[0]:
            continue
        missed += 1
        named += scenes.matched(found.possible, [(x, y, side)])[0]
    share = 100 * named / missed
    return {"hard faces of the samples that are missed and then named as possible, %": ("as many as may be", share, missed)}


def of_time(detector: Detector, before: Any, rounds: int) -> Figures:
    """Medians, of one core; at 640 pixels over that of the baseline, in turns."""
    cv2.setNumThreads(1)
    small = cv2.resize(scenes.samples(SAMPLES)["obama-1"], (544, 640), interpolation=cv2.INTER_AREA)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for which, taken in zip((detector, before), times, strict=True):
            seconds = timed(lambda which=which: which.detect(small))  # type: ignore[misc]
            if number:  # the first sets up
                taken.append(seconds)
    large, _ = scenes.scene(SAMPLES, 6000, 4000, [(2000, 1200, 1000)])
    seconds = median(timed(lambda: detector.detect(large)) for _ in range(max(rounds // 8, 3)))
    now, then = map(median, times)
    print(f"one upright face at 640 px: {1000 * now:.0f} ms, at {BASELINE} {1000 * then:.0f} ms")
    return {
        f"detection, one upright face at 640 px, time of one core over that of {BASELINE}": ("<= 1.25", now / then, rounds),
        "detection, one face in 24 megapixels, s of one core": ("<= 1.5", seconds, max(rounds // 8, 3)),
    }


def timed(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def of_threads(detector: Detector) -> Figures:
    """One detector in several threads, against its answers in one."""
    photos = [cv2.resize(photo, (240, 240)) for photo in scenes.samples(SAMPLES).values()]
    expected = [[face.box for face in detector.detect(photo)] for photo in photos]

    def right(number: int) -> bool:
        which = number % len(photos)
        return [face.box for face in detector.detect(photos[which])] == expected[which]

    with ThreadPoolExecutor(THREADS) as pool:
        answers = sum(pool.map(right, range(CALLS)))
    return {f"right answers of {CALLS} calls from {THREADS} threads": (f">= {CALLS}", answers, CALLS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=1000, help="of backgrounds")
    parser.add_argument("--rounds", type=int, default=40, help="of one face at 640 px")
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    detector, before = Detector(), baseline()
    parts: list[Callable[[], Figures]] = [
        lambda: of_time(detector, before, args.rounds),
        lambda: of_sizes(detector),
        lambda: of_angles(detector),
        lambda: of_threads(detector),
        lambda: of_doubts(detector),
        lambda: of_backgrounds(detector, before, args.crops),
    ]
    about = {"area": "faces", **origin("faces.py", {})}
    for part in parts:
        found = part()
        for name, (wanted, value, _) in found.items():
            print(f"{name}: {value:.4g} (wanted {wanted})", flush=True)
        if args.targets:  # each at once: the last takes long
            made = [Target(target=t, wanted=w, value=float(f"{v:.4g}"), n=n, **about) for t, (w, v, n) in found.items()]
            keep_targets(TARGETS, made)


if __name__ == "__main__":
    main()
