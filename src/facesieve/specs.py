"""What things are chosen by name, in words and as data: for helps, defaults and messages, so without heavy imports."""

from __future__ import annotations

from collections.abc import Iterable

from facesieve.errors import SettingError

EMBEDDER = "sface, dlib, weights of FaceNet or ArcFace, an .onnx or .xml recogniser, or package.module:object"
RUNTIME = "auto, onnx, openvino, torch, or package.module:object"

MAX_PIXELS = 50_000_000  # of a photograph, wherever one is taken: phones make 24 to 50 megapixels
DEFAULT_PRESET = "gentle"  # of the command line, the service, the page and the library

# Presets that went: which one to take instead, and where the weights lie that they were made for. The source
# repository has them and, as ``experiments/profiles/NAME.toml``, the settings.
RETIRED_PRESETS = {
    "fast": ("robust", "models/prior-128-utkface"),
    "fast-fused": ("robust", "models/prior-128-utkface"),
    "tuned": ("robust", "models/prior-128-tuned"),
}


def in_use(preset: str) -> str:
    """The same name. Raises ``SettingError``, with its successor, for that of a preset that went."""
    if preset in RETIRED_PRESETS:
        raise SettingError(f"preset {preset!r} is retired", advice=retired(preset))
    return preset


def retired(name: str) -> str:
    """What to do about a preset that went, in words."""
    successor, weights = RETIRED_PRESETS[name]
    return (
        f"take {successor!r} and enrol anew, or keep it with experiments/profiles/{name}.toml as the preset and "
        f"{weights} as the prior, both in the source repository"
    )


def retired_among(labels: Iterable[str]) -> str | None:
    """What to do about the first preset that went and is behind one of a gallery's ``labels``; None where none is."""
    names = {label.rpartition("-")[0] for label in labels}
    name = next((name for name in RETIRED_PRESETS if name in names), None)
    return None if name is None else f"there are some behind the preset {name!r}, which is retired: {retired(name)}"
