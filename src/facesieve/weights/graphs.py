"""Networks as ONNX graphs: exported from PyTorch, their weights in fp16, in the file or left where they lie.

A graph without its weights is linked to a safetensors file beside it, by the place of each tensor in that file, so that
PyTorch and ONNX Runtime read the same bytes. What is computed is computed in fp32.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facesieve.errors import MissingExtraError, SettingError, one_line
from facesieve.files import sha256_of

if TYPE_CHECKING:
    from torch import Tensor, nn

CPU = "CPUExecutionProvider"
OPSET = 18
METADATA = "facesieve"  # the key of our metadata, a JSON object
SMALL = 256  # numbers; a tensor of fewer stays in fp32


def onnx_library() -> Any:
    """The package ``onnx``. Raises ``MissingExtraError`` where it, ONNX Runtime or PyTorch's exporter is missing."""
    try:
        import onnx
        import onnx.numpy_helper
        import onnxruntime  # noqa: F401  to try what was exported
        import onnxscript  # noqa: F401  the exporter's
    except ImportError as missing:
        raise MissingExtraError("the export of graphs", "export") from missing
    return onnx


def open_session(graph: bytes, providers: Sequence[str] = (CPU,), *, feature: str, beside: Path | None = None) -> Any:
    """An ONNX Runtime session of a graph's bytes, which may take weights from files in the folder ``beside``, else from none.

    With as many threads as PyTorch, where it is loaded, or ``OMP_NUM_THREADS``. Raises ``SettingError`` for
    ``feature``, and whatever ONNX Runtime raises, whose exceptions have no common base.
    """
    runtime = onnx_runtime(feature)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads()
    # A file is no folder: without ``beside`` a second file with weights is not found, whatever the graph says.
    folder = os.devnull if beside is None else str(beside)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    # Threads that wait busily cost twice the processor for a single face, and bring nothing for eight.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # some files list their weights as inputs, which warns once for each
    return runtime.InferenceSession(graph, options, providers=list(providers))


class Session:
    """A graph that is open: any number of threads may run it. Pickled and deep-copied it is the graph, which opens again.

    So it does in a forked process, where the threads of an open one do not exist: it would wait for them for ever.
    """

    def __init__(
        self, graph: bytes | Path, providers: Sequence[str] = (CPU,), *, feature: str, beside: Path | None = None
    ) -> None:
        """As ``open_session``. A ``Path`` is read whenever the graph opens, and is to hold the same then: ``SettingError``."""
        self._graph, self._providers, self._feature, self._beside = graph, tuple(providers), feature, beside
        data = self._bytes()
        self._sha256 = sha256_of(data)
        self._open(data)

    def _bytes(self) -> bytes:
        return self._graph if isinstance(self._graph, bytes) else self._graph.read_bytes()

    def _open(self, data: bytes) -> Any:
        session = open_session(data, self._providers, feature=self._feature, beside=self._beside)
        self._opened = (os.getpid(), session)
        return session

    @property
    def session(self) -> Any:
        """ONNX Runtime's session, of this process."""
        process, session = self._opened
        if process == os.getpid():
            return session
        _INHERITED.append(session)
        data = self._bytes()
        if sha256_of(data) != self._sha256:
            raise SettingError("the file has changed since it was loaded", self._graph, "load it again")
        return self._open(data)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """The arrays ``outputs`` for the arrays ``inputs``. Raises what ONNX Runtime raises."""
        found: list[Any] = self.session.run(list(outputs), dict(inputs))
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": (0, None)}


_INHERITED: list[Any] = []  # sessions of the process that was forked; closing one would wait for its threads


def onnx_runtime(feature: str) -> Any:
    """The package ``onnxruntime``. Raises ``SettingError`` where it cannot be loaded: ``feature`` needs it."""
    try:
        import onnxruntime  # slow to import
    except ImportError as error:  # a dependency, but not built for every machine
        raise SettingError(f"{feature} needs ONNX Runtime, which cannot be loaded ({one_line(error)})") from error
    return onnxruntime


def metadata_of(graph: bytes) -> dict[str, Any]:
    """Our metadata in a graph, without opening it, which takes long; empty for a file that has none or is no graph.

    An ONNX file is a message of protocol buffers: fields of a number, a kind and a value. Its field 14 holds entries of
    a key (field 1) and a value (field 2).
    """
    try:
        for number, value in _fields(graph):
            entry = dict(_fields(value)) if number == 14 else {}
            if entry.get(1) == METADATA.encode():
                return dict(json.loads(entry[2]))
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    return {}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and bytes of each field of bytes in a message; those of other kinds are passed over."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _number(message, at)
        elif kind == 2:
            length, at = _number(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[kind]


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def threads() -> int:
    """How many a runtime shall use; 0 leaves the choice to it."""
    torch, asked = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None:
        return int(torch.get_num_threads())
    return int(asked) if asked.isdecimal() else 0


def traced(module: nn.Module, examples: dict[str, Tensor], outputs: Sequence[str], *, optimise: bool = True) -> Any:
    """The module as an ONNX model, the first axis of its inputs left open; ``examples`` by the names of its arguments."""
    import torch

    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(examples.values()),
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_shapes={name: {0: "faces"} for name in examples},
            opset_version=OPSET,
            dynamo=True,
            optimize=optimise,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own parts and of libraries that it looked for: nothing that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def finished(model: Any, about: dict[str, Any], out: Path, weights: Path | None = None) -> bytes:
    """The bytes of a model with ``about`` as its metadata and large tensors in fp16, each with a cast to fp32 after it.

    Those that are in the safetensors file ``weights`` stay there; ``out``, where the bytes will be written, has to lie
    beside it, else ``SettingError``.
    """
    if weights is not None and weights.parent.resolve() != out.parent.resolve():
        raise SettingError("a linked graph lies beside its weights", out, f"write it into {weights.parent}")
    _halve(onnx_library(), model, weights)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about, ensure_ascii=False)
    data: bytes = model.SerializeToString()
    return data


def _halve(onnx: Any, model: Any, weights: Path | None) -> None:
    places = {} if weights is None else _places(weights)
    before = []
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.size < SMALL:
            continue
        name, half = tensor.name, value.astype(np.float16)
        steps = [("Cast", {"to": onnx.TensorProto.FLOAT})]
        turned = half.T if half.ndim == 2 else half  # exporters turn matrices
        if weights is not None and half.tobytes() in places:
            tensor.CopyFrom(_linked(onnx, half.shape, weights.name, places[half.tobytes()]))
        elif weights is not None and turned.tobytes() in places:
            tensor.CopyFrom(_linked(onnx, turned.shape, weights.name, places[turned.tobytes()]))
            steps.append(("Transpose", {"perm": [1, 0]}))
        else:
            tensor.CopyFrom(onnx.numpy_helper.from_array(half))
        tensor.name = source = f"{name}.fp16"
        for kind, settings in steps:
            target = name if kind == steps[-1][0] else f"{name}.{kind}"
            before.append(onnx.helper.make_node(kind, [source], [target], **settings))
            source = target
    nodes = [*before, *model.graph.node]
    for node in nodes:  # where in the exporter's program they come from
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.node[:], model.graph.value_info[:], model.metadata_props[:]
    model.graph.node.extend(nodes)


def _places(weights: Path) -> dict[bytes, tuple[int, int]]:
    """The fp16 tensors of a safetensors file by their bytes: where each begins, and its length, both in bytes."""
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    first = 8 + length
    entries = [entry for name, entry in json.loads(data[8:first]).items() if name != "__metadata__" and entry["dtype"] == "F16"]
    ends = [(first + entry["data_offsets"][0], first + entry["data_offsets"][1]) for entry in entries]
    return {data[begin:end]: (begin, end - begin) for begin, end in ends}


def _linked(onnx: Any, shape: Sequence[int], location: str, place: tuple[int, int]) -> Any:
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT16, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", place[0]), ("length", place[1])):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
