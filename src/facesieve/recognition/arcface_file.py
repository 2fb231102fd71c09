"""ArcFace's networks from their files: InsightFace's state dicts, and its ONNX files, whose graphs hold the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facesieve import weights
from facesieve.errors import EmbedderError
from facesieve.recognition.arcface import ArcFace
from facesieve.recognition.graph_weights import units_of
from facesieve.recognition.iresnet import IResNet
from facesieve.recognition.mobilefacenet import MobileFaceNet

FAMILIES: tuple[type[ArcFace], ...] = (IResNet, MobileFaceNet)


def load_arcface(path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> ArcFace:
    """An IResNet or a MobileFaceNet, of any size, from a state dict such as InsightFace's ``backbone.pth``, frozen.

    The file holds tensors alone: code in it is never run. Raises ``EmbedderError`` for a file that is missing, damaged or of
    another network.
    """
    network = arcface_in(Path(path), device=device, dtype=dtype)
    if network is None:
        raise EmbedderError("the weights are neither of an IResNet nor of a MobileFaceNet", path)
    return network


def arcface_in(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> ArcFace | None:
    """As ``load_arcface``; None for weights of another network."""
    network = arcface_of(weights.read_state(path, EmbedderError), path, device=device, dtype=dtype)
    if network is not None:
        network.name = f"{path.stem}-{weights.file_hash(path, EmbedderError)[:8]}"
    return network


def arcface_of(
    state: Mapping[str, Tensor], where: object, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ArcFace | None:
    """The network that a state dict is of, frozen; None where its names are of another. Raises ``EmbedderError``."""
    network = next((found for found in (_sized(family, state) for family in FAMILIES) if found is not None), None)
    if network is None:
        return None
    weights.fill(network, state, where, EmbedderError, what=network.family, device=device, dtype=dtype)
    network.eval().requires_grad_(False).fold()
    return network.requires_grad_(False)


def _sized(family: type[ArcFace], state: Mapping[str, Tensor]) -> ArcFace | None:
    try:
        return weights.empty(lambda: family.sized_for(state))
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, RuntimeError):  # no size can be read off it
        return None


def arcface_of_graph(graph: bytes, where: object, *, mean: float, std: float, channels: str) -> ArcFace:
    """The network whose weights an ONNX file holds, frozen, fed as the file would be.

    Raises ``EmbedderError`` where it holds another network, ``MissingExtraError`` without the package ``onnx``.
    """
    units = units_of(graph, where)
    front = units.pop(0) if units and units[0].kind == "B" else None
    state = next((found for family in FAMILIES if (found := family.state_of(units)) is not None), None)
    network = None if state is None else arcface_of(state, where)
    if network is None:
        raise EmbedderError("its steps are neither those of an IResNet nor of a MobileFaceNet", where)
    scale, shift = (np.ones(1), np.zeros(1)) if front is None else (front.weight, front.shift)
    network.mean, network.std, network.channels = (mean - std * shift / scale).tolist(), (std / scale).tolist(), channels
    return network
