"""Write a trained prior, and the sheets that show how it is coming along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from facesieve.images import to_photo, write_photo
from facesieve.noise import seeded_noise
from facesieve.priors.folder import save_prior
from facesieve.priors.network import NetworkPrior
from facesieve.sampling import karras_sigmas, last, sample

if TYPE_CHECKING:
    from facesieve.train.prior import PriorTraining

SHEET_SIGMAS = (0.3, 1.0, 3.0, 10.0)


@torch.no_grad()
def write_sheets(prior: NetworkPrior, images: Tensor, folder: Path, step: int) -> None:
    """Two pictures: held-out faces, noised and denoised at four levels; and faces from pure noise."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = seeded_noise(range(len(images)), tuple(images.shape[1:]), device=images.device)
    unit = noise()
    rows = [images]
    for sigma in SHEET_SIGMAS:
        rows += [images + sigma * unit, prior(images + sigma * unit, sigma)]
    write_photo(folder / f"denoised-{step:06d}.png", to_photo(_tiled(rows) / 2 + 0.5))
    sigmas = karras_sigmas(30, 100.0)
    faces = last(sample(prior, sigmas[0] * noise(), sigmas, noise, eta=0.3))
    write_photo(folder / f"sampled-{step:06d}.png", to_photo(_tiled([faces]) / 2 + 0.5))


def _tiled(rows: list[Tensor]) -> Tensor:
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1)


def export_prior(
    prior: NetworkPrior,
    folder: Path,
    settings: PriorTraining,
    held_out: Mapping[float, float],
    seconds: float,
    faces: int,
) -> Path:
    """Write the prior in the folder format of ``diffusers`` (fp16) with its card."""
    card: dict[str, object] = {
        "name": f"facesieve face prior {settings.size}",
        "what": "an unconditional diffusion prior of aligned, tightly cropped faces; images in [-1, 1]",
        "data": f"{faces} photographs of faces, aligned to the template of facesieve.faces",
        "terms": "the weights carry whatever limits the photographs carry",
        "training": settings.model_dump(),
        "training_hours": round(seconds / 3600, 2),
        "held_out_v_loss_by_sigma": {f"{sigma:g}": round(loss, 5) for sigma, loss in held_out.items()},
        "limits": "faces far from the data (children, strong occlusion, extreme pose or light) are restored worse; "
        "skin tones of colorization are the prior's guess; it was not checked that it treats groups of people alike",
    }
    save_prior(prior, folder, card=card, dtype=torch.float16)
    return folder
