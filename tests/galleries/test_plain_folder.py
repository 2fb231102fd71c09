"""A gallery in a plain folder: its files, and several who use them at once. ``test_gallery.py`` has what all galleries do."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from facesieve.errors import GalleryError, GalleryFailedError
from facesieve.files import sha256_of
from facesieve.galleries import create_gallery, open_gallery
from facesieve.galleries import folder as galleries_folder
from facesieve.galleries.base import RAW, Calibration
from facesieve.galleries.segments import FILES, Segment

DIMENSIONS = 16


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gallery"


@pytest.fixture
def gallery(folder):
    return create_gallery(str(folder), embedder="toy", dimensions=DIMENSIONS)


def rows(number, seed=0):
    found = np.random.default_rng(seed).standard_normal((number, DIMENSIONS))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def segments(folder):
    """Those on disk, by the names of their files."""
    return {path.name: path.stat().st_size for path in folder.glob(FILES)}


def listed(folder):
    return json.loads((folder / "gallery.json").read_text())["templates"]


# --- files ----------------------------------------------------------------------------------------


def test_one_person_does_not_rewrite_the_others(gallery, folder):
    gallery.enrol_all({f"p{n}": {RAW: row[None]} for n, row in enumerate(rows(5000))})
    [large] = segments(folder)
    for n in range(60):
        gallery.enrol(f"late {n}", {RAW: rows(1, seed=n)})
        assert large in segments(folder)
    assert len(segments(folder)) < 8


def test_files_stay_few_and_all_of_them_are_listed(gallery, folder):
    for n in range(40):
        gallery.enrol(f"p{n}", {RAW: rows(1, seed=n)})
        if n % 3 == 2:
            gallery.remove(f"p{n - 1}")
        assert sorted(segments(folder)) == sorted(listed(folder))
        assert len(segments(folder)) < 8
    assert not gallery.build_index(at_least=1)
    assert len(segments(folder)) == 1
    for entry in gallery.people():
        [row] = rows(1, seed=int(entry.person[1:]))
        np.testing.assert_array_equal(gallery.templates_of(entry.person), row[None])
        gallery.remove(entry.person)
    assert (segments(folder), listed(folder)) == ({}, [])


def test_the_numbers_of_a_removed_person_are_gone(gallery, folder):
    """Those of everyone else stay, whichever templates they have."""
    gallery.enrol_all({"Ada": {RAW: rows(2)}, "Bob": {"fast": rows(3, 1), RAW: rows(1, 2)}, "Cay": {"fast": rows(2, 3)}})
    gallery.remove("Bob")
    assert not any(rows(3, 1)[1].tobytes() in path.read_bytes() for path in folder.iterdir())
    np.testing.assert_array_equal(gallery.templates_of("Ada"), rows(2))
    np.testing.assert_array_equal(gallery.templates_of("Cay", kind="fast"), rows(2, 3))
    gallery.remove("Cay")
    assert gallery.search(rows(1))[0][0].person == "Ada"  # the label that nobody has any more is forgotten
    assert gallery.label_sets() == {frozenset([RAW]): "Ada"}


def test_what_killed_writers_left_is_removed_by_the_next(gallery, folder):
    gallery.enrol("Ada", {RAW: rows(1)})
    orphan = Segment.of({"Bob": {RAW: rows(1)}}).write(folder)
    (folder / f".{orphan}.0.part").touch()
    assert [entry.person for entry in open_gallery(str(folder)).people()] == ["Ada"]
    gallery.enrol("Bob", {RAW: rows(2)})
    assert sorted(path.name for path in folder.iterdir()) == sorted(["gallery.json", "lock", *listed(folder)])
    assert len(gallery.templates_of("Bob")) == 2


def test_more_templates_than_a_folder_is_good_for(gallery, monkeypatch):
    monkeypatch.setattr(galleries_folder, "MOST", 10)
    gallery.enrol_all({f"p{n}": {RAW: rows(1, seed=n)} for n in range(10)})
    assert not gallery.build_index(at_least=1)
    gallery.enrol("late", {RAW: rows(1)})
    assert not gallery.build_index(at_least=100)
    with pytest.raises(GalleryError, match="11 templates, and a plain folder has no index; above 10 copy it to LanceDB or Post"):
        gallery.build_index(at_least=1)
    assert len(gallery.people()) == 11


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "missing", "foreign", "another's"])
def test_a_damaged_file_is_one_line(gallery, folder, tmp_path, harm):
    gallery.enrol("Ada", {RAW: rows(2)})
    [name] = listed(folder)
    path, data = folder / name, bytearray((folder / name).read_bytes())
    if harm == "cut":
        path.write_bytes(data[:-40])
    elif harm == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "missing":
        path.unlink()
    else:
        other = Segment.of({"Bob": {RAW: rows(2)[:, :8]}}).write(tmp_path)
        if harm == "foreign":  # rightly named, but no segment
            data = b"not a segment"
            other = f"templates-{sha256_of(data)[:32]}.npz"
            (tmp_path / other).write_bytes(data)
        (tmp_path / other).rename(folder / other)
        about = json.loads((folder / "gallery.json").read_text())
        (folder / "gallery.json").write_text(json.dumps(about | {"templates": [other]}))
    opened = open_gallery(str(folder))
    for act in (opened.people, lambda: opened.search(rows(1)), lambda: opened.enrol("Bob", {RAW: rows(1)})):
        with pytest.raises(GalleryFailedError) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert str(folder / "templates-") in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"templates": "x"},
        {"templates": ["../photo.npz"]},
        {"templates": [3]},
        {"dimensions": "16"},
        {"embedder": None},
        {"calibrations": [{"threshold": 1}]},
        {"calibrations": 3},
    ],
    ids=str,
)
def test_a_damaged_list_is_one_line(gallery, folder, change):
    about = json.loads((folder / "gallery.json").read_text())
    (folder / "gallery.json").write_text(json.dumps(about | change))
    with pytest.raises(GalleryError, match=r"gallery.json: damaged"):
        open_gallery(str(folder)).calibrations()


def test_a_write_that_fails_changes_nothing(gallery, folder, monkeypatch):
    gallery.enrol("Ada", {RAW: rows(1)})

    def full(*_):
        raise OSError(28, "No space left on device")

    for place in ("facesieve.galleries.segments.draft", "facesieve.files.draft"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            for act in (lambda: gallery.enrol("Bob", {RAW: rows(1)}), lambda: gallery.enrol("Cay", {RAW: rows(50)})):
                with pytest.raises(GalleryFailedError, match="No space left"):
                    act()
        assert [entry.person for entry in gallery.people()] == ["Ada"]
        assert [entry.person for entry in open_gallery(str(folder)).people()] == ["Ada"]
    gallery.enrol("Bob", {RAW: rows(1)})
    assert sorted(segments(folder)) == sorted(listed(folder))


def test_another_gallery_in_its_place(gallery, folder):
    gallery.enrol("Ada", {RAW: rows(1)})
    about = json.loads((folder / "gallery.json").read_text())
    (folder / "gallery.json").write_text(json.dumps(about | {"embedder": "other"}))
    with pytest.raises(GalleryError, match="another gallery has taken the place"):
        gallery.search(rows(1))


# --- several at once ------------------------------------------------------------------------------


def test_readers_see_whole_enrolments_while_files_are_merged(gallery, folder):
    done, seen, problems = threading.Event(), [], []

    def read():
        try:
            while not done.is_set():
                people = open_gallery(str(folder)).people()
                assert all(entry.templates == {RAW: 2, "fast": 1} for entry in people)
                assert {entry.person for entry in people} >= {f"p{n}" for n in range(len(people))}
                seen.append(len(people))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(60):
        gallery.enrol(f"p{n}", {RAW: rows(2, seed=n), "fast": rows(1, seed=n)})
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert seen
    assert len(open_gallery(str(folder)).people()) == 60


def test_thresholds_and_templates_of_two_writers_are_all_kept(gallery, folder):
    other = open_gallery(str(folder))
    gallery.enrol("Ada", {RAW: rows(1)})
    other.calibrate(Calibration(0.3, 0.01, RAW, 10))
    gallery.enrol("Bob", {RAW: rows(1, 1)})
    other.remove("Ada")
    assert [entry.person for entry in gallery.people()] == ["Bob"]
    assert [calibration.threshold for calibration in gallery.calibrations()] == [0.3]


def test_it_needs_numpy_alone(folder):
    code = f"""
import sys
for name in ("lancedb", "pyarrow", "torch", "cv2", "pydantic"):
    sys.modules[name] = None
import numpy as np
from facesieve.galleries import create_gallery
gallery = create_gallery({str(folder)!r}, embedder="toy", dimensions=2)
gallery.enrol("Ada", {{"raw": np.eye(2)[:1]}})
print(gallery.search(np.eye(2))[0][0].person)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "Ada\n"
