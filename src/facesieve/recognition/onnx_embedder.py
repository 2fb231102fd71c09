"""Any recogniser in an ONNX file (ArcFace and similar), through ONNX Runtime.

ONNX Runtime computes no gradients. ``in_torch`` reads the weights of ArcFace's networks into PyTorch, where an attack can be
aimed through them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import EmbedderError, FacesieveError, SettingError, one_line
from facesieve.faces import Crops
from facesieve.faces.crops import resized
from facesieve.files import sha256_of
from facesieve.recognition.embedder import BATCH, Embedder, in_parts
from facesieve.rows import Rows
from facesieve.weights import AGAIN, check_graph, checked_hash, read_card, shipped
from facesieve.weights.graphs import Session, onnx_runtime

Channels = Literal["rgb", "bgr"]

SIDE = 112  # where the graph does not say
SFACE = "sface-2021dec"
DIFFERENCE = 1e-4  # the largest of a row's numbers between a graph and the network that was read out of it

_TYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True, eq=False)
class OnnxEmbedder:
    """An ``Embedder`` on the processor, without gradients. It is made by ``load_onnx_embedder``."""

    name: str
    dimensions: int
    mean: float
    std: float
    channels: Channels
    _graph: _Graph = field(repr=False)
    _together: bool = field(repr=False)  # whether the graph takes a batch; otherwise crops go one by one
    no_gradients: str | None = None  # why it could not be read into PyTorch, where that was tried

    @property
    def people(self) -> tuple[str, ...]:
        """Nobody: the file does not name its classes."""
        return ()

    def rows(self, crops: Crops) -> Rows:
        """Embeddings (N, D) of ``crops`` (N, 3, S, S), RGB in [0, 1], aligned to the template, any N and S.

        Raises ``EmbedderError`` for embeddings that have no direction, ``ValueError`` for another shape.
        """
        if crops.ndim != 4 or crops.shape[1] != 3 or crops.shape[2] != crops.shape[3]:
            raise ValueError(f"aligned crops have shape (N, 3, S, S), not {crops.shape}")
        return in_parts(self._embed, crops, self.dimensions, BATCH if self._together else 1)

    def in_torch(self) -> Embedder:
        """The same recogniser in PyTorch, under the same name, if its graph is one of ArcFace's networks and gives the same rows.

        Else itself, which has no gradients and says why in ``no_gradients``.
        """
        crops = np.random.RandomState(0).uniform(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
        path, pixels = self._graph.path, {"mean": self.mean, "std": self.std, "channels": self.channels}
        try:
            from facesieve.recognition.arcface_file import arcface_of_graph

            network = arcface_of_graph(path.read_bytes(), path, **pixels)  # type: ignore[arg-type]
            found, wanted = network.rows(crops), self.rows(crops)
        except ModuleNotFoundError:
            return replace(self, no_gradients="PyTorch is not installed")
        except FacesieveError as error:
            return replace(self, no_gradients=error.what)
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= DIFFERENCE:
            return replace(self, no_gradients=f"read as {network.family} it gives other embeddings")
        network.name = self.name
        return network

    def _embed(self, crops: Crops) -> Rows:
        rows = self._graph.run(self._input(crops)).astype(np.float64)
        if rows.shape[1] != self.dimensions:
            raise EmbedderError(f"{self.name} gives {self.dimensions} dimensions for one face and others for more")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise EmbedderError(f"{self.name} gave an embedding that is zero or not finite: wrong mean or std, or a damaged file")
        unit: Rows = (rows / lengths).astype(np.float32)
        return unit

    def _input(self, crops: Crops) -> Crops:
        """The crops at the graph's side (B, 3, side, side), as it wants their numbers."""
        small = np.stack([resized(crop, self._graph.side) for crop in crops.astype(np.float32, copy=False)])
        ordered: Crops = small if self.channels == "rgb" else small[:, ::-1]
        return (np.float32(255) * ordered - np.float32(self.mean)) / np.float32(self.std)


def load_onnx_embedder(
    path: Path | str, *, mean: float = 127.5, std: float = 127.5, channels: Channels = "rgb", name: str | None = None
) -> OnnxEmbedder:
    """The recogniser in the ONNX file ``path``: one input of images, one output of vectors.

    The graph is fed (x - ``mean``) / ``std`` of pixels x in 0..255, ``channels`` in that order. The
    defaults are ArcFace's (insightface; w600k and glint360k). Others: 127.5 and 128 for older ones
    after CosFace and SphereFace; 0 and 1 for graphs that normalise themselves, such as SFace's
    and MXNet's. That is not detected. A wrong choice is not an error: it only recognises worse.

    Layout (NCHW or NHWC), side (112 where it is left open) and batch are read from the graph. It runs on
    the processor, with as many threads as torch has now where torch is loaded.

    A gallery remembers embedders by ``name``. By default it is the file's name without suffix, eight
    digits of its SHA-256 and the settings that differ from the defaults: they make it another embedder.

    Raises ``EmbedderError`` for a file that is no such graph, ``SettingError`` for invalid settings,
    and without ONNX Runtime.
    """
    if not math.isfinite(mean) or not math.isfinite(std) or std <= 0:
        raise SettingError(f"mean {mean} and std {std}: both are finite, std above 0")
    if channels not in get_args(Channels):
        raise SettingError(f"channels {channels!r} is not one of {', '.join(get_args(Channels))}")
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EmbedderError(f"cannot be read: {one_line(error)}", path) from error
    return _made(_open(path), path, data, mean, std, channels, name)


def load_sface_graph() -> OnnxEmbedder:
    """SFace with the weights that ship with the package, on ONNX Runtime: the same rows as ``load_sface`` gives, without PyTorch.

    Raises ``EmbedderError`` for files that are damaged, ``SettingError`` without ONNX Runtime.
    """
    weights = shipped(SFACE)
    card, path = read_card(weights, EmbedderError), weights.with_suffix(".onnx")
    checked_hash(weights, card, EmbedderError)
    check_graph(path, card, EmbedderError)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EmbedderError(f"cannot be read: {one_line(error)}", path, AGAIN) from error
    return _made(_open(path, path.parent), path, data, 0, 1, "rgb", SFACE)


def _made(graph: _Graph, path: Path, data: bytes, mean: float, std: float, channels: Channels, name: str | None) -> OnnxEmbedder:
    dimensions, together = _dimensions(graph)
    if name is None:
        settings = ["" if std == mean == 127.5 else f"-mean{mean:g}-std{std:g}", "" if channels == "rgb" else f"-{channels}"]
        name = f"{path.stem}-{sha256_of(data)[:8]}{''.join(settings)}"
    return OnnxEmbedder(name, dimensions, mean, std, channels, graph, together)


@dataclass(frozen=True)
class _Graph:
    """An ONNX Runtime session and the form of its one input."""

    path: Path
    session: Session
    input_name: str
    output_name: str
    input_type: type[np.floating[Any]]
    channels_last: bool  # NHWC rather than NCHW
    side: int
    one_by_one: bool  # its batch is fixed to 1

    def run(self, images: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """The vectors (B, D), not normalised, of images (B, 3, side, side)."""
        if self.channels_last:
            images = images.transpose(0, 2, 3, 1)
        feed = np.ascontiguousarray(images, self.input_type)
        try:
            (rows,) = self.session.run([self.output_name], {self.input_name: feed})
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise EmbedderError(f"ONNX Runtime cannot run it: {one_line(error)}", self.path) from error
        shape = np.shape(rows)
        if shape[:1] != (len(images),) or not (len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))) or 0 in shape:
            raise EmbedderError(
                f"a recogniser gives a vector for each face; of {len(images)} this gives shape {shape}", self.path
            )
        vectors: NDArray[np.floating[Any]] = rows.reshape(shape[:2])
        return vectors


def _open(path: Path, beside: Path | None = None) -> _Graph:
    onnx_runtime(feature := "a recogniser in an ONNX file")
    try:
        # Weights in a second file are refused, unless it is ours: the hash in the name would not cover them.
        session = Session(path, feature=feature, beside=beside)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        if "xternal data" in str(error):
            raise EmbedderError("its weights lie in a second file", path, "save it as one, without external data") from error
        raise EmbedderError(f"ONNX Runtime cannot open it: {one_line(error)}", path) from error
    inputs, (output, *_) = session.session.get_inputs(), session.session.get_outputs()
    if len(inputs) != 1:
        raise EmbedderError(f"a recogniser has one input, of images; this has {len(inputs)}", path)
    kind, shape = inputs[0].type, inputs[0].shape
    if kind not in _TYPES or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise EmbedderError(f"the input is {kind} of shape {shape}, not floating-point images (B, 3, S, S) or (B, S, S, 3)", path)
    channels_last = shape[1] != 3
    batch, sides = shape[0], shape[1:3] if channels_last else shape[2:]
    known = {side for side in sides if isinstance(side, int)}  # an axis that is left open is a name or None
    if len(known) > 1 or (isinstance(batch, int) and batch != 1):
        raise EmbedderError(f"images of shape {shape} do not serve: they are square, and one at a time or any number", path)
    return _Graph(
        path, session, inputs[0].name, output.name, _TYPES[kind], channels_last, known.pop() if known else SIDE, batch == 1
    )


def _dimensions(graph: _Graph) -> tuple[int, bool]:
    """The length of the vector of a blank face, and whether two faces at once give two of them."""
    blank = np.zeros((2, 3, graph.side, graph.side), np.float32)
    dimensions = graph.run(blank[:1]).shape[1]
    if graph.one_by_one:
        return dimensions, False
    try:  # the input may say that it takes any number while a step inside is made for one
        return dimensions, graph.run(blank).shape[1] == dimensions
    except EmbedderError:
        return dimensions, False
