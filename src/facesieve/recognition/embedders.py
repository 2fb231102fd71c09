"""Embedders by name: what ``--embedder`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from facesieve.errors import EmbedderError
from facesieve.recognition.embedder import Embedder
from facesieve.registry import Registry
from facesieve.specs import EMBEDDER
from facesieve.tamper_policy import TamperPolicy, second_of

# By name, or for files by suffix. A loader takes what the user wrote, such as ``arcface.onnx?mean=0&std=1``.
EMBEDDERS: Registry[Callable[[str], Embedder]] = Registry("embedder", room="facesieve.recognition")


def load_embedder(spec: str = "sface", *, gradients: bool = True) -> Embedder:
    """``sface`` or ``dlib`` (they ship with the package), the weights of FaceNet or of ArcFace's networks, or any ``.onnx`` file.

    Also anything else that is registered, and ``package.module:object``: a torch module, or a function that makes one or
    an ``Embedder``. That is code that will run, so a spec never comes from a request. How a module wants its crops
    follows a question mark: ``package.module:factory?size=112&mean=0.5&std=0.5&channels=rgb``, as of ``ModuleEmbedder``.
    How an ONNX file wants its pixels follows a question mark, where it is not (x - 127.5) / 127.5 of
    RGB: ``arcface.onnx?mean=127.5&std=128&channels=bgr``. With ``gradients`` ArcFace's networks are read out of such a
    file into PyTorch; without, SFace runs on ONNX Runtime where it can, which starts in a fraction of the time and gives
    the same rows. Raises ``EmbedderError`` for anything else.
    """
    name = spec.partition("?")[0]
    path, suffix = Path(name), Path(name).suffix.lower()
    if name == "sface" and not gradients and find_spec("onnxruntime") is not None:
        from facesieve.recognition.onnx_embedder import load_sface_graph

        _without_settings(spec)
        return load_sface_graph()
    if not (suffix and path.exists()) and name in EMBEDDERS:
        return EMBEDDERS[name](spec)
    if path.exists():
        found = EMBEDDERS[suffix](spec) if suffix in EMBEDDERS else _weights(spec)
        in_torch = getattr(found, "in_torch", None)  # of a graph: its network with gradients, where it is a known one
        return found if in_torch is None or not gradients else in_torch()
    if ":" in name:
        return _named(spec)
    raise EmbedderError(f"no embedder {spec!r}", advice=f"give {EMBEDDER}")


def second_beside(embedder: Embedder, policy: TamperPolicy) -> Embedder | None:
    """The recogniser beside this one that the policy's score needs, without gradients; None where it needs none."""
    return load_embedder(second_of(embedder.name), gradients=False) if policy.needs_second else None


def _sface(spec: str) -> Embedder:
    from facesieve.recognition.sface import load_sface

    _without_settings(spec)
    return load_sface()


def _dlib(spec: str) -> Embedder:
    from facesieve.recognition.dlib import load_dlib

    _without_settings(spec)
    return load_dlib()


def _weights(spec: str) -> Embedder:
    """FaceNet's folder, or a file of weights of whichever network."""
    from facesieve.recognition.arcface_file import arcface_in
    from facesieve.recognition.facenet_file import load_facenet

    path = Path(_without_settings(spec))
    network = None if path.is_dir() else arcface_in(path)
    return load_facenet(path) if network is None else network


def _onnx(spec: str) -> Embedder:
    from facesieve.recognition.onnx_embedder import load_onnx_embedder

    return load_onnx_embedder(spec.partition("?")[0], **_settings(spec, {"mean": float, "std": float, "channels": str}))


def _openvino(spec: str) -> Embedder:
    from facesieve.recognition.openvino_ir import load_openvino_ir

    return load_openvino_ir(_without_settings(spec))


def _named(spec: str) -> Embedder:
    """An embedder, a torch module, or what makes one of both, somewhere in Python."""
    found: object = EMBEDDERS.load(spec.partition("?")[0])
    try:
        from facesieve.recognition.torch_module import made_by, module_embedder
    except ModuleNotFoundError:  # without PyTorch there is no module either
        return found(spec)  # type: ignore[operator, no-any-return]
    made: Any = made_by(found, spec)
    if all(hasattr(made, name) for name in ("name", "dimensions", "rows")):
        return made  # type: ignore[no-any-return]
    kinds: dict[str, Callable[[str], Any]] = {"size": int, "mean": _numbers, "std": _numbers, "channels": str, "weights": str}
    return module_embedder(made, spec, **_settings(spec, kinds))


EMBEDDERS.register("sface", _sface)
EMBEDDERS.register("dlib", _dlib)
EMBEDDERS.register(".onnx", _onnx)
EMBEDDERS.register(".xml", _openvino)


def _without_settings(spec: str) -> str:
    if "?" in spec:
        raise EmbedderError("settings after ? go with .onnx files and torch modules alone", spec)
    return spec


def _settings(spec: str, kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """What stands after the question mark; ``kinds`` says what there is, and what makes a value of each text."""
    given: dict[str, Any] = {}
    text = spec.partition("?")[2].replace("+", "%2B")  # a plus is a plus, in a path or in 1e+2
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in kinds:
            near = next(iter(get_close_matches(name, kinds, 1)), None)
            meant = "" if near is None else f", did you mean {near!r}?"
            raise EmbedderError(f"no setting {name!r}{meant} There are {', '.join(kinds)}", spec)
        if name in given:
            raise EmbedderError(f"{name} is given twice", spec)
        try:
            given[name] = kinds[name](value)
        except ValueError:
            raise EmbedderError(f"{name} {value!r} is not a number", spec) from None
    return given


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
