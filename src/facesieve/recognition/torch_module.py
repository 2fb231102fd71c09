"""Any PyTorch module that makes vectors of faces, as an ``Embedder``: ``package.module:factory?size=112&mean=0.5&std=0.5``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve import weights as files
from facesieve.errors import EmbedderError, SettingError, one_line
from facesieve.files import sha256_of
from facesieve.limits import number, whole_number
from facesieve.recognition.crops import check_crops, resized
from facesieve.recognition.embedder import TorchEmbedder

LARGEST = 2048  # pixels of a side


class ModuleEmbedder(TorchEmbedder):
    """A module's vectors of unit length; differentiable. The module is frozen and put into evaluation mode."""

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        size: int = 112,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        channels: Literal["rgb", "bgr"] = "rgb",
        where: object = None,
    ) -> None:
        """``module`` takes ``(x - mean) / std`` of crops x (B, 3, size, size) in [0, 1] and gives vectors (B, D) or (B, D, 1, 1).

        ``mean`` and ``std`` are one number or one a channel, in the order ``channels``. ``name`` gets eight digits of a hash of
        weights and settings. Raises ``SettingError`` for settings, ``EmbedderError`` for a module that cannot be run so, or gives
        something else.
        """
        self.size = whole_number(size, "size", 1, LARGEST)
        self._mean, self._std = _per_channel(mean, "mean"), _per_channel(std, "std", 1e-6)
        if channels not in {"rgb", "bgr"}:
            raise SettingError(f"channels {channels!r} must be rgb or bgr")
        self._channels, self._where = channels, where
        self.module = module.eval().requires_grad_(False)
        example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            rows = self._vectors(example)
        if not bool((rows.isfinite().all(1) & (rows.norm(dim=1) > 0)).all()):
            raise EmbedderError("gives vectors that are zero or not finite", where, "its weights are not trained, or not loaded")
        self.dimensions = rows.shape[1]
        settings = json.dumps([self.size, self._mean, self._std, channels]).encode()
        self.name = f"{name}-{sha256_of(settings + files.state_bytes(module.state_dict()))[:8]}"

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to the template; unit rows (B, D). Raises ``ValueError`` for others."""
        check_crops(crops)
        return functional.normalize(self._vectors(resized(crops, self.size)).to(crops.dtype))

    def _vectors(self, crops: Tensor) -> Tensor:
        x = crops if self._channels == "rgb" else crops.flip(1)
        x = (x - x.new_tensor(self._mean)[:, None, None]) / x.new_tensor(self._std)[:, None, None]
        kept = next((tensor for tensor in self.module.parameters() if tensor.is_floating_point()), x)
        try:
            rows = self.module(x.to(kept.device, kept.dtype))
        except Exception as error:  # a module of somebody's may raise anything
            raise EmbedderError(f"cannot be run on images {tuple(x.shape)}: {one_line(error)}", self._where) from error
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else None
        if shape is None or shape[:1] != x.shape[:1] or len(shape) < 2 or any(side != 1 for side in shape[2:]) or 0 in shape:
            given = type(rows).__name__ if shape is None else f"shape {shape}"
            raise EmbedderError(f"gives {given} of {len(x)} faces, not a vector for each, ({len(x)}, D)", self._where)
        vectors: Tensor = rows.flatten(1).to(x.device)
        return vectors


def module_embedder(thing: object, spec: str, *, weights: str | None = None, **settings: Any) -> ModuleEmbedder:
    """What a name such as ``package.module:factory`` stood for, a module or what makes one, as an embedder.

    ``weights`` is a state dict in a file, tensors alone, which fits the module; ``settings`` are those of ``ModuleEmbedder``.
    Raises ``EmbedderError`` and ``SettingError``.
    """
    if not isinstance(thing, nn.Module):
        raise EmbedderError(f"gives {type(thing).__name__}, neither a torch module nor an Embedder", spec)
    if weights is not None:
        files.fill(thing, files.read_state(Path(weights), EmbedderError), weights, EmbedderError)
    name = spec.partition("?")[0].rpartition(":")[2]
    return ModuleEmbedder(thing, name=name, where=spec, **settings)


def made_by(factory: object, spec: str) -> object:
    """What a name stood for, called: with ``spec`` where it needs an argument, or calls its first one so, else with none.

    A module, and anything else that cannot be called, is returned as it is. Raises ``EmbedderError`` where the call fails.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    try:
        return factory(spec) if _takes_spec(factory) else factory()
    except (EmbedderError, SettingError):
        raise
    except Exception as error:  # somebody's code may raise anything
        raise EmbedderError(f"fails: {one_line(error)}", spec, "name a function that needs no argument") from error


def _takes_spec(factory: Callable[..., object]) -> bool:
    if inspect.isclass(factory) and issubclass(factory, nn.Module):
        return False
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return False
    first = next((one for one in found if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}), None)
    return first is not None and (first.default is first.empty or first.name == "spec")


def _per_channel(value: float | Sequence[float], what: str, least: float = -1e6) -> list[float]:
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(numbers) not in {1, 3}:
        raise SettingError(f"{what} has {len(numbers)} numbers: one, or three, one a channel")
    return [number(one, what, least, 1e6) for one in numbers]
