"""An experiment as a TOML file: data, recogniser, attacks, defences, and how it is run.

Everything that a result depends on is in these settings, in the data's manifest and in the hashes
of the weights; nothing is read from anywhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from facesieve.data.manifest import Selection
from facesieve.errors import SettingError
from facesieve.files import read_toml

Quantisation = Literal["float", "uint8"]
Method = Literal[
    "fgsm", "pgd", "pgd-l2", "mi-fgsm", "carlini-wagner-l2", "apgd-ce", "apgd-t", "fab", "square", "auto-attack"
]  # fmt: skip
Value = bool | int | FiniteFloat | str
Eps = Annotated[float, Field(gt=0, le=255)]

BLACK_BOX = frozenset({"square"})  # see scores alone, no gradient
BY_GRADIENT = frozenset({"fgsm", "pgd", "pgd-l2"})  # ours, which can be made to see a defence


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecogniserSettings(_Settings):
    """Who names people: a closed-set head, or the nearest of one mean template a person."""

    embedder: str = "sface"  # what `--embedder` takes; a path is relative to the working folder
    scores: Literal["closed-set", "templates"] = "templates"
    templates: int = Field(default=10, ge=1)  # training images that a person's mean template is made from


class AttackSettings(_Settings):
    """One attack; with several ``eps`` one for each of them."""

    method: Method = "pgd"
    name: str = ""
    eps: Eps | tuple[Eps, ...] = 0.5  # levels of 255; for an L2 attack the length of the perturbation in such levels
    step: float = Field(default=2.0, gt=0)  # levels of 255
    iterations: int = Field(default=40, ge=1)
    random_start: bool = True
    objective: Literal["cross-entropy", "margin"] = "cross-entropy"
    quantisation: tuple[Quantisation, ...] = ("float", "uint8")
    probes: int | None = Field(default=None, ge=1)  # the first so many of the test images; None: all
    on: RecogniserSettings | None = None  # crafted on this one, tried on the experiment's: transfer

    def each(self) -> list[AttackSettings]:
        """One attack for each eps, named."""
        many = self.eps if isinstance(self.eps, tuple) else (self.eps,)
        stem = self.name or f"{self.method}{'' if self.on is None else ' on ' + Path(self.on.embedder).name}"
        return [self.model_copy(update={"eps": eps, "name": f"{stem}, eps {eps:g}/255"}) for eps in many]


class DefenceSettings(_Settings):
    """One defence: a preset, changed by ``settings``, or a baseline made with them; ``sweep`` makes one for each combination."""

    name: str = ""
    preset: str | None = None
    baseline: str | None = None
    settings: dict[str, Value] = {}
    sweep: dict[str, tuple[Value, ...]] = {}
    steps_too: bool = False  # also score what each step of it leaves: the observation, and the stage's result
    probes: int | None = Field(default=None, ge=1)
    attacks: tuple[str, ...] | None = None  # names of attacks, as listed by the run, that it is tried on; None: all

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.preset is None) == (self.baseline is None):
            raise ValueError("give either preset or baseline")
        return self

    def each(self) -> list[DefenceSettings]:
        """One defence for each combination of the sweep, named."""
        stem, out = self.name or self.preset or str(self.baseline), []
        for values in itertools.product(*self.sweep.values()):
            chosen = dict(zip(self.sweep, values, strict=True))
            words = ", ".join(f"{name} {value}" for name, value in chosen.items())
            merged = {**self.settings, **chosen}
            out.append(self.model_copy(update={"name": f"{stem}, {words}" if words else stem, "settings": merged, "sweep": {}}))
        return out


class RunSettings(_Settings):
    """How it is run."""

    seed: int = 0
    size: int = Field(default=128, ge=16)  # pixels of the crops that are attacked and purified
    probes: int | None = Field(default=None, ge=1)  # the first so many of the test images; None: all
    batch: int = Field(default=15, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    samples: str | None = None  # folder of photographs that may be shown: the report has pictures of the steps_too defences
    prior: str | None = None  # folder; None: the embedded one
    far: float = Field(default=0.01, gt=0, lt=1)  # false-accept rate that the threshold of `unknown` is chosen for
    # what the attack sees: the recogniser alone, or the recogniser behind each defence, with a set of its own for each
    threat: Literal["oblivious", "adaptive"] = "oblivious"
    averaged: int = Field(default=1, ge=1)  # draws of a defence's noise that an adaptive attack averages over at each step


class Experiment(_Settings):
    """The whole file. Every combination of an attack (or none) and a defence (or none) is a cell of the result."""

    data: Selection
    recogniser: RecogniserSettings = RecogniserSettings()
    attacks: tuple[AttackSettings, ...] = ()
    defences: tuple[DefenceSettings, ...] = ()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _seen(self) -> Self:
        blind = [attack.method for attack in self.attacks if attack.method not in BY_GRADIENT or attack.on is not None]
        if self.run.threat == "adaptive" and blind:
            raise ValueError(
                f"run.threat adaptive takes {', '.join(sorted(BY_GRADIENT))} on the experiment's recogniser, no other"
            )
        return self

    def all_attacks(self) -> list[AttackSettings]:
        """One for each eps. Raises ``SettingError`` where two have one name."""
        return _distinct([each for attack in self.attacks for each in attack.each()], "attacks")

    def all_defences(self) -> list[DefenceSettings]:
        """One for each combination of a sweep. Raises ``SettingError`` where two have one name."""
        found = _distinct([each for defence in self.defences for each in defence.each()], "defences")
        known = {attack.name for attack in self.all_attacks()}
        for defence in found:
            if strange := set(defence.attacks or ()) - known:
                raise SettingError(f"defence {defence.name!r}: no attack {min(strange)!r}; there are {', '.join(sorted(known))}")
        return found


def _distinct(items: list[Any], what: str) -> list[Any]:
    names = [item.name for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "none" in names:
        raise SettingError(f"{what}: the name {twice or 'none'!r} is taken; give one of them another name")
    return items


def read_experiment(path: Path) -> Experiment:
    """Read it.

    Raises ``InputError`` for a file that cannot be read, ``SettingError`` for a key that is unknown or does not fit.
    """
    tables = read_toml(path)
    try:
        experiment = Experiment.model_validate(tables)
        experiment.all_defences()
    except ValidationError as error:
        raise SettingError(f"{path}: {_first(error)}") from error
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error
    return experiment


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in _plain(first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key {where}"
    return f"{where}: {first['msg'].removeprefix('Value error, ').lower()}"


def _plain(location: Sequence[int | str]) -> list[int | str]:
    return [part for part in location if isinstance(part, int) or "[" not in part]
