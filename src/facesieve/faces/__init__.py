"""Faces: find them in a photograph, align them to one template, cut them out, paste them back."""

from __future__ import annotations

from facesieve.faces.align import TEMPLATE, Face, Found, Points, align, alignment, warp
from facesieve.faces.crops import Crops, FaceCrops, check_square, one_face
from facesieve.faces.detect import Detector
from facesieve.faces.paste import FINISHES, Finish, check_finish, paste
from facesieve.faces.quality import Quality, quality

__all__ = [
    "FINISHES",
    "TEMPLATE",
    "Crops",
    "Detector",
    "Face",
    "FaceCrops",
    "Finish",
    "Found",
    "Points",
    "Quality",
    "align",
    "alignment",
    "check_finish",
    "check_square",
    "one_face",
    "paste",
    "quality",
    "warp",
]
