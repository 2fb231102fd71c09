"""A result never takes the place of an input, and goes where it was said, before any work is done."""

import shutil

import pytest

from facesieve.errors import InputError
from facesieve.files import sha256_of_file
from facesieve.images import read_photo, write_photo
from facesieve.jobs.formats import Unit
from facesieve.jobs.plan import plan
from facesieve.jobs.run import Options, purify_units
from shard_making import quick_shield, small


@pytest.fixture
def png(tmp_path, sample_paths):
    """The only copy of somebody's photograph."""
    path = tmp_path / "mine" / "a.png"
    path.parent.mkdir()
    write_photo(path, read_photo(small(sample_paths[0])))
    return path


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("way", ["itself", "dot", "folder", "link to the photograph", "link to the folder", "hard link"])
def test_an_original_is_never_replaced(png, tmp_path, facesieve, monkeypatch, overwrite, way):
    before, source, out = sha256_of_file(png), png, png.parent
    if way == "dot":
        monkeypatch.chdir(png.parent)
        source, out = "a.png", "."
    elif way == "folder":
        out = tmp_path / "mine"
        source = tmp_path / "other"
        source.mkdir()
        (source / "a.png").symlink_to(png)
    elif way == "link to the photograph":
        (tmp_path / "out").mkdir()
        out = tmp_path / "out"
        (out / "a.png").symlink_to(png)
    elif way == "link to the folder":
        out = tmp_path / "out"
        out.symlink_to(png.parent, target_is_directory=True)
    elif way == "hard link":
        out = tmp_path / "out"
        out.mkdir()
        (out / "a.png").hardlink_to(png)
    done = facesieve("purify", source, "-o", out, *(["--overwrite"] if overwrite else []))
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "would take its place" in done.err
    assert "--overwrite" not in done.err
    assert sha256_of_file(png) == before
    assert sorted(path.name for path in png.parent.iterdir()) == ["a.png"]


def test_the_library_refuses_it_too_and_a_face_may_not_replace_an_input(png):
    with pytest.raises(InputError, match="would take its place"):
        purify_units([Unit(png, png.parent / "a", "a")], quick_shield(), Options(overwrite=True))
    face = shutil.copy(png, png.parent / "b.face2.png")
    other = shutil.copy(png, png.parent / "b.jpg")
    with pytest.raises(InputError, match=r"b.face2.png: a result would take its place"):
        plan([face, other], png.parent)


def test_results_beside_photographs_of_other_kinds_are_fine(png, tmp_path, sample_paths):
    photo = shutil.copy(sample_paths[0], tmp_path / "b.jpg")
    assert len(plan([photo], tmp_path)) == 1


def test_only_results_are_removed_or_replaced(png, tmp_path, sample_paths):
    out, photo = tmp_path / "out", tmp_path / "b.jpg"
    photo.write_bytes(small(sample_paths[0]))
    out.mkdir()
    (out / "b.png").write_bytes(b"somebody's")
    (out / "b.face2.png").write_bytes(b"somebody's, too")
    purify_units(plan([photo], out), quick_shield(), Options(paste=False, overwrite=True))
    assert (out / "b.png").read_bytes() == b"somebody's"
    assert (out / "b.face2.png").read_bytes() == b"somebody's, too"
    (out / "b.face1.json").unlink()
    summary = purify_units(plan([photo], tmp_path / "new"), quick_shield(), Options(paste=False))
    assert summary.failures == []
    (tmp_path / "new" / "b.face1.json").unlink()
    [failure] = purify_units(plan([photo], tmp_path / "new"), quick_shield(), Options(paste=False)).failures
    assert "no sidecar says how it was made" in failure.reason


def test_one_photograph_goes_into_the_file_that_is_named(tmp_path, sample_paths, facesieve):
    photo, target = tmp_path / "b.jpg", tmp_path / "out" / "result.png"
    photo.write_bytes(small(sample_paths[0]))
    assert facesieve("purify", photo, "-o", target).code == 0
    assert read_photo(target).shape == read_photo(photo).shape
    assert sorted(path.name for path in target.parent.iterdir()) == ["result.face1.json", "result.png"]
    again = facesieve("purify", photo, "-o", target)
    assert (again.code, "exists already" in again.err) == (2, True)
    assert facesieve("purify", photo, "-o", target, "--overwrite").code == 0


def test_progress_is_told_by_evaluations(tmp_path, sample_paths):
    photo, told = tmp_path / "b.jpg", []
    photo.write_bytes(small(sample_paths[0]))
    shield = quick_shield()
    shield = shield.with_preset(shield.runtime.preset.changed(steps=4, start_sigma=1.0, end_sigma=0.1))
    purify_units(plan([photo], tmp_path / "out"), shield, Options(), watch=told.append)
    assert [progress.facts["evaluations"] for progress in told] == ["0 of 4", "1 of 4", "2 of 4", "3 of 4"]
    assert [progress.done for progress in told] == [0, 0.25, 0.5, 0.75]
