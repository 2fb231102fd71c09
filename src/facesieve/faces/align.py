"""Align a face to one template, and paste it back.

Photographs here are ``uint8`` RGB arrays of shape (H, W, 3); aligned crops are ``float32``
arrays of shape (3, size, size) in [0, 1]. Points are (x, y) in pixels, the centre of the
top-left pixel being (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.images import Floats, Photo, to_floats

Points = NDArray[np.float64]  # (N, 2), x y

# Eyes, nose, mouth corners of the ArcFace template (112 x 112 pixels), used by SFace, ArcFace and
# similar networks. As fractions of the crop's side, measured from its outer edge, it fits any size.
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


class Found(list[Face]):
    """The faces in a photograph, largest first, and in ``possible`` what may be others: the detector was not sure enough."""

    def __init__(self, faces: Iterable[Face] = (), possible: Sequence[Face] = ()) -> None:
        super().__init__(faces)
        self.possible = tuple(possible)

    @classmethod
    def of(cls, faces: Iterable[Face]) -> Found:
        """The same; without possible faces where they are not from a detector that names them."""
        return faces if isinstance(faces, cls) else cls(faces)


def alignment(landmarks: Points, size: int, *, zoom: float = 1.0) -> NDArray[np.float64]:
    """The similarity (2, 3) that brings ``landmarks`` closest to the template in a crop of ``size``.

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
    """Cut a (size, size, 3) crop out of ``photo`` by a similarity; as ``resampled``."""
    return resampled(photo, matrix, (size, size))


def resampled(
    image: NDArray[Any], matrix: NDArray[np.float64], size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR
) -> NDArray[Any]:
    """``image`` (H, W) or (H, W, C) seen through a similarity, as one of ``size`` (width, height); border pixels are repeated.

    Where it gets smaller it is first shrunk by area averaging, so that it does not alias.
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    shrink = int(1 / scale) if scale < 1 else 1
    if shrink > 1:
        image, matrix = _around(image, matrix, size, shrink)
        height, width = image.shape[:2]
        small = (max(width // shrink, 1), max(height // shrink, 1))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        ratio = np.array([width / small[0], height / small[1]])
        matrix[:, 2] += matrix[:, :2] @ (0.5 * ratio - 0.5)
        matrix[:, :2] *= ratio
    return cv2.warpAffine(image, matrix, size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)


def _around(
    image: NDArray[Any], matrix: NDArray[np.float64], size: tuple[int, int], shrink: int
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The part of an image that a view is made of, whole blocks of ``shrink`` pixels, and the similarity from there."""
    corners = np.array([[x, y] for x in (-1, size[0]) for y in (-1, size[1])])
    places = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    limit = np.array(image.shape[1::-1])
    low = np.clip(places.min(0) // shrink - 2, 0, (limit - 1) // shrink).astype(int) * shrink
    high = np.clip((places.max(0) // shrink + 3) * shrink, low + shrink, limit).astype(int)
    matrix = np.hstack([matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ low)[:, None]])
    return image[low[1] : high[1], low[0] : high[0]], matrix


def align(photo: Photo, face: Face, size: int) -> Floats:
    """The aligned crop of a face: (3, size, size) float32 in [0, 1]."""
    return to_floats(warp(photo, alignment(face.landmarks, size), size))
