"""Put a purified crop back into its photograph.

One purification has two finishes. In ``secure`` everything that a recogniser reads of the face was made by the purifier:
of the crop's square nothing of the photograph is left. Around it the photograph is brought to the crop's sharpness, and
gets its own back towards an ellipse of a head's shape, so that no border is seen. ``detail`` is for people: what is finer
than the crop's grid is the photograph's own. It hands an attacker's fine perturbation on, so nobody may be identified
from it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.errors import SettingError
from facesieve.faces.align import Face, alignment, resampled, warp
from facesieve.images import Floats, Photo

Finish = Literal["secure", "detail"]
FINISHES: tuple[Finish, ...] = get_args(Finish)

# In sides of the crop.
REACH = (0.72, 0.85)  # half the axes of the ellipse, upright in the crop, beyond which nothing changes
SEAM, COLOUR_SEAM = 0.03, 0.09  # how far from the square's border brightness and colours are blurred in ``secure``
FADE = 0.12  # over how much of the square's border the purifier's change begins in ``detail``

Canvas = NDArray[Any]  # float32; the crop's grid with a margin around it: (C, C) or (C, C, 3), in [0, 1]
Matrix = NDArray[Any]  # (2, 3), of a similarity


def check_finish(name: str) -> Finish:
    """The finish of that name. Raises ``SettingError``."""
    found = next((finish for finish in FINISHES if finish == name), None)
    if found is None:
        raise SettingError(f"a face is finished as secure or as detail, not as {name!r}")
    return found


def paste(photo: Photo, crop: Floats, face: Face, *, finish: Finish = "secure") -> Photo:
    """``photo`` (H, W, 3) with an aligned ``crop`` (3, S, S), in [0, 1], at its face's place.

    In ``secure`` no pixel in the crop's square depends on what the photograph has there; in ``detail`` the photograph
    keeps what is finer than the crop's grid. Every pixel outside of the ellipse ``REACH`` is the photo's own, to the last bit.
    """
    size = crop.shape[-1]
    margin = math.ceil((max(REACH) - 0.5) * size) + 2
    forward = alignment(face.landmarks, size)
    forward[:, 2] += margin
    left, top, right, bottom = _window(forward, size + 2 * margin, photo)
    if right <= left or bottom <= top:
        return photo.copy()
    back = cv2.invertAffineTransform(forward)
    back[:, 2] -= (left, top)
    pixels, result = np.ascontiguousarray(crop.transpose(1, 2, 0), np.float32), photo.copy()
    region = result[top:bottom, left:right]
    if finish == "detail":
        around = warp(photo, forward, size + 2 * margin).astype(np.float32) / 255
        mixed = region + 255 * _placed(_change(pixels, around, margin), back, region)
        region[:] = _levels(mixed)
        return result
    _cover(region, pixels, back, margin)
    around = warp(result, forward, size + 2 * margin).astype(np.float32) / 255
    coarser = max(int(math.hypot(*forward[:, 0])), 1)  # crop pixels on one of the photograph
    share = _placed(_share(size, margin, coarser + 1), back, region, cv2.INTER_LINEAR)[..., None]
    mixed = region * (1 - share) + 255 * _placed(_joined(pixels, around, margin), back, region) * share
    region[:] = np.where(share > 0, _levels(mixed), region)
    return result


def _cover(region: Photo, pixels: Canvas, back: Matrix, margin: int) -> None:
    """Put the crop over its square, so that nothing that comes after can see what the photograph has there."""
    wide = cv2.copyMakeBorder(pixels, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    inside = np.zeros(wide.shape[:2], np.float32)
    inside[margin:-margin, margin:-margin] = 1
    # The nearest of the canvas's pixels: exactly those of the photograph whose middles lie in the square.
    within = cv2.warpAffine(inside, back, region.shape[1::-1], flags=cv2.INTER_NEAREST)[..., None]
    region[:] = np.where(within > 0, _levels(255 * _placed(wide, back, region)), region)


def _placed(canvas: Canvas, back: Matrix, region: Photo, interpolation: int = cv2.INTER_CUBIC) -> Canvas:
    """A canvas on the grid of a region of the photograph."""
    return resampled(canvas, back, (region.shape[1], region.shape[0]), interpolation)


def _levels(values: NDArray[Any]) -> Photo:
    """Values rounded to the 256 levels."""
    levels: Photo = np.rint(values.clip(0, 255)).astype(np.uint8)
    return levels


def _window(forward: Matrix, side: int, photo: Photo) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what a canvas of ``side`` pixels covers of the photograph."""
    back = cv2.invertAffineTransform(forward)
    corners = np.array([[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5], [side - 0.5, side - 0.5]])
    placed = corners @ back[:, :2].T + back[:, 2]
    low, high = np.floor(placed.min(0)).astype(int), np.ceil(placed.max(0)).astype(int) + 1
    height, width = photo.shape[:2]
    return max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), width), min(int(high[1]), height)


def _places(size: int, margin: int) -> Canvas:
    """How far each row and column of a canvas lies from the square's middle, in pixels: (C,)."""
    places: Canvas = np.abs(np.arange(-margin, size + margin) + 0.5 - size / 2).astype(np.float32)
    return places


def _smooth(ramp: Canvas) -> Canvas:
    """A ramp, clipped to [0, 1], without corners."""
    ramp = np.clip(ramp, 0, 1)
    smooth: Canvas = ramp * ramp * (3 - 2 * ramp)
    return smooth


def _share(size: int, margin: int, plateau: int) -> Canvas:
    """1 in the square and ``plateau`` pixels around it, falling smoothly to 0 at the ellipse ``REACH``."""
    place = _places(size, margin)
    x, y = place[None], place[:, None]
    square = np.maximum(x, y) / (size / 2 + plateau)  # both are 1 at their border and grow along a ray as its length does
    ellipse = np.hypot(x / (REACH[0] * size), y / (REACH[1] * size))
    with np.errstate(divide="ignore", invalid="ignore"):
        ramp = (1 / ellipse - 1) / (1 / ellipse - 1 / square)  # along each ray 1 at the plateau's border, 0 at the ellipse
    return _smooth(np.where(square <= 1, 1, np.where(ellipse < 1, ramp, 0)).astype(np.float32))


def _outside(size: int, margin: int) -> Canvas:
    """How far each pixel of a canvas lies outside of the square, in pixels; negative inside."""
    place = _places(size, margin) - size / 2
    x, y = place[None], place[:, None]
    outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    distance: Canvas = np.where(outside > 0, outside, np.maximum(x, y))
    return distance


def _joined(crop: Canvas, around: Canvas, margin: int) -> Canvas:
    """``around`` with the crop (S, S, 3) in its middle, blurred along the seam, so that no line is left.

    Of ``around``, what lies in the square is not even looked at.
    """
    size = len(crop)
    joined = around.copy()
    joined[margin:-margin, margin:-margin] = crop
    bright, distance = joined.mean(2, keepdims=True), np.abs(_outside(size, margin))
    return _blurred(bright, distance, SEAM * size) + _blurred(joined - bright, distance, COLOUR_SEAM * size)


def _blurred(part: Canvas, distance: Canvas, width: float) -> Canvas:
    """A canvas (C, C, 1) or (C, C, 3), blurred to ``width`` pixels on both sides of the seam."""
    soft = cv2.GaussianBlur(part, (0, 0), width / 2.5).reshape(part.shape)
    blurred: Canvas = part + _smooth(1 - distance / width)[..., None] * (soft - part)
    return blurred


def _change(crop: Canvas, around: Canvas, margin: int) -> Canvas:
    """What the purifier changed, on a canvas: all of it in the middle, nothing at the square's border."""
    size = len(crop)
    change = np.zeros_like(around)
    change[margin:-margin, margin:-margin] = crop - around[margin:-margin, margin:-margin]
    return change * _smooth(-_outside(size, margin) / (FADE * size))[..., None]
