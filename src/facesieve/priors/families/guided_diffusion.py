"""Checkpoints of OpenAI's guided-diffusion, as ``256x256_diffusion_uncond.pt`` is, into a ``UNet2DModel``.

Dhariwal and Nichol 2021; https://github.com/openai/guided-diffusion, guided_diffusion/unet.py. Its
details: the embedding of the step scales and shifts, residual blocks halve and double the side (a
mean over 2 x 2 pixels, and repeated pixels), cosines before sines, heads of 64 channels, and
attention's query, key and value in one layer, head after head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from facesieve.errors import PriorError
from facesieve.priors.families import FAMILIES, Family, renaming
from facesieve.priors.families.renaming import Modules, attention, input_width, require_colour, width

HEAD_WIDTH = 64  # of every network published with that code
COARSEST_SIDE = 8  # likewise: 64, 128, 256 and 512 pixels are brought down to 8

_UPSAMPLER = re.compile(r"output_blocks\.(\d+)\.[12]\.in_layers\.2\.weight")
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of that code's ``UNetModel``; its classifier has no way up."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.2.weight"} <= set(state)


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config of the ``UNet2DModel`` and its state dict.

    The checkpoint says neither for which side of images it was made nor how many heads attend;
    both are taken as in every published network of that code: 8 x 8 at the coarsest level, 64
    channels a head, each head's query, key and value together (``use_new_attention_order`` off).
    Besides the unconditional 256 x 256 network those of the same kind fit, such as ones trained on
    faces. Raises ``PriorError`` for what is none: with class labels, with convolutions between
    levels, without scale and shift, or of a base width that the finest level does not keep.
    """
    levels, layers = _levels(state)
    first = [1 + level * (layers + 1) for level in range(levels)]  # a level's first input block
    widths = [width(state, f"input_blocks.{index}.0.in_layers.2.weight") for index in first]
    attended = [level for level, index in enumerate(first) if f"input_blocks.{index}.1.qkv.weight" in state]
    channels = input_width(state, "input_blocks.0.0.weight"), width(state, "out.2.weight")
    require_colour(channels[0])
    if any(key.startswith("label_emb.") for key in state):
        raise PriorError("the network wants class labels; a prior is unconditional")
    if not width(state, "input_blocks.0.0.weight") == widths[0] == input_width(state, "time_embed.0.weight"):
        raise PriorError("the network does not keep its base width at the finest level, which UNet2DModel cannot express")
    if width(state, "input_blocks.1.0.emb_layers.1.weight") != 2 * widths[0]:
        raise PriorError("the network's time embedding does not scale and shift; such networks differ in their heads, too")
    config = renaming.network_config(
        COARSEST_SIDE * 2 ** (levels - 1),
        channels,
        widths,
        layers,
        ["AttnDownBlock2D" if level in attended else "ResnetDownsampleBlock2D" for level in range(levels)],
        ["AttnUpBlock2D" if level in attended else "ResnetUpsampleBlock2D" for level in reversed(range(levels))],
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=HEAD_WIDTH,
        attn_norm_num_groups=32,
    )
    return config, renaming.rename(_apart(state), _modules(levels, layers, attended))


def _levels(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """The number of levels and of residual blocks a level: every level but one ends in an upsampling block."""
    blocks = {int(key.split(".")[1]) for key in state if re.match(r"output_blocks\.\d+\.", key)}
    levels = 1 + sum(bool(_UPSAMPLER.fullmatch(key)) for key in state)
    if levels == 1 or len(blocks) % levels or len(blocks) == levels:
        raise PriorError(
            "the network's levels are not joined by residual blocks (resblock_updown); other kinds are not supported"
        )
    return levels, len(blocks) // levels - 1


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with query, key and value in keys of their own: ``x.qkv.weight`` to ``x.q.weight`` and so on."""
    apart = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        if not module.endswith(".qkv"):
            apart[key] = value
            continue
        count, rest = divmod(width(state, key), 3 * HEAD_WIDTH)
        if rest or not count:
            raise PriorError(f"the checkpoint's {key} has {len(value)} rows, which heads of {HEAD_WIDTH} channels do not divide")
        heads = value.reshape(count, 3, HEAD_WIDTH, *value.shape[1:])  # query, key and value of each head
        for index, part in enumerate("qkv"):
            apart[f"{module[:-3]}{part}.{leaf}"] = heads[:, index].flatten(0, 1)  # (C, ...)
    return apart


def _modules(levels: int, layers: int, attended: Sequence[int]) -> Modules:
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield from attention("middle_block.1", "mid_block.attentions.0")
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"
    for level in range(levels):
        attends = level in attended
        down, first = f"down_blocks.{level}", 1 + level * (layers + 1)
        yield from _level("input_blocks", first, down, layers, attends)
        yield from _resnet(f"input_blocks.{first + layers}.0", f"{down}.downsamplers.0")
        above = levels - 1 - level
        up, last = f"up_blocks.{above}", above * (layers + 1) + layers
        yield from _level("output_blocks", last - layers, up, layers + 1, attends)
        yield from _resnet(f"output_blocks.{last}.{2 if attends else 1}", f"{up}.upsamplers.0")


def _level(theirs: str, first: int, ours: str, blocks: int, attends: bool) -> Modules:
    for block in range(blocks):
        yield from _resnet(f"{theirs}.{first + block}.0", f"{ours}.resnets.{block}")
        if attends:
            yield from attention(f"{theirs}.{first + block}.1", f"{ours}.attentions.{block}")


def _resnet(theirs: str, ours: str) -> Modules:
    for their_part, our_part in _RESNET.items():
        yield f"{theirs}.{their_part}", f"{ours}.{our_part}"


ASSUMED = (
    f"attention in heads of {HEAD_WIDTH} channels, each head's query, key and value together (use_new_attention_order off)",
    f"{COARSEST_SIDE} x {COARSEST_SIDE} pixels at the coarsest level",
    "1,000 steps with linear betas from 0.0001 to 0.02",
    "it predicts the noise",
)
FAMILIES.register("guided-diffusion", Family("guided-diffusion", recognises, convert, assumed=ASSUMED))
