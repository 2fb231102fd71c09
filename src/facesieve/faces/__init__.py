"""Faces: find them in a photograph, align them to one template, cut them out, paste them back."""

from __future__ import annotations

from facesieve.faces.align import TEMPLATE, Face, Points, align, alignment, paste, warp
from facesieve.faces.crops import Crops, FaceCrops, check_square
from facesieve.faces.detect import Detector

__all__ = ["TEMPLATE", "Crops", "Detector", "Face", "FaceCrops", "Points", "align", "alignment", "check_square", "paste", "warp"]
