"""Pictures for people: each face a row, each step of its purification a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facesieve.images import Photo, to_photo
from facesieve.operators import Grey, MeanPool
from facesieve.purify import RestorationStage, Stage

AMPLIFICATION = 8
MAX_ROWS = 48  # faces in one picture
_GAP, _HEAD = 6, 34


@dataclass(frozen=True, eq=False)
class Column:
    """A title and a batch of images (B, 3, H, W) in [0, 1]."""

    title: str
    images: Tensor


def difference(before: Tensor, after: Tensor) -> Column:
    """Their difference, amplified, around mid-grey."""
    return Column(f"difference x {AMPLIFICATION}", (0.5 + AMPLIFICATION / 2 * (after - before)).clamp(0, 1))


def columns(images: Tensor, stages: Sequence[tuple[Stage, Tensor]]) -> list[Column]:
    """Input, every stage's result with what the stage began from, and the amplified difference."""
    result = [Column("input", images)]
    before = images
    for stage, after in stages:
        if isinstance(stage, RestorationStage):
            result.append(Column(_observation_title(stage), stage.observed(before)))
        result.append(Column(stage.name, after))
        before = after
    return [*result, difference(images, before)]


def _observation_title(stage: RestorationStage) -> str:
    operator = stage.restoration.operator
    if isinstance(operator, Grey):
        return "grey"
    return "low resolution" if isinstance(operator, MeanPool) else "low resolution, grey"


def sheet(columns: Sequence[Column], *, cell: int = 192) -> Photo:
    """All columns side by side, a row an image, enlarged to ``cell`` pixels, titled."""
    rows = len(columns[0].images)
    canvas = Image.new("RGB", (len(columns) * (cell + _GAP) + _GAP, rows * (cell + _GAP) + _HEAD + _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for number, column in enumerate(columns):
        left = _GAP + number * (cell + _GAP)
        draw.text((left + cell // 2, _HEAD // 2), column.title, fill="black", font=font, anchor="mm")
        for row, image in enumerate(column.images.detach().to("cpu", torch.float32)):
            picture = Image.fromarray(to_photo(image)).resize((cell, cell), Image.Resampling.BICUBIC)
            canvas.paste(picture, (left, _HEAD + row * (cell + _GAP)))
    return np.asarray(canvas)
