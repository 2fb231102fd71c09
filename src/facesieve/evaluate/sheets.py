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
from facesieve.images import encode_photo, read_photo
from facesieve.noise import derive_seed
from facesieve.pictures import columns, sheet
from facesieve.runtime.torch import traced

MOST = 6  # photographs in one picture
CELL = 112  # pixels of a face there


def sample_crops(folder: Path, size: int) -> Crops:
    """The aligned faces (N, 3, size, size) of the first photographs in a folder, the largest of each.

    Raises ``InputError`` for a folder without photographs, ``NoFaceError`` for a photograph without a face.
    """
    paths = images_in(folder)[:MOST] if folder.is_dir() else []
    if not paths:
        raise InputError("no photographs", folder, "run.samples names a folder of photographs that may be shown")
    detector, crops = Detector(), []
    for path in paths:
        photo = read_photo(path)
        try:
            crops.append(FaceCrops.cut(photo, detector.detect(photo)[:1], size).crops)
        except InputError as error:
            error.at(path).advised("take it out of run.samples")
            raise
    return np.concatenate(crops)


def sample_pictures(crops: Crops, defences: Sequence[Defence], context: RunContext) -> dict[str, str]:
    """For each defence a JPEG, in base64: one row per sample face of ``crops`` (N, 3, S, S), one column per step."""
    seeds = [derive_seed(context.settings.seed, "samples", number) for number in range(len(crops))]
    found = {}
    for defence in defences:
        trace = traced(defence.purifier, crops, seeds, context.hardware.device)
        picture = encode_photo(sheet(columns(crops, trace), cell=CELL), "jpeg", quality=85)
        found[defence.name] = base64.b64encode(picture).decode()
    return found
