"""What the converters of foreign checkpoints share: modules renamed one by one, and the config common to all.

A converter is two things: the config of a ``UNet2DModel``, inferred from the shapes in a state
dict, and pairs of module names (theirs, ours). A key that no pair covers keeps its own name, so
that loading names it as unknown; a pair without a key leaves a key of the network missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from facesieve.errors import PriorError

Modules = Iterator[tuple[str, str]]  # (their name, our name) of each module that has a weight and a bias


def width(state: Mapping[str, Tensor], key: str) -> int:
    """The output channels of a convolution or linear layer. Raises ``PriorError`` if the key is missing."""
    if key not in state or state[key].ndim < 1:
        raise PriorError(f"the checkpoint lacks {key}; it is incomplete, or of another architecture")
    return state[key].shape[0]


def input_width(state: Mapping[str, Tensor], key: str) -> int:
    """The input channels of a convolution or linear layer. Raises ``PriorError`` if the key is missing."""
    if width(state, key) and state[key].ndim < 2:
        raise PriorError(f"the checkpoint's {key} has the shape {tuple(state[key].shape)}; it is damaged")
    return state[key].shape[1]


def require_colour(channels: int) -> None:
    """Raises ``PriorError`` for a network of anything but colour images, as those on latents are."""
    if channels != 3:
        raise PriorError(f"the network takes {channels} input channels; only networks of colour images, with 3, can be a prior")


def attention(theirs: str, ours: str) -> Modules:
    """The modules of one attention block, whose query, key and value are apart."""
    for their_part, our_part in (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield f"{theirs}.{their_part}", f"{ours}.{our_part}"


def rename(state: Mapping[str, Tensor], modules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """The state dict under our names, float32; attention's 1 x 1 convolutions become matrices.

    Raises ``PriorError`` where two keys of the checkpoint would get one name.
    """
    names, renamed = dict(modules), dict[str, Tensor]()
    for key, value in state.items():
        module, dot, leaf = key.rpartition(".")
        name = names.get(module, module) + dot + leaf
        if name in renamed:
            raise PriorError(f"the checkpoint's {key} is there twice, under two names; it is damaged")
        matrix = "attentions." in name and leaf == "weight" and value.ndim > 2  # (C, C, 1, 1) or (C, C, 1)
        renamed[name] = (value.flatten(1) if matrix else value).float()
    return renamed


def network_config(
    side: int,
    channels: tuple[int, int],
    widths: Sequence[int],
    layers: int,
    down: Sequence[str],
    up: Sequence[str],
    **details: object,
) -> dict[str, Any]:
    """The config of a ``UNet2DModel``; ``channels`` in and out, ``widths``, ``down`` and ``up`` from level to level."""
    return {
        "sample_size": side,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "down_block_types": list(down),
        "up_block_types": list(up),
        "norm_num_groups": 32,
        "act_fn": "silu",
        **details,
    }
