"""Bytes <-> pixels: photographs are read and written here, and nowhere else.

A photograph is a ``uint8`` sRGB array of shape (H, W, 3); networks take ``float32`` of shape
(3, H, W) in [0, 1]. Whatever the bytes, reading them ends in a photograph or in an error of ours.
"""

from facesieve.images.arrays import Floats, Photo, to_floats, to_photo
from facesieve.images.reading import photo_bytes, read_photo, read_with_dates
from facesieve.images.things import as_photo
from facesieve.images.writing import Encoding, encode_photo, write_photo

__all__ = [
    "Encoding", "Floats", "Photo", "as_photo", "encode_photo", "photo_bytes", "read_photo", "read_with_dates", "to_floats",
    "to_photo", "write_photo",
]  # fmt: skip
