"""MobileFaceNet, the small network of ArcFace's family, as InsightFace has it (Chen et al., CCBR 2018)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from facesieve.recognition.arcface import FINAL, ArcFace
from facesieve.recognition.graph_weights import Unit, kinds_of, put
from facesieve.recognition.layers import fold, freeze_slopes

# The steps of a graph: the stem, blocks of three convolutions, the last two convolutions, the matrix. The stem is one
# convolution, followed by one in groups in the smaller networks.
_BLOCK = "SPDPS"
_GRAPH = re.compile(rf"CP(?P<second>DP)?(?P<blocks>(?:{_BLOCK})+)SPDG")
_DOWN = 3  # blocks that halve the resolution, each before a stage of blocks that keep it


class _Unit(nn.Module):
    """Convolution, normalisation and, unless it is ``linear``, PReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        slopes = [] if linear else [nn.PReLU(outputs)]
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(outputs), *slopes)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made


class _Block(nn.Module):
    """Wider by a 1 x 1 convolution, one in groups, back by another 1 x 1; ``stride`` 1 adds its input."""

    def __init__(self, inputs: int, outputs: int, wide: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1
        self.layers = nn.Sequential(
            _Unit(inputs, wide),
            _Unit(wide, wide, 3, stride, 1, groups=wide),
            _Unit(wide, outputs, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return x + made if self.adds else made


class _Blocks(nn.Module):
    def __init__(self, width: int, wide: int, count: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_Block(width, width, wide, 1) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made


class _Head(nn.Module):
    """One convolution over the whole map of each channel, then a matrix."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Unit(width, width, FINAL, groups=width, linear=True),
            nn.Flatten(),
            nn.Linear(width, dimensions, bias=False),
            nn.BatchNorm1d(dimensions),
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made


class MobileFaceNet(ArcFace):
    """Inverted residual blocks; of the published networks the larger one has blocks instead of the stem's second convolution."""

    family = "a MobileFaceNet"

    def __init__(
        self,
        blocks: Sequence[int] = (1, 4, 6, 2),
        widths: Sequence[int] = (128, 128, 256, 256),
        wide: Sequence[int] = (128, 128, 128, 256, 256, 512, 256),
        groups: int = 64,
        last: int = 512,
        dimensions: int = 512,
    ) -> None:
        """``blocks`` of the four stages, the first 1 for a convolution in ``groups``; ``widths`` of the stages; ``wide``, the
        channels inside of each stage's blocks and of the block between two stages, in their order; ``last`` before the matrix.
        """
        super().__init__(dimensions)
        second = (
            _Unit(widths[0], widths[0], 3, padding=1, groups=groups) if blocks[0] == 1 else _Blocks(widths[0], wide[0], blocks[0])
        )
        layers: list[nn.Module] = [_Unit(3, widths[0], 3, 2, 1), second]
        for stage in range(1, _DOWN + 1):
            layers.append(_Block(widths[stage - 1], widths[stage], wide[2 * stage - 1], 2))
            layers.append(_Blocks(widths[stage], wide[2 * stage], blocks[stage]))
        self.layers = nn.ModuleList(layers)
        self.conv_sep = _Unit(widths[-1], last)
        self.features = _Head(last, dimensions)

    def trunk(self, x: Tensor) -> Tensor:
        """Standardised pixels (B, 3, 112, 112) to (B, D)."""
        for layer in self.layers:
            x = layer(x)
        rows: Tensor = self.features(self.conv_sep(x))
        return rows

    def fold(self) -> None:
        """As of ``ArcFace``."""
        for unit in (module for module in self.modules() if isinstance(module, _Unit)):
            fold(unit.layers, "0", "1")
        fold(self.features.layers, "2", "3")
        freeze_slopes(self)

    @classmethod
    def sized_for(cls, state: Mapping[str, Tensor]) -> Self:
        """As of ``ArcFace``."""
        inner, last = "layers.0.layers.0.weight", state["conv_sep.layers.0.weight"]
        small = "layers.1.layers.0.weight" in state
        second = state["layers.1.layers.0.weight" if small else f"layers.1.layers.0.{inner}"]
        blocks = [1 if small else _count(state, 1), *(_count(state, 2 * stage + 1) for stage in range(1, _DOWN + 1))]
        wide = [len(second)]
        widths = [len(state["layers.0.layers.0.weight"])]
        for stage in range(1, _DOWN + 1):
            wide += [len(state[f"layers.{2 * stage}.{inner}"]), len(state[f"layers.{2 * stage + 1}.layers.0.{inner}"])]
            widths.append(len(state[f"layers.{2 * stage}.layers.2.layers.0.weight"]))
        groups = len(second) // second.shape[1]
        return cls(blocks, widths, wide, groups, len(last), len(state["features.layers.2.weight"]))

    @classmethod
    def state_of(cls, units: Sequence[Unit]) -> dict[str, Tensor] | None:
        """As of ``ArcFace``. Which blocks halve the resolution a weight does not tell, but strides do."""
        found = _GRAPH.fullmatch(kinds_of(units))
        if found is None:
            return None
        state: dict[str, Tensor] = {}
        put(state, units[:2], _names("layers.0"))
        if found["second"]:
            put(state, units[2:4], _names("layers.1"))
        layer, number = (1, 0) if found["second"] else (1, -1)
        for start in range(found.start("blocks"), found.end("blocks"), len(_BLOCK)):
            steps = units[start : start + len(_BLOCK)]
            if steps[2].stride > 1:
                layer, number = layer + (2 if layer % 2 == 0 else 1), -1
                prefix = f"layers.{layer}"
            else:
                layer, number = (layer + 1, 0) if layer % 2 == 0 else (layer, number + 1)
                prefix = f"layers.{layer}.layers.{number}"
            names = [name for part in range(3) for name in _names(f"{prefix}.layers.{part}", linear=part == 2)]
            put(state, steps, names)
        put(state, units[-4:-2], _names("conv_sep"))
        put(state, units[-2:], [*_names("features.layers.0", linear=True), "features.layers.2 features.layers.3"])
        state.pop("features.layers.2.bias")  # the matrix has none: it is in the normalisation
        return state


def _names(prefix: str, *, linear: bool = False) -> list[str]:
    return [f"{prefix}.layers.0 {prefix}.layers.1", *([] if linear else [f"{prefix}.layers.2"])]


def _count(state: Mapping[str, Tensor], layer: int) -> int:
    """The blocks of a stage."""
    return sum(name.startswith(f"layers.{layer}.layers.") and name.endswith(".layers.0.layers.0.weight") for name in state)
