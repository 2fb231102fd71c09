"""Weights of trained defences on disk: one safetensors file, and a card beside it that names its SHA-256.

ddsa.safetensors    weights, fp16
ddsa.card.json      what they are, where they come from, their limits
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from facesieve.errors import InputError
from facesieve.files import write_atomic

Network = TypeVar("Network", bound=nn.Module)


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


def load_network(build: Callable[[Mapping[str, Tensor]], Network], weights: Path) -> tuple[Network, str]:
    """The network that ``build`` makes for these weights, in float32, frozen, in evaluation mode; and their SHA-256.

    Raises ``InputError`` for weights that are missing, damaged, not those that the card names, or of
    another network.
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
    return _filled(build, state, weights), digest


def _filled(build: Callable[[Mapping[str, Tensor]], Network], state: Mapping[str, Tensor], weights: Path) -> Network:
    shapes = {name: value.shape for name, value in state.items()}
    try:
        with torch.device("meta"):  # no time, and none of the global random numbers, for weights that are replaced
            network = build(state)
        fits = {name: value.shape for name, value in network.state_dict().items()} == shapes
    except (KeyError, IndexError):  # what the size would be read from is not there
        fits = False
    if not fits:
        raise InputError(f"{weights}: holds the weights of another network")
    with torch.inference_mode(False):  # weights made in inference mode could never carry an attack's gradient
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def on(network: Network, device: torch.device) -> Network:
    """The network on that device; it stays there."""
    with torch.inference_mode(False):
        return network.to(device)


def save_weights(network: nn.Module, weights: Path, card: Mapping[str, Any]) -> None:
    """Write weights (fp16) and card; the card's ``file``, ``sha256`` and ``parameters`` are filled in."""
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in network.state_dict().items()}
    data = save(state)
    filled = {"file": weights.name, "sha256": hashlib.sha256(data).hexdigest()}
    full = {**card, **filled, "parameters": sum(value.numel() for value in state.values())}
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(weights, data)
    write_atomic(card_path(weights), (json.dumps(full, indent=2, ensure_ascii=False) + "\n").encode())
