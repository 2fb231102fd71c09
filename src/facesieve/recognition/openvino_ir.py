"""face-reidentification-retail-0095 of the Open Model Zoo: its OpenVINO IR (.xml and .bin) as a differentiable module.

The network takes 128 x 128 pixels, blue first, to 256 numbers. OpenVINO is not needed. Of the IR's kinds of steps those are
read that such a network has; each step becomes a function of PyTorch, in the order that the edges give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.errors import EmbedderError, one_line
from facesieve.files import sha256_of
from facesieve.recognition.crops import check_crops, window
from facesieve.recognition.embedder import TorchEmbedder

# The part of an aligned crop that the network was trained on: all of its height, and of its width what the template of
# 96 x 112 pixels had, drawn out to a square. Left, top, width and height, in fractions of the crop's side.
WINDOW = (8 / 112, 0.0, 96 / 112, 1.0)

LARGEST_XML = 2**24  # bytes
_TYPES = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i64": "<i8", "i32": "<i4"}

Attributes = Mapping[str, str]
Step = Callable[[Attributes, Sequence[Tensor]], Tensor]


# --- the kinds of steps ------------------------------------------------------------------------------


def _whole(attributes: Attributes, name: str, default: str = "") -> list[int]:
    return [int(part) for part in attributes.get(name, default).replace(" ", "").split(",") if part]


def _padded(attributes: Attributes, x: Tensor, value: float = 0.0) -> Tensor:
    if attributes.get("auto_pad", "explicit") not in {"explicit", "valid", "notset"}:
        raise EmbedderError(f"a padding {attributes['auto_pad']!r}, which is not read")
    before, after = _whole(attributes, "pads_begin", "0,0"), _whole(attributes, "pads_end", "0,0")
    sides = [before[1], after[1], before[0], after[0]]
    return functional.pad(x, sides, value=value) if any(sides) else x


def _convolution(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x, weight = inputs
    strides, dilations = _whole(attributes, "strides", "1,1"), _whole(attributes, "dilations", "1,1")
    groups = 1
    if weight.ndim == 5:  # groups, outputs and inputs of each, height, width
        groups, weight = weight.shape[0], weight.flatten(0, 1)
    return functional.conv2d(_padded(attributes, x), weight, None, strides, 0, dilations, groups)


def _prelu(_: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x, slopes = inputs
    slopes = slopes.reshape(-1, *(1,) * (x.ndim - 2)) if slopes.ndim == 1 else slopes
    return torch.addcmul(slopes * x, 1 - slopes, functional.relu(x))


def _mean_pool(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    pads = _whole(attributes, "pads_begin", "0,0")
    if attributes.get("exclude-pad", "true").lower() == "true" and any(pads):
        raise EmbedderError("a mean that leaves its padding out, which is not read")
    return functional.avg_pool2d(_padded(attributes, inputs[0]), _whole(attributes, "kernel"), _whole(attributes, "strides"))


def _largest(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    x = _padded(attributes, inputs[0], -torch.inf)
    return functional.max_pool2d(x, _whole(attributes, "kernel"), _whole(attributes, "strides"))


def _mean(attributes: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    keep = attributes.get("keep_dims", "false").lower() == "true"
    return inputs[0].mean(inputs[1].long().flatten().tolist(), keepdim=keep)


def _reshaped(_: Attributes, inputs: Sequence[Tensor]) -> Tensor:
    """The first axis stays: it is the batch, which the file may have fixed to 1."""
    return inputs[0].reshape(len(inputs[0]), *inputs[1].long().tolist()[1:])


_STEPS: dict[str, Step] = {
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "Add": lambda _, inputs: inputs[0] + inputs[1],
    "Subtract": lambda _, inputs: inputs[0] - inputs[1],
    "Multiply": lambda _, inputs: inputs[0] * inputs[1],
    "PReLU": _prelu,
    "ReLU": lambda _, inputs: functional.relu(inputs[0]),
    "Sigmoid": lambda _, inputs: inputs[0].sigmoid(),
    "AvgPool": _mean_pool,
    "MaxPool": _largest,
    "ReduceMean": _mean,
    "Reshape": _reshaped,
    "Convert": lambda _, inputs: inputs[0],  # weights kept in halves; they are converted when they are read
    "Result": lambda _, inputs: inputs[0],
}


# --- the network -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    kind: str
    attributes: Attributes
    inputs: tuple[str, ...]  # the layers that they come from


class _Network(nn.Module):
    """The steps of an IR in order; constants are buffers, so that they move and convert with the module."""

    def __init__(self, layers: Mapping[str, _Layer], constants: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._layers, self._constants = layers, tuple(constants)
        self._order = list(TopologicalSorter({name: layer.inputs for name, layer in layers.items()}).static_order())
        for name, value in constants.items():
            self.register_buffer(f"constant_{name}", value)

    def forward(self, x: Tensor) -> Tensor:
        """What the input (B, 3, S, S) becomes."""
        made = {name: self.get_buffer(f"constant_{name}") for name in self._constants}
        for name in self._order:
            layer = self._layers[name]
            if layer.kind != "Const":
                made[name] = x if layer.kind == "Parameter" else self._step(layer, made)
        return made[next(name for name, layer in self._layers.items() if layer.kind == "Result")]

    @staticmethod
    def _step(layer: _Layer, made: Mapping[str, Tensor]) -> Tensor:
        return _STEPS[layer.kind](layer.attributes, [made[name] for name in layer.inputs])


class RetailFace(TorchEmbedder, nn.Module):
    """An ``Embedder``, made by ``load_openvino_ir``; called as a function it is its own ``embed``."""

    def __init__(self, network: _Network, side: int, name: str) -> None:
        super().__init__()
        self.network, self.side, self.name = network, side, name
        with torch.no_grad():
            self.dimensions = self.descriptors(torch.zeros(1, 3, side, side)).shape[1]

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to the template; unit rows (B, D). Raises ``ValueError`` for others."""
        check_crops(crops)
        return functional.normalize(self.descriptors(window(crops, *WINDOW, side=self.side)))

    def descriptors(self, images: Tensor) -> Tensor:
        """The network's own numbers (B, D), not normalised, of framed ``images`` (B, 3, side, side), RGB in [0, 1]."""
        dtype = next(buffer.dtype for buffer in self.network.buffers() if buffer.is_floating_point())
        rows: Tensor = self.network((255 * images.flip(1)).to(dtype))
        return rows.flatten(1).to(images.dtype)

    def forward(self, crops: Tensor) -> Tensor:
        """The same as ``embed``."""
        return self.embed(crops)


# --- the files ---------------------------------------------------------------------------------------


def load_openvino_ir(path: Path | str) -> RetailFace:
    """The recogniser in an IR: ``path``, its ``.xml``, with its ``.bin`` beside it. Frozen.

    Raises ``EmbedderError`` for files that are missing, damaged or of a network with other kinds of steps.
    """
    path = Path(path)
    try:
        text, numbers = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    except OSError as error:
        raise EmbedderError(
            f"cannot be read: {one_line(error)}", error.filename, "an IR is an .xml with its .bin beside it"
        ) from error
    name = f"{path.stem}-{sha256_of(text + numbers)[:8]}"
    try:
        layers = _layers(text)
        constants = {name: _constant(layer, numbers) for name, layer in layers.items() if layer.kind == "Const"}
        network = _Network(layers, constants)
        return RetailFace(network, _side(layers), name).eval()
    except EmbedderError as error:
        raise error.at(path)  # noqa: B904  the same error
    except (CycleError, KeyError, ValueError, TypeError, IndexError, RuntimeError, StopIteration) as error:
        raise EmbedderError(f"not an IR that can be run: {one_line(error)}", path, "get both files again") from error


def _layers(text: bytes) -> dict[str, _Layer]:
    """The steps by their number. What no known network has is refused here, before anything is computed."""
    if len(text) > LARGEST_XML or b"<!" in text.replace(b"<!--", b""):  # declarations could make a small file a large one
        raise EmbedderError("larger than an IR is, or with declarations, which an IR has not")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise EmbedderError(f"not XML: {one_line(error)}") from error
    inputs: dict[str, list[tuple[int, str]]] = {}
    for edge in root.iterfind("edges/edge"):
        inputs.setdefault(edge.attrib["to-layer"], []).append((int(edge.attrib["to-port"]), edge.attrib["from-layer"]))
    layers = {}
    for layer in root.iterfind("layers/layer"):
        data, number = layer.find("data"), layer.attrib["id"]
        sources = tuple(source for _, source in sorted(inputs.get(number, ())))
        layers[number] = _Layer(layer.attrib["type"], {} if data is None else dict(data.attrib), sources)
    kinds = [layer.kind for layer in layers.values()]
    unknown = sorted(set(kinds) - {"Parameter", "Const", *_STEPS})
    if unknown or kinds.count("Parameter") != 1 or kinds.count("Result") != 1:
        what = f"steps of the kind {', '.join(unknown)}" if unknown else "no layers with one input and one output"
        raise EmbedderError(f"has {what}: not face-reidentification-retail-0095")
    return layers


def _side(layers: Mapping[str, _Layer]) -> int:
    shape = next(layer.attributes["shape"] for layer in layers.values() if layer.kind == "Parameter")
    axes = shape.replace(" ", "").split(",")
    if len(axes) != 4 or axes[1] != "3" or axes[2] != axes[3] or not axes[2].isdecimal():
        raise EmbedderError(f"takes {shape}, not images (1, 3, S, S)")
    return int(axes[2])


def _constant(layer: _Layer, numbers: bytes) -> Tensor:
    """The numbers of a constant, floats in single precision."""
    said: Any = layer.attributes
    start, size, kind = int(said["offset"]), int(said["size"]), _TYPES.get(said["element_type"])
    shape = _whole(said, "shape")
    if kind is None:
        raise EmbedderError(f"numbers of the type {said['element_type']}, which are not read")
    if start < 0 or start + size > len(numbers) or size != int(np.prod(shape)) * np.dtype(kind).itemsize:
        raise EmbedderError("its .bin is not the file that belongs to its .xml", advice="get both again")
    found = np.frombuffer(numbers, kind, int(np.prod(shape)), start).reshape(shape)
    if not np.isfinite(found).all():
        raise EmbedderError("weights that are not finite numbers", advice="get both files again")
    return torch.from_numpy(found.astype(np.float32 if found.dtype.kind == "f" else np.int64))
