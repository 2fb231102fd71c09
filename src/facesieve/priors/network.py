"""Networks as priors: any ``UNet2DModel`` with its schedule, converted once to one convention.

A discrete-time diffusion network sees ``x_t = sqrt(abar_t) u`` and a step number ``t``; it is
a denoiser of ``u = x0 + sigma z`` at any sigma in the range of its schedule.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.errors import PriorError
from facesieve.priors.schedule import Schedule

Prediction = Literal["epsilon", "v_prediction", "sample"]


class NetworkPrior(nn.Module):
    """A ``UNet2DModel`` and its schedule as ``prior(u, sigma) -> x0``, images in [-1, 1].

    ``network`` takes ``(x, t)`` and returns an object with ``.sample`` (or a tensor). With
    ``3 p**2`` input channels it works on images whose p x p pixels are folded into channels. With
    twice as many output channels as input channels the second half, a learned variance, is unused.
    ``sha256`` is that of the weights' file, None for weights that are not from a file.
    The network runs in the type of its own weights; everything around it in the type of ``u``.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        shape: tuple[int, int, int],
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        if prediction not in get_args(Prediction):
            raise PriorError(f"prediction type {prediction!r} is not one of {', '.join(get_args(Prediction))}")
        config: Any = network.config
        self.patch = round((config.in_channels / 3) ** 0.5)
        if 3 * self.patch**2 != config.in_channels or config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise PriorError(f"{config.in_channels} input and {config.out_channels} output channels are not a colour image's")
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.shape = shape
        self.sha256 = sha256

    def forward(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """``u`` (B, 3, H, W); ``sigma`` a number or (B,), > 0. Returns x0, (B, 3, H, W)."""
        if isinstance(sigma, Tensor):
            level = sigma.double().expand(len(u))
            time = self.schedule.time(level).to(u.device)
            level = level.to(device=u.device, dtype=u.dtype)[:, None, None, None]
        else:  # a constant, in an exported graph as well
            level = torch.tensor(sigma, dtype=u.dtype, device=u.device)
            time = torch.full((u.shape[0],), float(self.schedule.time_at(sigma)), device=u.device)
        scale = (1 + level**2).rsqrt()  # sqrt(abar)
        output = self.output(u * scale, time)
        if self.prediction == "epsilon":
            return u - level * output  # (x - sqrt(1 - abar) eps) / sqrt(abar)
        if self.prediction == "v_prediction":
            return scale**2 * u - level * scale * output  # sqrt(abar) x - sqrt(1 - abar) v
        return output

    def output(self, x: Tensor, time: Tensor) -> Tensor:
        """The network's raw output at ``x`` (B, 3, H, W) and step ``time`` (B,), same shape as ``x``."""
        weights = next(self.network.parameters())
        folded = functional.pixel_unshuffle(x, self.patch).to(weights.dtype, memory_format=torch.channels_last)
        result = self.network(folded, time)  # never in the weights' type: 989 in bfloat16 is 988
        sample: Tensor = getattr(result, "sample", result)
        return functional.pixel_shuffle(sample[:, : folded.shape[1]].to(x.dtype), self.patch)
