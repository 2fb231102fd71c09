"""What a recogniser learns from: the crops of a manifest's people, and what a teacher says of crops."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facesieve.data.crops import Crops, LabelledCrops, aligned_crops, of_role, read_array
from facesieve.data.manifest import load_manifest
from facesieve.data.sources import open_source
from facesieve.errors import InputError
from facesieve.files import write_with_folder
from facesieve.images import to_floats
from facesieve.recognition import Embedder
from facesieve.recognition.embedder import in_parts
from facesieve.recognition.facenet import SIDE


def labelled_crops(manifest: Path, source: Path, cache: Path) -> tuple[LabelledCrops, LabelledCrops]:
    """The training and the test crops of a manifest, aligned, at the network's size."""
    listed = load_manifest(manifest)
    images = aligned_crops(listed, open_source(source), cache, SIDE)
    return of_role(listed, images, "train"), of_role(listed, images, "test")


@torch.inference_mode()
def teacher_rows(teacher: Embedder, crops: Crops, path: Path) -> Tensor:
    """Where the teacher's embedding of every crop points from the mean of all: unit rows (N, D); kept at ``path``.

    All faces share the mean, about 0.4 long with SFace; it says nothing about who they are, and a
    network learns it first. Raises ``InputError`` for a file there that is damaged, or where it cannot be written.
    """
    if not path.exists():
        made = in_parts(lambda part: teacher.rows(to_floats(part)), crops, teacher.dimensions)
        data = BytesIO()
        np.save(data, made)
        write_with_folder(path, data.getvalue())
    kept = read_array(path)
    if kept.shape != (len(crops), teacher.dimensions) or kept.dtype != np.float32 or not np.isfinite(kept).all():
        raise InputError("of other crops, or damaged", path, "delete it, and it is made again")
    rows = torch.from_numpy(kept)
    return functional.normalize(rows - rows.mean(0))
