"""Many photographs: planned, batched across photos, resumed, each failure alone."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facesieve import purify
from facesieve.cli.terminal import advised_line
from facesieve.errors import InputError, NoFaceError
from facesieve.faces import Detector
from facesieve.files import sha256_of
from facesieve.hardware import Hardware
from facesieve.identification import Identifier
from facesieve.images import read_photo, to_floats, write_photo
from facesieve.jobs import record
from facesieve.jobs.formats import Unit, photographs
from facesieve.jobs.plan import plan
from facesieve.jobs.run import Options, purify_alone, purify_units
from facesieve.recognition.sface import load_sface
from facesieve.recognition.tampering import tamper_scores
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield


class CountingPrior:
    """The closed-form prior of white images; counts the faces of every evaluation."""

    shape = (3, 128, 128)

    def __init__(self):
        self.batches = []

    def __call__(self, u, sigma):
        self.batches.append(len(u))
        return 0.01 * u / (0.01 + sigma**2)


@pytest.fixture
def prior():
    return CountingPrior()


@pytest.fixture
def shield(prior):
    preset = purify.preset("robust").changed(steps=1, samples=1)
    hardware = Hardware(torch.device("cpu"), torch.float32, "test")
    return Shield(TorchRuntime(preset, preset.with_prior(prior), 128, "0" * 64, hardware))


@pytest.fixture
def photos(tmp_path, sample_paths):
    """A folder of three photographs, one in a folder of its own."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for source, name in zip(sample_paths, ("a.jpg", "b.jpg", "deep/c.jpg"), strict=False):
        shutil.copy(source, folder / name)
    return folder


def run(photos, out, shield, **options):
    return purify_units(plan([photos], out), shield, Options(**options))


def lines(summary):
    return [advised_line(failure.reason, failure.kind) for failure in summary.failures]


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- planning ----------------------------------------------------------------------------------


def test_targets_mirror_the_folders(photos, tmp_path):
    assert [str(i.target.relative_to(tmp_path / "out")) for i in plan([photos], tmp_path / "out")] == ["a", "b", "deep/c"]


def test_names_that_differ_in_the_suffix_alone_keep_it(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [i.target.name for i in plan([tmp_path], tmp_path / "out")] == ["a.jpg", "a.png", "b"]


def test_results_inside_the_input_folder_are_no_inputs(photos):
    out = photos / "out"
    out.mkdir()
    shutil.copy(photos / "a.jpg", out / "old.png")
    assert len(plan([photos], out)) == 3


def test_a_file_given_twice_is_purified_once(photos, tmp_path):
    assert len(plan([photos / "a.jpg", photos / "a.jpg"], tmp_path / "out")) == 1


def test_two_photos_of_one_name_are_refused(photos, tmp_path):
    shutil.copy(photos / "a.jpg", photos / "deep" / "a.jpg")
    with pytest.raises(InputError, match="would both be written to"):
        plan([photos / "a.jpg", photos / "deep" / "a.jpg"], tmp_path / "out")


def test_many_photographs_are_planned_in_seconds(tmp_path):
    for number in range(100):
        folder = tmp_path / "in" / str(number)
        folder.mkdir(parents=True)
        for name in range(100):
            (folder / f"{name}.jpg").touch()
    begun = time.process_time()
    assert len(plan([tmp_path / "in"], tmp_path / "out")) == 10_000
    assert time.process_time() - begun < 5


def test_a_folder_of_results_is_no_folder_of_photographs(photos):
    with pytest.raises(InputError, match="lies in the folder of results"):
        plan([photos / "deep"], photos)


@pytest.mark.parametrize(("make", "message"), [(False, "no such file or folder"), (True, "no photographs in this folder")])
def test_a_path_that_holds_nothing(tmp_path, make, message):
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=message):
        plan([tmp_path / "x"], tmp_path / "out")


# --- purifying ---------------------------------------------------------------------------------


def test_each_photo_gets_a_picture_and_each_face_a_sidecar(photos, tmp_path, shield):
    summary = run(photos, tmp_path / "out", shield)
    assert (summary.units, summary.skipped, summary.failures) == (3, 0, [])
    assert files(tmp_path / "out") == ["a.face1.json", "a.png", "b.face1.json", "b.png", "deep/c.face1.json", "deep/c.png"]
    before, after = read_photo(photos / "a.jpg"), read_photo(tmp_path / "out" / "a.png")
    record = json.loads((tmp_path / "out" / "a.face1.json").read_text())
    x, y, width, height = record["box"]
    changed = np.argwhere((before != after).any(2))
    assert len(changed) > 1000
    assert (abs(changed - (y + height / 2, x + width / 2)) < 1.2 * max(width, height)).all()
    assert record["made_from"]["preset"]["name"] == "robust"
    assert record["made_from"]["prior_sha256"] == "0" * 64
    assert len(record["landmarks"]) == 5
    assert record["faces"] == 1


def test_faces_are_batched_across_photos(photos, tmp_path, shield, prior):
    run(photos, tmp_path / "out", shield, batch_size=2)
    assert prior.batches == [2, 1]


def test_batching_changes_no_result(photos, tmp_path, shield):
    for size in (1, 3):
        run(photos, tmp_path / str(size), shield, batch_size=size, seed=4)
    for name in ("a.png", "b.png", "deep/c.png"):
        np.testing.assert_array_equal(read_photo(tmp_path / "1" / name), read_photo(tmp_path / "3" / name))


def test_a_seed_makes_results_repeatable_whatever_the_file_is_called(photos, tmp_path, shield):
    shutil.copy(photos / "a.jpg", photos / "z.jpg")
    run(photos, tmp_path / "out", shield, seed=1)
    np.testing.assert_array_equal(read_photo(tmp_path / "out" / "a.png"), read_photo(tmp_path / "out" / "z.png"))


def test_without_a_seed_two_runs_differ(photos, tmp_path, shield):
    for name in ("x", "y"):
        run(photos, tmp_path / name, shield)
    assert (read_photo(tmp_path / "x" / "a.png") != read_photo(tmp_path / "y" / "a.png")).any()


def test_crops_instead_of_photos(photos, tmp_path, shield):
    run(photos, tmp_path / "out", shield, paste=False)
    assert files(tmp_path / "out") == [
        "a.face1.json",
        "a.face1.png",
        "b.face1.json",
        "b.face1.png",
        "deep/c.face1.json",
        "deep/c.face1.png",
    ]
    assert read_photo(tmp_path / "out" / "a.face1.png").shape == (128, 128, 3)


def test_several_faces_in_one_photo(sample_photos, tmp_path, shield):
    photos = [p[:400, :400] for p in list(sample_photos.values())[:2]]
    height = min(len(p) for p in photos)
    write_photo(tmp_path / "two.png", np.hstack([p[:height] for p in photos]))
    summary = run(tmp_path / "two.png", tmp_path / "out", shield)
    assert summary.faces == 2
    assert files(tmp_path / "out") == ["two.face1.json", "two.face2.json", "two.png"]
    boxes = [json.loads((tmp_path / "out" / f"two.face{n}.json").read_text())["box"] for n in (1, 2)]
    assert boxes[0][2] * boxes[0][3] >= boxes[1][2] * boxes[1][3]  # largest first


def test_aligned_crops_are_taken_as_they_are(tmp_path, shield):
    crop = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    write_photo(tmp_path / "crop.png", crop)
    kept = []
    units = plan([tmp_path / "crop.png"], tmp_path / "out")
    purify_units(units, shield, Options(aligned=True), keep=lambda crops, _: kept.append(crops))
    np.testing.assert_array_equal(kept[0][0], to_floats(crop))
    record = json.loads((tmp_path / "out" / "crop.face1.json").read_text())
    assert "box" not in record
    assert read_photo(tmp_path / "out" / "crop.png").shape == (128, 128, 3)


def test_an_aligned_crop_must_be_square(tmp_path, shield):
    write_photo(tmp_path / "wide.png", np.zeros((100, 140, 3), np.uint8))
    summary = run(tmp_path / "wide.png", tmp_path / "out", shield, aligned=True)
    assert lines(summary) == [
        f"{tmp_path / 'wide.png'}: an aligned crop is square, this image is 140 x 100; leave --aligned out to find its face"
    ]


def test_one_photograph_alone_is_the_same_without_a_file(photos, tmp_path, shield):
    data = (photos / "a.jpg").read_bytes()
    (alone,) = purify_alone(Unit(Path("standard input"), Path(), "-", data=data), shield, Options(seed=3))
    run(photos / "a.jpg", tmp_path / "out", shield, seed=3)
    assert (tmp_path / "out" / "a.png").read_bytes() == alone
    with pytest.raises(InputError, match="^nowhere.jpg: no such file"):
        purify_alone(Unit(Path("nowhere.jpg"), Path(), ""), shield, Options())


# --- failures ----------------------------------------------------------------------------------


def test_one_bad_file_stops_nothing_and_is_reported_at_the_end(photos, tmp_path, shield):
    (photos / "bad.jpg").write_bytes(b"not an image")
    write_photo(photos / "empty.png", np.full((300, 300, 3), 77, np.uint8))
    summary = run(photos, tmp_path / "out", shield)
    assert summary.units == 3
    assert [line.split(": ")[0] for line in lines(summary)] == [str(photos / "bad.jpg"), str(photos / "empty.png")]
    assert "no face found" in lines(summary)[1]
    assert not [name for name in files(tmp_path / "out") if "bad" in name or "empty" in name]


def test_a_result_that_cannot_be_written_is_reported(photos, tmp_path, shield):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").write_text("a file where a folder is wanted")
    summary = run(photos, tmp_path / "out", shield)
    assert summary.units == 2
    assert len(summary.failures) == 1


# --- resuming ----------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(photos, tmp_path, shield, prior):
    run(photos, tmp_path / "out", shield)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    prior.batches.clear()
    summary = run(photos, tmp_path / "out", shield)
    assert (summary.units, summary.skipped, prior.batches) == (0, 3, [])
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}


def test_overwrite_makes_it_again(photos, tmp_path, shield):
    run(photos, tmp_path / "out", shield)
    assert run(photos, tmp_path / "out", shield, overwrite=True).units == 3


def test_overwrite_leaves_nothing_of_what_was_made_before(photos, tmp_path, shield):
    out = tmp_path / "out"
    run(photos, out, shield, paste=False)
    (out / "a.face2.png").write_bytes((out / "a.face1.png").read_bytes())  # as of a face that is found no longer
    (out / "a.face2.json").write_bytes((out / "a.face1.json").read_bytes())
    run(photos, out, shield, overwrite=True)
    assert not list(out.rglob("*.face?.png"))
    assert not (out / "a.face2.json").exists()
    assert (out / "a.png").exists()
    run(photos, out, shield, paste=False, overwrite=True)
    assert not (out / "a.png").exists()
    assert (out / "a.face1.png").exists()


@pytest.mark.parametrize("broken", [False, True], ids=["missing", "another picture"])
def test_a_photo_whose_picture_is_not_the_recorded_one_is_purified_again(photos, tmp_path, shield, broken):
    run(photos, tmp_path / "out", shield)
    picture = tmp_path / "out" / "a.png"
    shutil.copy(tmp_path / "out" / "b.png", picture) if broken else picture.unlink()
    summary = run(photos, tmp_path / "out", shield)
    assert (summary.units, summary.skipped, len(files(tmp_path / "out"))) == (1, 2, 6)


def test_a_picture_that_is_not_ours_is_left_alone(photos, tmp_path, shield):
    (tmp_path / "out").mkdir()
    shutil.copy(photos / "a.jpg", tmp_path / "out" / "a.png")
    summary = run(photos, tmp_path / "out", shield)
    assert "no sidecar says how it was made" in lines(summary)[0]
    assert (tmp_path / "out" / "a.png").read_bytes() == (photos / "a.jpg").read_bytes()


def test_results_of_other_settings_are_not_passed_off_as_these(photos, tmp_path, shield):
    run(photos, tmp_path / "out", shield)
    other = shield.with_preset(replace(shield.runtime.preset.changed(eta=0.1)))
    summary = run(photos, tmp_path / "out", other)
    assert summary.units == 0
    assert all("records another photo or other settings" in line for line in lines(summary))
    assert len(summary.failures) == 3


def test_a_photo_that_changed_is_not_passed_off_as_the_old_one(photos, tmp_path, shield, sample_paths):
    run(photos, tmp_path / "out", shield)
    shutil.copy(sample_paths[-1], photos / "a.jpg")
    summary = run(photos, tmp_path / "out", shield)
    assert summary.skipped == 2
    assert len(summary.failures) == 1


def test_a_foreign_sidecar_is_left_alone(photos, tmp_path, shield):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.face1.json").write_text("my shopping list")
    summary = run(photos, tmp_path / "out", shield)
    assert "is no sidecar of this program" in lines(summary)[0]
    assert (tmp_path / "out" / "a.face1.json").read_text() == "my shopping list"


@pytest.mark.parametrize("moment", range(6))
def test_stopped_before_any_write_nothing_is_lost_or_half_there(photos, tmp_path, shield, monkeypatch, moment):
    written = []
    real = record.write_atomic

    def stop(path, data):
        if len(written) == moment:
            raise KeyboardInterrupt
        written.append(path)
        real(path, data)

    for module in (record, photographs):
        monkeypatch.setattr(module, "write_atomic", stop)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "out", shield, batch_size=1)
    monkeypatch.undo()
    assert len(files(tmp_path / "out")) == moment
    summary = run(photos, tmp_path / "out", shield)
    assert (summary.skipped, summary.units, summary.failures) == (moment // 2, 3 - moment // 2, [])
    assert len(files(tmp_path / "out")) == 6


def test_a_shield_on_one_photo(sample_photo, shield):
    restored, faces = shield.purify(sample_photo, seeds=[3])
    assert len(faces) == 1
    assert restored.shape == sample_photo.shape
    again, _ = shield.purify(sample_photo, seeds=[3])
    np.testing.assert_array_equal(restored, again)
    with pytest.raises(NoFaceError):
        shield.purify(np.zeros((100, 100, 3), np.uint8))


def test_results_may_be_named_freely(photos, tmp_path, shield):
    purify_units([Unit(photos / "a.jpg", tmp_path / "x" / "y", "a")], shield, Options())
    assert files(tmp_path / "x") == ["y.face1.json", "y.png"]


def test_a_record_has_the_tamper_score_on_request(tmp_path, sample_paths, shield):
    """The oracle is the identifier's own way of comparing a face before and behind the shield."""
    photo = sample_paths[0]
    [unit] = [Unit(photo, tmp_path / "out" / photo.stem, str(photo))]
    purify_units([unit], shield, Options(seed=1, tamper=True))
    [sidecar] = (tmp_path / "out").glob("*.json")
    record = json.loads(sidecar.read_text())
    data = photo.read_bytes()
    before = shield.cut(read_photo(data), sha256=sha256_of(data))
    after, identifier = shield.restore(before, before.seeds(1)), Identifier(load_sface(), "behind")
    [expected] = tamper_scores(identifier.raw_rows(before), identifier.rows(before, after))
    assert record["tamper_score"] == pytest.approx(expected, abs=1e-5)
    assert record["made_from"]["tamper"] is True


# --- what may be a face --------------------------------------------------------------------------


def test_a_possible_face_is_named_in_record_and_summary_also_when_it_is_there_already(tmp_path, shield, sample_paths):
    (source,) = [path for path in sample_paths if path.name == "obama-2.jpg"]
    line = f"{source}: 1 possible face at 356,291, not purified"
    assert run(source, tmp_path / "out", shield).doubts == [line]
    sidecar = tmp_path / "out" / "obama-2.face1.json"
    record = json.loads(sidecar.read_text())
    assert (record["faces"], record["doubt"]) == (1, "1 possible face at 356,291, not purified")
    assert [sorted(one) for one in record["possible"]] == [["box", "score"]]
    again = run(source, tmp_path / "out", shield)
    assert (again.skipped, again.doubts, again.failures) == (1, [line], [])
    sidecar.write_text(json.dumps({key: value for key, value in record.items() if key not in {"possible", "doubt"}}))
    older = run(source, tmp_path / "out", shield)
    assert (older.skipped, older.doubts) == (1, [])  # as records were before


def test_who_purifies_one_alone_is_told_of_possible_faces(shield, sample_paths):
    told = []
    for path in sample_paths:
        purify_alone(Unit(path, Path(), str(path)), shield, Options(), told.append)
    assert [line.partition(": ")[2] for line in told] == ["1 possible face at 356,291, not purified"]


# --- how faces were found ------------------------------------------------------------------------


def test_a_record_names_the_detector_and_a_result_of_another_is_told_apart(photos, tmp_path, shield):
    out = tmp_path / "out"
    run(photos / "a.jpg", out, shield)
    record = json.loads((out / "a.face1.json").read_text())
    assert record["made_from"]["detector"] == Detector().made_from
    assert run(photos / "a.jpg", out, shield).skipped == 1
    other = replace(shield, detector=Detector(threshold=0.8))
    known = f"{out / 'a.face1.json'}: was made when faces were found in another way; use another folder or --overwrite"
    assert lines(run(photos / "a.jpg", out, other)) == [known]
    del record["made_from"]["detector"]  # as records were before
    (out / "a.face1.json").write_text(json.dumps(record))
    older = run(photos / "a.jpg", out, shield)
    assert (older.skipped, older.failures) == (1, [])
    assert older.doubts == [
        f"{photos / 'a.jpg'}: made by a version that did not record how it found faces, and may have missed some; "
        "make it again to be sure"
    ]
    assert run(photos / "a.jpg", out, shield, overwrite=True).units == 1
    assert run(photos / "a.jpg", out, shield).skipped == 1


def test_an_aligned_crop_depends_on_no_detector(tmp_path, shield):
    write_photo(tmp_path / "crop.png", np.full((128, 128, 3), 90, np.uint8))
    run(tmp_path / "crop.png", tmp_path / "out", shield, aligned=True)
    assert "detector" not in json.loads((tmp_path / "out" / "crop.face1.json").read_text())["made_from"]
