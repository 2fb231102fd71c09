"""Whether ArcFace's networks, read out of their ONNX files, are the networks in those files: rows and gradients.

    python benchmarks/recognisers.py [--images N] [--targets]

IResNet-18, 34, 50 and 100 and MobileFaceNet in their published shapes get random weights, statistics and slopes, as no
published weights lie here, and are exported as InsightFace exports them, normalisations folded. *Rows* are held
against ONNX Runtime. The *gradient* is of a row's cosine with a random direction, by the pixels in [0, 1] of the crop. It is
held against a second writing of the networks, which the tests have, in double precision; and, in its own direction, against
central differences of ONNX Runtime, which are themselves exact to about 3e-4 of it. In single precision a PReLU's input that
lies at 0 may fall on either side, which changes single pixels of a gradient; the same network in double precision shows that
nothing else differs. ``--targets`` records the figures in docs/results/targets.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from results import origin
from torch import Tensor, nn
from torch.nn import functional

from facesieve.recognition.arcface import ArcFace
from facesieve.recognition.arcface_file import arcface_of
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.iresnet import IResNet
from facesieve.recognition.mobilefacenet import MobileFaceNet
from facesieve.report.targets import Target, keep_targets

ROOT = Path(__file__).parent.parent
TARGETS = ROOT / "docs" / "results" / "targets.json"
sys.path.insert(0, str(ROOT / "tests"))
import second_arcface as second  # noqa: E402  the tests' second writing

WIDTHS, DIMENSIONS = (64, 64, 128, 256, 512), 512
SMALL = {"widths": (128, 128, 256, 256), "wide": (128, 128, 128, 256, 256, 512, 256), "groups": 64, "last": 512}
NETWORKS: dict[str, tuple[type[ArcFace], tuple[int, ...]]] = {
    "IResNet-18": (IResNet, (2, 2, 2, 2)),
    "IResNet-34": (IResNet, (3, 4, 6, 3)),
    "IResNet-50": (IResNet, (3, 4, 14, 3)),
    "IResNet-100": (IResNet, (3, 13, 30, 3)),
    "MobileFaceNet": (MobileFaceNet, (1, 4, 6, 2)),
}
STEP = 3e-3  # of the central differences, the length of the change of all pixels
ROWS = "parity of IResNet and MobileFaceNet against ONNX Runtime, rows: largest difference of a number"
GRADIENT = (
    "parity of IResNet and MobileFaceNet, gradient: largest difference of a pixel's to a second writing in double precision"
)
ALONG = "parity of IResNet and MobileFaceNet, gradient in its direction, to differences of ONNX Runtime, relative"
SINGLE = "parity of IResNet and MobileFaceNet, gradient: largest difference of a pixel's, relative to the largest pixel"
DOUBLE = f"{SINGLE}, both in double precision"
WANTED = {ROWS: "<= 1e-5", GRADIENT: "<= 1e-4", ALONG: "none set", SINGLE: "none set", DOUBLE: "none set"}

State = Mapping[str, Tensor]


class Trained(nn.Module):
    """A network as it is trained, for the exporter."""

    def __init__(self, kind: type[ArcFace], state: State) -> None:
        super().__init__()
        self.network = kind.sized_for(state)
        self.network.load_state_dict(state)

    def forward(self, data: Tensor) -> Tensor:
        return self.network.trunk(data)


def random_state(kind: type[ArcFace], blocks: tuple[int, ...]) -> State:
    """Weights of the published shape."""
    if kind is IResNet:
        return second.iresnet_state(blocks, WIDTHS, DIMENSIONS)
    return second.mobilefacenet_state(blocks, dimensions=DIMENSIONS, **SMALL)


def exported(kind: type[ArcFace], state: State, path: Path) -> Path:
    """The ONNX file as InsightFace's script makes it."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 3, 112, 112),)
        torch.onnx.export(Trained(kind, state).eval(), example, path, input_names=["data"], dynamo=False, opset_version=11)
    return path


def by_runtime(path: Path) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """The unit row (D,) of one crop (3, 112, 112) in [0, 1]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def row(crop: NDArray[Any]) -> NDArray[np.float64]:
        found = session.run(None, {"data": ((crop[None] - 0.5) / 0.5).astype(np.float32)})[0][0].astype(np.float64)
        return found / np.linalg.norm(found)

    return row


def second_row(kind: type[ArcFace], state: State, blocks: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Unit rows by the second writing, in double precision."""
    doubles = {name: value.double() for name, value in state.items()}
    write = second.iresnet if kind is IResNet else second.mobilefacenet
    return lambda crops: functional.normalize(write(doubles, (crops - 0.5) / 0.5, blocks))


def gradient(embed: Callable[[Tensor], Tensor], crop: Tensor, direction: Tensor) -> Tensor:
    """Of the row's cosine with ``direction``: (3, 112, 112), in double precision."""
    crop = crop.clone().requires_grad_(True)
    (found,) = torch.autograd.grad((embed(crop[None])[0] * direction.to(crop.dtype)).sum(), crop)
    return found.double()


def differences(kind: type[ArcFace], blocks: tuple[int, ...], path: Path, images: int) -> dict[str, float]:
    """The largest differences of one network over random crops."""
    state = random_state(kind, blocks)
    exported(kind, state, path)
    embedder, row = differentiable(load_embedder(str(path))), by_runtime(path)
    wanted, double = second_row(kind, state, blocks), arcface_of(state, path, dtype=torch.float64)
    assert isinstance(embedder, kind)
    assert double is not None
    found: dict[str, float] = {}
    for number in range(images):
        generator = torch.Generator().manual_seed(number)
        crop, direction = torch.rand(3, 112, 112, generator=generator), torch.randn(DIMENSIONS, generator=generator)
        direction /= direction.norm()
        pixels, true = crop.double().numpy(), gradient(wanted, crop.double(), direction)
        ours, exact = gradient(embedder.embed, crop, direction), gradient(double.embed, crop.double(), direction)
        along = (ours / ours.norm()).numpy()
        ends = [float(row(pixels + sign * STEP * along) @ direction.double().numpy()) for sign in (1, -1)]
        here = {
            ROWS: float(np.abs(embedder.rows(crop[None].numpy())[0] - row(pixels)).max()),
            GRADIENT: float((ours - true).abs().max()),
            ALONG: abs((ends[0] - ends[1]) / (2 * STEP) / float(ours.norm()) - 1),
            SINGLE: float((ours - true).abs().max() / true.abs().max()),
            DOUBLE: float((exact - true).abs().max() / true.abs().max()),
        }
        found = {name: max(value, found.get(name, 0.0)) for name, value in here.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3, help="random crops for each network")
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    largest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, blocks) in NETWORKS.items():
            found = differences(kind, blocks, Path(folder) / "network.onnx", args.images)
            print(f"{name}: " + "; ".join(f"{value:.2g}" for value in found.values()), flush=True)
            largest = {figure: max(value, largest.get(figure, 0.0)) for figure, value in found.items()}
    for figure, value in largest.items():
        print(f"{figure}: {value:.2g} (wanted {WANTED[figure]})")
    if args.targets:
        about = {"area": "worst case", "n": args.images * len(NETWORKS), **origin("recognisers.py", {})}
        rows = [(figure, float(f"{value:.3g}")) for figure, value in largest.items()]
        keep_targets(TARGETS, [Target(target=figure, wanted=WANTED[figure], value=value, **about) for figure, value in rows])


if __name__ == "__main__":
    main()
