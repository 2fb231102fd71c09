"""SFace, the face recogniser of the OpenCV Zoo, as a differentiable PyTorch module.

Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", IEEE
Transactions on Image Processing 2021. The network is MobileNet V1 for 112 x 112 pixels; the
modules carry the names of the original ONNX graph.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.errors import EmbedderError
from facesieve.recognition.crops import check_crops, resized
from facesieve.recognition.embedder import TorchEmbedder
from facesieve.recognition.layers import fold, freeze_slopes
from facesieve.weights import load_network, shipped

SIDE = 112

# (output channels, stride) of conv_2 ... conv_14; a stride of 2 halves 112 to 56, 28, 14, 7.
_SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


class SFace(TorchEmbedder, nn.Module):
    """An ``Embedder`` of 128 dimensions; called as a function it is its own ``embed``.

    The network runs in the type of its own weights; everything around it in the type of the crops.
    It has its weights from ``load_sface``.
    """

    name = "sface-2021dec"
    dimensions = 128
    scalar_op1: Tensor  # 127.5, and
    scalar_op2: Tensor  # 1/128: the graph brings pixels of 0..255 to about [-1, 1] by itself

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scalar_op1", torch.empty(1))
        self.register_buffer("scalar_op2", torch.empty(1))
        self.features = nn.Sequential(_features())
        self.bn1 = nn.BatchNorm2d(1024, eps=2e-5)  # between this and the next, dropout in training
        self.pre_fc1 = nn.Linear(1024 * 7 * 7, self.dimensions)
        self.fc1 = nn.BatchNorm1d(self.dimensions, eps=2e-5)

    def forward(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1]; returns unit rows (B, 128). Raises ``ValueError`` for another shape."""
        check_crops(crops)
        crops = resized(crops, SIDE)
        x = (255 * crops).to(self.scalar_op1.dtype)  # (B, 3, 112, 112), RGB
        x = self.features((x - self.scalar_op1) * self.scalar_op2)  # (B, 1024, 7, 7)
        x = self.fc1(self.pre_fc1(self.bn1(x).flatten(1)))  # (B, 128)
        return functional.normalize(x.to(crops.dtype))

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to the template; returns unit rows (B, 128)."""
        rows: Tensor = self(crops)
        return rows


def _features() -> OrderedDict[str, nn.Module]:
    """A full convolution, then thirteen pairs of a depthwise 3 x 3 (``dw``) and a 1 x 1 one."""
    units = OrderedDict[str, nn.Module](conv_1=_unit(3, 32, kernel=3))
    channels = 32
    for number, (wider, stride) in enumerate(_SEPARABLE, start=2):
        units[f"conv_{number}_dw"] = _unit(channels, channels, kernel=3, stride=stride, groups=channels)
        units[f"conv_{number}"] = _unit(channels, wider, kernel=1)
        channels = wider
    return units


def _unit(channels: int, wider: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv2d=nn.Conv2d(channels, wider, kernel, stride, kernel // 2, groups=groups, bias=False),
            batchnorm=nn.BatchNorm2d(wider, eps=1e-3),
            relu=nn.PReLU(wider),
        )
    )


def load_sface(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> SFace:
    """SFace with the weights that ship with the package, frozen and ready to embed."""
    network, _ = load_network(lambda _: SFace(), shipped(SFace.name), EmbedderError, device=device, dtype=dtype)
    return _folded(network).requires_grad_(False)


def _folded(network: SFace) -> SFace:
    """A frozen network with its normalisations folded into its convolutions: the same function in half the time."""
    for unit in network.features.children():
        fold(unit, "conv2d", "batchnorm")
    freeze_slopes(network)
    return network
