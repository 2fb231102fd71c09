"""The runtime that suits: ONNX Runtime where it does all that is asked, since it starts in a second; else PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from facesieve.errors import MissingExtraError
from facesieve.purify import Preset
from facesieve.runtime.onnx import graph_of, providers_of
from facesieve.runtime.protocol import RUNTIMES, Runtime
from facesieve.weights.graphs import metadata_of


@dataclass(frozen=True)
class Choice:
    """A runtime's name, and why, in words."""

    runtime: str
    reason: str


def choose(preset: Preset, *, prior: Path | str | None = None, device: str = "auto", precision: str = "auto") -> Choice:
    """The runtime for a preset with the prior in the folder ``prior``, on this device, in this number format."""
    if find_spec("onnxruntime") is None:
        return Choice("torch", "ONNX Runtime is not installed")
    if preset.evaluations != 1:
        return Choice("torch", f"preset {preset.name!r} asks its prior {preset.evaluations} times, a graph does it once")
    graph = graph_of(preset, prior)
    if not graph.is_file():
        return Choice("torch", f"there is no graph of preset {preset.name!r} with this prior")
    if metadata_of(graph.read_bytes()).get("preset", {}).get("restorations") != preset.as_dict()["restorations"]:
        return Choice("torch", f"the graph of preset {preset.name!r} has other settings")
    if precision not in ("auto", "fp32") or not providers_of(device):
        return Choice("torch", f"ONNX Runtime does not offer {device if precision in ('auto', 'fp32') else precision} here")
    return Choice("onnx", "it starts quickly, and has a graph of the preset")


def load(preset: Preset, *, prior: Path | str | None, device: str, precision: str) -> Runtime:
    """As the runtime of ``choose``. Raises ``MissingExtraError`` where it needs PyTorch, which is not installed."""
    choice = choose(preset, prior=prior, device=device, precision=precision)
    if choice.runtime == "torch" and find_spec("torch") is None:
        raise MissingExtraError(f"preset {preset.name!r} as asked for ({choice.reason})", "torch")
    return RUNTIMES[choice.runtime](preset, prior=prior, device=device, precision=precision)


RUNTIMES.register("auto", load)
