"""What things are chosen by name, in words and as data: for helps, defaults and messages, so without any import."""

EMBEDDER = "sface, dlib, a FaceNet folder or .pt file, an .onnx recogniser, or package.module:object"
RUNTIME = "torch, or package.module:object"

DEFAULT_PRESET = "robust"  # of the command line, the service, the page and the library

# Presets that went: which one to take instead, and where the weights lie that they were made for. The source
# repository has them and, as ``experiments/profiles/NAME.toml``, the settings.
RETIRED_PRESETS = {
    "fast": ("robust", "models/prior-128-utkface"),
    "fast-fused": ("robust", "models/prior-128-utkface"),
    "tuned": ("robust", "models/prior-128-tuned"),
}


def retired(name: str) -> str:
    """What to do about a preset that went, in words."""
    successor, weights = RETIRED_PRESETS[name]
    return (
        f"take {successor!r} and enrol anew, or keep it with experiments/profiles/{name}.toml as the preset and "
        f"{weights} as the prior, both in the source repository"
    )
