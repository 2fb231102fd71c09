"""Pictures for a report: what defences make of sample photographs that may be shown."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from facesieve.data.sources import SUFFIXES
from facesieve.errors import InputError, NoFaceError
from facesieve.evaluate.defend import Around, Defence
from facesieve.faces import Detector, align
from facesieve.images import encode_photo, read_photo
from facesieve.noise import derive_seed
from facesieve.pictures import columns, sheet

MOST = 6  # photographs in one picture
CELL = 112  # pixels of a face there


def sample_crops(folder: Path, size: int) -> Tensor:
    """The aligned faces (N, 3, size, size) of the first photographs in a folder.

    Raises ``InputError`` for a folder without photographs, or a photograph without a face.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)[:MOST]
    if not paths:
        raise InputError(f"{folder}: no photographs; run.samples names a folder of photographs that may be shown")
    detector, crops = Detector(), []
    for path in paths:
        photo = read_photo(path)
        try:
            crops.append(align(photo, detector.detect_largest(photo), size))
        except NoFaceError as error:
            raise InputError(f"{path}: no face found; take it out of run.samples") from error
    return torch.stack(crops)


@torch.inference_mode()
def sample_pictures(images: Tensor, defences: Sequence[Defence], around: Around, *, seed: int) -> dict[str, str]:
    """For each defence a JPEG, in base64: every sample face of ``images`` (N, 3, S, S) a row, every step a column."""
    seeds = [derive_seed(seed, "samples", number) for number in range(len(images))]
    found = {}
    for defence in defences:
        stages = [(s, after.cpu()) for s, after in defence.purifier.trace(images.to(around.path.device), seeds=seeds)]
        picture = encode_photo(sheet(columns(images, stages), cell=CELL), "jpeg", quality=85)
        found[defence.name] = base64.b64encode(picture).decode()
    return found
