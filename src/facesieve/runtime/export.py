"""A quick preset as one ONNX graph: crops and noise in, purified crops out.

The graph holds everything that the preset does, so that it runs wherever ONNX Runtime does. Its metadata, one JSON object
under ``facesieve``, say what it was made from and hold a known answer, by which a runtime checks itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facesieve.errors import SettingError, one_line
from facesieve.files import sha256_of, write_atomic
from facesieve.noise import seeded_draws
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior, read_card, weights_file
from facesieve.purify import Preset, Stage
from facesieve.runtime.known_answer import known_answer, question, smooth_crops
from facesieve.weights.graphs import OPSET, finished, onnx_library, open_session, traced

TRIED = (1, 3, 8)  # batches that every graph is tried with before it is written
DIFFERENCE = 1e-4  # the largest that a pixel in [0, 1] may show against PyTorch
COSINE = 0.9999  # the least that SFace may say of the two results


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to PyTorch."""

    file: Path
    difference: float  # the largest of a pixel in [0, 1]
    cosine: float  # the least by SFace
    sha256: str


def export_preset(preset: Preset, out: Path, *, prior: Path | None = None, linked: bool = False) -> Exported:
    """Write the preset with the prior in the folder ``prior`` (its own if None) as the ONNX file ``out``, atomically.

    Weights are in fp16, computed with in fp32. With ``linked`` they stay in the prior's own safetensors file, beside
    which ``out`` then has to lie. Raises ``SettingError`` for a preset of more than one evaluation and for a graph that
    differs from PyTorch, ``PriorError``, ``MissingExtraError`` without the extra ``export``.
    """
    onnx_library()
    if preset.evaluations != 1 or len(preset.restorations) != 1:
        raise SettingError(
            f"preset {preset.name!r} asks its prior {preset.evaluations} times: only presets of one evaluation become a graph",
            advice="take a quick preset; `facesieve presets` lists them",
        )
    folder = embedded_prior_folder(preset.prior) if prior is None else prior
    loaded, card = load_prior(folder), read_card(folder)
    (stage,) = preset.with_prior(loaded).stages
    size = loaded.shape[-1]
    about = {
        "format": 1, "preset": preset.as_dict(), "size": size, "prior_sha256": loaded.sha256, "step": stage.name,
        "caption": preset.restorations[0].operator.caption, "opset": OPSET, "weights": card["name"],
        "terms": card.get("terms", "not stated"), "attribution": card.get("attribution", []),
    }  # fmt: skip
    about["answer"] = known_answer(_by_torch(stage, size))
    crops, noise = torch.zeros(2, 2, 3, size, size)
    model = traced(_Whole(stage), {"crops": crops.clone(), "noise": noise.clone()}, ["purified", "observed"])
    data = finished(model, about, out, weights_file(folder) if linked else None)
    difference, cosine = _compared(data, out, stage, size)
    write_atomic(out, data)
    return Exported(out, difference, cosine, sha256_of(data))


class _Whole(nn.Module):
    """A stage as a network of crops and unit noise, for the exporter."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.prior = stage.prior  # a module: its weights become the graph's

    def forward(self, crops: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        observed = self.stage.observed(crops)
        return self.stage(crops, lambda: noise), crops if observed is None else observed.images


# --- against PyTorch ----------------------------------------------------------------------------------


@torch.inference_mode()
def _by_torch(stage: Stage, size: int) -> np.ndarray[Any, Any]:
    crops, noise = map(torch.from_numpy, question(size))
    return stage(crops, lambda: noise).numpy()


def _compared(data: bytes, out: Path, stage: Stage, size: int) -> tuple[float, float]:
    """The largest difference to PyTorch over all tried batches, and the least cosine by SFace. Raises ``SettingError``."""
    from facesieve.recognition.sface import load_sface

    try:
        session = open_session(data, feature="the export of graphs", beside=out.parent)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise SettingError(f"ONNX Runtime cannot open the graph ({one_line(error)})", out) from error
    sface, differences, cosines = load_sface(), [], []
    for batch in TRIED:
        crops, noise = smooth_crops(batch, size), seeded_draws(range(batch), (3, size, size))().astype(np.float32)
        (found,) = session.run(["purified"], {"crops": crops, "noise": noise})
        with torch.inference_mode():
            wanted = stage(torch.from_numpy(crops), lambda drawn=torch.from_numpy(noise): drawn).numpy()  # type: ignore[misc]
        differences.append(float(np.abs(found - wanted).max()))
        cosines.append(float((sface.rows(found) * sface.rows(wanted)).sum(1).min()))
    difference, cosine = max(differences), min(cosines)
    if not difference <= DIFFERENCE or not cosine >= COSINE:
        raise SettingError(f"the graph differs from PyTorch by {difference:.2g}, cosine {cosine:.6f}: it is not written", out)
    return difference, cosine
