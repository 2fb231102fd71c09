"""The runtime on PyTorch: every preset, and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from facesieve.errors import SettingError
from facesieve.faces import Crops
from facesieve.hardware import Hardware, choose_hardware
from facesieve.priors import Prior
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.progress import Report, silent
from facesieve.purify import Preset, Purifier, Stage
from facesieve.runtime.card import PurifierCard
from facesieve.runtime.protocol import RUNTIMES, Runtime, check
from facesieve.runtime.trace import Trace, TraceStep


@dataclass(frozen=True, eq=False)
class TorchRuntime:
    """A preset's purifier, or one made of your own stages, and the hardware it runs on."""

    preset: Preset
    purifier: Purifier
    size: int  # side of the prior's images, pixels
    prior_sha256: str
    hardware: Hardware
    own_prior: bool = False  # the prior was given, and stays whatever the preset

    @cached_property
    def card(self) -> PurifierCard:
        """What it is, as plain data."""
        dtype = str(self.hardware.dtype).removeprefix("torch.")
        return PurifierCard(self.preset.as_dict(), self.size, self.prior_sha256, dtype, str(self.hardware))

    def purify(self, crops: Crops, seeds: Sequence[int], report: Report = silent) -> Trace:
        """Purify crops (N, 3, S, S) in [0, 1] without gradients; crop ``i`` depends on its pixels and ``seeds[i]`` alone.

        ``report`` is told before each evaluation of the prior how many were done, of all.
        """
        check(crops, seeds, self.size)
        purifier = self.purifier if report is silent else self.purifier.watched(report)
        return traced(purifier, crops, seeds, self.hardware.device)

    def with_preset(self, preset: Preset) -> TorchRuntime:
        """This runtime with another preset; its prior stays, unless it was the preset's own and the new preset has another.

        Raises ``SettingError`` where the stages are not a preset's.
        """
        if not self.own_prior and preset.prior != self.preset.prior:
            return load_runtime(preset, hardware=self.hardware)
        return replace(self, preset=preset, purifier=preset.with_prior(self.prior))

    @property
    def prior(self) -> Prior:
        """The prior of its restorations. Raises ``SettingError`` where its stages have none."""
        prior = next((stage.prior for stage in self.purifier.stages if stage.needs_prior), None)
        if prior is None:
            raise SettingError("this shield's stages are of its own: there is no prior to go with another preset")
        return prior


def in_torch(runtime: Runtime) -> TorchRuntime:
    """The runtime, if it is this one, or the same purifier in it, where the runtime knows how.

    Raises ``SettingError`` for one that does not, which has no gradients and cannot take another preset.
    """
    if isinstance(runtime, TorchRuntime):
        return runtime
    convert: Callable[[], TorchRuntime] | None = getattr(runtime, "in_torch", None)
    if convert is None:
        raise SettingError(
            f"its runtime, on {runtime.card.ran_on}, has no gradients and takes no other preset",
            f"shield {runtime.card.name}",
            "load it with the runtime torch",
        )
    return convert()


@torch.inference_mode()
def traced(purifier: Purifier, crops: Crops, seeds: Sequence[int], device: torch.device) -> Trace:
    """Every step of a purifier on crops (N, 3, S, S) in [0, 1], without gradients."""
    images = torch.from_numpy(crops).to(device)
    steps = []
    for stage, result in purifier.trace(images, seeds=seeds):
        steps.append(_step(stage, images, result))
        images = result
    return Trace(tuple(steps))


def _step(stage: Stage, before: Tensor, after: Tensor) -> TraceStep:
    observed = stage.observed(before)
    if observed is None:
        return TraceStep(stage.name, _numpy(after))
    return TraceStep(stage.name, _numpy(after), _numpy(observed.images), observed.caption)


def _numpy(images: Tensor) -> Crops:
    crops: Crops = images.to("cpu", torch.float32).numpy()
    return crops


def load_runtime(preset: Preset, *, prior: Path | str | None = None, hardware: Hardware | None = None) -> TorchRuntime:
    """The preset with the prior in the folder ``prior`` (its own if None), on ``hardware`` (the best if None).

    Raises ``PriorError`` for a prior that cannot be used.
    """
    from facesieve.priors.folder import load_prior

    hardware = choose_hardware() if hardware is None else hardware
    folder = embedded_prior_folder(preset.prior) if prior is None else Path(prior)
    # Weights made in inference mode could not be trained through; a default device would have them made elsewhere.
    with torch.inference_mode(False), torch.device("cpu"):
        loaded = load_prior(folder, device=str(hardware.device), dtype=hardware.dtype)
    purifier = preset.with_prior(loaded)
    return TorchRuntime(preset, purifier, loaded.shape[-1], str(loaded.sha256), hardware, own_prior=prior is not None)


def load(preset: Preset, *, prior: Path | str | None, device: str, precision: str) -> TorchRuntime:
    """As ``load_runtime``, on the device and in the number format of these names. Raises ``SettingError``, too."""
    return load_runtime(preset, prior=prior, hardware=choose_hardware(device, precision))


RUNTIMES.register("torch", load)
