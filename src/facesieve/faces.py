"""Find faces in a photograph, align them to one template, paste them back.

Photographs here are ``uint8`` RGB arrays of shape (H, W, 3); aligned crops are ``float32``
tensors of shape (3, size, size) in [0, 1]. Points are (x, y) in pixels, the centre of the
top-left pixel being (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.errors import NoFaceError
from facesieve.images import Photo

Points = NDArray[np.float64]  # (N, 2), x y

# Eyes, nose, mouth corners of the ArcFace template (112 x 112 pixels), used by SFace, ArcFace and
# their kin. As fractions of the crop's side, measured from its outer edge, it serves any size.
TEMPLATE: Points = (
    np.array(
        [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ]
    )
    + 0.5
) / 112


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face: ``box`` (x, y, width, height), five ``landmarks`` (5, 2), ``score``.

    Landmarks are, as seen in the picture: left eye, right eye, nose, left and right mouth corner.
    """

    box: tuple[float, float, float, float]
    landmarks: Points
    score: float


class Detector:
    """OpenCV's YuNet face detector, with its 2023 weights that ship with the package.

    The photograph is searched at up to two sizes, with a margin around it, so that large, small
    and cut-off faces are found. Unless an upright face is found for certain, it is also searched
    turned by quarter turns: YuNet answers to faces that are upside down too, but with less
    certainty and wrong landmarks, so the surest turn wins.
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

    def detect_largest(self, photo: Photo) -> Face:
        """The largest face. Raises ``NoFaceError`` if there is none."""
        found = self.detect(photo)
        if not found:
            raise NoFaceError("no face found; if the image is an aligned face crop, say --aligned")
        return found[0]

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


def _suppress(rows: list[NDArray[np.float64]], overlap: float = 0.4) -> list[NDArray[np.float64]]:
    """Non-maximum suppression: of boxes that overlap, keep the one with the best score."""
    kept: list[NDArray[np.float64]] = []
    for row in sorted(rows, key=lambda row: -row[14]):
        if all(_intersection_over_union(row[:4], other[:4]) < overlap for other in kept):
            kept.append(row)
    return kept


def _intersection_over_union(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    return common / (float(a[2] * a[3] + b[2] * b[3]) - common)


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


def alignment(landmarks: Points, size: int, *, zoom: float = 1.0) -> NDArray[np.float64]:
    """The similarity (2, 3) that takes ``landmarks`` nearest to the template in a crop of ``size``.

    Least squares over rotation, one scale and translation (Umeyama 1991, without reflection; in
    the plane it is linear in a, b of [[a, -b], [b, a]]). ``zoom`` > 1 cuts more tightly.
    """
    wanted = ((TEMPLATE - 0.5) * zoom + 0.5) * size - 0.5
    from_mean, to_mean = landmarks.mean(0), wanted.mean(0)
    p, q = landmarks - from_mean, wanted - to_mean
    spread = float((p**2).sum())
    a = float((p * q).sum()) / spread
    b = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / spread
    matrix = np.array([[a, -b], [b, a]])
    return np.hstack([matrix, (to_mean - matrix @ from_mean)[:, None]])


def warp(photo: Photo, matrix: NDArray[np.float64], size: int) -> Photo:
    """Cut a (size, size, 3) crop out of ``photo`` by a similarity; border pixels are repeated.

    A face larger than the crop is first shrunk by area averaging, so that it does not alias.
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    shrink = int(1 / scale) if scale < 1 else 1
    if shrink > 1:
        height, width = photo.shape[:2]
        small = (max(width // shrink, 1), max(height // shrink, 1))
        photo = cv2.resize(photo, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        ratio = np.array([width / small[0], height / small[1]])
        matrix = matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5)
        matrix[:, :2] *= ratio
    return cv2.warpAffine(photo, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def align(photo: Photo, face: Face, size: int) -> Tensor:
    """The aligned crop of a face: (3, size, size) float32 in [0, 1]."""
    crop = warp(photo, alignment(face.landmarks, size), size)
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255


def paste(photo: Photo, crop: Tensor, face: Face, *, feather: float = 0.12) -> Photo:
    """``photo`` with an aligned ``crop`` (3, size, size), in [0, 1], blended in at its face's place.

    The crop fades out over the outer ``feather`` of its side. Every pixel that it does not reach
    is the photo's own, to the last bit.
    """
    size = crop.shape[-1]
    height, width = photo.shape[:2]
    forward = alignment(face.landmarks, size)
    back = cv2.invertAffineTransform(forward)
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    placed = corners @ back[:, :2].T + back[:, 2]
    left, top = np.maximum(np.floor(placed.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(placed.max(0)).astype(int) + 1, (width, height))
    if right <= left or bottom <= top:
        return photo.copy()
    back[:, 2] -= (left, top)
    window = (int(right - left), int(bottom - top))
    pixels = crop.detach().to("cpu", torch.float32).permute(1, 2, 0).contiguous().numpy()
    moved = cv2.warpAffine(pixels, back, window, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(_fade(size, feather), back, window, flags=cv2.INTER_LINEAR)[..., None]
    result = photo.copy()
    region = result[top:bottom, left:right]
    mixed = region * (1 - share) + np.clip(moved, 0, 1) * 255 * share
    region[:] = np.where(share > 0, np.rint(mixed).astype(np.uint8), region)
    return result


def _fade(size: int, feather: float) -> NDArray[np.float32]:
    """1 inside, falling smoothly to 0 at the border over ``feather`` of the side: (size, size)."""
    distance = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size)) / (feather * size)
    ramp = np.clip(distance, 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.outer(ramp, ramp).astype(np.float32)
