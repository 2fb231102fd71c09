"""An operator."""

from dataclasses import dataclass

from torch.nn import functional

from facesieve.operators import Operator


@dataclass(frozen=True)
class ColumnMean(Operator):
    """Mean over ``scale`` neighbouring pixels of a column."""

    scale: int = 2

    def __call__(self, x):
        return functional.avg_pool2d(x, (self.scale, 1))

    def Ap(self, y):
        return y.repeat_interleave(self.scale, -2)

    @property
    def name(self):
        return f"mean of {self.scale} pixels of a column"

    def with_scale(self, scale):
        return ColumnMean(scale)
