"""Numbers that somebody gave, checked where their type is made: finite, in range, whole where they count something."""

from __future__ import annotations

import math
import operator

from facesieve.errors import SettingError

SCALES = (2, 4, 8)  # the resolution scales that can be asked for
LONGEST_GRID = 1000  # steps of a sampler, and of everything that multiplies them


def number(value: object, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """``value`` as a plain number of Python, from ``least`` to ``most``, both included; NumPy's and tensors' become plain.

    Raises ``SettingError``, which calls it ``what``, for anything else: another type, NaN, infinity, out of range.
    """
    try:
        found = math.nan if isinstance(value, bool | str | bytes) else _plain(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise SettingError(f"{what} {value} must be a finite number{_limits(least, most, ', ')}")
    if not least <= found <= most:
        raise SettingError(f"{what} {value} must be {_limits(least, most)}")
    return found


def whole_number(value: object, what: str, least: float = -math.inf, most: float = math.inf) -> int:
    """As ``number``, of whole numbers: nothing is rounded."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # or it raises
    except TypeError:
        found = None
    if found is None:
        raise SettingError(f"{what} {value} must be a whole number{_limits(least, most, ', ')}")
    if not least <= found <= most:
        raise SettingError(f"{what} {value} must be {_limits(least, most)}")
    return found


def _plain(value: object) -> float:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return float(value)  # type: ignore[arg-type]


def _limits(least: float, most: float, before: str = "") -> str:
    if least == -math.inf:
        return ""
    return before + (f"{least:g} or more" if most == math.inf else f"between {least:g} and {most:g}")


def cosine(value: object, what: str = "threshold") -> float:
    """A cosine: -1 to 1. Raises ``SettingError``."""
    return number(value, what, -1, 1)


def resolution_scale(value: object) -> int:
    """A resolution scale. Raises ``SettingError`` for others than 2, 4 and 8: at 1 nothing is lost, at more nothing is left."""
    if value not in SCALES or isinstance(value, bool):
        raise SettingError(f"scale {value} must be 2, 4 or 8")
    return whole_number(value, "scale", 2, 8)
