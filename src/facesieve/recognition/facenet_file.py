"""FaceNet's weights on disk: a folder with a card, or a state dict that facenet-pytorch publishes.

folder/
    facenet.safetensors    weights, fp16
    card.json              what it is, its people, and the SHA-256 of the weights
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from facesieve.errors import EmbedderError
from facesieve.files import write_atomic
from facesieve.recognition.facenet import FaceNet

WEIGHTS, CARD = "facenet.safetensors", "card.json"


def load_facenet(path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> FaceNet:
    """FaceNet from a folder that ``save_facenet`` wrote, or from a published ``.pt`` state dict, frozen.

    The classifier comes along where the weights have one. Raises ``EmbedderError`` for a file that
    is missing, damaged, not the one the card names, or of another network.
    """
    path = Path(path)
    state = read_state(path)
    card = read_card(path) if path.is_dir() else {}
    head = state.get("logits.weight")
    with torch.device("meta"):  # no time, and none of the global random numbers, for weights that are replaced
        network = FaceNet(None if head is None else len(head))
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    for name in wanted.keys() - state.keys():
        if name.endswith("num_batches_tracked"):  # older published files lack these; nothing computed depends on them
            state[name] = torch.zeros((), dtype=torch.long)
    _check(path, wanted, {name: value.shape for name, value in state.items()})
    converted = {name: value.to(device, dtype if value.is_floating_point() else value.dtype) for name, value in state.items()}
    network.load_state_dict(converted, assign=True)
    # A gallery remembers the embedder by its name: two trainings must not share one.
    network.name = f"{card.get('name', path.name)}-{card['sha256'][:8]}" if card else f"facenet-{path.stem}-{_digest(state)}"
    network.people = tuple(card.get("people", ()))
    return network.eval().requires_grad_(False)


def save_facenet(network: FaceNet, folder: Path, card: Mapping[str, Any]) -> None:
    """Write weights (fp16) and card; the card's ``sha256`` and ``people`` are filled in."""
    state = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    data = save(state)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, data)
    full = {**card, "people": list(network.people), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(folder / CARD, (json.dumps(full, indent=1, ensure_ascii=False) + "\n").encode())


def read_card(folder: Path) -> dict[str, Any]:
    """What ``card.json`` says. Raises ``EmbedderError`` if it cannot be read."""
    try:
        card = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError) as error:
        raise EmbedderError(f"{folder / CARD}: cannot be read ({error}); get the folder again") from error
    if not isinstance(card, dict):
        raise EmbedderError(f"{folder / CARD}: not a card; get the folder again")
    return card


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a folder or a ``.pt`` file: tensors alone, never code. Raises ``EmbedderError``."""
    if path.is_dir():
        return _read_folder(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EmbedderError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a foreign file makes torch raise
        raise EmbedderError(f"{path}: not a state dict that can be opened safely ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EmbedderError(f"{path}: holds no state dict of tensors")
    return state


def _read_folder(folder: Path) -> dict[str, Tensor]:
    wanted = read_card(folder).get("sha256")
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise EmbedderError(f"{folder / WEIGHTS}: cannot be read: {error.strerror}; get the folder again") from error
    if hashlib.sha256(data).hexdigest() != wanted:
        raise EmbedderError(f"{folder / WEIGHTS}: not the weights that {CARD} names by their SHA-256; get the folder again")
    try:
        return load(data)
    except SafetensorError as error:
        raise EmbedderError(f"{folder / WEIGHTS}: damaged ({error}); get the folder again") from error


def _check(path: Path, wanted: Mapping[str, torch.Size], given: Mapping[str, torch.Size]) -> None:
    missing, foreign = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or foreign:
        name, what = (missing[0], "lacks") if missing else (foreign[0], "has a foreign")
        raise EmbedderError(f"{path}: not an Inception-ResNet-v1: it {what} {name} (and {len(missing) + len(foreign) - 1} more)")
    for name, shape in given.items():
        if shape != wanted[name]:
            raise EmbedderError(f"{path}: {name} has shape {tuple(shape)}, not {tuple(wanted[name])}")


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
