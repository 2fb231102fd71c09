"""WebDataset shards: tar files in which members that share a name up to the first dot are one sample.

A sample has one image, by default the only member whose suffix is a usual one of images. Purified, it is
``KEY.png`` with the record ``KEY.facesieve.json`` after it; all other members keep their bytes, names, times and order,
but for pictures: one under a name where nobody would look for it, or in a hidden file, is a failure.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from facesieve.errors import AmbiguousImageError, InputError, one_line
from facesieve.folders import begins_as_image, is_housekeeping, is_image_name
from facesieve.jobs.formats import FORMATS, Sample, ShardFormat, Writer
from facesieve.kinds import HEAD

RECORD = "facesieve.json"
USUAL = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})  # looked at before all other pictures


@dataclass(frozen=True, eq=False)
class _Member:
    info: tarfile.TarInfo
    data: bytes | None  # None for a folder

    @property
    def key(self) -> str | None:
        """The sample's name; None for what belongs to no sample: a folder, a file without a suffix or that begins with a dot."""
        folder, slash, name = self.info.name.rpartition("/")
        stem, dot, _ = name.partition(".")
        return folder + slash + stem if stem and dot and self.data is not None else None

    @property
    def is_picture(self) -> bool:
        """Whether it begins as one, whatever it is called."""
        return self.data is not None and begins_as_image(self.data[:HEAD])

    @property
    def suffix(self) -> str:
        """What follows the first dot, in lower case; WebDataset's name for this member of the sample."""
        return str(self.info.name.rpartition("/")[2].partition(".")[2].lower())


def read(source: Path, column: str | None) -> Iterator[Sample]:
    """The samples of a tar file; ``column`` is the suffix of the image, such as ``jpg``.

    A member of no sample comes as a sample without a key, an image or a problem; one that hides a picture with both.
    Raises ``InputError`` for a damaged file and for a sample with several images.
    """
    for key, members in groupby(_members(source), lambda member: member.key):
        if key is None:
            yield from map(_alone, members)
        else:
            yield _sample(source, key, list(members), column)


def _alone(member: _Member) -> Sample:
    """A member of no sample. A picture in it would pass unpurified; what is hidden has no place in a shard."""
    name, problem = member.info.name, None
    if member.data is not None and is_housekeeping(name.rpartition("/")[2]):
        problem = InputError("a hidden file", name)
    elif member.is_picture:
        problem = InputError("a picture that belongs to no sample", name, "give it a name with a suffix")
    return Sample("" if problem is None else name, None, problem, ([member], None))


def _members(source: Path) -> Iterator[_Member]:
    try:
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would remember the header of every member
                if not (info.isreg() or info.isdir()) or info.issparse():
                    raise InputError(f"{info.name} is a link, a device or sparse", source, "pack plain files")
                content = tar.extractfile(info)
                yield _Member(info, None if content is None else content.read())
            _check_end(file, tar.offset, source)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"not a tar file, or a damaged one ({one_line(error)})", source, "copy it again") from error


def _check_end(file: BinaryIO, offset: int, source: Path) -> None:
    """A tar file ends in blocks of zeros. ``tarfile`` takes anything but a header for the end, and would lose the rest."""
    file.seek(offset)
    first = file.read(512)
    if len(first) < 512 or any(first) or any(any(block) for block in iter(lambda: file.read(2**20), b"")):
        raise InputError(
            f"cut off or damaged after {offset:,} bytes", source, "copy it again (joined tar files must be repacked)"
        )


def _sample(source: Path, key: str, members: list[_Member], column: str | None) -> Sample:
    if any(member.suffix == RECORD for member in members):
        raise InputError(f"{key} has a {RECORD} already; this shard is a result of facesieve", source)
    named = [member for member in members if "." + member.suffix.rpartition(".")[2] in USUAL]
    rare = [member for member in members if is_image_name(member.info.name)]
    pictures = [member for member in members if member.is_picture]
    images = (named or rare or pictures) if column is None else [member for member in members if member.suffix == _suffix(column)]
    hidden = tuple(member for member in pictures if member not in images and member not in named)
    bare = [member for member in members if member not in hidden]
    names = {"hidden": tuple(m.suffix for m in hidden), "others": tuple(m.suffix for m in named if m not in images)}
    if not images:
        wanted = f"{key}.{column}" if column else "image"
        problem = InputError(f"there is no {wanted} in this sample", key)
        return Sample(key, None, problem, (members, None), (bare, None), **names)
    if len(images) > 1:
        found = " and ".join(member.suffix for member in images)
        raise AmbiguousImageError(f"{key} has several images, {found}", source)
    if any(member.suffix == _purified(images[0]) for member in members if member is not images[0]):
        raise InputError(f"{key} has a {_purified(images[0])} beside its {images[0].suffix}", source, "rename one of them")
    return Sample(key, images[0].data, None, (members, images[0]), (bare, images[0]), **names)


@contextmanager
def writer(file: BinaryIO, source: Path, column: str | None) -> Iterator[Writer]:  # noqa: ARG001  (as of any format)
    """A writer of a tar file into ``file``."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        yield _TarWriter(tar)


@dataclass(frozen=True)
class _TarWriter:
    tar: tarfile.TarFile

    def write(self, sample: Sample, png: bytes | None, record: dict[str, Any] | None) -> None:
        members, image = sample.rest
        for member in members:
            if member is image and png is not None:
                self._add(member.info, f"{member.info.name.rpartition('.')[0]}.png", png)
            else:
                self.tar.addfile(member.info, None if member.data is None else BytesIO(member.data))
        if record is not None:
            like = members[0] if image is None else image
            self._add(like.info, f"{sample.key}.{RECORD}", json.dumps(record).encode())

    def _add(self, like: tarfile.TarInfo, name: str, data: bytes) -> None:
        info = copy(like)
        info.name, info.size = name, len(data)
        info.pax_headers = {k: v for k, v in like.pax_headers.items() if k not in {"path", "size"}}  # they would go first
        self.tar.addfile(info, BytesIO(data))


def _suffix(column: str) -> str:
    return column.lower().removeprefix(".")


def _purified(image: _Member) -> str:
    before, dot, _ = image.suffix.rpartition(".")
    return before + dot + "png"


FORMATS.register(".tar", ShardFormat(read, writer))
