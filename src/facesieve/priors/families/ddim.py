"""Checkpoints of the code of DDPM and DDIM in PyTorch, as ``celeba_hq.ckpt`` is, into a ``UNet2DModel``.

Ho et al. 2020, DDPM; Song et al. 2021, DDIM; https://github.com/ermongroup/ddim, models/diffusion.py.
Its details: GroupNorm with epsilon 1e-6, sines before cosines in the embedding of the step and the
last frequency at 1/10000, zeros to the right and below only when it halves an image, attention
with one head, levels counted from the finest one on the way up, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from facesieve.errors import PriorError
from facesieve.priors.families import FAMILIES, Family, renaming
from facesieve.priors.families.renaming import Modules, attention, input_width, require_colour, width

ATTENDED_SIDE = 16  # where every published network of this code attends

_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of that code's ``Model``."""
    return {"temb.dense.0.weight", "conv_in.weight", "down.0.block.0.conv1.weight"} <= set(state)


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config of the ``UNet2DModel`` and its state dict.

    The checkpoint does not say for which side of images it was made. The published ones attend at
    one level, that of 16 x 16, and the side follows from that: 256 where it is the fifth. Raises
    ``PriorError`` for a network that attends nowhere or at several levels, that does not keep its
    base width at the finest level, or is not of colour images.
    """
    levels = _count(state, "down.{}.block.0.conv1.weight")
    layers = _count(state, "down.0.block.{}.conv1.weight")
    widths = [width(state, f"down.{level}.block.0.conv1.weight") for level in range(levels)]
    attended = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in state]
    channels = input_width(state, "conv_in.weight"), width(state, "conv_out.weight")
    require_colour(channels[0])
    if widths[0] != width(state, "conv_in.weight"):
        raise PriorError("the network widens at its finest level, which UNet2DModel cannot express")
    if len(attended) != 1:
        raise PriorError(f"the network attends at {len(attended)} levels, not at one: the side of its images cannot be told")
    config = renaming.network_config(
        ATTENDED_SIDE * 2 ** attended[0],
        channels,
        widths,
        layers,
        ["AttnDownBlock2D" if level in attended else "DownBlock2D" for level in range(levels)],
        ["AttnUpBlock2D" if level in attended else "UpBlock2D" for level in reversed(range(levels))],
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        attention_head_dim=None,  # as wide as the level: one head
    )
    return config, renaming.rename(state, _modules(levels, layers, attended))


def _count(state: Mapping[str, Tensor], key: str) -> int:
    return next(number for number in range(len(state) + 1) if key.format(number) not in state)


def _modules(levels: int, layers: int, attended: Sequence[int]) -> Modules:
    yield "temb.dense.0", "time_embedding.linear_1"
    yield "temb.dense.1", "time_embedding.linear_2"
    yield "conv_in", "conv_in"
    yield from _resnet("mid.block_1", "mid_block.resnets.0")
    yield from attention("mid.attn_1", "mid_block.attentions.0")
    yield from _resnet("mid.block_2", "mid_block.resnets.1")
    yield "norm_out", "conv_norm_out"
    yield "conv_out", "conv_out"
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        yield from _level(f"down.{level}", down, layers, level in attended)
        yield from _level(f"up.{level}", up, layers + 1, level in attended)
        yield f"down.{level}.downsample.conv", f"{down}.downsamplers.0.conv"
        yield f"up.{level}.upsample.conv", f"{up}.upsamplers.0.conv"


def _level(theirs: str, ours: str, blocks: int, attended: bool) -> Modules:
    for block in range(blocks):
        yield from _resnet(f"{theirs}.block.{block}", f"{ours}.resnets.{block}")
        if attended:
            yield from attention(f"{theirs}.attn.{block}", f"{ours}.attentions.{block}")


def _resnet(theirs: str, ours: str) -> Modules:
    for their_part, our_part in _RESNET.items():
        yield f"{theirs}.{their_part}", f"{ours}.{our_part}"


ASSUMED = (
    f"attention at {ATTENDED_SIDE} x {ATTENDED_SIDE} pixels, with one head",
    "1,000 steps with linear betas from 0.0001 to 0.02",
    "it predicts the noise",
)
FAMILIES.register("ddim", Family("the code of DDPM and DDIM", recognises, convert, assumed=ASSUMED))
