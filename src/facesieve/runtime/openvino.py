"""The runtime on OpenVINO, for Intel's and AMD's processors: the graph of a quick preset, in bf16 where the processor has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from facesieve.errors import MissingExtraError, SettingError
from facesieve.faces import Crops
from facesieve.runtime.onnx import Engine, GraphRuntime, graph_runtime
from facesieve.runtime.protocol import RUNTIMES
from facesieve.weights.graphs import threads

if TYPE_CHECKING:
    from facesieve.purify import Preset

FORMATS = {"fp32": ("f32", "float32"), "bf16": ("bf16", "bfloat16")}


def load(preset: Preset, *, prior: Path | str | None, device: str, precision: str) -> GraphRuntime:
    """As ``graph_runtime``, on the processor; ``auto`` takes bf16 where the processor multiplies it.

    Raises ``SettingError`` for another device or precision, ``MissingExtraError`` without OpenVINO.
    """
    if device not in ("auto", "cpu"):
        raise SettingError(f"the runtime openvino has no device {device!r}", advice="'cpu' and 'auto' it has")
    try:
        import openvino
    except ImportError as missing:
        raise MissingExtraError("the runtime openvino", "openvino") from missing
    fast = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted = {"auto": ["bf16", "fp32"] if fast else ["fp32"]}.get(precision, [precision])
    if not FORMATS.keys() >= set(wanted):
        raise SettingError(f"precision {precision!r} is not one of auto, fp32, bf16")

    def engine(file: Path, name: str) -> Engine:
        hint, dtype = FORMATS[name]
        return Engine("openvino CPU", dtype, lambda: _Compiled(file, hint))

    return graph_runtime(
        preset, lambda file: [engine(file, name) for name in wanted], prior=prior, device=device, precision=precision
    )


class _Compiled:
    """A graph on OpenVINO, as ``Run``; pickled and deep-copied it is the file, which is compiled again."""

    def __init__(self, file: Path, hint: str) -> None:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads(), "PERFORMANCE_HINT": "LATENCY"}
        self._made_from = (file, hint)
        self._model = openvino.Core().compile_model(str(file), "CPU", settings)

    def __call__(self, crops: Crops, noise: Crops) -> tuple[Crops, Crops]:
        found = self._model.create_infer_request().infer({"crops": crops, "noise": noise})  # a request serves one thread
        return found["purified"].copy(), found["observed"].copy()

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return _Compiled, self._made_from


RUNTIMES.register("openvino", load)
