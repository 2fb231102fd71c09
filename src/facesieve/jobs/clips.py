"""Purify a clip: every face in every frame, with the noise of its track; and say who is in one, by a vote over each track."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facesieve.errors import InputError, NoFaceError, many
from facesieve.faces import Detector, Face, FaceCrops, Found
from facesieve.faces.crops import places
from facesieve.files import draft, make_folder, remove_drafts, sha256_of_file
from facesieve.galleries.base import Gallery
from facesieve.identification import CROP, Given, Identified, Identifier, Origin
from facesieve.jobs.record import Failure, Options, Record, is_made, made_from, ran_on, read_record, write_record
from facesieve.jobs.video import SAME, WRITTEN, Copy, Frame, Tracks, opened, overlap
from facesieve.noise import derive_seed, fresh_seeds
from facesieve.progress import Progress, Report, silent
from facesieve.shield import Shield
from facesieve.specs import MAX_PIXELS

FRAMES = 32  # that wait for a batch at most: a clip is never in memory as a whole


@dataclass
class ClipSummary:
    """What became of a clip."""

    frames: int = 0
    faces: int = 0  # purified, over all frames
    people: int = 0  # tracks
    held: int = 0  # faces that were purified where they had last been seen
    failures: list[Failure] = field(default_factory=list)  # frames that could not be purified, in stretches
    doubts: list[str] = field(default_factory=list)  # a line for each stretch with possible faces that were not purified
    skipped: bool = False  # it was there already


@dataclass(eq=False)
class _Waiting:
    """A frame that waits for its batch."""

    frame: Frame
    before: FaceCrops | None  # None: no face
    seeds: list[int]


@dataclass(eq=False)
class _Job:
    """A clip on its way."""

    shield: Shield
    options: Options
    copy: Copy
    base: int  # the seed that those of its tracks come from
    source: Path
    summary: ClipSummary = field(default_factory=ClipSummary)
    tracks: Tracks = field(default_factory=Tracks)
    waiting: list[_Waiting] = field(default_factory=list)
    bare: list[Frame] = field(default_factory=list)  # the stretch of frames without a face that is going on
    unsure: list[tuple[Frame, str]] = field(default_factory=list)  # that of frames with possible faces, and where those are

    def put(self, frame: Frame) -> None:
        """Take a frame; purify and write those that wait when there are enough."""
        found = Found.of(self.shield.detector.detect(frame.photo))
        followed = self.tracks.follow(found)
        self._doubt(frame, [one for one in found.possible if all(overlap(track.face, one) < SAME for track in followed)])
        self.summary.frames += 1
        self.summary.people = self.tracks.count
        self.summary.held += sum(track.unseen > 0 for track in followed)
        if followed:
            before = FaceCrops.cut(frame.photo, [track.face for track in followed], self.shield.card.size)
            seeds = [derive_seed(self.base, "track", track.number) for track in followed]
            self.waiting.append(_Waiting(frame, before, seeds))
        else:
            self.waiting.append(_Waiting(frame, None, []))
        faces = sum(len(one.seeds) for one in self.waiting)
        if faces >= self.options.batch_size or len(self.waiting) >= FRAMES:
            self.write()

    def write(self) -> None:
        """Purify and write all that waits."""
        waiting, self.waiting = self.waiting, []
        for one, after in zip(waiting, self._purified(waiting), strict=True):
            if after is not None:
                self.summary.faces += len(after)
                self._end_of_bare()
                self.copy.write(after.paste(self.options.finish), one.frame)
                continue
            self.bare.append(_emptied(one.frame))
            if self.options.on_failure == "keep":
                self.copy.write(one.frame.photo, one.frame)

    def _purified(self, waiting: Sequence[_Waiting]) -> Iterator[FaceCrops | None]:
        crops = [crop for one in waiting if one.before is not None for crop in one.before.crops]
        seeds = [seed for one in waiting for seed in one.seeds]
        made: list[Any] = []
        for begin in range(0, len(crops), self.options.batch_size):
            part = slice(begin, begin + self.options.batch_size)
            made += list(self.shield.runtime.purify(np.stack(crops[part]), seeds[part]).crops)
        for one in waiting:
            if one.before is None:
                yield None
                continue
            yield one.before.with_crops(np.stack(made[: len(one.before)]))
            made = made[len(one.before) :]

    def end(self) -> None:
        """Write the rest. Raises ``NoFaceError`` where no frame had a face."""
        self.write()
        self._end_of_bare()
        self._end_of_unsure()
        if not self.summary.faces:
            raise NoFaceError("no face found in any of its frames", self.source)

    def _end_of_bare(self) -> None:
        if not self.bare:
            return
        key = _stretch(self.bare[0], self.bare[-1])
        kept = self.options.on_failure == "keep"
        self.summary.failures.append(
            Failure.of(NoFaceError("no face found", f"{self.source}, {key}"), str(self.source), key, kept=kept)
        )
        self.bare = []

    def _doubt(self, frame: Frame, possible: Sequence[Face]) -> None:
        if possible:
            self.unsure.append((_emptied(frame), places(frame.photo, possible)))
        else:
            self._end_of_unsure()

    def _end_of_unsure(self) -> None:
        if self.unsure:
            (first, where), (last, _) = self.unsure[0], self.unsure[-1]
            self.summary.doubts.append(f"{self.source}, {_stretch(first, last)}: {where}, not purified")
        self.unsure = []


def _emptied(frame: Frame) -> Frame:
    """Without its pixels, which are not needed any more."""
    return replace(frame, photo=frame.photo[:0])


def _stretch(first: Frame, last: Frame) -> str:
    which = f"frame {first.number}" if first is last else f"frames {first.number} to {last.number}"
    return f"{which}, at {first.seconds:.2f} s"


def purify_clip(source: Path, target: Path, shield: Shield, options: Options, report: Report = silent) -> ClipSummary:
    """Purify the clip ``source`` into the file ``target``, with a record ``target.json`` beside it.

    The noise of a face is that of its track, so it does not flicker. Frames without a face are failures of the summary: left
    out, so that the frame before them stays, or with ``on_failure`` keep passed on as they were. Its doubts name what may be
    faces and was not purified. A result that is
    complete is not made again. Raises ``InputError`` for a file that is no clip or is damaged, ``NoFaceError`` for one without
    a face, ``ExistsError`` where something else is in the way, ``MissingExtraError`` without the extra ``video``.
    """
    kind = WRITTEN.get(target.suffix.lower())
    if kind is None:
        raise InputError("a clip is written as one of " + ", ".join(WRITTEN), target)
    if options.aligned or not options.paste:
        raise InputError("crops are written of photographs, not of clips", source)
    if target.resolve() == source.resolve():
        raise InputError("the result would take its place", source, "use another name")
    with opened(source, options.max_pixels) as clip:
        sha256, sidecar = sha256_of_file(source), target.with_name(target.name + ".json")
        wanted = made_from(sha256, shield.card, options) | {"on_failure": options.on_failure}
        before = read_record(sidecar, {"frames": int})
        if not options.overwrite and is_made(sidecar, [(target, before)], wanted):
            return ClipSummary(skipped=True, doubts=list(map(str, (before or {}).get("doubts", ()))))
        make_folder(target.parent)
        remove_drafts(target)
        with draft(target) as (file, part):
            copy = Copy(file, kind, clip)
            base = derive_seed(fresh_seeds(1)[0] if options.seed is None else options.seed, sha256)
            job, done = _Job(shield, options, copy, base, source), False
            try:
                for frame in clip.frames(copy.sound):
                    job.put(frame)
                    found = many(job.summary.faces, "face")
                    report(Progress(frame.number, max(clip.length, frame.number), source.name, {"purified": found}))
                job.end()
                done = True
            finally:
                copy.close(complete=done)
            file.flush()
            write_record(sidecar, _record(job.summary, source, target, sha256_of_file(part), wanted, shield, options))
    return job.summary


def _record(
    summary: ClipSummary, source: Path, target: Path, sha256: str, wanted: Record, shield: Shield, options: Options
) -> Record:
    return {
        "source": source.name,
        "frames": summary.frames,
        "faces": summary.faces,
        "people": summary.people,
        "held": summary.held,
        "failures": [failure.as_dict() for failure in summary.failures],
        **({"doubts": summary.doubts} if summary.doubts else {}),
        "output": target.name,
        "output_sha256": sha256,
        "made_from": wanted,
        **ran_on(shield.card, options),
    }


# --- who is in a clip --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voted:
    """Who one face of a clip is said to be, by the frames in which it was found."""

    track: int
    frames: int
    votes: int  # frames that say so
    person: str | None  # None: unknown, by most frames; or there is no threshold
    nearest: str | None  # whom most frames come nearest to; None of a face that is refused
    score: float | None  # mean cosine with ``nearest`` over the frames that say so
    threshold: float | None
    templates: str
    face: Face  # of its first frame
    origin: Origin | None = None  # where the threshold is from
    tampered: int | None = None  # frames in which it looks tampered with; None where nobody asked
    refused: str | None = None  # why nobody is named, where the face is refused


def vote(track: int, found: Sequence[Identified]) -> Voted:
    """The verdict over a track: each frame has one vote, for a name or for unknown; of equals the larger sum of cosines wins.

    A track is refused where half of its frames or more are; the others of it vote.
    """
    first, threshold = found[0], found[0].threshold
    asked = [one.tampering.tampered for one in found if one.tampering is not None and one.tampering.tampered is not None]
    tampered = sum(asked) if asked else None
    kept = [one for one in found if one.refused is None]
    if 2 * len(kept) <= len(found):
        reason = f"the face looks tampered with in {len(found) - len(kept)} of {many(len(found), 'frame')}"
        about = (threshold, first.templates, first.face, first.origin)
        return Voted(track, len(found), len(found) - len(kept), None, None, None, *about, tampered, reason)
    says = [(one.matches[0].person if threshold is None else one.person, one.matches[0]) for one in kept]
    votes = Counter(person for person, _ in says)
    sums = Counter[str | None]()
    for person, match in says:
        sums[person] += match.score  # type: ignore[assignment]
    winner = max(votes, key=lambda person: (votes[person], sums[person]))
    nearest = Counter(match.person for person, match in says if person == winner).most_common(1)[0][0]
    scores = [match.score for person, match in says if person == winner and match.person == nearest]
    person, mean = None if threshold is None else winner, sum(scores) / len(scores)
    about = (threshold, first.templates, first.face, first.origin)
    return Voted(track, len(found), votes[winner], person, nearest, mean, *about, tampered)


def identify_clip(
    source: Path,
    identifier: Identifier,
    gallery: Gallery,
    shield: Shield | None,
    *,
    detector: Detector,
    seed: int | None = None,
    threshold: Given = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Voted]:
    """Who is in the clip ``source``: each face that is followed through it, by a vote of its frames, the longest seen first.

    Raises as ``purify_clip`` and ``Identifier.identify``.
    """
    size = CROP if shield is None else shield.card.size
    base = derive_seed(fresh_seeds(1)[0] if seed is None else seed, sha256_of_file(source))
    found: dict[int, list[Identified]] = {}
    tracks = Tracks()
    with opened(source, max_pixels) as clip:
        for frame in clip.frames():
            seen = [track for track in tracks.follow(detector.detect(frame.photo)) if not track.unseen]
            if not seen:
                continue
            before = FaceCrops.cut(frame.photo, [track.face for track in seen], size)
            seeds = [derive_seed(base, "track", track.number) for track in seen]
            after = None if shield is None else shield.restore(before, seeds)
            for track, one in zip(seen, identifier.identify(gallery, before, after, threshold=threshold), strict=True):
                found.setdefault(track.number, []).append(one)
    if not found:
        raise NoFaceError("no face found in any of its frames", source)
    return sorted((vote(track, faces) for track, faces in found.items()), key=lambda one: -one.frames)
