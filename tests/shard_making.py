"""What the tests of shards share: shards of real photographs, made by libraries that are not ours, and a quick shield."""

import io
import tarfile

import cv2
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from facesieve.hardware import choose_hardware
from facesieve.images import encode_photo, read_photo
from facesieve.jobs.formats import Unit
from facesieve.purify import preset
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield
from white_prior import WhitePrior

BAD = b"not an image"


def quick_shield():
    """The robust preset with the exact denoiser of white noise: everything real but the network."""
    chosen = preset("robust").changed(steps=1, samples=1)
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))


def small(path, side=240):
    """A photograph as a small JPEG, quick to search for faces."""
    photo = read_photo(path)
    scale = side / max(photo.shape[:2])
    return encode_photo(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), "jpeg")


def noise(number, side=64):
    """An aligned crop of noise, for what is not about faces."""
    return encode_photo(np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8), "jpeg")


def write_tar(path, members):
    """A tar file of ``(name, bytes)``, each with a time of its own."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_500_000_000 + number, 0o640
            tar.addfile(info, io.BytesIO(data))
    return path


def read_tar(path):
    """The members of a tar file, in order."""
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def write_parquet(path, images, *, structured=True, **columns):
    """A Parquet file with a column of images, as Hugging Face writes it or as plain bytes."""
    rows = [None if i is None else {"bytes": i, "path": f"{n}.jpg"} for n, i in enumerate(images)] if structured else images
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if structured else pa.binary()
    table = pa.table({"label": pa.array(range(len(images)), pa.int16()), "image": pa.array(rows, kind), **columns})
    parquet.write_table(table.replace_schema_metadata({"kept": "yes"}), path, row_group_size=3)
    return path


def shard(source, out):
    """The shard at ``source`` with its result in ``out``."""
    return Unit(source, out / source.name, source.name, source.suffix)
