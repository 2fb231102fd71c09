"""Number formats, runtimes and batches against each other, on many faces and on odd ones.

    python benchmarks/number_formats.py DATA/people [--faces 1000] [--preset gentle] [--targets]

Each face is purified on PyTorch in fp32, alone: what the others are held against. In 8-bit steps, the largest difference of any
pixel, the mean one, and the least cosine of SFace's rows: of PyTorch in bf16, of ONNX Runtime, and of batches of 3 and 8 on both.
Odd faces are black, white, of noise, of 20 pixels in the photograph and of 4,000: results have to be finite and in [0, 1].
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from load import HERE, RESULTS
from results import origin

from facesieve.errors import FacesieveError
from facesieve.faces import Crops, Detector, FaceCrops
from facesieve.images import read_photo
from facesieve.purify import chosen_preset
from facesieve.recognition.embedders import load_embedder
from facesieve.report.targets import Target, keep_targets
from facesieve.shield import load_shield

KINDS = (("torch", "fp32", 8), ("torch", "bf16", 1), ("onnx", "fp32", 1), ("onnx", "fp32", 3), ("onnx", "fp32", 8))


def crops_of(folder: Path, size: int) -> Iterator[Crops]:
    """Faces of the photographs in a folder, by name."""
    detector = Detector()
    for path in sorted(folder.rglob("*.jpg")):
        try:
            photo = read_photo(path)
            faces = detector.detect(photo)
        except FacesieveError:
            continue
        if faces:
            yield FaceCrops.cut(photo, faces[:1], size).crops


def odd(size: int) -> dict[str, Crops]:
    """Faces that are none, and very small and large ones."""
    one = (1, 3, size, size)
    found = {"black": np.zeros(one, np.float32), "white": np.ones(one, np.float32)}
    found["noise"] = np.random.default_rng(0).random(one, np.float32)
    photo = read_photo(HERE / "samples" / "collins-1.jpg")
    [face] = Detector().detect(photo)[:1]
    x, y, width, height = (float(value) for value in face.box)
    for name, wanted in (("20 pixels", 20), ("4,000 pixels", 4000)):
        half = max(width, height)
        left, top = max(0, int(x - half / 4)), max(0, int(y - half / 4))
        part = photo[top : top + int(1.5 * half), left : left + int(1.5 * half)]
        scaled = cv2.resize(part, None, fx=wanted / width, fy=wanted / width, interpolation=cv2.INTER_AREA)
        faces = Detector().detect(scaled)
        print(f"{name}: a face of {faces[0].box[2]:.0f} pixels was found" if faces else f"{name}: no face was found")
        if faces:
            found[name] = FaceCrops.cut(scaled, faces[:1], size).crops
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--faces", type=int, default=1000)
    parser.add_argument("--preset", default="gentle")
    parser.add_argument("--targets", action="store_true")
    args = parser.parse_args()
    preset = chosen_preset(args.preset)
    runtimes = {kind[:2]: load_shield(preset, runtime=kind[0], precision=kind[1]).runtime for kind in KINDS}
    size = next(iter(runtimes.values())).card.size
    crops = np.concatenate(list(islice(crops_of(args.data, size), args.faces)))
    seeds, exact, embedder = list(range(len(crops))), runtimes["torch", "fp32"], load_embedder("sface")
    wanted = np.concatenate([exact.purify(crops[n : n + 1], seeds[n : n + 1]).crops for n in seeds])
    rows, worst = embedder.rows(wanted), 0.0
    for runtime, precision, batch in KINDS:
        parts = [slice(n, n + batch) for n in range(0, len(crops), batch)]
        found = np.concatenate([runtimes[runtime, precision].purify(crops[part], seeds[part]).crops for part in parts])
        difference, cosine = 255 * np.abs(found - wanted), float((embedder.rows(found) * rows).sum(1).min())
        row = {"runtime": runtime, "format": precision, "batch": batch, "largest": round(float(difference.max()), 4)}
        print(json.dumps({**row, "mean": round(float(difference.mean()), 5), "least cosine": round(cosine, 6)}), flush=True)
        worst = max(worst, float(difference.max())) if precision == "fp32" else worst
    for name, crop in odd(size).items():
        for (runtime, precision), one in runtimes.items():
            result = one.purify(crop, [0]).crops
            fine = bool(np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1)
            print(json.dumps({"face": name, "runtime": runtime, "format": precision, "finite and in [0, 1]": fine}), flush=True)
            if not fine:
                raise SystemExit(1)
    if args.targets:
        name = "largest difference of a pixel between runtimes and batches in fp32, 8-bit steps"
        made = origin("number_formats.py", {str(args.data): f"DATA/{args.data.name}"})
        keep_targets(
            RESULTS / "targets.json",
            [Target(area="service", target=name, wanted="<= 0.5", value=round(worst, 4), n=len(crops), **made)],
        )


if __name__ == "__main__":
    main()
