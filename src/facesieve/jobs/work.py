"""What every job does with a photograph: cut its faces out, purify them with those of others, put them back, keep a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

import facesieve
from facesieve.faces import Face, paste
from facesieve.images import Photo, read_photo, to_photo
from facesieve.noise import derive_seed, fresh_seeds
from facesieve.purify import Stage
from facesieve.shield import Shield

T = TypeVar("T")

Guard = Callable[[str], AbstractContextManager[object]]  # entered with a photograph's name before its bytes are; may refuse
Keep = Callable[[Tensor, list[tuple[Stage, Tensor]]], None]  # is handed a batch of crops, and what each stage made of it


@dataclass(frozen=True)
class Options:
    """How a job treats its photographs."""

    aligned: bool = False
    paste: bool = True
    overwrite: bool = False
    seed: int | None = None
    batch_size: int = 8


@dataclass(eq=False)
class Work(Generic[T]):
    """A photograph on its way: its crops (3, size, size) in [0, 1] go in, and come back one after the other."""

    item: T
    photo: Photo
    sha256: str
    faces: list[Face | None]  # None for the one crop that an aligned image is
    crops: list[Tensor]
    seeds: list[int]
    purified: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every crop is back."""
        return len(self.purified) == len(self.faces)


def open_work(item: T, data: bytes, sha256: str, shield: Shield, options: Options, *, name: str) -> Work[T]:
    """Read a photograph's bytes, whose hash is ``sha256``, and cut its faces out; ``name`` is for messages.

    Raises ``ImageError``, ``NoFaceError`` or, for an aligned image that is not square, ``InputError``.
    """
    photo = read_photo(data, name=name)
    faces: list[Face | None]
    if options.aligned:
        faces = [None]
        crops = [shield.aligned_crop(photo)]
    else:
        found = shield.faces(photo)
        faces, crops = list(found), [shield.crop(photo, face) for face in found]
    if options.seed is None:
        seeds = fresh_seeds(len(faces))
    else:
        seeds = [derive_seed(options.seed, sha256, number) for number in range(len(faces))]
    return Work(item, photo, sha256, faces, crops, seeds)


class Batches(Generic[T]):
    """Purifies faces of many photographs together. Photographs come back in the order in which they were put in."""

    def __init__(self, shield: Shield, size: int, keep: Keep = lambda *_: None) -> None:
        self._shield, self._size, self._keep = shield, size, keep
        self._waiting: list[tuple[Work[T], int]] = []
        self.faces = 0
        self.seconds = 0.0  # inside the purifier

    def put(self, work: Work[T]) -> Iterator[Work[T]]:
        """Add a photograph, and go through those that are done now."""
        self._waiting += [(work, number) for number in range(len(work.faces))]
        while len(self._waiting) >= self._size:
            yield from self._flush()

    def rest(self) -> Iterator[Work[T]]:
        """Purify whatever waits, and go through those that are done now."""
        while self._waiting:
            yield from self._flush()

    def _flush(self) -> Iterator[Work[T]]:
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        begun = time.perf_counter()
        crops = torch.stack([work.crops[number] for work, number in batch])
        stages = self._shield.trace(crops, [work.seeds[number] for work, number in batch])
        seconds = time.perf_counter() - begun
        self.seconds += seconds
        self.faces += len(batch)
        self._keep(crops, stages)
        for (work, number), crop in zip(batch, stages[-1][1], strict=True):
            work.purified[number] = crop
            work.seconds += seconds / len(batch)
            if work.is_done:
                yield work


def made_by(shield: Shield, options: Options) -> dict[str, Any]:
    """Everything that a result depends on, but for its source: preset, prior, number format, settings."""
    return {
        "preset": shield.preset.as_dict(),
        "prior_sha256": shield.prior_sha256,
        "precision": str(shield.path.dtype).removeprefix("torch."),
        "aligned": options.aligned,
        "pasted": options.paste and not options.aligned,
        "seed": options.seed,
    }


def pictures(work: Work[T], options: Options) -> Sequence[Photo]:
    """The results: one picture with its faces put back (of an aligned image, its crop), or without ``paste`` each crop."""
    crops = [work.purified[number] for number in range(len(work.faces))]
    if options.aligned or not options.paste:
        return [to_photo(crop) for crop in crops]
    picture = work.photo
    for face, crop in zip(work.faces, crops, strict=True):
        assert face is not None
        picture = paste(picture, crop, face)
    return [picture]


def face_record(work: Work[T], number: int) -> dict[str, Any]:
    """A face as plain data: ``box``, ``landmarks`` and ``score`` (not of an aligned image), ``noise_seed``."""
    face = work.faces[number]
    place = {} if face is None else {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(face).items()}
    return {**place, "noise_seed": work.seeds[number]}


def ran_on(shield: Shield) -> dict[str, Any]:
    """Where the result was made, and by which version."""
    return {"ran_on": str(shield.path), "version": facesieve.__version__}
