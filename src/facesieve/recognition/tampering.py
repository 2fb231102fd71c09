"""Whether a face looks tampered with: its scores, their thresholds, and what is done about it.

The default thresholds are data: ``tampering.json`` says what they were chosen from, and how. They are of a recogniser, its
second, and a shield; one photograph in a hundred that nobody touched scores above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import SettingError, TamperedError, printable
from facesieve.recognition.embedder import Embedder
from facesieve.rows import Rows

FILE = Path(__file__).with_suffix(".json")

OnTamper = Literal["purify", "flag", "refuse"]  # each is stricter than the one before
TamperScore = Literal["change", "disagreement", "both"]
Limit = float | str | None  # thresholds: one, two with a comma for both scores, or None for the defaults

LEAST = 1e-4  # of the second recogniser's tamper score, below which it says nothing
MOST = (2.0, 2 / math.sqrt(LEAST))  # of the two scores
RATE = 0.01  # false alarms that the defaults are chosen for; with both scores half of it each


class Limits(NamedTuple):
    """What a score must not exceed; None for one that is not looked at."""

    change: float | None = None
    disagreement: float | None = None


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


@dataclass(frozen=True)
class TamperPolicy:
    """What is done about a face that looks tampered with, by which score, above which threshold.

    ``on`` "purify": nothing, it is purified as every other; "flag": it is answered all the same, and said; "refuse": nobody is
    named and nothing passes on. ``score`` "change" is the tamper score, "disagreement" that over the root of a second
    recogniser's, "both" that either exceeds its threshold. ``threshold`` None takes the defaults, for 1 % of false alarms;
    for "both" there are two, the tamper score's first: ``"0.2,1.5"``. Raises ``SettingError`` for anything else.
    """

    on: OnTamper = "purify"
    score: TamperScore = "change"
    threshold: Limit = None

    def __post_init__(self) -> None:
        if self.on not in get_args(OnTamper):
            raise SettingError(f"{_shown(self.on)}: choose purify, flag or refuse", "on_tamper")
        if self.score not in get_args(TamperScore):
            raise SettingError(f"{_shown(self.score)}: choose change, disagreement or both", "tamper_score")
        self._given()

    @property
    def needs_second(self) -> bool:
        """Whether the score is of two recognisers."""
        return self.score != "change"

    def at_least(self, asked: OnTamper | None) -> TamperPolicy:
        """This one, or a stricter one that a caller asked for. Raises ``SettingError`` for a weaker one."""
        if asked is None or asked == self.on:
            return self
        stricter = replace(self, on=asked)
        order = get_args(OnTamper)
        if order.index(asked) < order.index(self.on):
            raise SettingError(f"{asked} is weaker than {self.on}, which is set here", "on_tamper", "leave it out")
        return stricter

    def limits(self, embedder: str, second: str | None, purifier: str | None) -> Limits:
        """The thresholds for faces behind this shield; none where nothing is done.

        Raises ``SettingError`` where no threshold is given and there is no default for the recognisers and the shield.
        """
        if self.on == "purify":
            return Limits()
        if (given := self._given()) is not None:
            return given
        found = _defaults().get((embedder, purifier or ""))
        if found is None or (self.needs_second and found["second"] != second):
            what = f"there is no default threshold of the score {self.score} for {embedder} behind {purifier}"
            raise SettingError(what, "on_tamper", "give a threshold for the tamper score")
        rate = str(RATE / 2 if self.score == "both" else RATE)
        change, disagreement = (found[name][rate] for name in ("change", "disagreement"))
        return Limits(*_wanted(self.score, change, disagreement))

    def _given(self) -> Limits | None:
        """The thresholds that were given. Raises ``SettingError`` for what is none."""
        if self.threshold is None:
            return None
        words = str(self.threshold).split(",")
        if len(words) != (wanted := 2 if self.score == "both" else 1):
            raise SettingError(f"{_shown(self.threshold)}: the score {self.score} takes {wanted}", "tamper_threshold")
        change, disagreement = (_number(words[0], MOST[0 if self.score != "disagreement" else 1]), _number(words[-1], MOST[1]))
        return Limits(*_wanted(self.score, change, disagreement))


PURIFY = TamperPolicy()


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


def second_of(embedder: str) -> str:
    """What ``load_embedder`` takes for the second recogniser beside the named one: of those that ship the other."""
    return "dlib" if embedder.startswith("sface") else "sface"


def _wanted(score: TamperScore, change: float, disagreement: float) -> tuple[float | None, float | None]:
    return None if score == "disagreement" else change, None if score == "change" else disagreement


def _number(word: str, most: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise SettingError(f"{_shown(word)}: a threshold is a number above 0, at most {most:g}", "tamper_threshold")
    return value


def _shown(given: object) -> str:
    return repr(printable(str(given))[:40])


@cache
def _defaults() -> dict[tuple[str, str], dict[str, Any]]:
    if not FILE.exists():
        return {}
    chosen = json.loads(FILE.read_text(encoding="utf-8"))["thresholds"]
    return {(one["embedder"], one["purifier"]): one for one in chosen}
