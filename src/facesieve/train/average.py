"""The mean of a network's weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class MovingAverage:
    """The mean of a network's weights over its last steps; older ones count less."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        from diffusers.training_utils import EMAModel  # slow to import

        self._network = network
        self._mean = EMAModel(network.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.8)

    def update(self) -> None:
        """Take in the weights of the step that was made."""
        self._mean.step(self._network.parameters())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights for as long as the block lasts."""
        self._mean.store(self._network.parameters())
        self._mean.copy_to(self._network.parameters())
        try:
            yield
        finally:
            self._mean.restore(self._network.parameters())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        state: dict[str, Any] = self._mean.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What a checkpoint kept."""
        self._mean.load_state_dict(state)
