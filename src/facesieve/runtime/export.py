"""A quick preset as one ONNX graph: crops and noise in, purified crops out.

The graph holds everything that the preset does, so that it runs wherever ONNX Runtime does. Its metadata, one JSON object
under ``facesieve``, say what it was made from and hold a known answer, by which a runtime checks itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facesieve.errors import MissingExtraError, SettingError, one_line
from facesieve.files import write_atomic
from facesieve.noise import seeded_draws
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior, read_card, weights_file
from facesieve.purify import Preset, Stage
from facesieve.runtime.known_answer import CROPS, SEEDS, known_answer, smooth_crops

OPSET = 18
TRIED = (1, 3, 8)  # batches that every graph is tried with before it is written
DIFFERENCE = 1e-4  # the largest that a pixel in [0, 1] may show against PyTorch
COSINE = 0.9999  # the least that SFace may say of the two results
SMALL = 256  # numbers; a tensor of fewer stays in fp32


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to PyTorch."""

    file: Path
    difference: float  # the largest of a pixel in [0, 1]
    cosine: float  # the least by SFace
    sha256: str


def export_preset(preset: Preset, out: Path, *, prior: Path | None = None, linked: bool = False) -> Exported:
    """Write the preset with the prior in the folder ``prior`` (its own if None) as the ONNX file ``out``, atomically.

    Weights are in fp16, computed with in fp32. With ``linked`` they stay in the prior's own safetensors file, beside
    which ``out`` then has to lie. Raises ``SettingError`` for a preset of more than one evaluation and for a graph that
    differs from PyTorch, ``PriorError``, ``MissingExtraError`` without the extra ``onnx``.
    """
    onnx = _library()
    if preset.evaluations != 1 or len(preset.restorations) != 1:
        raise SettingError(
            f"preset {preset.name!r} asks its prior {preset.evaluations} times: only presets of one evaluation become a graph",
            advice="take a quick preset; `facesieve presets` lists them",
        )
    folder = embedded_prior_folder(preset.prior) if prior is None else prior
    loaded, card = load_prior(folder), read_card(folder)
    (stage,) = preset.with_prior(loaded).stages
    size = loaded.shape[-1]
    model = _traced(_Whole(stage), size)
    _halve(onnx, model, weights_file(folder) if linked else None, out)
    about = {
        "format": 1, "preset": preset.as_dict(), "size": size, "prior_sha256": loaded.sha256, "step": stage.name,
        "caption": preset.restorations[0].operator.caption, "opset": OPSET, "weights": card["name"],
        "terms": card.get("terms", "not stated"), "attribution": card.get("attribution", []),
    }  # fmt: skip
    expected = _by_torch(stage, size)
    about["answer"] = known_answer(expected)
    entry = model.metadata_props.add()
    entry.key, entry.value = "facesieve", json.dumps(about, ensure_ascii=False)
    data: bytes = model.SerializeToString()
    difference, cosine = _compared(data, out, stage, size)
    write_atomic(out, data)
    from facesieve.files import sha256_of

    return Exported(out, difference, cosine, sha256_of(data))


class _Whole(nn.Module):
    """A stage as a network of crops and unit noise, for the exporter."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.prior = stage.prior  # a module: its weights become the graph's

    def forward(self, crops: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        observed = self.stage.observed(crops)
        return self.stage(crops, lambda: noise), crops if observed is None else observed.images


def _traced(module: nn.Module, size: int) -> Any:
    """The module as an ONNX model, its batch left open."""
    example = torch.zeros(2, 3, size, size)
    program = torch.onnx.export(
        module.eval(),
        (example, example.clone()),
        input_names=["crops", "noise"],
        output_names=["purified", "observed"],
        dynamic_shapes={name: {0: "faces"} for name in ("crops", "noise")},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.optimize()
    return program.model_proto


def _halve(onnx: Any, model: Any, weights: Path | None, out: Path) -> None:
    """Bring the large tensors to fp16, each with a cast to fp32 after it; those of ``weights`` are left in that file."""
    if weights is not None and weights.parent.resolve() != out.parent.resolve():
        raise SettingError("a linked graph lies beside its weights", out, f"write it into {weights.parent}")
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


# --- against PyTorch ----------------------------------------------------------------------------------


@torch.inference_mode()
def _by_torch(stage: Stage, size: int) -> np.ndarray[Any, Any]:
    noise = torch.from_numpy(seeded_draws(SEEDS, (3, size, size))().astype(np.float32))
    return stage(torch.from_numpy(smooth_crops(CROPS, size)), lambda: noise).numpy()


def _compared(data: bytes, out: Path, stage: Stage, size: int) -> tuple[float, float]:
    """The largest difference to PyTorch over all tried batches, and the least cosine by SFace. Raises ``SettingError``."""
    import onnxruntime

    from facesieve.recognition.sface import load_sface

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(out.parent))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise SettingError(f"ONNX Runtime cannot open the graph ({one_line(error)})", out) from error
    sface, differences, cosines = load_sface(), [], []
    for batch in TRIED:
        crops, noise = smooth_crops(batch, size), seeded_draws(range(batch), (3, size, size))().astype(np.float32)
        (found,) = session.run(["purified"], {"crops": crops, "noise": noise})
        with torch.inference_mode():
            wanted = stage(torch.from_numpy(crops), lambda drawn=torch.from_numpy(noise): drawn).numpy()  # type: ignore[misc]
        differences.append(float(np.abs(found - wanted).max()))
        cosines.append(float((sface.rows(found) * sface.rows(wanted)).sum(1).min()))
    difference, cosine = max(differences), min(cosines)
    if not difference <= DIFFERENCE or not cosine >= COSINE:
        raise SettingError(f"the graph differs from PyTorch by {difference:.2g}, cosine {cosine:.6f}: it is not written", out)
    return difference, cosine


def _library() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
        import onnxruntime  # noqa: F401  needed later; said at once
        import onnxscript  # noqa: F401  the exporter's
    except ImportError as missing:
        raise MissingExtraError("the export of graphs", "onnx") from missing
    return onnx


def facts(exported: Exported) -> Mapping[str, object]:
    """What the command prints."""
    return {
        "file": str(exported.file), "sha256": exported.sha256, "difference": exported.difference, "cosine": exported.cosine,
    }  # fmt: skip
