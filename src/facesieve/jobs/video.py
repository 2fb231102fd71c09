"""Clips: read and written frame by frame by PyAV, and their faces followed from frame to frame.

A clip's sound is copied as it is. Its frames keep their times, so one that is left out shows the one before it for longer,
and sound and picture stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from facesieve.errors import InputError, MissingExtraError, one_line
from facesieve.faces import Face
from facesieve.folders import CLIPS
from facesieve.images import Photo

WRITTEN = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "18"  # of x264, its constant rate factor: no loss that is seen
HELD = 5  # frames for which a face that is not found any more is looked for where it was
SAME = 0.3  # intersection over union of two boxes from which on they are one face, in two frames after another
HD = 720  # lines from which on a clip that does not say its colours has those of HD (BT.709), and below those of SD

_BT709, _LIMITED = 1, 1  # in the numbers of FFmpeg's tables of colours


def is_clip(path: Path | str) -> bool:
    """Whether its suffix is that of a clip."""
    return Path(path).suffix.lower() in CLIPS


def video_library() -> Any:
    """PyAV, imported now. Raises ``MissingExtraError``."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("a clip", "video") from error
    return av


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a clip, upright, and when it is shown."""

    number: int  # from 1
    photo: Photo
    pts: int  # in units of ``base``
    base: Any  # a fraction of a second

    @property
    def seconds(self) -> float:
        """When it is shown, from the clip's zero."""
        return float(self.pts * self.base)


class Clip:
    """A clip that is open. ``opened`` makes one."""

    def __init__(self, container: Any, path: Path, max_pixels: int) -> None:
        self.path, self._container = path, container
        if not container.streams.video:
            raise InputError("holds no pictures", path)
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.sound = list(container.streams.audio)
        pixels = self.stream.codec_context.width * self.stream.codec_context.height
        if pixels > max_pixels:
            raise InputError(f"frames of {pixels:,} pixels, more than the limit of {max_pixels:,}", path)

    @property
    def length(self) -> int:
        """How many frames it has, as far as it says."""
        if self.stream.frames:
            return int(self.stream.frames)
        seconds = float((self._container.duration or 0) / 1_000_000)
        return round(seconds * float(self.stream.average_rate or 0))

    def frames(self, sound: Callable[[Any], None] | None = None) -> Iterator[Frame]:
        """Its frames in order; ``sound`` is handed the packets of sound. Raises ``InputError`` for a damaged clip."""
        av, number = video_library(), 0
        try:
            for packet in self._container.demux(self.stream, *self.sound):
                if packet.stream is not self.stream:
                    if sound is not None and packet.dts is not None:
                        sound(packet)
                    continue
                for picture in packet.decode():
                    number += 1
                    yield self._frame(picture, number)
        except av.FFmpegError as error:
            raise InputError(f"damaged after frame {number} ({one_line(error, limit=80)})", self.path) from error

    def _frame(self, picture: Any, number: int) -> Frame:
        hd = picture.colorspace == _BT709 or (picture.colorspace not in {5, 6} and picture.height >= HD)
        rgb = picture.reformat(format="rgb24", src_colorspace="ITU709" if hd else "ITU601").to_ndarray()
        base = picture.time_base or self.stream.time_base
        pts = picture.pts if picture.pts is not None else round((number - 1) / (self.stream.average_rate or 25) / base)
        # The angle by which it is to be turned against the clock, as rot90 does it.
        return Frame(number, np.ascontiguousarray(np.rot90(rgb, round((picture.rotation or 0) / 90))), pts, base)


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[Clip]:
    """A clip, to be read. Raises ``InputError`` for a file that is none, ``MissingExtraError``."""
    av = video_library()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"no clip that can be read ({one_line(error, limit=80)})", path) from error
    with closing(container):
        yield Clip(container, path, max_pixels)


class Copy:
    """A clip that is being written, like another one: its sound, its times, its rate."""

    def __init__(self, file: BinaryIO, kind: str, like: Clip) -> None:
        self._av, self._like = video_library(), like
        self._out = self._av.open(file, "w", format=kind)
        self._pictures: Any = None
        self._sound: dict[int, Any] = {}
        self._begun = False
        self._early: list[Any] = []
        try:
            self._pictures = self._out.add_stream("libx264", rate=like.stream.average_rate or 25)
            self._pictures.options = {"crf": QUALITY}
            self._sound = {stream.index: self._out.add_stream_from_template(stream) for stream in like.sound}
        except (self._av.FFmpegError, ValueError) as error:
            raise InputError(
                f"its sound cannot go into a {kind} file ({one_line(error, limit=80)})", like.path, "write a .mkv file"
            ) from error

    def sound(self, packet: Any) -> None:
        """Copy a packet of sound."""
        packet.stream = self._sound[packet.stream.index]
        if self._begun:
            self._out.mux(packet)
        else:
            self._early.append(packet)  # the first that is written opens every stream, and the pictures' size is not known yet

    def write(self, photo: Photo, frame: Frame) -> None:
        """Write a picture in the place of ``frame``."""
        context = self._pictures.codec_context
        if not self._begun:
            self._begin(photo, frame)
        picture = self._av.VideoFrame.from_ndarray(photo, format="rgb24")
        picture = picture.reformat(format=context.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts, picture.time_base = frame.pts, frame.base
        self._out.mux(self._pictures.encode(picture))

    def _begin(self, photo: Photo, frame: Frame) -> None:
        context, (height, width) = self._pictures.codec_context, photo.shape[:2]
        context.width, context.height, context.time_base = width, height, frame.base
        context.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._begun = True
        for packet in self._early:
            self._out.mux(packet)
        self._early = []

    def close(self, *, complete: bool = True) -> None:
        """Write what is left."""
        if complete and self._begun:
            self._out.mux(self._pictures.encode(None))
        self._out.close()


# --- faces from frame to frame -----------------------------------------------------------------------


@dataclass(eq=False)
class Track:
    """One face over its frames."""

    number: int  # from 1
    face: Face  # where it was last
    unseen: int = 0  # frames for which it has not been found


@dataclass
class Tracks:
    """Follows faces: a face is the one of the frame before whose box it overlaps most."""

    count: int = 0
    alive: list[Track] = field(default_factory=list)

    def follow(self, faces: list[Face]) -> list[Track]:
        """The tracks of a frame, of what was found first; one that was just lost is held where it was (``unseen`` > 0)."""
        pairs = sorted(
            ((overlap(track.face, face), t, f) for t, track in enumerate(self.alive) for f, face in enumerate(faces)),
            key=lambda pair: -pair[0],
        )
        known: dict[int, Track] = {}
        for share, t, f in pairs:
            if share >= SAME and f not in known and self.alive[t] not in known.values():
                known[f] = self.alive[t]
        lost = [track for track in self.alive if track not in known.values()]
        found = [known.get(f) or self._begun(face) for f, face in enumerate(faces)]
        for track, face in zip(found, faces, strict=True):
            track.face, track.unseen = face, 0
        for track in lost:
            track.unseen += 1
        self.alive = found + [track for track in lost if track.unseen <= HELD]
        return list(self.alive)

    def _begun(self, face: Face) -> Track:
        self.count += 1
        return Track(self.count, face)


def overlap(one: Face, other: Face) -> float:
    """The intersection of two boxes over their union."""
    (x, y, width, height), (left, top, wide, high) = one.box, other.box
    across = min(x + width, left + wide) - max(x, left)
    down = min(y + height, top + high) - max(y, top)
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (width * height + wide * high - across * down)
