"""Pictures for people: each face is a row, each step of its purification a column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facesieve.faces import Crops
from facesieve.images import Photo, to_photo
from facesieve.runtime import Trace

AMPLIFICATION = 8
MAX_ROWS = 48  # faces in one picture
_GAP, _HEAD = 6, 34


@dataclass(frozen=True, eq=False)
class Column:
    """A title and a batch of images (B, 3, H, W) in [0, 1]."""

    title: str
    images: Crops


def difference(before: Crops, after: Crops) -> Column:
    """Their difference, amplified, around mid-grey."""
    return Column(f"difference x {AMPLIFICATION}", (0.5 + AMPLIFICATION / 2 * (after - before)).clip(0, 1))


def columns(crops: Crops, trace: Trace) -> list[Column]:
    """Input, every step's result with what the step started from, and the amplified difference."""
    result = [Column("input", crops)]
    for step in trace.steps:
        if step.observed is not None:
            result.append(Column(step.caption, step.observed))
        result.append(Column(step.name, step.crops))
    return [*result, difference(crops, trace.crops)]


def sheet(columns: Sequence[Column], *, cell: int = 192) -> Photo:
    """All columns side by side, one row per image, enlarged to ``cell`` pixels, titled."""
    rows = len(columns[0].images)
    canvas = Image.new("RGB", (len(columns) * (cell + _GAP) + _GAP, rows * (cell + _GAP) + _HEAD + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, column in enumerate(columns):
        left = _GAP + number * (cell + _GAP)
        _write_title(draw, column.title, left + cell // 2, cell)
        for row, image in enumerate(column.images):
            picture = Image.fromarray(to_photo(image)).resize((cell, cell), Image.Resampling.BICUBIC)
            canvas.paste(picture, (left, _HEAD + row * (cell + _GAP)))
    return np.asarray(canvas)


def _write_title(draw: ImageDraw.ImageDraw, title: str, centre: int, width: int) -> None:
    """On one line if it fits, else smaller on two."""
    font = ImageFont.load_default(size=15)
    if draw.textlength(title, font=font) > width:
        font = ImageFont.load_default(size=11)
        title = "\n".join(textwrap.wrap(title, width=width // 6, max_lines=2, placeholder="…"))
    draw.multiline_text((centre, _HEAD // 2), title, fill="black", font=font, anchor="mm", align="center", spacing=2)
