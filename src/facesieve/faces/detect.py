"""Find faces in a photograph."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import as_file, files
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.faces.align import Face, Points
from facesieve.images import Photo

OVERLAP = 0.4  # intersection over union above which two boxes are one face


class Detector:
    """OpenCV's YuNet face detector, with its 2023 weights that ship with the package.

    The photograph is searched at up to two sizes, with a margin around it, so that large, small
    and cut-off faces are found. Unless an upright face is found with certainty, it is also searched
    in quarter turns: YuNet also responds to faces that are upside down, but with less
    certainty and wrong landmarks, so the most certain turn wins.
    """

    CERTAIN = 0.92

    def __init__(self, *, threshold: float = 0.7, long_sides: tuple[int, ...] = (480, 1440)) -> None:
        self.threshold = threshold
        self.long_sides = long_sides

    @cached_property
    def _net(self) -> Any:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of a target that nobody asked for
        try:
            with as_file(files("facesieve") / "weights" / "yunet-2023mar.onnx") as path:
                return cv2.FaceDetectorYN.create(str(path), "", (320, 320), self.threshold, 0.3, 5000)
        finally:
            cv2.utils.logging.setLogLevel(level)

    def detect(self, photo: Photo) -> list[Face]:
        """All faces in ``photo``, largest first; an empty list if there is none."""
        best, best_turns, surest = self._detect_upright(photo), 0, 0.0
        if best:
            surest = max(face.score for face in best)
        if surest >= self.CERTAIN:
            return best
        surest += 0.03  # in doubt, a photograph is the right way up
        for quarter_turns in (1, 2, 3):
            found = self._detect_upright(np.ascontiguousarray(np.rot90(photo, quarter_turns)))
            if found and max(face.score for face in found) > surest:
                best, best_turns, surest = found, quarter_turns, max(face.score for face in found)
        return [_turn_back(face, best_turns, photo.shape) for face in best]

    def _detect_upright(self, photo: Photo) -> list[Face]:
        longest = max(photo.shape[:2])
        # A crop is searched once, never enlarged; a large photo once more at a finer size.
        sizes = sorted({min(longest, side) for side in self.long_sides})
        rows = [row for side in sizes for row in self._detect_at(photo, side / longest)]
        return [_face(row) for row in sorted(_suppress(rows), key=lambda row: -row[2] * row[3])]

    def _detect_at(self, photo: Photo, scale: float) -> list[NDArray[np.float64]]:
        height, width = photo.shape[:2]
        size = (max(round(width * scale), 1), max(round(height * scale), 1))  # a strip keeps a pixel of its thin side
        small = photo if scale == 1 else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        margin = max(small.shape[:2]) // 4  # a face that touches the border needs room around it
        framed = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        height, width = framed.shape[:2]
        self._net.setInputSize((width, height))
        _, found = self._net.detect(cv2.cvtColor(framed, cv2.COLOR_RGB2BGR))
        if found is None:
            return []
        rows = found.astype(np.float64)
        ratio = np.array([small.shape[1] / photo.shape[1], small.shape[0] / photo.shape[0]])
        rows[:, 2:4] /= ratio
        points = [0, *range(4, 14, 2)]
        for x in points:  # pixel centres: (p + 1/2) scales, p does not
            rows[:, x : x + 2] = (rows[:, x : x + 2] - margin + 0.5) / ratio - 0.5
        return list(rows)


def _suppress(rows: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Non-maximum suppression: of boxes that overlap, keep the one with the best score."""
    if not rows:
        return []
    boxes, scores = [row[:4].tolist() for row in rows], [float(row[14]) for row in rows]
    return [rows[int(number)] for number in cv2.dnn.NMSBoxes(boxes, scores, 0.0, OVERLAP)]


def _face(row: NDArray[np.float64]) -> Face:
    x, y, width, height = (float(value) for value in row[:4])
    return Face((x, y, width, height), row[4:14].reshape(5, 2).copy(), float(row[14]))


def _turn_back(face: Face, quarter_turns: int, shape: tuple[int, ...]) -> Face:
    """The face in the unturned photo of ``shape``, found in one turned by ``np.rot90``."""
    height, width = shape[:2]

    def back(points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        turns = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)]
        return np.stack(turns[quarter_turns], axis=1)

    x, y, box_width, box_height = face.box
    corners = back(np.array([[x, y], [x + box_width, y + box_height]]))
    low, high = corners.min(0), corners.max(0)
    box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
    return Face(box, back(face.landmarks), face.score)
