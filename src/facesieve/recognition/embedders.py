"""Embedders by name: what `--embedder` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from facesieve.errors import EmbedderError
from facesieve.recognition import Embedder


def load_embedder(spec: str = "sface") -> Embedder:
    """``sface`` (it ships with the package), FaceNet from its folder or ``.pt`` file, or any ``.onnx`` recogniser.

    How an ONNX file wants its pixels follows a question mark, where it is not (x - 127.5) / 127.5 of
    RGB: ``arcface.onnx?mean=127.5&std=128&channels=bgr``. Raises ``EmbedderError`` for anything else.
    """
    if spec == "sface":
        from facesieve.recognition.sface import load_sface

        return load_sface()
    name, _, query = spec.partition("?")
    path = Path(name)
    if not path.exists():
        raise EmbedderError(f"no embedder {spec!r}: give sface, a FaceNet folder or .pt file, or an .onnx file")
    if path.suffix.lower() == ".onnx":
        from facesieve.recognition.onnx_embedder import load_onnx_embedder

        return load_onnx_embedder(path, **_pixels(spec, query))
    if query:
        raise EmbedderError(f"{spec}: settings after ? go with .onnx files alone")
    from facesieve.recognition.facenet_file import load_facenet

    return load_facenet(path)


def _pixels(spec: str, query: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "channels":
            given[name] = value
        elif name in {"mean", "std"}:
            try:
                given[name] = float(value)
            except ValueError:
                raise EmbedderError(f"{spec}: {name} {value!r} is not a number") from None
        else:
            raise EmbedderError(f"{spec}: no setting {name!r}; there are mean, std and channels")
    return given
