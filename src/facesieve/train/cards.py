"""What is written with trained weights: their card, and sheets that show a prior's progress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facesieve.files import make_folder
from facesieve.images import write_photo
from facesieve.noise import seeded_noise
from facesieve.pictures import Column, sheet
from facesieve.priors.network import NetworkPrior
from facesieve.sampling import karras_sigmas, last, sample
from facesieve.train.settings import Training

TERMS = "the weights carry whatever limits the photographs carry"
SHEET_SIGMAS = (0.3, 1.0, 3.0, 10.0)


def card(
    name: str, about: Mapping[str, Any], settings: Training, seconds: float, figures: Mapping[str, Any], limits: str
) -> dict[str, Any]:
    """The card of trained weights: ``about`` says what they are and from which data, ``figures`` are held-out figures."""
    return {
        "name": name,
        **about,
        "terms": TERMS,
        "training": settings.model_dump(mode="json"),
        "training_hours": round(seconds / 3600, 2),
        **figures,
        "limits": limits,
    }


@torch.no_grad()
def write_sheets(prior: NetworkPrior, images: Tensor, folder: Path, step: int) -> None:
    """Two pictures: held-out faces (B, 3, H, W) in [-1, 1], noised and denoised at four levels; and faces from pure noise."""
    make_folder(folder)
    noise = seeded_noise(range(len(images)), tuple(images.shape[1:]), device=images.device)
    unit = noise()
    columns = [_column("held out", images)]
    for sigma in SHEET_SIGMAS:
        noised = images + sigma * unit
        columns += [_column(f"noise {sigma:g}", noised), _column("denoised", prior(noised, sigma))]
    write_photo(folder / f"denoised-{step:06d}.png", sheet(columns, cell=images.shape[-1]))
    sigmas = karras_sigmas(30, 100.0)
    faces = last(sample(prior, sigmas[0] * noise(), sigmas, noise, eta=0.3))
    write_photo(folder / f"sampled-{step:06d}.png", sheet([_column("sampled", faces)], cell=images.shape[-1]))


def _column(title: str, images: Tensor) -> Column:
    return Column(title, (images / 2 + 0.5).float().cpu().numpy())
