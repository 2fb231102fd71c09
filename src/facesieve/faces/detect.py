"""Find faces in a photograph: at every size, the right way up or not, each by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.faces.align import Face, Found, Points, alignment, warp
from facesieve.faces.yunet import FILE, Row, Rows, YuNet, weights_sha256
from facesieve.files import sha256_of
from facesieve.images import Photo

SMALLEST = 240  # pixels of the coarsest search's longer side: with a quarter of it around, a face may be larger than the picture
STEP = 5.0  # from one search to the next at most; the network knows faces from about 16 to 300 pixels
TURNED = 1440  # pixels of the longer side up to which all four turns are searched
TILE, BORDER = 1280, 32  # pixels of a tile's side at most, and around it; larger faces are found by a coarser search
STRIDE = 32  # pixels; the network takes images whose sides are multiples of it
TURNS = (-1, cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)  # by quarter turns
OVERLAP = 0.4  # intersection over union above which two boxes are one face

FIRST_LOOK = (320, 0.5)  # pixels of a look's side, and the share of it that the template takes
LAST_LOOKS = ((224, 0.4), (224, 0.625))  # their mean is steadier than either
LOOKS, UPRIGHT = 3, 10.0  # looks at most, degrees to which a face is set upright by them
FAINT = 0.3  # the least score in a look, where a face is expected
SURE = 0.88  # a score of faces that are seen upright; below, a look is taken in all four turns
POSSIBLE = 0.3  # the least mean score of both looks of what is named as a possible face
DOUBT = 0.03  # in favour of the turn in which a face was found

SEARCH = 1  # of the way of searching; to be counted up with every change after which other faces or places are found
SETTINGS = (SMALLEST, STEP, TURNED, TILE, BORDER, OVERLAP, FIRST_LOOK, LAST_LOOKS, LOOKS, UPRIGHT, FAINT, SURE, DOUBT)


class Detector:
    """The YuNet detector, with its 2023 weights that ship with the package. Any number of threads may use one.

    The photograph is searched at sizes from 240 pixels up to its own, in tiles: faces of about 16 pixels are found, and such as
    do not fit in the picture. Up to 1,440 pixels it is searched in all four quarter turns, beyond that upright and in the turns
    in which a face was found. Boxes that overlap are one face, the surest. At each there is a second look: cut out, set
    upright by its landmarks, at one size, where the network answers best; what is no face there is none.
    """

    def __init__(self, *, threshold: float = 0.7, first_threshold: float = 0.5) -> None:
        self.threshold, self.first_threshold = threshold, first_threshold

    @property
    def made_from(self) -> dict[str, Any]:
        """Everything that the faces depend on which it finds, as records have it: plain data."""
        settings = json.dumps([SEARCH, *SETTINGS, self.threshold, self.first_threshold])
        return {"name": FILE.partition(".")[0], "sha256": weights_sha256(), "settings": sha256_of(settings.encode())[:12]}

    @cached_property
    def _network(self) -> YuNet:
        return YuNet()

    def detect(self, photo: Photo) -> Found:
        """All faces in ``photo``, largest first: none in an empty list. Its ``possible`` are places that may be faces."""
        scaled = _pyramid(photo)
        rows = _merged(self._search(photo, [small for small in scaled if max(small.shape[:2]) <= TURNED], range(4)))
        fine = [small for small in scaled if max(small.shape[:2]) > TURNED]
        rows = _merged(np.concatenate([rows, self._search(photo, fine, {0} | {int(turns) for turns in rows[:, 15]})]))
        seen = [self._second_look(scaled, row) for row in rows]
        sure, unsure = (_merged(np.array([row for row, said in seen if said == which])) for which in (True, False))
        return Found(_faces(sure), _faces([row for row in unsure if row[14] >= POSSIBLE and not _lies_on(row, sure)]))

    def _search(self, photo: Photo, scaled: Sequence[Photo], ways: Iterable[int]) -> Rows:
        """Rows by pixels of the photograph, from it at other sizes, in quarter turns, which are column 15; many of one face."""
        found = [np.empty((0, 16))]
        for small in scaled:
            way = _way(small, photo)
            border = max(small.shape[:2]) // 4 if max(small.shape[:2]) <= SMALLEST else BORDER
            for corner, tile in _tiles(small, border):
                for turns in ways:
                    (rows,) = self._network([_turned(tile, turns)], self.first_threshold)
                    back = _back(turns, tile.shape) + np.column_stack([np.zeros((2, 2)), corner])
                    found.append(np.column_stack([_mapped(rows, _chain(way, back)), np.full(len(rows), turns)]))
        return np.concatenate(found)

    def _second_look(self, scaled: Sequence[Photo], row: Row) -> tuple[Row, bool]:
        """The face of ``row`` as it is found again, upright and at one size, and whether it is one.

        Of what is none the score is the mean of both looks, 0 for one that sees nothing.
        """
        found, before = self._look(scaled, row, *FIRST_LOOK), row
        for _ in range(LOOKS - 1):
            if found is None or abs((_roll(found) - _roll(before) + 180) % 360 - 180) < UPRIGHT:
                break
            before, found = found, self._look(scaled, found, *FIRST_LOOK)
        seen = [] if found is None else [self._look(scaled, found, *look) for look in LAST_LOOKS]
        known = [again for again in seen if again is not None]
        mean: Row = np.mean(known, axis=0) if known else row
        # Of a face that is covered, or that the picture cuts into, a look at what lies around it may be misled.
        surest = max(float(mean[14]), float(row[14])) if known else 0.0
        if known and (mean[14] >= self.threshold or mean[14] + row[14] >= 2 * self.threshold):
            return np.append(mean[:14], [surest]), True
        if row[14] >= SURE:
            return row[:15], True
        return np.append(row[:14], [(row[14] + (mean[14] if known else 0)) / 2]), False

    def _look(self, scaled: Sequence[Photo], row: Row, side: int, share: float) -> Row | None:
        """The face of ``row``, found in a cut of ``side`` pixels around it, of whose side the template is a ``share``.

        It is cut from the smallest of the photograph's sizes that shows it finely enough: shrinking a large one takes long.
        """
        way = alignment(row[4:14].reshape(5, 2), side, zoom=share)
        least = math.hypot(way[0, 0], way[1, 0]) * max(scaled[0].shape)
        source = next((small for small in reversed(scaled) if max(small.shape) >= least), scaled[0])
        look = warp(source, _chain(way, _way(source, scaled[0])), side)
        best = _middle(self._network([look], FAINT)[0], side)
        if best is None or best[14] < SURE:
            best = self._other_turns(look, best)
        return None if best is None else _mapped(best[None], np.asarray(cv2.invertAffineTransform(way), np.float64))[0]

    def _other_turns(self, look: Photo, upright: Row | None) -> Row | None:
        """The surest of the face in the middle of a look as it is and in three more turns."""
        seen = self._network([_turned(look, turns) for turns in (1, 2, 3)], FAINT)
        best, surest = upright, 0.0 if upright is None else upright[14] + DOUBT
        for turns, rows in enumerate(seen, 1):
            row = _middle(_mapped(rows, _back(turns, look.shape)), len(look))
            if row is not None and row[14] > surest:
                best, surest = row, row[14]
        return best


def sizes(longest: int) -> list[int]:
    """The longer sides, pixels, at which a photograph with this one is searched, finest first; it is never enlarged."""
    if longest <= SMALLEST:
        return [longest]
    steps = math.ceil(math.log(longest / SMALLEST, STEP))
    return [round(SMALLEST * (longest / SMALLEST) ** (step / steps)) for step in range(steps, -1, -1)]


def _pyramid(photo: Photo) -> list[Photo]:
    """The photograph at each of its sizes, each made from the next finer one; a strip keeps a pixel of its thin side."""
    scaled = [photo]
    for side in sizes(max(photo.shape[:2]))[1:]:
        scale = side / max(photo.shape[:2])
        size = (max(round(photo.shape[1] * scale), 1), max(round(photo.shape[0] * scale), 1))
        scaled.append(cv2.resize(scaled[-1], size, interpolation=cv2.INTER_AREA))  # type: ignore[arg-type]
    return scaled


def _tiles(photo: Photo, border: int) -> Iterator[tuple[NDArray[np.int64], Photo]]:
    """Tiles that overlap by two borders, of sides that suit the network, and the places (x, y) of their corners.

    Around the photograph its outermost pixels are repeated: a face that it cuts off needs room.
    """
    rows, columns = (_spans(side, border) for side in photo.shape[:2])
    for top, bottom in rows:
        for left, right in columns:
            height, width = photo.shape[:2]
            part = photo[max(top, 0) : bottom, max(left, 0) : right]
            around = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
            yield np.array([left, top]), cv2.copyMakeBorder(part, *around, cv2.BORDER_REPLICATE)  # type: ignore[misc]


def _spans(side: int, border: int) -> list[tuple[int, int]]:
    """Where tiles begin and end along a side: within the photograph and ``border`` pixels around."""
    count = math.ceil(side / (TILE - 2 * border))
    length = -(-(math.ceil(side / count) + 2 * border) // STRIDE) * STRIDE
    starts = [round(side * number / count) - border for number in range(count)]
    return [(start, start + length) for start in starts]


# --- rows --------------------------------------------------------------------------------------------


def _merged(rows: Rows) -> Rows:
    """Of boxes that overlap, the one with the best score."""
    if not len(rows):
        return rows
    kept = cv2.dnn.NMSBoxes(rows[:, :4].tolist(), rows[:, 14].tolist(), 0.0, OVERLAP)
    best: Rows = rows[np.asarray(kept, int).reshape(-1)]
    return best


def _middle(rows: Rows, side: int) -> Row | None:
    """The surest face that covers the middle of a look and is no smaller than may be expected there."""
    low, high = rows[:, :2], rows[:, :2] + rows[:, 2:4]
    fits = ((low < side / 2) & (high > side / 2)).all(1) & (rows[:, 3] > side / 5) & (rows[:, 3] < side)
    return rows[fits][np.argmax(rows[fits, 14])] if fits.any() else None


def _roll(row: Row) -> float:
    """By how much the face's landmarks are turned, degrees."""
    way = alignment(row[4:14].reshape(5, 2), 1)
    return math.degrees(math.atan2(way[1, 0], way[0, 0]))


def _turned(image: Photo, turns: int) -> Photo:
    """By quarter turns against the clock."""
    return cv2.rotate(image, TURNS[turns]) if turns else image  # type: ignore[return-value]


def _back(turns: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """The way (2, 3) from an image turned by ``_turned`` to the unturned one of ``shape``."""
    height, width = shape[:2]
    ways = (
        [[1, 0, 0], [0, 1, 0]],
        [[0, -1, width - 1], [1, 0, 0]],
        [[-1, 0, width - 1], [0, -1, height - 1]],
        [[0, 1, 0], [-1, 0, height - 1]],
    )
    return np.array(ways[turns], np.float64)


def _way(source: Photo, target: Photo) -> NDArray[np.float64]:
    """The way (2, 3) from pixels of a photograph at one size to those at another: p + 1/2 scales, p does not."""
    ratio = np.array(target.shape[1::-1]) / source.shape[1::-1]
    return np.column_stack([np.diag(ratio), ratio / 2 - 0.5])


def _chain(second: NDArray[np.float64], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """The way (2, 3) that ``first`` and then ``second`` make."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _mapped(rows: Rows, way: NDArray[np.float64]) -> Rows:
    """Rows under a way (2, 3). A box becomes that of the turned ellipse in it: exact in quarter turns, a head's in all."""
    turn = way[:, :2]
    middle = (rows[:, :2] + rows[:, 2:4] / 2) @ turn.T + way[:, 2]
    half = np.sqrt((rows[:, 2:4] / 2) ** 2 @ (turn**2).T)
    points = rows[:, 4:14].reshape(-1, 5, 2) @ turn.T + way[:, 2]
    mapped: Rows = np.hstack([middle - half, 2 * half, points.reshape(-1, 10), rows[:, 14:]])
    return mapped


def _lies_on(row: Row, others: Rows) -> bool:
    """Whether a box has its middle in one of others, or the other way round."""
    return any((np.abs(row[:2] + row[2:4] / 2 - o[:2] - o[2:4] / 2) < np.maximum(row[2:4], o[2:4]) / 2).all() for o in others)


def _faces(rows: Iterable[Row]) -> list[Face]:
    """Rows as faces, largest first."""
    found = []
    for row in sorted(rows, key=lambda row: -row[2] * row[3]):
        x, y, width, height = (float(value) for value in row[:4])
        points: Points = row[4:14].reshape(5, 2).copy()
        found.append(Face((x, y, width, height), points, float(row[14])))
    return found
