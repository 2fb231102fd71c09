"""Whether a preset without PyTorch names the same people: graphs in fp32 and in 8 bits against PyTorch, on the test images.

    python experiments/light_accuracy.py --source DATA/identities --manifest experiments/identities-105.json --work WORK \
        --calibrate DATA/free [--preset gentle] [--attacked RUN/adversarial/ATTACK] [--targets docs/results/targets.json]

SFace, the nearest mean template of ten photographs behind the same runtime. ``--attacked`` is a set that a run of
`facesieve evaluate` on the same manifest has kept, in 8 bits. The 8-bit graph takes its ranges from ``--calibrate``. Prints a
table, and how many of all probes each runtime names otherwise than PyTorch in fp32 does. Five minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesieve.data.crops import aligned_crops, of_role
from facesieve.data.manifest import load_manifest
from facesieve.data.sources import open_source
from facesieve.evaluate.run import round_robin
from facesieve.faces import Crops
from facesieve.images import read_photo, to_floats
from facesieve.purify import preset
from facesieve.recognition.onnx_embedder import load_sface_graph
from facesieve.recognition.templates import mean_templates
from facesieve.report.targets import Target, commit, keep_targets
from facesieve.runtime import RUNTIMES, Runtime
from facesieve.runtime.quantise import export_in_8_bits
from facesieve.specs import DEFAULT_PRESET

ENROLLED, BATCH = 10, 16
EXACT = "torch fp32"


def runtimes(name: str, work: Path, photographs: Path) -> dict[str, Runtime]:
    """The preset on each runtime; the 8-bit graph is made in ``work`` where it is not there."""
    small, chosen = work / f"{name}-int8.onnx", preset(name)
    if not small.exists():
        work.mkdir(parents=True, exist_ok=True)
        print(export_in_8_bits(chosen, small, photographs))
    wanted = {EXACT: ("torch", "fp32", None), "onnx fp32": ("onnx", "fp32", None), "onnx int8": ("onnx", "auto", small)}
    return {
        word: RUNTIMES[kind](chosen, prior=graph, device="cpu", precision=precision)
        for word, (kind, precision, graph) in wanted.items()
    }


def rows(runtime: Runtime, crops: Crops, first_seed: int) -> NDArray[np.float32]:
    """SFace's rows (N, 128) of crops behind a runtime."""
    sface, found = load_sface_graph(), []
    for begin in range(0, len(crops), BATCH):
        part = crops[begin : begin + BATCH]
        found.append(sface.rows(runtime.purify(part, range(first_seed + begin, first_seed + begin + len(part))).crops))
    return np.concatenate(found)


def batch(images: Iterable[NDArray[np.uint8]]) -> Crops:
    """(N, 3, S, S) in [0, 1] of photographs (S, S, 3)."""
    return np.stack([to_floats(image) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for crops and the 8-bit graph")
    parser.add_argument("--calibrate", type=Path, required=True, help="photographs that set the ranges of 8 bits")
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    parser.add_argument("--attacked", type=Path, help="folder of a kept set, with uint8/*.png")
    parser.add_argument("--targets", type=Path)
    args = parser.parse_args()
    manifest = load_manifest(args.manifest)
    crops = aligned_crops(manifest, open_source(args.source), args.work, 128)
    enrolled, tests = of_role(manifest, crops, "train").first(ENROLLED), of_role(manifest, crops, "test")
    order = round_robin(tests.labels)  # as a run keeps its images
    labels, probes = tests.labels[order], {"clean": batch(tests.images[order])}
    if args.attacked is not None:
        probes["attacked"] = batch(read_photo(path) for path in sorted((args.attacked / "uint8").glob("*.png")))
        if len(probes["attacked"]) != len(tests):
            raise SystemExit(f"{args.attacked} holds {len(probes['attacked'])} images, the manifest {len(tests)} to test")
    named: dict[str, dict[str, NDArray[np.int64]]] = {}
    for word, runtime in runtimes(args.preset, args.work, args.calibrate).items():
        templates = mean_templates(rows(runtime, batch(enrolled.images), 10**6), enrolled.labels)
        named[word] = {kind: (rows(runtime, each, 0) @ templates.T).argmax(1) for kind, each in probes.items()}
        shares = ", ".join(f"{kind} {100 * float((each == labels).mean()):.2f} %" for kind, each in named[word].items())
        changed = sum(int((each != named[EXACT][kind]).sum()) for kind, each in named[word].items())
        print(f"{args.preset}, {word}: {shares} of {len(tests)}; named otherwise than by {EXACT}: {changed}", flush=True)
    if args.targets is not None:
        keep_targets(args.targets, figures(named, labels, args.preset))


def figures(named: dict[str, dict[str, NDArray[np.int64]]], labels: NDArray[np.int64], name: str) -> list[Target]:
    """Of the graphs: people named otherwise, and points of accuracy lost by 8 bits."""
    command = f"python experiments/light_accuracy.py --source DATA/identities --calibrate DATA/free --preset {name} ..."
    about = {"area": "light", "command": command, "commit": commit(), "n": len(labels)}
    exact, found = named[EXACT], []
    for word in ("onnx fp32", "onnx int8"):
        for kind, each in named[word].items():
            changed = float((each != exact[kind]).sum())
            wanted = "<= 0" if word == "onnx fp32" and kind == "clean" else "none set"
            found.append(Target(target=f"people named otherwise, {name}, {kind}, {word}", wanted=wanted, value=changed, **about))
    for kind, each in named["onnx int8"].items():
        lost = 100 * float((exact[kind] == labels).mean() - (each == labels).mean())
        found.append(Target(target=f"accuracy lost by 8 bits, {name}, {kind}", wanted="<= 0.5", value=round(lost, 3), **about))
    return found


if __name__ == "__main__":
    main()
