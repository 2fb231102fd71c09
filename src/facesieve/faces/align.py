"""Align a face to one template, and paste it back.

Photographs here are ``uint8`` RGB arrays of shape (H, W, 3); aligned crops are ``float32``
arrays of shape (3, size, size) in [0, 1]. Points are (x, y) in pixels, the centre of the
top-left pixel being (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def align(photo: Photo, face: Face, size: int) -> Floats:
    """The aligned crop of a face: (3, size, size) float32 in [0, 1]."""
    return to_floats(warp(photo, alignment(face.landmarks, size), size))


def paste(photo: Photo, crop: Floats, face: Face, *, feather: float = 0.12) -> Photo:
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
    pixels = np.ascontiguousarray(crop.transpose(1, 2, 0), np.float32)
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
