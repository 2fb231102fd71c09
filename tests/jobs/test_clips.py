"""Clips: frame by frame, with their sound; made here from the samples, with a sound of their own."""

import json
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from facesieve.cli.clips import plain, refusals
from facesieve.errors import ExistsError, InputError, MissingExtraError, NoFaceError
from facesieve.faces import TEMPLATE, Detector, Face, Found
from facesieve.galleries.base import Match
from facesieve.hardware import choose_hardware
from facesieve.identification import Identified
from facesieve.images import read_photo
from facesieve.jobs.clips import _Job, purify_clip, vote
from facesieve.jobs.record import Options
from facesieve.jobs.video import HELD, Frame, Tracks, opened, overlap
from facesieve.purify import preset
from facesieve.recognition.tampering import Tampering
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield
from facesieve.specs import DEFAULT_PRESET
from white_prior import WhitePrior

av = pytest.importorskip("av")
DETECT = Detector.detect
RATE, TONE = 12, 16_000  # frames and samples a second
BEIGE = np.full((320, 400, 3), (222, 205, 180), np.uint8)


@pytest.fixture(scope="module")
def shield():
    chosen = preset("robust")
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))


@pytest.fixture(scope="module")
def moving(sample_paths):
    """Eight frames over which the camera moves."""
    (path,) = [path for path in sample_paths if path.name == "collins-1.jpg"]
    photo = read_photo(path)
    return [np.ascontiguousarray(photo[:320, 4 * k : 400 + 4 * k]) for k in range(8)]


def write_clip(path, photos, *, sound=True):
    with av.open(str(path), "w") as out:
        pictures = out.add_stream("libx264", rate=RATE)
        pictures.height, pictures.width, pictures.pix_fmt = *photos[0].shape[:2], "yuv420p"
        pictures.options = {"crf": "8"}
        if sound:
            heard = out.add_stream("aac", rate=TONE)
            heard.layout = "mono"
        for photo in photos:
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(photo, format="rgb24")))
        out.mux(pictures.encode())
        if sound:
            samples = np.arange(TONE * len(photos) // RATE)
            wave = (8000 * np.sin(2 * np.pi * 440 * samples / TONE)).astype(np.int16)[None]
            for begin in range(0, len(samples), 1024):
                part = av.AudioFrame.from_ndarray(wave[:, begin : begin + 1024], format="s16", layout="mono")
                part.rate, part.pts = TONE, begin
                out.mux(heard.encode(part))
            out.mux(heard.encode())
    return path


def packets_of_sound(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def frames_of(path):
    with opened(path, 10**7) as clip:
        return list(clip.frames())


def test_a_clip_keeps_its_sound_its_times_and_what_no_face_reaches(shield, moving, tmp_path):
    source = write_clip(tmp_path / "clip.mp4", moving)
    summary = purify_clip(source, tmp_path / "out" / "clip.mp4", shield, Options(seed=1, batch_size=3))
    assert (summary.frames, summary.faces, summary.people, summary.failures) == (8, 8, 1, [])
    assert packets_of_sound(tmp_path / "out" / "clip.mp4") == packets_of_sound(source)
    before, after = frames_of(source), frames_of(tmp_path / "out" / "clip.mp4")
    assert [frame.seconds for frame in after] == [frame.seconds for frame in before]
    for one, other in zip(before, after, strict=True):
        change = np.abs(one.photo.astype(int) - other.photo).mean(2)
        x, y, width, height = map(int, Detector().detect(one.photo)[0].box)
        assert change[y : y + height, x : x + width].mean() > 4
        assert change[250:].mean() < 3  # far from the face: coding alone
    record = json.loads((tmp_path / "out" / "clip.mp4.json").read_text())
    assert (record["frames"], record["people"], record["finish"], record["source"]) == (8, 1, "secure", "clip.mp4")


class Recorder:
    def __init__(self):
        self.written = []

    def write(self, photo, frame):
        self.written.append((frame.number, photo))


def job(shield, **options):
    return _Job(shield, Options(**options), Recorder(), 5, "clip.mp4")


def shown(photos):
    return [Frame(number, photo, number, Fraction(1, RATE)) for number, photo in enumerate(photos, 1)]


def test_the_noise_of_a_face_is_held_over_its_frames(shield, moving):
    """A picture that stands still stands still behind the shield as well, to the last bit; fresh noise would flicker."""
    still = job(shield, batch_size=2)
    for frame in shown([moving[0]] * 5):
        still.put(frame)
    still.end()
    photos = [photo for _, photo in still.copy.written]
    assert all(np.array_equal(photo, photos[0]) for photo in photos)
    assert not np.array_equal(photos[0], moving[0])
    other, _ = shield.purify(moving[0], seeds=[1])
    assert not np.array_equal(other, photos[0])


@pytest.mark.parametrize("on_failure", ["drop", "keep"])
def test_frames_without_a_face_are_counted_named_and_passed_on_only_on_request(shield, moving, tmp_path, on_failure):
    gone = HELD + 3
    source = write_clip(tmp_path / "clip.mp4", [*moving[:2], *[BEIGE] * gone, *moving[2:4], BEIGE[::-1], *[BEIGE] * (HELD + 1)])
    shield = Shield(shield.runtime, Certain())
    summary = purify_clip(source, tmp_path / "out.mp4", shield, Options(seed=1, on_failure=on_failure))
    times = [frame.seconds for frame in frames_of(tmp_path / "out.mp4")]
    assert summary.frames == 2 + gone + 2 + 1 + HELD + 1
    assert summary.held == 2 * HELD
    first, second = summary.failures
    assert first.key.startswith(f"frames {2 + HELD + 1} to {2 + gone}, at ")
    assert "no face found" in first.reason
    assert second.key.startswith(f"frames {4 + gone + HELD + 1} to {summary.frames}, at ")
    assert first.kept == second.kept == (on_failure == "keep")
    left_out = 0 if on_failure == "keep" else gone - HELD + 2
    assert len(times) == summary.frames - left_out
    assert times[-1] == pytest.approx((summary.frames - (0 if on_failure == "keep" else 2) - 1) / RATE, abs=1e-3)
    assert packets_of_sound(tmp_path / "out.mp4") == packets_of_sound(source)


class Certain(Detector):
    """Finds the face that is there: nothing in beige."""

    def detect(self, photo):
        return [] if photo.std() < 20 else super().detect(photo)[:1]


class Unsure(Detector):
    """Finds the face on the left, and is not sure of one on the right where there is a bright patch."""

    def detect(self, photo):
        faces = super().detect(photo)[:1]
        bright = photo[:20, -20:].min() > 200
        return Found(faces, [replace(faces[0], box=(photo.shape[1] - 20, 0, 20, 20)), *faces] if bright else [])


def test_possible_faces_of_a_clip_are_named_by_stretch_everywhere(shield, moving, tmp_path, facesieve, monkeypatch):
    bright = [photo.copy() for photo in moving[1:3]]
    for photo in bright:
        photo[:40, -40:] = 255
    source = write_clip(tmp_path / "clip.mp4", [moving[0], *bright, moving[3]])
    wide = moving[0].shape[1]
    for again in (False, True):  # what is there already is in doubt as it was
        summary = purify_clip(source, tmp_path / "out.mp4", Shield(shield.runtime, Unsure()), Options(seed=1))
        assert summary.skipped == again
        (line,) = summary.doubts  # the face that is followed is none of them
        assert line == f"{source}, frames 2 to 3, at {1 / RATE:.2f} s: 1 possible face at {wide - 10},10, not purified"
    assert json.loads((tmp_path / "out.mp4.json").read_text())["doubts"] == [line]
    unsure = Unsure().detect
    monkeypatch.setattr(Detector, "detect", lambda self, photo: unsure(photo) if type(self) is Detector else DETECT(self, photo))
    for options, code in (((), 0), (("--strict",), 1)):
        ran = facesieve("purify", source, "-o", tmp_path / f"by-command-{code}.mp4", *options)
        assert (ran.code, "".join(ran.err.split())) == (code, "".join(line.split()))


def test_a_clip_without_a_face_and_what_is_no_clip_leave_nothing(shield, moving, tmp_path):
    bare = write_clip(tmp_path / "bare.mp4", [BEIGE] * 3)
    with pytest.raises(NoFaceError, match="in any of its frames"):
        purify_clip(bare, tmp_path / "out.mp4", Shield(shield.runtime, Certain()), Options())
    (tmp_path / "text.mp4").write_bytes(b"not a clip")
    with pytest.raises(InputError, match="no clip that can be read"):
        purify_clip(tmp_path / "text.mp4", tmp_path / "out.mp4", shield, Options())
    whole = write_clip(tmp_path / "whole.mkv", moving, sound=False).read_bytes()
    (tmp_path / "none.mp4").mkdir()
    with pytest.raises(InputError, match="no clip"):
        purify_clip(tmp_path / "none.mp4", tmp_path / "out.mp4", shield, Options())
    with pytest.raises(InputError, match=r"written as one of \.mp4"):
        purify_clip(bare, tmp_path / "out.webm", shield, Options())
    with pytest.raises(InputError, match="take its place"):
        purify_clip(bare, bare, shield, Options(overwrite=True))
    with pytest.raises(InputError, match="more than the limit of 1,000"):
        purify_clip(bare, tmp_path / "out.mp4", shield, Options(max_pixels=1000))
    assert len(whole) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.mp4", "none.mp4", "text.mp4", "whole.mkv"]


def test_a_result_is_not_made_again_and_another_one_not_overwritten(shield, moving, tmp_path):
    source, out = write_clip(tmp_path / "clip.mp4", moving[:2]), tmp_path / "out.mp4"
    purify_clip(source, out, shield, Options(seed=1))
    made = out.read_bytes()
    assert purify_clip(source, out, shield, Options(seed=1)).skipped
    with pytest.raises(ExistsError):
        purify_clip(source, out, shield, Options(seed=2))
    assert out.read_bytes() == made
    purify_clip(source, out, shield, Options(seed=2, overwrite=True))
    assert out.read_bytes() != made


def test_without_the_library_it_is_said_in_one_line(shield, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"^a clip needs an optional extra: pip install 'facesieve\[video\]'$"):
        purify_clip(tmp_path / "a.mp4", tmp_path / "b.mp4", shield, Options())


# --- following -------------------------------------------------------------------------------------


def face(x, y, side=40):
    return Face((x, y, side, side), TEMPLATE * side + (x, y), 1.0)


def test_faces_are_followed_by_where_they_are_and_new_ones_are_new():
    tracks = Tracks()
    assert [track.number for track in tracks.follow([face(0, 0), face(100, 0)])] == [1, 2]
    assert [track.number for track in tracks.follow([face(92, 3), face(7, 2)])] == [2, 1]
    assert [track.number for track in tracks.follow([face(300, 0), face(95, 5), face(10, 2)])] == [3, 2, 1]
    for lost in range(1, HELD + 1):
        assert [(track.number, track.unseen) for track in tracks.follow([face(300, 0)])] == [(3, 0), (2, lost), (1, lost)]
    assert [track.number for track in tracks.follow([face(300, 0)])] == [3]
    assert tracks.follow([face(95, 5)])[0].number == 4


def test_the_overlap_of_boxes():
    assert overlap(face(0, 0), face(0, 0)) == 1
    assert overlap(face(0, 0), face(20, 0)) == pytest.approx(1 / 3)
    assert overlap(face(0, 0), face(40, 0)) == 0


# --- who is in it ----------------------------------------------------------------------------------


def said(name, score, threshold=0.4):
    person = name if threshold is not None and score >= threshold else None
    return Identified(face(0, 0), [Match(name, score)], person, threshold, "raw", None, None, None)


def test_each_frame_has_one_vote():
    most = vote(1, [said("Ada", 0.6), said("Ada", 0.5), said("Bea", 0.9), said("Bea", 0.3)])
    assert (most.person, most.nearest, most.votes, most.frames, most.score) == ("Ada", "Ada", 2, 4, pytest.approx(0.55))
    unknown = vote(2, [said("Ada", 0.6), said("Bea", 0.3), said("Bea", 0.2)])
    assert (unknown.person, unknown.nearest, unknown.votes) == (None, "Bea", 2)
    even = vote(3, [said("Ada", 0.5), said("Bea", 0.7)])
    assert even.person == "Bea"
    without = vote(4, [said("Ada", 0.5, None), said("Ada", 0.1, None), said("Bea", 0.7, None)])
    assert (without.person, without.nearest, without.threshold) == (None, "Ada", None)


def test_a_track_is_refused_where_half_of_its_frames_are_and_names_nobody():
    def frame(name, refused):
        found = said(name, 0.6)
        reason = "it looks tampered with" if refused else None
        matches = [] if refused else found.matches
        seen = Tampering(0.5 if refused else 0.1, None, refused, reason, reason)
        return replace(found, matches=matches, person=None if refused else name, tampering=seen)

    few = vote(1, [frame("Ada", True), frame("Ada", False), frame("Ada", False)])
    assert (few.person, few.votes, few.frames, few.tampered, few.refused) == ("Ada", 2, 3, 1, None)
    half = vote(2, [frame("Ada", True), frame("Ada", False)])
    assert (half.person, half.nearest, half.score, half.tampered) == (None, None, None, 1)
    assert half.refused == "the face looks tampered with in 1 of 2 frames"
    assert "Ada" not in str(plain(half))
    assert refusals({"a.mp4": [few, half]}) == [f"a.mp4, face 2: refused: {half.refused}"]


def test_on_the_command_line(facesieve, moving, sample_paths, tmp_path):
    source, out = write_clip(tmp_path / "clip.mp4", moving[:4]), tmp_path / "out.mp4"
    done = facesieve("purify", source, "-o", out)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"4 frames, 4 faces purified; 1 face was followed; {DEFAULT_PRESET} on ")
    for arguments, line in (
        (("-o", out, "--grid"), "--grid"),
        (("-o", tmp_path), "-o out.mp4"),
        ((source, "-o", out), "one clip is purified in a call"),
        (("-o", "-"), "written to a file"),
    ):
        refused = facesieve("purify", source, *arguments)
        assert refused.code == 2
        assert line in refused.err
    for name in ("Collins", "Obama"):
        (photo,) = [path for path in sample_paths if path.name == f"{name.lower()}-1.jpg"]
        assert facesieve("enrol", name, photo, "--gallery", tmp_path / "gallery").code == 0
    for clip in (source, out):
        told = facesieve("identify", clip, "--gallery", tmp_path / "gallery", "--threshold", 0.35, "--json")
        ((one,),) = json.loads(told.out).values()
        assert (one["person"], one["votes"], one["frames"]) == ("Collins", 4, 4)
    command = ("identify", source, "--gallery", tmp_path / "gallery")
    assert "face 1: Collins? (4 of 4 frames" in facesieve(*command, "--threshold", "none").out
    by_default = facesieve(*command).out
    assert "face 1: Collins (4 of 4 frames" in by_default
    assert "the default for this recogniser and shield" in by_default
