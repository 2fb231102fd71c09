"""FaceNet's weights on disk: a folder with a card, or a state dict that facenet-pytorch publishes.

folder/
    facenet.safetensors    weights, fp16
    card.json              what it is, its people, and the SHA-256 of the weights
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facesieve import weights
from facesieve.errors import EmbedderError
from facesieve.files import sha256_of
from facesieve.recognition.facenet import FaceNet

WEIGHTS = "facenet.safetensors"


def load_facenet(path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> FaceNet:
    """FaceNet from a folder that ``save_facenet`` wrote, or from a published ``.pt`` state dict, frozen.

    It has a classifier where the weights have one. Raises ``EmbedderError`` for a file that
    is missing, damaged, not the one the card names, or of another network.
    """
    path = Path(path)
    state, card = read_state(path), read_card(path) if path.is_dir() else {}
    head = state.get("logits.weight")
    network = weights.empty(lambda: FaceNet(None if head is None else len(head)))
    weights.fill(network, state, path, EmbedderError, what="an Inception-ResNet-v1", device=device, dtype=dtype)
    # A gallery remembers the embedder by its name: two trainings must not share one.
    if card:
        network.name = f"{card.get('name', path.name)}-{card['sha256'][:8]}"
    else:
        network.name = f"facenet-{path.stem}-{sha256_of(weights.state_bytes({**network.state_dict(), **state}))[:8]}"
    network.people = tuple(card.get("people", ()))
    return network.eval().requires_grad_(False)


def save_facenet(network: FaceNet, folder: Path, card: Mapping[str, Any]) -> None:
    """Write weights (fp16) and card; of the card ``people``, ``file``, ``sha256`` and ``parameters`` are filled in."""
    weights.save_weights(network, folder / WEIGHTS, {**card, "people": list(network.people)}, card_file=folder / weights.CARD)


def read_card(folder: Path) -> dict[str, Any]:
    """What ``card.json`` says. Raises ``EmbedderError`` if it cannot be read."""
    return weights.read_json(folder / weights.CARD, EmbedderError, "card")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a folder or a ``.pt`` file: tensors alone, never code. Raises ``EmbedderError``."""
    if not path.is_dir():
        return weights.read_state(path, EmbedderError)
    weights.checked_hash(path / WEIGHTS, read_card(path), EmbedderError)
    return weights.read_state(path / WEIGHTS, EmbedderError)
