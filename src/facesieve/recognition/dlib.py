"""dlib's face recognition network in PyTorch, with the weights that ship with the package.

King, "High Quality Face Recognition with Deep Metric Learning" (2017): a residual network of 29 convolutions
that takes a face of 150 x 150 pixels to 128 numbers. Its affine layers are folded into the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.errors import EmbedderError
from facesieve.recognition.crops import check_crops, window
from facesieve.recognition.embedder import TorchEmbedder
from facesieve.weights import load_network, shipped

SIDE = 150  # of what the network sees
MEAN = (122.782, 117.001, 104.298)  # that it subtracts, RGB in 0..255

# The square of an aligned crop that dlib's network wants, in fractions of the crop's side from its outer edge:
# it lies lower, and reaches 0.12 below the crop. With the aligned crop as it is, a quarter of the faces get a wrong name.
LEFT, TOP, EXTENT = 0.05, 0.20, 0.92

# channels, blocks, whether the first of them halves the resolution
_STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))


class _Block(nn.Module):
    """``relu(shortcut(x) + conv2(relu(conv1(x))))``; summands of two sizes are filled with zeros at the end of each axis."""

    def __init__(self, inputs: int, outputs: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=0 if down else 1)  # dlib's padding
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(functional.relu(self.conv1(x)))
        shortcut = functional.avg_pool2d(x, 2) if self.down else x
        size = [max(a, b) for a, b in zip(branch.shape[1:], shortcut.shape[1:], strict=True)]
        return functional.relu(_filled(branch, size) + _filled(shortcut, size))


def _filled(x: Tensor, size: list[int]) -> Tensor:
    channels, height, width = (wanted - there for wanted, there in zip(size, x.shape[1:], strict=True))
    return functional.pad(x, (0, width, 0, height, 0, channels)) if channels or height or width else x


class Dlib(TorchEmbedder, nn.Module):
    """An ``Embedder`` of 128 dimensions; called as a function it is its own ``embed``.

    The network runs in the type of its own weights; everything around it in the type of the crops.
    It has its weights from ``load_dlib``.
    """

    name = "dlib-face-resnet-v1"
    dimensions = 128

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2)
        blocks, inputs = [], 32
        for outputs, count, halves in _STAGES:
            for number in range(count):
                blocks.append(_Block(inputs, outputs, halves and number == 0))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(256, self.dimensions, bias=False)

    def forward(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1]; returns unit rows (B, 128). Raises ``ValueError`` for another shape."""
        return functional.normalize(self.descriptors(chips(crops)))

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to the template; returns unit rows (B, 128)."""
        rows: Tensor = self(crops)
        return rows

    def descriptors(self, chips: Tensor) -> Tensor:
        """dlib's own 128 numbers (B, 128), not normalised, of ``chips`` (B, 3, 150, 150), RGB in [0, 1], framed as dlib does."""
        x = ((255 * chips - chips.new_tensor(MEAN)[:, None, None]) / 256).to(self.fc.weight.dtype)
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 3, stride=2)
        rows: Tensor = self.fc(self.blocks(x).mean((2, 3))).to(chips.dtype)
        return rows


def chips(crops: Tensor) -> Tensor:
    """What the network sees of aligned crops (B, 3, S, S): (B, 3, 150, 150). Raises ``ValueError`` for another shape."""
    check_crops(crops)
    return window(crops, LEFT, TOP, EXTENT, EXTENT, side=SIDE)


def load_dlib(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Dlib:
    """dlib's network with the weights that ship with the package, frozen and ready to embed."""
    return load_network(lambda _: Dlib(), shipped(Dlib.name), EmbedderError, device=device, dtype=dtype)[0]
