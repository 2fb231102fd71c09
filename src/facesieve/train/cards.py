"""What is written with trained weights: their card, with the photographs' terms, and sheets of a prior's progress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from facesieve.errors import InputError
from facesieve.files import first_problem, make_folder, read_toml
from facesieve.images import write_photo
from facesieve.noise import seeded_noise
from facesieve.pictures import Column, sheet
from facesieve.priors.network import NetworkPrior
from facesieve.sampling import karras_sigmas, last, sample
from facesieve.train.settings import Training

NOT_STATED = "not stated: ask before use in a product"
DATA_CARD = "DATA.toml"  # beside the photographs
SHEET_SIGMAS = (0.3, 1.0, 3.0, 10.0)


# --- the photographs ---------------------------------------------------------------------------------


class Part(BaseModel):
    """Photographs of one origin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    photographs: int | None = Field(None, ge=0)
    origin: str | None = None
    terms: str
    attribution: str | None = None  # the line that the terms ask for


class DataCard(BaseModel):
    """What photographs are and on what terms: stated by whoever trains, copied into the card of the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str = "photographs of faces"
    terms: str = NOT_STATED  # of weights that learned from them
    attribution: tuple[str, ...] = ()  # besides that of the parts
    parts: tuple[Part, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a TOML file. Raises ``InputError`` for one that cannot be read, an unknown key and a value that does not fit."""
        try:
            return cls.model_validate(read_toml(path))
        except ValidationError as error:
            place, problem = first_problem(error)
            raise InputError(f"{place}: {problem.lower()}", path, "it has what, terms, attribution and [[parts]]") from error

    @classmethod
    def of(cls, given: Path | None, *folders: Path) -> Self:
        """The file that was given, or else what ``DATA.toml`` in each of the folders says. Raises ``InputError`` as ``read``."""
        if given is not None:
            return cls.read(given)
        beside = [folder / DATA_CARD for folder in folders]
        first, *others = [cls.read(path) if path.is_file() else cls() for path in beside]
        for other in others:
            first = first.joined(other.what, other.terms, other.attribution, other.parts)
        return first

    def joined(self, what: str, terms: str, attribution: tuple[str, ...], parts: tuple[Part, ...] = ()) -> Self:
        """With more photographs, or weights that were begun from: the terms of both hold."""
        return self.model_copy(
            update={
                "what": _both(self.what, what, " and "),
                "terms": _both(self.terms, terms, "; and: "),
                "attribution": tuple(dict.fromkeys((*self.attribution, *attribution))),
                "parts": self.parts + parts,
            }
        )

    def begun_from(self, card: Mapping[str, Any]) -> Self:
        """With the terms and attributions of the weights, by their card, that a training begins from."""
        terms = str(card.get("licence") or card.get("terms") or NOT_STATED)
        named = tuple(map(str, card.get("attribution", ())))
        return self.joined(self.what, self.terms if terms == self.terms else f"of the weights it began from, {terms}", named)

    def entries(self) -> dict[str, Any]:
        """What the card of the weights says about terms, who has to be named, and the parts."""
        named = [*self.attribution, *(part.attribution for part in self.parts if part.attribution)]
        return {
            "terms": self.terms,
            **({"attribution": list(dict.fromkeys(named))} if named else {}),
            **({"parts": [part.model_dump(exclude_none=True) for part in self.parts]} if self.parts else {}),
        }

    def __str__(self) -> str:
        """For the line that a training begins with."""
        return f"terms {self.terms}" if self.terms != NOT_STATED else f"terms not stated (--data-card or {DATA_CARD} says them)"


def _both(one: str, other: str, between: str) -> str:
    return one if one == other else f"{one}{between}{other}"


# --- the weights -------------------------------------------------------------------------------------


def card(
    about: Mapping[str, Any], data: DataCard, settings: Training, seconds: float, figures: Mapping[str, Any], limits: str
) -> dict[str, Any]:
    """The card of trained weights: ``about`` says their name and what they are, ``data`` on what terms they learned."""
    return {
        **about,
        **data.entries(),
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
