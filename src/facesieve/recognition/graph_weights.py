"""The weights in an ONNX graph, step by step, whatever an exporter made of names and normalisations.

A graph becomes the list of its steps in the order in which they are computed. What follows a convolution or a
matrix and is affine for each channel (a normalisation, a product or sum with constants) is folded into it. How steps
are connected is not looked at: whoever fills a network with them compares its answer with the graph's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.errors import EmbedderError, MissingExtraError, one_line

Array = NDArray[Any]

EPS = 1e-5  # of the normalisations that ``put`` writes

# Nodes that change no number, or that only join: they are no steps.
_PASSING = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Cast"}

# What exporters do to constants. Nothing that makes many numbers of few: a file could ask for more than memory holds.
_OF_CONSTANTS = {"Constant", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Cast", "Flatten", "Concat"}
_SHAPE = 16  # numbers that are put together at most: the axes of a shape


@dataclass(frozen=True, eq=False)
class Unit:
    """One step: a convolution, 1 x 1 (S), in groups (D) or another (C); a matrix (G); slopes of a PReLU (P);
    a scale and a shift for each channel (B).
    """

    kind: str
    weight: Array  # of a convolution (O, I, H, W), of a matrix (O, I), slopes or scales (C,)
    shift: Array  # (O,) or (C,); of a PReLU zero
    stride: int = 1  # of a convolution


def units_of(graph: bytes, where: object = None) -> list[Unit]:
    """The steps of an ONNX file. Raises ``EmbedderError`` for a step of another kind, ``MissingExtraError`` without ``onnx``."""
    try:
        import onnx
        import onnx.numpy_helper
        import onnx.reference
    except ImportError as error:
        raise MissingExtraError("reading the weights out of an ONNX file", "export") from error
    try:
        return _Reader(onnx, onnx.load_model_from_string(graph)).units()
    except EmbedderError as error:
        raise error.at(where)  # noqa: B904  the same error
    except Exception as error:  # a graph that breaks ONNX's rules may raise anything
        raise EmbedderError(f"its weights cannot be read: {one_line(error)}", where) from error


def kinds_of(units: Sequence[Unit]) -> str:
    """The kinds of the steps, a letter each."""
    return "".join(unit.kind for unit in units)


def put(state: dict[str, Tensor], units: Sequence[Unit], names: Sequence[str], prefix: str = "") -> None:
    """Write steps into a state dict: ``names`` of each, of what has a weight and of the normalisation after it, in one text."""
    for unit, name in zip(units, names, strict=True):
        first, _, norm = name.partition(" ")
        weight, shift = torch.from_numpy(unit.weight.astype(np.float32)), torch.from_numpy(unit.shift.astype(np.float32))
        state[f"{prefix}{first}.weight"] = weight
        if unit.kind == "G" and f"{first}.bias" not in state and norm:
            state[f"{prefix}{first}.bias"] = torch.zeros_like(shift)
        if unit.kind == "P":
            continue
        if norm:
            state[f"{prefix}{norm}.weight"] = torch.ones_like(shift)
        norm = norm or first
        state[f"{prefix}{norm}.bias"] = shift
        state[f"{prefix}{norm}.running_mean"] = torch.zeros_like(shift)
        state[f"{prefix}{norm}.running_var"] = torch.full_like(shift, 1 - EPS)


class _Reader:
    """A graph whose constants are known by name; ``units`` goes through its nodes once."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._model, self._graph = onnx, model, model.graph
        self._values: dict[str, Array] = {}
        for tensor in self._graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise EmbedderError("its weights lie in a second file", advice="save it as one, without external data")
            self._values[tensor.name] = onnx.numpy_helper.to_array(tensor)
        self._uses: dict[str, int] = {}
        for name in (name for node in self._graph.node for name in node.input):
            self._uses[name] = self._uses.get(name, 0) + 1

    def units(self) -> list[Unit]:
        """The steps in order, each with what is affine after it."""
        found: list[Unit] = []
        made: dict[str, int] = {}  # tensors, and the steps that they come from
        sizes: set[str] = set()  # tensors that hold the sizes of others, such as the batch for a Reshape
        for node in self._graph.node:
            variables = [name for name in node.input if name and name not in self._values]
            if not variables:
                self._compute(node)
                continue
            if node.op_type == "Shape" or sizes.issuperset(variables):
                sizes.update(node.output)
                continue
            step, kind, affine = made.get(variables[0]), node.op_type, self._affine(node)
            if affine is None and (kind in _PASSING or (kind == "Add" and len(variables) == 2)):
                if step is not None and kind != "Add":
                    made[node.output[0]] = step
                continue
            # Into the step that made this tensor, unless the tensor is used elsewhere, too.
            alone = step is not None and self._uses[variables[0]] == 1 and found[step].kind != "P"
            if affine is not None and step is not None and alone:
                found[step] = _folded(found[step], *affine)
                made[node.output[0]] = step
                continue
            made[node.output[0]] = len(found)
            found.append(self._unit(node) if affine is None else Unit("B", *affine))
        return found

    def _compute(self, node: Any) -> None:
        """A node of constants alone. Raises ``EmbedderError`` for one that no exporter makes of a known network."""
        long = sum(self._values[name].size for name in node.input if name) > _SHAPE
        if node.op_type not in _OF_CONSTANTS or (node.op_type == "Concat" and long):
            raise EmbedderError(f"a step {node.op_type} of constants, which no known network has")
        sets = {entry.domain: entry.version for entry in self._model.opset_import}
        feeds = {name: self._values[name] for name in node.input if name}
        made = self._onnx.reference.ReferenceEvaluator(node, opsets=sets).run(None, feeds)
        self._values.update(zip(node.output, made, strict=True))

    def _constant(self, node: Any) -> Array:
        """The one constant of a node of two inputs, one number a channel or one alone."""
        found: Array = next(self._values[name] for name in node.input if name in self._values)
        return found.astype(np.float64).reshape(-1)

    def _affine(self, node: Any) -> tuple[Array, Array] | None:
        """Scale and shift of a node that is affine for each channel."""
        kind = node.op_type
        if kind == "BatchNormalization":
            scale, shift, mean, var = (self._values[name].astype(np.float64) for name in node.input[1:5])
            scale = scale / np.sqrt(var + _attribute(node, "epsilon", 1e-5))
            return scale, shift - mean * scale
        constants = [name in self._values for name in node.input]
        if kind not in {"Mul", "Div", "Add", "Sub"} or not any(constants):
            return None
        value = self._constant(node)
        one, zero = np.ones_like(value), np.zeros_like(value)
        if constants[0] and kind in {"Div", "Sub"}:
            raise EmbedderError(f"a step {kind} of a constant, which no known network has")
        return {"Mul": (value, zero), "Div": (1 / value, zero), "Add": (one, value), "Sub": (one, -value)}[kind]

    def _unit(self, node: Any) -> Unit:
        kind = node.op_type
        if kind == "Conv":
            weight = self._values[node.input[1]].astype(np.float64)
            bias = self._values[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
            grouped, strides = _attribute(node, "group", 1) > 1, _attribute(node, "strides", [1])
            kind = "D" if grouped else "S" if weight.shape[2:] == (1, 1) else "C"
            return Unit(kind, weight, bias.astype(np.float64), strides[0])
        if kind == "PRelu":
            slopes = self._values[node.input[1]].reshape(-1)
            return Unit("P", slopes, np.zeros(len(slopes)))
        if kind in {"Gemm", "MatMul"}:
            weight = self._values[node.input[1]].astype(np.float64) * _attribute(node, "alpha", 1.0)
            weight = weight if _attribute(node, "transB", 0) else weight.T
            bias = self._values[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
            return Unit("G", weight, bias.astype(np.float64).reshape(-1) * _attribute(node, "beta", 1.0))
        raise EmbedderError(f"a step {kind}, which no known network has")


def _attribute(node: Any, name: str, default: Any) -> Any:
    """A number, or numbers; ``default``, of the same kind, where the node does not say."""
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    if found is None:
        return default
    return list(found.ints) if isinstance(default, list) else found.i if isinstance(default, int) else found.f


def _folded(unit: Unit, scale: Array, shift: Array) -> Unit:
    """The step, no PReLU, followed by a scale and a shift of each channel or of all."""
    wide = np.broadcast_to(scale, unit.shift.shape) if unit.kind != "B" else scale
    turned = wide.reshape(-1, *(1,) * (unit.weight.ndim - 1))
    return replace(unit, weight=unit.weight * turned, shift=unit.shift * scale + shift)
