"""Pictures for a report: what defences do to sample photographs that may be shown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facesieve.errors import InputError
from facesieve.evaluate.defend import Defence, RunContext
from facesieve.faces import Crops, Detector, FaceCrops
from facesieve.folders import images_in
from facesieve.images import Photo, encode_photo, read_photo
from facesieve.noise import derive_seed
from facesieve.pictures import Column, columns, sheet
from facesieve.runtime.torch import traced

MOST = 6  # photographs in one picture
BESIDE = 5  # defences side by side in one picture
CELL = 112  # pixels of a face there


def sample_crops(folder: Path, size: int) -> Crops:
    """The aligned faces (N, 3, size, size) of the first photographs in a folder, the largest of each.

    Raises ``InputError`` for a folder without photographs, ``NoFaceError`` for a photograph without a face.
    """
    paths = images_in(folder)[:MOST] if folder.is_dir() else []
    if not paths:
        raise InputError("no photographs", folder, "name a folder of photographs that may be shown")
    detector, crops = Detector(), []
    for path in paths:
        photo = read_photo(path)
        try:
            crops.append(FaceCrops.cut(photo, detector.detect(photo)[:1], size).crops)
        except InputError as error:
            error.at(path).advised("take it out of the samples")
            raise
    return np.concatenate(crops)


def sample_pictures(crops: Crops, defences: Sequence[Defence], context: RunContext) -> dict[str, str]:
    """JPEGs in base64, by title: the sample faces ``crops`` (N, 3, S, S) behind every defence, one row a face.

    Then, for each defence whose steps are scored, one with a column per step.
    """
    seeds = [derive_seed(context.settings.seed, "samples", number) for number in range(len(crops))]
    traces = [traced(defence.purifier, crops, seeds, context.hardware.device) for defence in defences]
    made = [Column(defence.name, trace.crops) for defence, trace in zip(defences, traces, strict=True)]
    found = {}
    for begin in range(0, len(made), BESIDE):
        part = made[begin : begin + BESIDE]
        found[f"behind {', '.join(column.title for column in part)}"] = [Column("as they are", crops), *part]
    for defence, trace in zip(defences, traces, strict=True):
        if defence.settings.score_steps:
            found[f"{defence.name}, step by step"] = columns(crops, trace)
    return {title: _encoded(sheet(shown, cell=CELL)) for title, shown in found.items()}


def _encoded(picture: Photo) -> str:
    return base64.b64encode(encode_photo(picture, "jpeg", quality=85)).decode()
