"""facesieve: a shield for face identification.

Restores a face photograph with a diffusion prior before it is identified, so that an adversarial
perturbation is gone and the person is still the same. The names below are the public library;
they are imported when they are first used, so that ``import facesieve`` is quick.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facesieve.errors import FacesieveError as FacesieveError
    from facesieve.faces import Detector as Detector
    from facesieve.faces import FaceCrops as FaceCrops
    from facesieve.faces import align as align
    from facesieve.faces import paste as paste
    from facesieve.images import read_photo as read_photo
    from facesieve.images import write_photo as write_photo
    from facesieve.operators import Compose as Compose
    from facesieve.operators import Grey as Grey
    from facesieve.operators import MeanPool as MeanPool
    from facesieve.priors.folder import load_prior as load_prior
    from facesieve.purify import PRESETS as PRESETS
    from facesieve.purify import Preset as Preset
    from facesieve.purify import Purifier as Purifier
    from facesieve.purify import Restoration as Restoration
    from facesieve.purify import preset as preset
    from facesieve.sampling import consistent_with as consistent_with
    from facesieve.sampling import sample as sample
    from facesieve.shield import Shield as Shield
    from facesieve.shield import load_shield as load_shield

__version__ = "0.1.0"

_HOMES = {
    "FacesieveError": "errors",
    "Detector": "faces",
    "FaceCrops": "faces",
    "align": "faces",
    "paste": "faces",
    "read_photo": "images",
    "write_photo": "images",
    "Compose": "operators",
    "Grey": "operators",
    "MeanPool": "operators",
    "load_prior": "priors.folder",
    "PRESETS": "purify",
    "Preset": "purify",
    "Purifier": "purify",
    "Restoration": "purify",
    "preset": "purify",
    "consistent_with": "sampling",
    "sample": "sampling",
    "Shield": "shield",
    "load_shield": "shield",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def _in_forked_process() -> None:
    """PyTorch would wait for ever for the threads of the process that was forked: here it has one."""
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_in_forked_process)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'facesieve' has no attribute {name!r}")
    return getattr(import_module(f"facesieve.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
