"""Weights of trained defences on disk: one safetensors file, and a card beside it that names its SHA-256.

ddsa.safetensors    weights, fp16
ddsa.card.json      what they are, where they come from, their limits
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
from torch import nn

from facesieve.errors import InputError
from facesieve.images import write_whole


def shipped(name: str) -> Path:
    """Where the weights of that name lie that come with the package."""
    return Path(__file__).parent.parent / "weights" / f"{name}.safetensors"


def card_path(weights: Path) -> Path:
    """``ddsa.card.json`` for ``ddsa.safetensors``."""
    return weights.with_suffix(".card.json")


def read_card(weights: Path) -> dict[str, Any]:
    """The card beside the weights. Raises ``InputError`` if it cannot be read."""
    path = card_path(weights)
    try:
        card = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); get weights and card again") from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: not a card; get weights and card again")
    return card


def load_weights(network: nn.Module, weights: Path) -> str:
    """Give ``network`` these weights in float32, frozen, in evaluation mode; returns their SHA-256.

    The network may be on the meta device. Raises ``InputError`` for weights that are missing, damaged,
    not those that the card names, or of another network.
    """
    wanted = read_card(weights).get("sha256")
    try:
        data = weights.read_bytes()
    except OSError as error:
        raise InputError(f"{weights}: cannot be read: {error.strerror}; get weights and card again") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != wanted:
        raise InputError(f"{weights}: not the weights that its card names by their SHA-256; get weights and card again")
    try:
        state = load(data)
    except SafetensorError as error:
        raise InputError(f"{weights}: damaged ({error}); get weights and card again") from error
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != shapes:
        raise InputError(f"{weights}: holds the weights of another network, or of another size of it")
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    network.eval().requires_grad_(False)
    return digest


def save_weights(network: nn.Module, weights: Path, card: Mapping[str, Any]) -> None:
    """Write weights (fp16) and card; the card's ``file``, ``sha256`` and ``parameters`` are filled in."""
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in network.state_dict().items()}
    data = save(state)
    filled = {"file": weights.name, "sha256": hashlib.sha256(data).hexdigest()}
    full = {**card, **filled, "parameters": sum(value.numel() for value in state.values())}
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights, data)
    write_whole(card_path(weights), (json.dumps(full, indent=2, ensure_ascii=False) + "\n").encode())
