"""A photograph with its faces cut out: what goes through the shield, and comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from facesieve.errors import InputError, ManyFacesError, NoFaceError, NotSquareError, SettingError, many
from facesieve.faces.align import Face, Found, align
from facesieve.faces.paste import Finish, check_finish, paste
from facesieve.faces.quality import Quality, quality
from facesieve.files import sha256_of_pixels
from facesieve.images import Floats, Photo, to_floats, to_photo
from facesieve.noise import derive_seed, fresh_seeds

Crops = Floats  # (N, 3, S, S), in [0, 1]

ROUNDING = 1e-3  # by which a value may lie outside of [0, 1]
SQUARE = 0.02  # share of the longer side by which the sides of an aligned crop may differ


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """A photograph (H, W, 3), its faces, and their aligned crops (N, 3, S, S) in [0, 1], one per face, in the same order.

    A photograph that is already an aligned crop (``aligned``) has one crop, itself, and no faces.
    ``sha256`` is that of the file's bytes, None where there was no file. It is a value: its methods return new ones.
    """

    photo: Photo
    faces: tuple[Face, ...]
    crops: Crops
    aligned: bool = False
    sha256: str | None = None
    cut_at: int | None = None  # pixels at which the crops were cut from the photograph; None for others, such as purified ones
    possible: tuple[Face, ...] = ()  # what may be further faces: the detector was not sure, and they have no crops

    def __post_init__(self) -> None:
        count = 1 if self.aligned else len(self.faces)
        if self.crops.ndim != 4 or len(self.crops) != count or self.crops.shape[1] != 3:
            raise SettingError(f"crops of shape {self.crops.shape} for {count} faces: one (3, S, S) a face is needed")

    @classmethod
    def cut(cls, photo: Photo, faces: Sequence[Face], size: int, *, sha256: str | None = None) -> FaceCrops:
        """Cut each face out, aligned, at ``size`` pixels; ``possible`` is that of ``faces``, where a detector found them.

        Raises ``NoFaceError`` where there is none.
        """
        possible = Found.of(faces).possible
        if not faces:
            raise NoFaceError("no face found" + (f", {places(photo, possible)}" if possible else ""))
        crops = np.stack([align(photo, face, size) for face in faces])
        return cls(photo, tuple(faces), crops, sha256=sha256, cut_at=size, possible=possible)

    @classmethod
    def whole(cls, photo: Photo, size: int, *, sha256: str | None = None) -> FaceCrops:
        """A photograph that is already an aligned crop, resized to ``size`` pixels. Raises ``NotSquareError``."""
        check_square(photo)
        return cls(photo, (), resized(to_floats(photo), size)[None], aligned=True, sha256=sha256, cut_at=size)

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def size(self) -> int:
        """The side of a crop, pixels."""
        return int(self.crops.shape[-1])

    @property
    def digest(self) -> str:
        """The SHA-256 of the photograph's bytes or, where there was no file, of its pixels and shape."""
        return self.sha256 or sha256_of_pixels(self.photo)

    def at(self, size: int) -> FaceCrops:
        """The same faces cut out of the photograph at ``size`` pixels: this very value where that is what it holds."""
        if size == self.cut_at:
            return self
        if self.aligned:
            return FaceCrops.whole(self.photo, size, sha256=self.sha256)
        return FaceCrops.cut(self.photo, Found(self.faces, self.possible), size, sha256=self.sha256)

    def first(self, count: int) -> FaceCrops:
        """Only the first ``count`` faces."""
        return replace(self, faces=self.faces[:count], crops=self.crops[:count])

    @property
    def qualities(self) -> list[Quality]:
        """How well each face can be recognised as far as the photograph says; of an aligned crop nothing is known."""
        return [quality(self.photo, face) for face in self.faces]

    @property
    def doubt(self) -> str | None:
        """How many possible faces there are besides, and where, in words; None where there is none."""
        return places(self.photo, self.possible) if self.possible else None

    def with_crops(self, crops: Crops) -> FaceCrops:
        """The same photograph and faces with other crops (N, 3, S, S), such as purified ones."""
        return replace(self, crops=crops, cut_at=None)

    def changes(self, other: FaceCrops) -> list[float]:
        """Mean absolute difference of each crop to that of ``other``, in [0, 1]."""
        changes: list[float] = np.abs(self.crops - other.crops).mean((1, 2, 3)).tolist()
        return changes

    def paste(self, finish: Finish = "secure") -> Photo:
        """The photograph with its crops put back; of an aligned one, the crop. Pixels that no face reaches keep every bit.

        In ``secure`` nothing of a face is the photograph's; ``detail``, for people, has fine detail from it, which an
        attacker may have made. Raises ``SettingError`` for another finish, and for ``detail`` of an aligned photograph.
        """
        if check_finish(finish) == "detail" and self.aligned:
            raise SettingError("the finish detail goes with faces in photographs, not with aligned crops")
        if self.aligned:
            return to_photo(self.crops[0])
        photo = self.photo
        for face, crop in zip(self.faces, self.crops, strict=True):
            photo = paste(photo, crop, face, finish=finish)
        return photo

    def seeds(self, seed: int | None) -> list[int]:
        """A seed for the noise of each face, from ``seed``, the photograph's ``digest`` and its number; None: fresh ones."""
        if seed is None:
            return fresh_seeds(len(self))
        digest = self.digest
        return [derive_seed(seed, digest, number) for number in range(len(self))]


def places(photo: Photo, possible: Sequence[Face]) -> str:
    """``2 possible faces at 120,80; 33,40``: the middle of what the photograph (H, W, 3) shows of each, in pixels."""
    limit = np.array(photo.shape[1::-1]) - 1
    corners = [np.clip([face.box[:2], np.add(face.box[:2], face.box[2:])], 0, limit) for face in possible]
    at = [f"{x:.0f},{y:.0f}" for x, y in (both.mean(0) for both in corners)]
    return f"{many(len(at), 'possible face')} at {'; '.join(at)}"


def check_crops(crops: Any, size: int | None = None) -> None:
    """Raises ``InputError`` for anything but crops (B, 3, S, S), S being ``size`` if given, floating point, in [0, 1].

    ``crops`` may be an array or a tensor, on any device; the check is no part of a graph of gradients.
    """
    shape, dtype = tuple(getattr(crops, "shape", ())), getattr(crops, "dtype", None)
    floating = getattr(dtype, "is_floating_point", None)  # of PyTorch's types; NumPy's have a kind
    if len(shape) != 4 or shape[1] != 3 or not (getattr(dtype, "kind", "") == "f" if floating is None else floating):
        raise InputError(f"crops are floating point, of shape (B, 3, H, W), not {described(crops)}")
    if size is not None and shape[2:] != (size, size):
        found = f"these are {shape[3]} x {shape[2]}"
        way_out = "facesieve.integrations.crops.AlignedCrops takes aligned crops of other sizes"
        raise InputError(f"crops are {size} x {size} pixels here, {found}", advice=way_out)
    if 0 in shape:
        return
    values = crops.detach() if hasattr(crops, "detach") else crops
    low, high = float(values.min()), float(values.max())  # NaN where there is one
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(f"values go from {low:.3g} to {high:.3g}, in {described(crops)}; crops are in [0, 1]")


def described(value: object) -> str:
    """What something is, for an error: its format and shape, or its kind."""
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{kind} of shape {tuple(shape)}"


def check_square(photo: Photo) -> None:
    """Raises ``NotSquareError`` for a photograph (H, W, 3) that cannot be an aligned crop."""
    height, width = photo.shape[:2]
    if abs(height - width) > SQUARE * max(height, width):
        raise NotSquareError(f"an aligned crop is square, this image is {width} x {height}")


def resized(image: Floats, side: int) -> Floats:
    """A square image (3, H, W) as (3, side, side): bilinear, antialiased where it shrinks."""
    if image.shape[1:] == (side, side):
        return image
    channels = [Image.fromarray(channel, "F").resize((side, side), Image.Resampling.BILINEAR) for channel in image]
    return np.stack([np.asarray(channel) for channel in channels])


def one_face(crops: FaceCrops) -> FaceCrops:
    """The same, if it shows one face. Raises ``ManyFacesError`` for more."""
    if len(crops) > 1:
        raise ManyFacesError(f"{len(crops)} faces found where one is meant", advice="cut the photograph to the person")
    return crops
