"""What is done about a face that looks tampered with, above which scores; no array is needed to say it.

The default thresholds are data: ``recognition/tampering.json`` says what they were chosen from, and how. They are of a
recogniser, its second, and a shield; one photograph in a hundred that nobody touched scores above.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from facesieve.errors import SettingError, printable

FILE = Path(__file__).parent / "recognition" / "tampering.json"

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
