"""Preprocessors for the Adversarial Robustness Toolbox: the shield in front of one of its PyTorch estimators.

Images are aligned crops (N, 3, S, S) in [0, 1], channels first, S the side of the prior's images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facesieve.errors import MissingExtraError
from facesieve.integrations.crops import check, whole
from facesieve.shield import Shield

try:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
except ImportError as error:
    raise MissingExtraError("the toolbox's preprocessor", "evaluate") from error


class ShieldPreprocessor(PreprocessorPyTorch):  # type: ignore[misc]
    """Purifies before the estimator sees it; gradients go through the whole restoration, exactly.

    An attack on an estimator with it is adaptive: it sees the defence. With a ``seed`` the noise depends only on it
    and the image, rounded to 8 bits; without, it is fresh every time, and a gradient is that of one draw: attack the mean
    of several. Applied when predicting and, with ``apply_fit``, when fitting. Raises ``InputError`` for other images.
    """

    params = ["seed"]  # noqa: RUF012 - the toolbox's own form

    def __init__(self, shield: Shield, *, seed: int | None = None, apply_fit: bool = False, apply_predict: bool = True) -> None:
        device = "cpu" if shield.torch_runtime.hardware.device.type == "cpu" else "gpu"
        super().__init__(device_type=device, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.shield, self.seed = shield, seed

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The purified images, and ``y`` as it is."""
        check(x)
        seeds = [seed for one in whole(x, self.shield.card.size) for seed in one.seeds(self.seed)]
        return self.shield.purifier(x, seeds=seeds), y


class ShieldPreprocessorBPDA(ShieldPreprocessor):
    """The same, but gradients pass as if nothing had been purified: backward pass differentiable approximation.

    Athalye, Carlini and Wagner, 2018. Cheap, and the usual first attack on a defence whose gradients are
    costly; the exact ones are stronger where they can be had.
    """

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The purified images, with the identity's gradient, and ``y`` as it is."""
        with torch.no_grad():
            made, _ = super().forward(x, y)
        return x + (made - x).detach(), y
