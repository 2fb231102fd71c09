"""A preset's graph in 8 bits: half the time of fp32 on processors that multiply bytes, and a little less exact.

Static quantisation: the ranges of what flows between layers are those seen on faces that are given, and are then fixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from facesieve.errors import InputError, NoFaceError, SettingError
from facesieve.faces import Crops, Detector, FaceCrops
from facesieve.files import sha256_of, write_atomic
from facesieve.folders import below
from facesieve.images import read_photo
from facesieve.noise import seeded_draws
from facesieve.purify import Preset
from facesieve.recognition.onnx_embedder import load_sface_graph
from facesieve.runtime.export import Exported, export_preset
from facesieve.runtime.known_answer import known_answer, question
from facesieve.weights.graphs import METADATA, metadata_of, onnx_library, open_session

FACES = 64  # that are looked at: half set the ranges, half judge
LEAST = 16
BATCH = 4
COSINE = 0.98  # the least that SFace may say of a face in 8 bits and in fp32


def export_in_8_bits(preset: Preset, out: Path, photographs: Path, *, prior: Path | None = None) -> Exported:
    """Write the preset's graph with 8-bit convolutions as ``out``, its ranges from faces in the folder ``photographs``.

    ``difference`` and ``cosine`` of the result are to the graph in fp32, on faces that set no range. Raises as
    ``export_preset``; ``InputError`` for a folder with too few faces, ``SettingError`` where it differs too much.
    """
    onnx = onnx_library()
    with TemporaryDirectory() as folder:
        exact, halfway, small = (Path(folder) / f"{name}.onnx" for name in ("exact", "halfway", "small"))
        export_preset(preset, exact, prior=prior)
        about = metadata_of(exact.read_bytes())
        crops = faces_in(photographs, about["size"])
        noise = seeded_draws(range(len(crops)), crops.shape[1:])().astype(np.float32)
        batches = zip(_parts(crops[::2]), _parts(noise[::2]), strict=True)
        _quantise(exact, halfway, small, [{"crops": part, "noise": drawn} for part, drawn in batches])
        difference, cosine = _compared(exact, small, {"crops": crops[1::2], "noise": noise[1::2]})
        if not cosine >= COSINE:
            raise SettingError(f"the graph in 8 bits loses the face: cosine {cosine:.4f} to fp32; it is not written", out)
        model = onnx.load(small)
    crops, noise = question(about["size"])
    (purified,) = open_session(model.SerializeToString(), feature="8 bits").run(["purified"], {"crops": crops, "noise": noise})
    about = {**about, "arithmetic": "int8", "answer": known_answer(purified)}
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA, value=json.dumps(about, ensure_ascii=False))
    data = model.SerializeToString()
    write_atomic(out, data)
    return Exported(out, difference, cosine, sha256_of(data))


def faces_in(folder: Path, size: int) -> Crops:
    """Crops (N, 3, size, size) of the largest faces of photographs from all over a folder; raises ``InputError`` for too few."""
    if not folder.is_dir():
        raise InputError("not a folder of photographs", folder)
    paths = sorted(path for path, _ in below(folder).files)
    stride = max(1, len(paths) // FACES)
    detector, crops = Detector(), list[Crops]()
    for path in (path for start in range(stride) for path in paths[start::stride]):
        try:
            photo = read_photo(path)
            crops.append(FaceCrops.cut(photo, detector.detect(photo), size).crops[:1])
        except (InputError, NoFaceError):
            continue  # another photograph does as well: only the ranges are wanted
        if len(crops) == FACES:
            break
    if len(crops) < LEAST:
        raise InputError(f"holds {len(crops)} photographs with a face, and {LEAST} or more are needed", folder)
    return np.concatenate(crops)


def _quantise(exact: Path, halfway: Path, small: Path, batches: list[dict[str, Crops]]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        left: Iterator[dict[str, Crops]] = iter(batches)

        def get_next(self) -> dict[str, Crops] | None:
            return next(self.left, None)

    quant_pre_process(str(exact), str(halfway), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(halfway),
        str(small),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv"],
    )


def _compared(exact: Path, small: Path, feed: dict[str, Crops]) -> tuple[float, float]:
    sface = load_sface_graph()
    wanted, found = (open_session(p.read_bytes(), feature="8 bits").run(["purified"], feed)[0] for p in (exact, small))
    return float(np.abs(found - wanted).max()), float((sface.rows(found) * sface.rows(wanted)).sum(1).min())


def _parts(values: Crops) -> list[Crops]:
    return [values[begin : begin + BATCH] for begin in range(0, len(values), BATCH)]
