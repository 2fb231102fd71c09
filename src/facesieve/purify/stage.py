"""Stages: what a purifier does, one step after the other, and how an attacker takes each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from facesieve.noise import Noise, seeded_noise
from facesieve.priors import Prior

if TYPE_CHECKING:
    from torch import Tensor

_PLAIN = (bool, int, float, str, tuple)

# What an attacker has of a stage: its own gradient; its results, and in place of the gradient the identity's or that of what
# it observes; or neither, but what it observes, interpolated.
View = Literal["gradient", "identity", "observation", "range"]


@dataclass(frozen=True, eq=False)
class Observed:
    """What a stage keeps of its input before it rebuilds the rest: images, a name for tables, a caption for pictures."""

    name: str
    caption: str
    images: Tensor  # (B, 3, H, W), in [0, 1]


class Stage(ABC):
    """Maps aligned crops (B, 3, H, W) in [0, 1] to such crops; draws from ``noise`` what it needs.

    The defaults suit a stage without a prior and without noise whose settings are the fields of a dataclass.
    """

    name: str  # short, for tables and pictures
    needs_prior: ClassVar[bool] = False  # whether it is made with ``prior=...``
    prior: Prior  # only where it needs one

    @abstractmethod
    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """The crops after this stage."""

    @property
    def evaluations(self) -> int:
        """How often a network is evaluated for one face; at least 1, so that progress can be told."""
        return 1

    @property
    def draws_noise(self) -> bool:
        """Whether two seeds give two results."""
        return False

    def identity(self) -> dict[str, Any]:
        """Everything that a result depends on, except images and noise: equal identity, equal result."""
        made: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}
        return {
            "stage": f"{type(self).__module__}.{type(self).__qualname__}",
            **{name: value for name, value in made.items() if isinstance(value, _PLAIN)},
        }

    def observed(self, images: Tensor) -> Observed | None:
        """What the stage begins from, for pictures and tables; None where that is the image itself."""
        return None

    def wrapped(self, wrap: Callable[[Prior], Prior]) -> Stage:
        """The stage with ``wrap`` of its prior in the prior's place; itself where it has none."""
        return self

    def for_attacker(self, size: int) -> Stage:
        """The stage as an attacker takes it: itself, or with the identity's gradient (BPDA) where it has none.

        Whether it has one is tested on an image of ``size`` pixels.
        """
        return self if gives_gradient(self, size) else StraightThrough(self)

    def without_prior(self, size: int) -> Stage:
        """What an attacker who has no prior puts in the stage's place; as ``for_attacker`` where it needs none.

        Its gradient lies in the range of what the stage observes: so does what an ascent along it changes.
        """
        return Unchanged() if self.needs_prior else self.for_attacker(size)

    def viewed(self, size: int, view: View) -> Stage:
        """The stage as an attacker with this ``view`` of it takes it, at images of ``size`` pixels."""
        if view == "gradient":
            return self.for_attacker(size)
        return self.without_prior(size) if view == "range" else StraightThrough(self, observing=view == "observation")


@dataclass(frozen=True)
class Unchanged(Stage):
    """Images as they are."""

    name = "unchanged"

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """The images (B, 3, H, W)."""
        return images


@dataclass(frozen=True)
class StraightThrough(Stage):
    """A stage with another gradient (BPDA): the identity's or, if ``observing``, that of what the stage observes.

    Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018.
    """

    stage: Stage
    observing: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The stage's."""
        return self.stage.name

    @property
    def evaluations(self) -> int:
        """The stage's."""
        return self.stage.evaluations

    @property
    def draws_noise(self) -> bool:
        """The stage's."""
        return self.stage.draws_noise

    def identity(self) -> dict[str, Any]:
        """The stage's: only the gradient is another."""
        return self.stage.identity()

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """The stage's result (B, 3, H, W)."""
        import torch

        with torch.no_grad():
            result = self.stage(images.detach(), noise)
        observed = self.stage.observed(images) if self.observing else None
        way = images if observed is None else observed.images
        return way + (result - way).detach()


def gives_gradient(stage: Stage, size: int) -> bool:
    """Whether a gradient that is not 0 everywhere passes through a stage, at a random image of ``size`` pixels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, size, size, generator=generator).requires_grad_(True)
    result = stage(images, seeded_noise([0], (3, size, size)))
    if not result.requires_grad:
        return False
    weights = torch.rand(result.shape, generator=generator)
    (slope,) = torch.autograd.grad((weights * result).sum(), images, allow_unused=True)
    return slope is not None and bool(slope.any())
