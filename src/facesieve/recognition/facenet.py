"""FaceNet: Inception-ResNet-v1 for 160 x 160 pixels, as a differentiable PyTorch module.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015;
Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", AAAI 2017. The modules carry the names of the state dicts that facenet-pytorch
publishes (``vggface2``, ``casia-webface``), so that those load key by key.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.recognition.crops import check_crops, resized
from facesieve.recognition.embedder import TorchEmbedder

SIDE = 160

Kernel = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _Branches(nn.Module):
    """Branches side by side: ``branch0``, ``branch1``, ..."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.count = len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(f"branch{number}")(x) for number in range(self.count)], 1)


class _Residual(_Branches):
    """Branches brought back to the width of the input, scaled and added to it."""

    def __init__(self, width: int, scale: float, branches: list[nn.Module], joined: int, *, rectify: bool = True) -> None:
        super().__init__(branches)
        self.scale, self.rectify = scale, rectify
        self.conv2d = nn.Conv2d(joined, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.conv2d(super().forward(x))
        return functional.relu(x) if self.rectify else x


def _block35() -> _Residual:
    branches: list[nn.Module] = [
        _Conv(256, 32, 1),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1)),
        nn.Sequential(_Conv(256, 32, 1), _Conv(32, 32, 3, padding=1), _Conv(32, 32, 3, padding=1)),
    ]
    return _Residual(256, 0.17, branches, 96)


def _block17() -> _Residual:
    long = nn.Sequential(_Conv(896, 128, 1), _Conv(128, 128, (1, 7), padding=(0, 3)), _Conv(128, 128, (7, 1), padding=(3, 0)))
    return _Residual(896, 0.10, [_Conv(896, 128, 1), long], 256)


def _block8(scale: float = 0.20, *, rectify: bool = True) -> _Residual:
    long = nn.Sequential(_Conv(1792, 192, 1), _Conv(192, 192, (1, 3), padding=(0, 1)), _Conv(192, 192, (3, 1), padding=(1, 0)))
    return _Residual(1792, scale, [_Conv(1792, 192, 1), long], 384, rectify=rectify)


def _mixed_6a() -> _Branches:
    deep = nn.Sequential(_Conv(256, 192, 1), _Conv(192, 192, 3, padding=1), _Conv(192, 256, 3, 2))
    return _Branches([_Conv(256, 384, 3, 2), deep, nn.MaxPool2d(3, 2)])


def _mixed_7a() -> _Branches:
    branches: list[nn.Module] = [
        nn.Sequential(_Conv(896, 256, 1), _Conv(256, 384, 3, 2)),
        nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, 2)),
        nn.Sequential(_Conv(896, 256, 1), _Conv(256, 256, 3, padding=1), _Conv(256, 256, 3, 2)),
        nn.MaxPool2d(3, 2),
    ]
    return _Branches(branches)


class FaceNet(TorchEmbedder, nn.Module):
    """An ``Embedder`` of 512 dimensions and, with ``classes``, a closed-set classifier of that many people.

    The network runs in the type of its own weights; everything around it in the type of the crops.
    ``load_facenet`` reads trained weights.
    """

    dimensions = 512

    def __init__(self, classes: int | None = None, *, name: str = "facenet", dropout: float = 0.6) -> None:
        super().__init__()
        self.name = name
        self.people: tuple[str, ...] = ()  # the names behind the classifier's columns, where they are known
        self.conv2d_1a = _Conv(3, 32, 3, 2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.conv2d_4b = _Conv(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _mixed_6a()
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _mixed_7a()
        self.repeat_3 = nn.Sequential(*(_block8() for _ in range(5)))
        self.block8 = _block8(1.0, rectify=False)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1792, self.dimensions, bias=False)
        self.last_bn = nn.BatchNorm1d(self.dimensions, eps=1e-3)
        self.logits = None if classes is None else nn.Linear(self.dimensions, classes)

    def features(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1]; returns what the classifier sees, (B, 512), not normalised.

        Raises ``ValueError`` for another shape.
        """
        check_crops(crops)
        return self.trunk(resized(crops, SIDE)).to(crops.dtype)

    def trunk(self, crops: Tensor) -> Tensor:
        """The network at the crops' own resolution, for training on smaller ones; 75 pixels are the least."""
        x = ((255 * crops - 127.5) / 128).to(self.last_linear.weight.dtype)  # the publishers' standardisation
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))  # (B, 64, 77, 77)
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))  # (B, 256, 17, 17)
        x = self.mixed_6a(self.repeat_1(x))  # (B, 896, 8, 8)
        x = self.mixed_7a(self.repeat_2(x))  # (B, 1792, 3, 3)
        x = self.block8(self.repeat_3(x)).mean((2, 3))  # (B, 1792)
        return self.last_bn(self.last_linear(self.dropout(x)))  # type: ignore[no-any-return]

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to the template; returns unit rows (B, 512)."""
        return functional.normalize(self.features(crops))

    def classify(self, crops: Tensor) -> Tensor:
        """The classifier's logits (B, classes) for such crops. Raises ``EmbedderError`` without a classifier."""
        if self.logits is None:
            return super().classify(crops)
        head: Tensor = self.logits(self.features(crops).to(self.logits.weight.dtype))
        return head.to(crops.dtype)

    def forward(self, crops: Tensor) -> Tensor:
        """The same as ``embed``."""
        return self.embed(crops)
