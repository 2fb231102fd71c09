"""How well a face can be recognised as far as its picture says: size, sharpness, pose, and how sure the detector is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.faces.align import TEMPLATE, Face, alignment, warp
from facesieve.images import Photo

SIDE = 112  # pixels at which sharpness is measured, those of most recognisers
# What is as good as anything better, and what is of no use, of each figure.
SIZES, SHARPNESSES, TURNS, SCORES = (112.0, 0.0), (0.5, 0.15), (15.0, 75.0), (0.9, 0.6)
POOR = 0.35  # of the whole; below, a template may not be worth having
NOSE = 0.45  # how far the tip of a nose is in front of the eyes, in distances of the eyes


@dataclass(frozen=True)
class Quality:
    """The figures of one face."""

    size: float  # pixels of the photograph along the side of the aligned crop, of which a face is three quarters wide
    sharpness: float  # in [0, 1], of the crop at 112 pixels: 0 is smooth. One minus the blur of Crete et al., 2007
    turned: float  # degrees from facing the camera to the side, roughly, by where the nose is between the eyes
    score: float  # the detector's

    @property
    def _parts(self) -> dict[str, float]:
        """How good each figure is, in [0, 1], by what there is to say where it is not."""
        return {
            f"it is small ({self.size:.0f} pixels)": _between(self.size, *SIZES),
            f"it is blurred (sharpness {self.sharpness:.2f})": _between(self.sharpness, *SHARPNESSES),
            f"it is turned to the side ({self.turned:.0f} degrees)": _between(self.turned, *TURNS),
            f"it hardly looks like a face (score {self.score:.2f})": _between(self.score, *SCORES),
        }

    @property
    def total(self) -> float:
        """The worst of all four, in [0, 1]: 1 where none is wanting."""
        return min(self._parts.values())

    @property
    def problem(self) -> str | None:
        """Why the face is a poor one, in words; None where it is not."""
        what, least = min(self._parts.items(), key=lambda part: part[1])
        return what if least < POOR else None

    def as_dict(self) -> dict[str, float]:
        """Plain data, rounded: ``total``, then the figures."""
        fine = {"total": round(self.total, 3), "sharpness": round(self.sharpness, 3), "score": round(self.score, 3)}
        return {**fine, "size": round(self.size, 1), "turned": round(self.turned, 1)}


def quality(photo: Photo, face: Face) -> Quality:
    """The quality of a face in its photograph (H, W, 3)."""
    way = alignment(face.landmarks, SIDE)
    grey = cv2.cvtColor(warp(photo, way, SIDE), cv2.COLOR_RGB2GRAY)
    return Quality(SIDE / math.hypot(way[0, 0], way[1, 0]), 1 - blur(grey), turned(face.landmarks), face.score)


def blur(grey: NDArray[Any], width: int = 11) -> float:
    """How blurred a picture (H, W) is, in [0, 1]: what is left of its differences after a further blur, in the worse direction.

    Crete, Dolmiere, Ladret and Nicolas: The blur effect, 2007.
    """
    picture, found = grey.astype(np.float64), []
    for axis in (0, 1):
        size = (1, width) if axis == 0 else (width, 1)
        soft = cv2.blur(picture, size, borderType=cv2.BORDER_REFLECT)
        sharp, less = (np.abs(cv2.Sobel(each, cv2.CV_64F, axis, 1 - axis))[2:-1, 2:-1] for each in (picture, soft))
        whole = float(sharp.sum())
        found.append(1.0 if whole == 0 else float((whole - np.maximum(sharp - less, 0).sum()) / whole))
    return max(found)


def turned(landmarks: NDArray[np.float64]) -> float:
    """By how many degrees a face with these landmarks (5, 2) looks to the side, by a head whose nose stands out by ``NOSE``."""
    points = landmarks @ alignment(landmarks, 1)[:, :2].T
    eyes, nose, mouth = points[:2], points[2], points[3:]
    width = float(np.linalg.norm(eyes[1] - eyes[0]))
    along = (TEMPLATE[2, 1] - TEMPLATE[:2, 1].mean()) / (TEMPLATE[3:, 1].mean() - TEMPLATE[:2, 1].mean())
    middle = eyes.mean(0) + along * (mouth.mean(0) - eyes.mean(0))  # where the nose is in a face that looks ahead
    aside = float((nose - middle) @ (eyes[1] - eyes[0])) / max(width, 1e-9) ** 2
    return math.degrees(math.atan2(abs(aside), NOSE))


def _between(value: float, good: float, useless: float) -> float:
    return min(max((value - useless) / (good - useless), 0.0), 1.0)
