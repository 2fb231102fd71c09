"""Families of public checkpoints: how each is recognised by its keys, and converted to a ``UNet2DModel``.

A new family is a file here with ``recognises`` and ``convert`` that registers them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from facesieve.priors.network import Prediction
from facesieve.priors.schedule import Schedule
from facesieve.registry import Registry


@dataclass(frozen=True)
class Family:
    """Checkpoints that one program wrote.

    They carry neither betas nor a training target: both are what the program's published networks have.
    """

    program: str  # in words, for cards and messages
    recognises: Callable[[Mapping[str, Tensor]], bool]  # whether a state dict is of this family
    convert: Callable[[Mapping[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]  # to a config and its state dict
    schedule: Callable[[], Schedule] = Schedule.linear
    prediction: Prediction = "epsilon"
    assumed: tuple[str, ...] = ()  # what a checkpoint does not tell, in words


FAMILIES: Registry[Family] = Registry("checkpoint family", __name__)

__all__ = ["FAMILIES", "Family"]
