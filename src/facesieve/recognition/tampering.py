"""Whether a face looks tampered with: its scores, and the verdict of a policy on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import SettingError, TamperedError
from facesieve.recognition.embedder import Embedder
from facesieve.rows import Rows
from facesieve.tamper_policy import LEAST, Limits, TamperPolicy


@dataclass(frozen=True)
class Tampering:
    """How far one face looks tampered with."""

    change: float  # the tamper score: how far the shield moved the face for the recogniser, 1 - cosine, in [0, 2]
    disagreement: float | None = None  # that over the root of the second recogniser's; None where there is none
    tampered: bool | None = None  # whether it exceeds a threshold; None where nobody asked for a verdict
    reason: str | None = None  # why it looks tampered with, in words
    refused: str | None = None  # the same, of a face that is refused

    def checked(self) -> bool | None:
        """``tampered``. Raises ``TamperedError`` for a face that is refused."""
        if self.refused is not None:
            error = TamperedError(self.refused)
            error.score = self.change
            raise error
        return self.tampered


def said(faces: Sequence[Tampering], digits: int = 3) -> str:
    """The highest tamper score and what it means as the value of a header: ``0.412;tampered``, or the number alone."""
    highest = max(face.change for face in faces)
    return f"{highest:.{digits}f}" + ";tampered" * any(bool(face.tampered) for face in faces)


@dataclass(frozen=True, eq=False)
class TamperGuard:
    """Judges faces by a policy: with the recogniser, a second one where a score needs it, and the label of the shield."""

    policy: TamperPolicy
    embedder: Embedder
    second: Embedder | None
    purifier: str | None

    @cached_property
    def limits(self) -> Limits:
        """The thresholds. Raises ``SettingError`` as ``TamperPolicy.limits``."""
        return self.policy.limits(self.embedder.name, None if self.second is None else self.second.name, self.purifier)

    def check(self) -> None:
        """Raises ``SettingError`` for a policy without a shield, a threshold, or the second recogniser that its score needs."""
        if self.policy.on != "purify" and self.purifier is None:
            raise SettingError("without a shield there is no tamper score", "on_tamper", "take a shield, or leave it out")
        if self.policy.needs_second and self.second is None:
            raise SettingError(f"the score {self.policy.score} needs a second recogniser", "tamper_score")
        _ = self.limits

    def judge(
        self, before: NDArray[np.float32], after: NDArray[np.float32], raw: Rows | None = None, purified: Rows | None = None
    ) -> list[Tampering]:
        """The verdict on each face: as it came (N, 3, S, S), and behind the shield; ``raw`` and ``purified`` are their rows."""
        raw = self.embedder.rows(before) if raw is None else raw
        purified = self.embedder.rows(after) if purified is None else purified
        changes = tamper_scores(raw, purified)
        if self.second is None:
            return [self._verdict(change, None) for change in changes]
        apart = disagreements(changes, tamper_scores(self.second.rows(before), self.second.rows(after)))
        return [self._verdict(change, disagreement) for change, disagreement in zip(changes, apart, strict=True)]

    def _verdict(self, change: float, disagreement: float | None) -> Tampering:
        scores = zip(("tamper score", "disagreement"), (change, disagreement), self.limits, strict=True)
        over = [
            f"{name} {value:.3f}, threshold {limit:.3f}"
            for name, value, limit in scores
            if limit is not None and value is not None and not value <= limit  # a score that is no number is no pass
        ]
        reason = f"the face looks tampered with: {' and '.join(over)}" if over else None
        tampered = None if self.policy.on == "purify" else bool(over)
        return Tampering(change, disagreement, tampered, reason, reason if self.policy.on == "refuse" else None)


def tamper_scores(raw: Rows, purified: Rows) -> list[float]:
    """How far purification moved each face for the recogniser: ``1 - cosine`` of its embeddings (N, D), in [0, 2].

    ``raw`` are embeddings of faces as they came, cut at 160 pixels, ``purified`` those after the shield. A
    perturbation moves the embedding away from the person and purification brings it back, so a tampered face
    scores higher than a clean one; a face that is hard to restore scores high as well. ``docs/results.md`` has what
    it tells apart.
    """
    scores: list[float] = (1 - (raw * purified).sum(1)).tolist()
    return scores


def disagreements(changes: Sequence[float], others: Sequence[float]) -> list[float]:
    """How much further the shield moved each face for the recogniser than the second explains: (N,), of tamper scores (N,).

    The change over the root of the second's. An attack on one recogniser moves the face for that one alone, while a face
    that is hard to restore moves for both: where the second's score doubles, the first's grows by about the root of that.
    """
    return [change / math.sqrt(max(other, LEAST)) for change, other in zip(changes, others, strict=True)]
