"""The whole shield for one photograph: find the faces, purify them, put them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facesieve.errors import MissingExtraError, SettingError, many
from facesieve.faces import Detector, Face, FaceCrops, Finish, check_finish
from facesieve.images import Photo, as_photo
from facesieve.runtime import RUNTIMES, PurifierCard, Runtime
from facesieve.specs import DEFAULT_PRESET

if TYPE_CHECKING:
    from facesieve.purify import Preset, Purifier
    from facesieve.runtime.torch import TorchRuntime

TOGETHER = 8  # faces that are purified together; each takes some 14 MB


@dataclass(frozen=True, eq=False)
class Shield:
    """A runtime with a detector in front of it. ``load_shield`` makes one.

    Any number of threads may use one. It can be pickled, deep-copied, and used in a forked process, where PyTorch has one thread.
    """

    runtime: Runtime
    detector: Detector = field(default_factory=Detector)

    def __repr__(self) -> str:
        """One line: what it does, at which size, on what."""
        return f"<Shield {self.card.label}: {self.card.size} x {self.card.size} pixels, on {self.card.ran_on}>"

    def __getstate__(self) -> dict[str, object]:
        """What is pickled and deep-copied; what ``torch_runtime`` loaded is not."""
        return {"runtime": self.runtime, "detector": self.detector}

    @property
    def card(self) -> PurifierCard:
        """What the shield is: preset, size, hashes, label, detector."""
        own = self.detector
        made_from = own.made_from if type(own).detect is Detector.detect else {"name": type(own).__qualname__}
        return replace(self.runtime.card, detector=made_from)

    @cached_property
    def torch_runtime(self) -> TorchRuntime:
        """The purifier on PyTorch, where it has gradients and can take another preset: the runtime, or loaded beside it.

        Raises ``SettingError`` for a runtime of yours that has none, ``MissingExtraError`` without PyTorch.
        """
        try:
            from facesieve.runtime.torch import in_torch
        except ModuleNotFoundError as error:
            raise MissingExtraError("a purifier in PyTorch", "torch") from error
        return in_torch(self.runtime)

    @property
    def purifier(self) -> Purifier:
        """The purifier in torch, differentiable: ``shield.purifier(crops)``. Raises as ``torch_runtime``."""
        return self.torch_runtime.purifier

    def with_preset(self, preset: Preset) -> Shield:
        """This shield with another preset, on PyTorch. See ``TorchRuntime.with_preset``; raises as ``torch_runtime``, too."""
        return replace(self, runtime=self.torch_runtime.with_preset(preset))

    def cut(self, photo: object, *, aligned: bool = False, sha256: str | None = None) -> FaceCrops:
        """The faces in a photograph, largest first, cut out for the purifier; with ``aligned`` it is already a crop.

        ``photo`` is anything that ``facesieve.images.as_photo`` takes, and ``sha256`` that of its file, where there is one.
        Raises ``NoFaceError``, or ``NotSquareError`` for an aligned crop that is not square; else as ``as_photo``.
        """
        taken = as_photo(photo)
        if aligned:
            return FaceCrops.whole(taken, self.card.size, sha256=sha256)
        return FaceCrops.cut(taken, self.detector.detect(taken), self.card.size, sha256=sha256)

    def restore(self, before: FaceCrops, seeds: Sequence[int] | None = None) -> FaceCrops:
        """The same faces, purified, ``TOGETHER`` at a time; ``seeds`` holds one per face, fresh ones if not given."""
        seeds = before.seeds(None) if seeds is None else seeds
        if len(seeds) != len(before):
            raise SettingError(f"{len(seeds)} seeds for {many(len(before), 'face')}: one a face is needed")
        parts = [slice(start, start + TOGETHER) for start in range(0, max(len(before), 1), TOGETHER)]
        return before.with_crops(np.concatenate([self.runtime.purify(before.crops[part], seeds[part]).crops for part in parts]))

    def purify(self, photo: object, *, seeds: Sequence[int] | None = None, finish: Finish = "secure") -> tuple[Photo, list[Face]]:
        """The photo with every face purified and put back, and the faces.

        ``photo`` is what ``read_photo`` gave, a path, a PIL image, or an array of ``uint8`` (RGB, RGB with alpha, grey):
        anything that ``facesieve.images.as_photo`` takes. ``seeds`` holds one for each face, largest first; without them
        they are fresh. ``finish`` "secure" leaves nothing of a face to an attacker; "detail", for people, has fine detail from
        the photograph, so nobody may be identified from it. Raises ``NoFaceError`` for a photo without a face, ``ImageError``
        for a file that is none, ``InputError``, which names type and shape, for anything else.
        """
        check_finish(finish)
        after = self.restore(self.cut(photo), seeds)
        return after.paste(finish), list(after.faces)


def load_shield(
    preset: str | Preset = DEFAULT_PRESET,
    *,
    prior: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
) -> Shield:
    """A shield with the named or given preset (or a profile's) and the prior in the folder ``prior`` (the preset's own if None).

    ``precision`` is ``auto``, ``fp32`` or ``bf16``, ``runtime`` a name of ``RUNTIMES`` or your own
    ``package.module:loader``. Raises ``SettingError`` or ``PriorError``.
    """
    from facesieve.purify import chosen_preset

    chosen = chosen_preset(preset) if isinstance(preset, str) else preset
    return Shield(RUNTIMES.load(runtime)(chosen, prior=prior, device=device, precision=precision))
