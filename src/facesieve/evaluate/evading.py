"""What an attacker keeps low who knows that tampering is looked for: the product's scores, as tensors with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facesieve.attacks.joint import Parts
from facesieve.attacks.objectives import Objective, Scores
from facesieve.errors import SettingError
from facesieve.evaluate.cache import Ingredients
from facesieve.evaluate.experiment import AttackSettings
from facesieve.evaluate.recogniser import SHARPNESS, Recogniser
from facesieve.recognition.embedder import differentiable
from facesieve.tamper_policy import LEAST, Limits, TamperPolicy, TamperScore


@dataclass(frozen=True, eq=False)
class Evasion:
    """A tamper score behind a defence, of the attacked recogniser and the second beside it.

    The first ``mistaken`` of both are to be mistaken; with 2 it is an attacker on both at once. The raw face is taken at the size
    of the attacked crop.
    """

    score: TamperScore
    limits: Limits  # of the two scores, by which "both" weighs them
    recognisers: tuple[Recogniser, Recogniser]
    mistaken: int = 1
    reduced: bool = False  # gradients in bf16, by autocast

    @classmethod
    def of(cls, attack: AttackSettings, recognisers: Sequence[Recogniser], label: str | None, *, reduced: bool) -> Evasion:
        """Of one that ``evades``. Raises ``SettingError`` for recognisers without templates, for "both" without defaults."""
        first, second = recognisers
        assert attack.evades is not None
        if first.embedder is None or second.embedder is None:
            raise SettingError("it takes recognisers of templates", f"attack {attack.name!r}: evades")
        limits = Limits(1.0, 1.0)
        if attack.evades == "both":
            limits = TamperPolicy("refuse", "both").limits(first.embedder.name, second.embedder.name, label)
        return cls(attack.evades, limits, (first, second), max(len(attack.surrogates), 1), reduced)

    def identity(self) -> Ingredients:
        """Everything about it that a crafted image depends on."""
        names = [recogniser.name for recogniser in self.recognisers]
        return {"score": self.score, "limits": list(self.limits), "recognisers": names, "mistaken": self.mistaken}

    @property
    def used(self) -> tuple[Recogniser, ...]:
        """Those whose rows are needed."""
        return self.recognisers[: 1 if self.score == "change" and self.mistaken == 1 else 2]

    def rows(self, images: Tensor) -> Tensor:
        """Embeddings of images (B, 3, S, S) by each that is needed, side by side; their mean over draws gives the mean scores."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.reduced and images.requires_grad):
            return torch.cat([_rows(recogniser, images) for recogniser in self.used], 1)

    def parts(self, kind: Callable[[Scores, Tensor], Objective], purified: Scores, labels: Tensor) -> Parts:
        """The objective, summed over those to be mistaken, and the score; ``purified`` are ``rows`` behind the defence."""

        def parts(images: Tensor) -> tuple[Tensor, Tensor]:
            before, after = self._split(self.rows(images)), self._split(purified(images))
            margins = [
                kind(lambda _, logits=SHARPNESS * rows @ _templates(recogniser).T: logits, labels)(images)  # type: ignore[misc]
                for recogniser, rows in zip(self.recognisers[: self.mistaken], after, strict=False)
            ]
            # with two, the worse of both: the attack has succeeded where each is mistaken
            margin = margins[0] if len(margins) == 1 else torch.minimum(*margins)
            return margin, self._score(before, after)

        return parts

    def _split(self, rows: Tensor) -> list[Tensor]:
        return list(torch.split(rows, [_templates(recogniser).shape[1] for recogniser in self.used], dim=1))

    def _score(self, before: list[Tensor], after: list[Tensor]) -> Tensor:
        """(B,), as ``recognition.tampering`` has it."""
        changes = [1 - (raw * made).sum(1) for raw, made in zip(before, after, strict=True)]
        if self.score == "change":
            return changes[0]
        apart = changes[0] / changes[1].clamp(min=LEAST).sqrt()
        if self.score == "disagreement":
            return apart
        assert self.limits.change is not None
        assert self.limits.disagreement is not None
        return torch.maximum(changes[0] / self.limits.change, apart / self.limits.disagreement)


def _rows(recogniser: Recogniser, images: Tensor) -> Tensor:
    assert recogniser.embedder is not None
    if images.requires_grad:
        return differentiable(recogniser.embedder).embed(images).float()
    return torch.from_numpy(recogniser.embedder.rows(images.numpy()))


def _templates(recogniser: Recogniser) -> Tensor:
    assert recogniser.templates is not None
    return recogniser.templates
