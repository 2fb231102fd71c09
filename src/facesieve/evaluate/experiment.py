"""An experiment as a TOML file: data, recogniser, attacks, defences, and how to run it.

Everything that a result depends on is in these settings, in the data's manifest and in the hashes
of the weights; nothing is read from anywhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from facesieve.attacks import ATTACKS
from facesieve.attacks.objectives import OBJECTIVES
from facesieve.data.manifest import Selection
from facesieve.errors import SettingError
from facesieve.evaluate.measures import MEASURES
from facesieve.files import first_problem, read_toml
from facesieve.purify import PRESETS, View
from facesieve.registry import Registry
from facesieve.report.record import RENAMED, combinations
from facesieve.report.targets import Area
from facesieve.tamper_policy import TamperScore

Quantisation = Literal["float", "uint8"]
Value = bool | int | FiniteFloat | str
Eps = Annotated[float, Field(gt=0, le=255)]
Part = Annotated[float, Field(gt=0)]


def _in(registry: Registry[Any]) -> AfterValidator:
    def check(spec: str) -> str:
        try:
            registry.load(spec)
        except SettingError as error:
            raise ValueError(str(error)) from error
        return spec

    return AfterValidator(check)


def _either(name: str) -> AliasChoices:
    return AliasChoices(name, next(old for old, new in RENAMED.items() if new == name))


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RecogniserSettings(_Settings):
    """Who names people: a closed-set head, or the nearest of one mean template per person."""

    embedder: str = "sface"  # what `--embedder` takes; a path is relative to the working folder
    scores: Literal["closed-set", "templates"] = "templates"
    templates: int = Field(default=10, ge=1)  # training images that a person's mean template is made from
    enrolled: Literal["raw", "purified"] = "raw"  # those images as they are, or behind the defence that a probe goes through


class AttackSettings(_Settings):
    """One attack, or one for each of several ``eps``."""

    method: Annotated[str, _in(ATTACKS)] = "pgd"  # a name in ATTACKS, or package.module:object
    name: str = ""
    eps: Eps | tuple[Eps, ...] = 0.5  # levels of 255; for an L2 attack the length of the perturbation in such levels
    step: float = Field(default=2.0, gt=0)  # levels of 255
    # in place of ``step``: the first and the last step as parts of eps; those between fall evenly
    relative_steps: tuple[Part, Part] | None = None
    iterations: int = Field(default=40, ge=1)
    random_start: bool = True
    starts: int = Field(default=1, ge=1)  # of those the image is kept for which the objective is highest
    objective: Annotated[str, _in(OBJECTIVES)] = "cross-entropy"
    quantisation: tuple[Quantisation, ...] = ("float", "uint8")
    probes: int | None = Field(default=None, ge=1)  # the first so many of the test images; None: all
    # what it has of each defence: nothing, or a view of its stages, with a set of its own for each; None: as run.threat says
    through: Literal["nothing"] | View | None = None
    eot_samples: int | None = Field(default=None, ge=1)  # None: run.eot_samples
    # crafted on this one, or on several by the sum of their objectives, tried on the experiment's: transfer
    surrogate: RecogniserSettings | tuple[RecogniserSettings, ...] | None = Field(
        default=None, validation_alias=_either("surrogate")
    )

    known_seed: bool = False  # knows the noise that the defence will draw
    # made for the images alone that the attacks before it, of the same eps, left behind the defence; the others stay lost
    cascade: bool = False
    # also keeps this tamper score of the face behind the defence low, by so many rounds of bisection
    evades: TamperScore | None = None
    rounds: int = Field(default=4, ge=1)

    @property
    def surrogates(self) -> tuple[RecogniserSettings, ...]:
        """Those it is crafted on in place of the experiment's recogniser; none if it is crafted on that."""
        many = self.surrogate if isinstance(self.surrogate, tuple) else (self.surrogate,)
        return tuple(one for one in many if one is not None)

    def view(self, threat: str) -> View | None:
        """What it has of a defence where ``run.threat`` is this; None for nothing."""
        if self.through is None:
            return "gradient" if threat == "adaptive" else None
        return None if self.through == "nothing" else self.through

    def each(self) -> list[AttackSettings]:
        """One attack for each eps, named."""
        many = self.eps if isinstance(self.eps, tuple) else (self.eps,)
        stem = self.name or self.method.rpartition(":")[2]
        if self.surrogates and not self.name:
            stem += f" on {' and '.join(Path(one.embedder).name for one in self.surrogates)}"
        return [self.model_copy(update={"eps": eps, "name": f"{stem}, eps {eps:g}/255"}) for eps in many]


class DefenceSettings(_Settings):
    """One defence: a preset, changed by ``settings``, or a baseline made with them; ``sweep`` makes one for each combination."""

    name: str = ""
    preset: str | None = None  # a name, or a profile's file
    baseline: str | None = None  # a name in DEFENCES, or package.module:object
    settings: dict[str, Value] = {}
    sweep: dict[str, tuple[Value, ...]] = {}
    # also score what each of its steps leaves: the observation, and the stage's result
    score_steps: bool = Field(default=False, validation_alias=_either("score_steps"))
    probes: int | None = Field(default=None, ge=1)
    attacks: tuple[str, ...] | None = None  # names of attacks, with their eps or without, that it is tried on; None: all
    enrolled: Literal["raw", "purified"] | None = None  # behind this one; None: as the recogniser's settings say

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.preset is None) == (self.baseline is None):
            raise ValueError("give either preset or baseline")
        return self

    def faces(self, attack: AttackSettings) -> bool:
        """Whether it is tried on one of a run's attacks: it names that one, or all of its kind whatever their eps."""
        return self.attacks is None or bool({attack.name, attack.name.rpartition(", eps ")[0]} & set(self.attacks))

    def each(self) -> list[DefenceSettings]:
        """One defence for each combination of the sweep, named."""
        found = combinations(self.name or self.preset or str(self.baseline), self.sweep)
        return [self.model_copy(update={"name": n, "settings": {**self.settings, **swept}, "sweep": {}}) for n, swept in found]


class RunSettings(_Settings):
    """How to run it."""

    seed: int = 0
    size: int = Field(default=128, ge=16)  # pixels of the crops that are attacked and purified
    probes: int | None = Field(default=None, ge=1)  # the first so many of the test images; None: all
    batch: int = Field(default=15, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # number format of an attack's gradients, by autocast; None: that of the run, in which everything is judged
    gradients: Literal["bf16"] | None = None
    samples: str | None = None  # folder of photographs that may be shown: the report has them behind each defence
    prior: str | None = None  # folder; None: the embedded one
    far: float = Field(default=0.01, gt=0, lt=1)  # false-accept rate that the threshold of `unknown` is chosen for
    # what the attack sees: the recogniser alone, or the recogniser behind each defence, with a set of its own for each
    threat: Literal["oblivious", "adaptive"] = "oblivious"
    # draws of a defence's noise that an adaptive attack averages over at each step
    eot_samples: int = Field(default=1, ge=1, validation_alias=_either("eot_samples"))
    measures: tuple[Annotated[str, _in(MEASURES)], ...] = ()  # taken at the end; names in MEASURES, or package.module:object


class TargetSettings(_Settings):
    """What is wanted of one figure of a measure."""

    measure: str  # one of run.measures
    figure: str  # its name there
    target: str = ""  # its name in the list of targets; the figure's if not given
    area: Area = "purifier"
    wanted: str = "none set"  # such as ">= 60"
    percent: bool = False  # whether ``wanted`` and the list are in percent of the figure


class Experiment(_Settings):
    """The whole file. Every combination of an attack (or none) and a defence (or none) is a cell of the result."""

    data: Selection
    recogniser: RecogniserSettings = RecogniserSettings()
    attacks: tuple[AttackSettings, ...] = ()
    defences: tuple[DefenceSettings, ...] = ()
    run: RunSettings = RunSettings()
    targets: tuple[TargetSettings, ...] = ()

    @model_validator(mode="after")
    def _measured(self) -> Self:
        missing = [target.measure for target in self.targets if target.measure not in self.run.measures]
        if missing:
            raise ValueError(f"a target is of the measure {missing[0]}, which run.measures does not name")
        return self

    @model_validator(mode="after")
    def _seen(self) -> Self:
        for attack in self.attacks:
            kind, view = ATTACKS.load(attack.method), attack.view(self.run.threat)
            if view is not None and not (kind.sees_defence and (view != "range" or not kind.alone)):
                setting = "run.threat adaptive" if attack.through is None else f"through {attack.through}"
                raise ValueError(f"{setting} takes {_able(alone=view != 'range')}, no other")
            if attack.known_seed and view in {None, "range"}:
                raise ValueError("known_seed is for attacks that have a gradient through the defence")
            if attack.cascade and (len(attack.quantisation) > 1 or (view is None and attack.through is not None)):
                raise ValueError("cascade is for attacks that see a defence, saved in one way")
            if len(attack.surrogates) > 1 and (kind.alone or not kind.sees_defence):
                raise ValueError(f"several surrogates are for {_able(alone=False)}, no other")
        return self

    @model_validator(mode="after")
    def _evading(self) -> Self:
        for attack in self.attacks:
            if attack.evades is not None and (attack.view(self.run.threat) != "gradient" or ATTACKS.load(attack.method).alone):
                raise ValueError(f"evades is for attacks through gradient by {_able(alone=False)}, no other")
        return self

    def with_defences(self, names: Sequence[str]) -> Experiment:
        """The same with these alone: its own of that name, or a preset, a baseline, what ``package.module:factory`` makes."""
        own = {defence.name: defence for entry in self.defences for defence in entry.each()}
        return self.model_copy(update={"defences": tuple(own.get(name) or _plain(name) for name in names)})

    def all_attacks(self) -> list[AttackSettings]:
        """One for each eps. Raises ``SettingError`` where two have one name."""
        return _distinct([each for attack in self.attacks for each in attack.each()], "attacks")

    def all_defences(self) -> list[DefenceSettings]:
        """One for each combination of a sweep. Raises ``SettingError`` where two have one name."""
        found = _distinct([each for defence in self.defences for each in defence.each()], "defences")
        known = {attack.name for attack in self.all_attacks()}
        groups = {name.rpartition(", eps ")[0] for name in known}
        for defence in found:
            if strange := set(defence.attacks or ()) - known - groups:
                known_ones = f"there are {', '.join(sorted(known))}"
                raise SettingError(f"no attack {min(strange)!r}", f"defence {defence.name!r}", known_ones)
        return found


def _plain(name: str) -> DefenceSettings:
    preset, baseline = (name, None) if name in PRESETS else (None, name)
    return DefenceSettings(name=name, preset=preset, baseline=baseline)


def _able(*, alone: bool) -> str:
    """The attacks that can have a defence, in words; with those of libraries, which know one goal, where ``alone``."""
    kinds = {name: ATTACKS[name] for name in ATTACKS}
    return ", ".join(sorted(name for name, kind in kinds.items() if kind.sees_defence and (alone or not kind.alone)))


def _distinct(items: list[Any], what: str) -> list[Any]:
    names = [item.name for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "none" in names:
        raise SettingError(f"the name {twice or 'none'!r} is taken", what, "give one of them another name")
    return items


def read_experiment(path: Path, *, note: Callable[[str], None] = warnings.warn) -> Experiment:
    """Read it; ``note`` is told, in a line each, which keys have another name now.

    Raises ``InputError`` for a file that cannot be read, ``SettingError`` for a key that is unknown or does not fit.
    """
    tables = read_toml(path)
    for old in sorted(_renamed(tables)):
        note(f"{path}: {old} is called {RENAMED[old]} now; the old name is read for this release only")
    try:
        experiment = Experiment.model_validate(tables)
        experiment.all_defences()
    except ValidationError as error:
        place, problem = first_problem(error)
        raise SettingError(problem.lower(), f"{path}: {place}" if place else path) from error
    except SettingError as error:
        raise SettingError(error.what, f"{path}: {error.where}" if error.where else path, error.advice) from error
    return experiment


def _renamed(tables: dict[str, Any]) -> set[str]:
    """The old keys that an experiment's tables use."""

    def keys() -> Iterator[str]:
        for table in tables.values():
            for entry in table if isinstance(table, list) else [table]:
                yield from entry if isinstance(entry, dict) else ()

    return RENAMED.keys() & set(keys())
