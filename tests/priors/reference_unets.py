"""The two networks that checkpoints are imported from, written down from their publications, for the tests alone.

``DdimModel`` is the network of the code of DDPM and DDIM in PyTorch (Ho et al. 2020; Song et al.
2021), ``GuidedModel`` that of guided-diffusion (Dhariwal and Nichol 2021). Module for module they
have the names of the originals, so that their state dicts are those of the published checkpoints.
Nothing here comes from diffusers.
"""

import math

import torch
from torch import nn
from torch.nn import functional


def randomised(network, seed=0):
    """Every parameter drawn anew: what starts at zero or one would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.3 * noise + name.endswith("weight"))  # a norm's weight is near 1
    return network.eval().requires_grad_(False)


# --- the code of DDPM and DDIM -----------------------------------------------------------------


def sines_then_cosines(time, width):
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float32))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def ddim_norm(width):
    return nn.GroupNorm(32, width, eps=1e-6)


class DdimResnet(nn.Module):
    def __init__(self, before, after, time_width):
        super().__init__()
        self.norm1, self.conv1 = ddim_norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.temb_proj = nn.Linear(time_width, after)
        self.norm2, self.conv2 = ddim_norm(after), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x, time):
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.temb_proj(functional.silu(time))[:, :, None, None]
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class DdimAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = ddim_norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # (B, C, HW)
        weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)  # (B, query, key)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view(x.shape))


class DdimLevel(nn.Module):
    """The blocks of one level, down or up; attention is an empty list where there is none."""

    def __init__(self, befores, after, time_width, attends):
        super().__init__()
        self.block = nn.ModuleList(DdimResnet(before, after, time_width) for before in befores)
        self.attn = nn.ModuleList(DdimAttention(after) for _ in befores if attends)

    def step(self, number, x, time):
        x = self.block[number](x, time)
        return self.attn[number](x) if self.attn else x


class DdimModel(nn.Module):
    """``ch`` channels times ``ch_mult``, level by level; attention at the levels ``attended``."""

    def __init__(self, ch, ch_mult, num_res_blocks, attended, in_channels=3, out_channels=3):
        super().__init__()
        self.ch, self.blocks = ch, num_res_blocks
        widths, time_width, levels = [ch * mult for mult in ch_mult], 4 * ch, len(ch_mult)
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, time_width), nn.Linear(time_width, time_width)])
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(zip([ch, *widths], widths, strict=False)):
            self.down.append(DdimLevel([before] + [after] * (num_res_blocks - 1), after, time_width, level in attended))
            if level < levels - 1:
                self.down[level].downsample = nn.Module()
                self.down[level].downsample.conv = nn.Conv2d(after, after, 3, stride=2)
        self.mid = nn.Module()
        self.mid.block_1 = DdimResnet(widths[-1], widths[-1], time_width)
        self.mid.attn_1 = DdimAttention(widths[-1])
        self.mid.block_2 = DdimResnet(widths[-1], widths[-1], time_width)
        for level in range(levels):
            own, below, above = widths[level], widths[min(level + 1, levels - 1)], ([ch, *widths])[level]
            befores = [below + own] + [own + own] * (num_res_blocks - 1) + [own + above]
            self.up.append(DdimLevel(befores, own, time_width, level in attended))
            if level > 0:
                self.up[level].upsample = nn.Module()
                self.up[level].upsample.conv = nn.Conv2d(own, own, 3, padding=1)
        self.norm_out = ddim_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x, t):
        time = sines_then_cosines(t, self.ch).to(x.dtype)
        time = self.temb.dense[1](functional.silu(self.temb.dense[0](time)))
        h = self.conv_in(x)
        skips = [h]
        for down in self.down:
            for number in range(self.blocks):
                h = down.step(number, h, time)
                skips.append(h)
            if hasattr(down, "downsample"):
                h = down.downsample.conv(functional.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, time)), time)
        for up in reversed(self.up):
            for number in range(self.blocks + 1):
                h = up.step(number, torch.cat([h, skips.pop()], 1), time)
            if hasattr(up, "upsample"):
                h = up.upsample.conv(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(functional.silu(self.norm_out(h)))


# --- guided-diffusion --------------------------------------------------------------------------


def cosines_then_sines(time, width):
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def double_side(x):
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def halve_side(x):
    return functional.avg_pool2d(x, 2)


class GuidedResBlock(nn.Module):
    def __init__(self, before, after, time_width, resize=None):
        super().__init__()
        self.resize = resize or (lambda x: x)
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * after))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, after), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(after, after, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x, time):
        h = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, 1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return h + self.skip_connection(self.resize(x))


class GuidedAttention(nn.Module):
    """Heads first: the rows of ``qkv`` are query, key and value of head 0, then those of head 1."""

    def __init__(self, width, head_width):
        super().__init__()
        self.head_width = head_width
        self.norm = nn.GroupNorm(32, width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x, _):
        batch, channels, *_ = x.shape
        flat = x.flatten(2)  # (B, C, HW)
        heads = self.qkv(self.norm(flat)).view(batch * (channels // self.head_width), 3 * self.head_width, -1)
        q, k, v = heads.split(self.head_width, 1)  # each (B heads, 64, HW)
        weights = (q.transpose(1, 2) @ k / math.sqrt(self.head_width)).softmax(-1)
        return (flat + self.proj_out((v @ weights.transpose(1, 2)).reshape(flat.shape))).view(x.shape)


class GuidedBlock(nn.Sequential):
    def forward(self, x, time):
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, time)
        return x


class GuidedModel(nn.Module):
    """``channels`` times ``mults``, level by level; attention at the levels ``attended`` and in the middle."""

    def __init__(self, channels, mults, num_res_blocks, attended, in_channels=3, out_channels=6, head_width=64):
        super().__init__()
        self.channels, time_width, levels = channels, 4 * channels, len(mults)
        self.time_embed = nn.Sequential(nn.Linear(channels, time_width), nn.SiLU(), nn.Linear(time_width, time_width))

        def block(before, after, level, *more):
            attention = [GuidedAttention(after, head_width)] if level in attended else []
            return GuidedBlock(GuidedResBlock(before, after, time_width), *attention, *more)

        self.input_blocks = nn.ModuleList([GuidedBlock(nn.Conv2d(in_channels, channels, 3, padding=1))])
        skips, width = [channels], channels
        for level, mult in enumerate(mults):
            for _ in range(num_res_blocks):
                self.input_blocks.append(block(width, channels * mult, level))
                width = channels * mult
                skips.append(width)
            if level < levels - 1:
                self.input_blocks.append(GuidedBlock(GuidedResBlock(width, width, time_width, halve_side)))
                skips.append(width)
        self.middle_block = GuidedBlock(
            GuidedResBlock(width, width, time_width), GuidedAttention(width, head_width), GuidedResBlock(width, width, time_width)
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(levels)):
            own = channels * mults[level]
            for number in range(num_res_blocks + 1):
                ends = level > 0 and number == num_res_blocks
                more = [GuidedResBlock(own, own, time_width, double_side)] if ends else []
                self.output_blocks.append(block(width + skips.pop(), own, level, *more))
                width = own
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(self, x, t):
        time = self.time_embed(cosines_then_sines(t, self.channels).to(x.dtype))
        skips = []
        for block in self.input_blocks:
            x = block(x, time)
            skips.append(x)
        x = self.middle_block(x, time)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), time)
        return self.out(x)
