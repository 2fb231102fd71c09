"""A recogniser in PyTorch as an ONNX graph: pixels of 0..255 in, unit rows out. ``OnnxEmbedder`` reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from facesieve.errors import EmbedderError, SettingError
from facesieve.files import sha256_of, write_atomic
from facesieve.recognition import TorchEmbedder
from facesieve.weights import load_network, read_card, shipped
from facesieve.weights.graphs import OPSET, finished, onnx_library, open_session, traced

SIDES = {"sface": 112, "dlib": 128}  # of the aligned crops that the graph takes, pixels
DIFFERENCE = 1e-4  # the largest of a row's numbers against PyTorch


def export_embedder(name: str, out: Path, *, linked: bool = False) -> tuple[float, str]:
    """Write SFace or dlib's network as the ONNX file ``out``: the largest difference to PyTorch, and the file's SHA-256.

    The input is (B, 3, S, S), RGB in 0..255, aligned crops of 112 pixels for SFace and 128 for dlib's network: in
    ``--embedder``, ``OUT.onnx?mean=0&std=1``. ``linked`` as of ``export_preset``. Raises ``SettingError`` for another
    name, and for a graph that differs from PyTorch; ``MissingExtraError`` without the extra ``export``.
    """
    onnx_library()
    if name not in SIDES:
        raise SettingError(f"embedder {name!r} cannot be exported", advice=f"{' and '.join(SIDES)} can")
    embedder, weights = _unfolded(name)
    side, card = SIDES[name], read_card(weights)
    pixels = torch.from_numpy(np.random.RandomState(0).uniform(0, 255, (3, 3, side, side)).astype(np.float32))
    about = {"format": 1, "embedder": embedder.name, "side": side, "opset": OPSET, "terms": card.get("terms", "not stated")}
    # Unoptimised: fused with their convolutions, normalisations would not be the tensors of the file. The runtime fuses them.
    model = traced(_OfPixels(embedder), {"pixels": pixels[:2].clone()}, ["rows"], optimise=False)
    data = finished(model, about, out, weights if linked else None)
    difference = _difference(data, out, embedder, pixels)
    if not difference <= DIFFERENCE:
        raise SettingError(f"the graph differs from PyTorch by {difference:.2g}: it is not written", out)
    write_atomic(out, data)
    return difference, sha256_of(data)


class _OfPixels(nn.Module):
    def __init__(self, embedder: TorchEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.embedder.embed(pixels / 255)


def _unfolded(name: str) -> tuple[TorchEmbedder, Path]:
    """The network with the tensors that its file holds, and that file."""
    if name == "dlib":
        from facesieve.recognition.dlib import Dlib, load_dlib

        return load_dlib(), shipped(Dlib.name)
    from facesieve.recognition.sface import SFace

    return load_network(lambda _: SFace(), shipped(SFace.name), EmbedderError)[0], shipped(SFace.name)


def _difference(data: bytes, out: Path, embedder: TorchEmbedder, pixels: Tensor) -> float:
    session = open_session(data, feature="the export of graphs", beside=out.parent)
    wanted = embedder.rows((pixels / 255).numpy())
    found = [session.run(None, {"pixels": pixels[:batch].numpy()})[0] for batch in (1, len(pixels))]
    return max(float(np.abs(rows - wanted[: len(rows)]).max()) for rows in found)
