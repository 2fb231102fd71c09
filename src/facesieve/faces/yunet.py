"""YuNet, the network that finds faces: pixels to boxes, landmarks and scores. ``detect`` decides what it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facesieve.files import sha256_of
from facesieve.images import Photo
from facesieve.weights.graphs import Session

Rows = NDArray[np.float64]  # (N, 15): x, y, width, height, five landmarks (x, y), score
Row = NDArray[np.float64]  # (15,), one of them

FILE = "yunet-2023mar.onnx"
STRIDES = (8, 16, 32)  # pixels from one place that the network answers for to the next
# The graph fixes its input to one image of 640 x 640, though nothing in it needs that: so protocol buffers spell the shape,
# and one with these three left open.
FIXED = b"\n\2\x08\1\n\2\x08\3" + 2 * b"\n\3\x08\x80\5"
OPEN = b"\n\2\x12\0\n\2\x08\3" + b"\n\3\x12\1h" + b"\n\3\x12\1w"


@cache
def weights_sha256() -> str:
    """The SHA-256 of the file with the weights."""
    return sha256_of((files("facesieve") / "weights" / FILE).read_bytes())


class YuNet:
    """The network with its 2023 weights, which ship with the package, on ONNX Runtime: any number of threads may use it."""

    def __init__(self) -> None:
        with as_file(files("facesieve") / "weights" / FILE) as path:
            graph = path.read_bytes()
        self._session = Session(graph.replace(FIXED, OPEN), feature="the face detector")

    def __call__(self, images: Sequence[Photo], threshold: float) -> list[Rows]:
        """The faces of each of ``images``, all of one shape (H, W, 3), whose score is at least ``threshold``, by pixels of it.

        Points are centres of pixels; boxes of one face are not merged.
        """
        height, width = images[0].shape[:2]
        down, right = -height % STRIDES[-1], -width % STRIDES[-1]
        framed = [cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT) for image in images]
        names = [f"{what}_{stride}" for stride in STRIDES for what in ("cls", "obj", "bbox", "kps")]
        made = self._session.run(names, {"input": cv2.dnn.blobFromImages(framed, swapRB=True)})
        found = [part.reshape(len(images), -1, part.shape[-1]) for part in made]
        columns = (width + right) // STRIDES[-1]
        return [
            np.concatenate([
                _decoded([part[number] for part in found[4 * i : 4 * i + 4]], stride, columns * STRIDES[-1] // stride, threshold)
                for i, stride in enumerate(STRIDES)
            ])
            for number in range(len(images))
        ]  # fmt: skip


def _decoded(parts: Sequence[Any], stride: int, columns: int, threshold: float) -> Rows:
    """Rows of the places of one stride, ``columns`` to a line: of two factors of their scores, and offsets in strides."""
    cls, obj, box, points = parts
    scores = np.sqrt(cls[:, 0] * obj[:, 0])
    places = np.flatnonzero(scores >= threshold)
    corner = np.stack([places % columns, places // columns], axis=1)
    box, marks = box[places].astype(np.float64), points[places].astype(np.float64).reshape(-1, 5, 2)
    size, middle = np.exp(box[:, 2:]), corner + box[:, :2]
    marks = (marks + corner[:, None]).reshape(-1, 10)
    rows: Rows = np.hstack([(middle - size / 2) * stride, size * stride, marks * stride, scores[places, None]])
    return rows
