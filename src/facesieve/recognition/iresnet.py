"""IResNet: ArcFace's residual networks of 18, 34, 50, 100 and other numbers of layers (Duta et al., ICPR 2020)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from facesieve.recognition.arcface import FINAL, ArcFace
from facesieve.recognition.graph_weights import Unit, kinds_of, put
from facesieve.recognition.layers import fold, freeze_slopes

STAGES = 4

# The steps of a graph, as ``graph_weights`` writes them: a block, whose shortcut S may stand anywhere in it, and the whole.
_BLOCK = r"S?BS?CPCS?"
_GRAPH = re.compile(rf"(?P<stem>CP)(?P<blocks>(?:{_BLOCK})+)BG")


class _Block(nn.Module):
    """``shortcut(x) + bn3(conv2(prelu(bn2(conv1(bn1(x))))))``."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return branch + (x if self.downsample is None else self.downsample(x))


class IResNet(ArcFace):
    """Blocks in four stages, each of which halves the resolution; then a matrix over the whole last feature map."""

    family = "an IResNet"

    def __init__(self, blocks: Sequence[int], widths: Sequence[int] = (64, 64, 128, 256, 512), dimensions: int = 512) -> None:
        """``blocks`` of each of the four stages; ``widths`` before the stages and in each of them."""
        super().__init__(dimensions)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        for stage, (count, inputs, width) in enumerate(zip(blocks, widths[:-1], widths[1:], strict=True), 1):
            rest = (_Block(width, width, 1) for _ in range(count - 1))
            self.add_module(f"layer{stage}", nn.Sequential(_Block(inputs, width, 2), *rest))
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1] * FINAL * FINAL, dimensions)
        self.features = nn.BatchNorm1d(dimensions)

    def trunk(self, x: Tensor) -> Tensor:
        """Standardised pixels (B, 3, 112, 112) to (B, D)."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in self._stages():
            x = stage(x)
        rows: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return rows

    def fold(self) -> None:
        """As of ``ArcFace``; what stands before a padded convolution cannot be folded into it."""
        fold(self, "conv1", "bn1")
        fold(self, "fc", "features")
        for block in (block for stage in self._stages() for block in stage.children()):
            assert isinstance(block, _Block)
            fold(block, "conv1", "bn2")
            fold(block, "conv2", "bn3")
            if block.downsample is not None:
                fold(block.downsample, "0", "1")
        freeze_slopes(self)

    def _stages(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{stage}") for stage in range(1, STAGES + 1)]

    @classmethod
    def sized_for(cls, state: Mapping[str, Tensor]) -> Self:
        """As of ``ArcFace``."""
        firsts = [state[f"layer{stage}.0.conv1.weight"] for stage in range(1, STAGES + 1)]
        blocks = [
            sum(name.startswith(f"layer{stage}.") and name.endswith(".conv1.weight") for name in state)
            for stage in range(1, STAGES + 1)
        ]
        widths = [len(state["conv1.weight"]), *(len(first) for first in firsts)]
        return cls(blocks, widths, len(state["fc.weight"]))

    @classmethod
    def state_of(cls, units: Sequence[Unit]) -> dict[str, Tensor] | None:
        """As of ``ArcFace``: a stage begins at each block with a shortcut of its own."""
        found = _GRAPH.fullmatch(kinds_of(units))
        if found is None:
            return None
        state: dict[str, Tensor] = {}
        put(state, units[:2], ["conv1 bn1", "prelu"])
        put(state, units[-2:], ["bn2", "fc features"])
        stage, number = 0, 0
        for block in re.finditer(_BLOCK, found["blocks"]):
            steps = units[found.start("blocks") + block.start() : found.start("blocks") + block.end()]
            stage, number = (stage + 1, 0) if "S" in block[0] else (stage, number + 1)
            names = {"S": "downsample.0 downsample.1", "B": "bn1", "P": "prelu"}
            convolutions = iter(["conv1 bn2", "conv2 bn3"])
            put(state, steps, [names.get(unit.kind) or next(convolutions) for unit in steps], f"layer{stage}.{number}.")
        return state
