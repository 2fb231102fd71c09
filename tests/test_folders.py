"""One rule for what lies in folders: done, named, or counted; and in a time that grows with the number of files."""

import os
import time

import pytest

from facesieve.data.sources import FolderSource, open_source
from facesieve.errors import InputError
from facesieve.folders import below, files_below, folders_in, images_in, passed_over
from facesieve.jobs.plan import plan

JPEG = b"\xff\xd8\xff rest"


def test_what_programs_leave_behind_is_nobody_and_no_photograph(tmp_path):
    for name in (
        "ada/1.jpg",
        ".ipynb_checkpoints/1.jpg",
        "@eaDir/1.jpg",
        "ada/@eaDir/1.jpg/T.jpg",
        "__MACOSX/._1.jpg",
        "ada/._1.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    assert [path.name for path in folders_in(tmp_path)] == ["ada"]
    assert FolderSource(tmp_path).identities() == {"ada": ["ada/1.jpg"]}
    units = plan([tmp_path], tmp_path / "out")
    assert [unit.source for unit in units] == [tmp_path / "ada" / "1.jpg"]
    assert passed_over(units.passed) == "5 hidden or housekeeping"
    assert len(plan([tmp_path / "ada" / "._1.jpg"], tmp_path / "out")) == 1  # who names it, means it


def test_housekeeping_alone_holds_no_people(tmp_path):
    (tmp_path / "lost+found").mkdir()
    with pytest.raises(InputError, match="expected a folder with one folder per person"):
        open_source(tmp_path)


def test_links_are_followed_once_and_rings_end(tmp_path):
    (tmp_path / "in" / "real").mkdir(parents=True)
    (tmp_path / "in" / "real" / "a.jpg").write_bytes(JPEG)
    (tmp_path / "in" / "real" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "aaa").symlink_to("real")
    (tmp_path / "in" / "ring").symlink_to("ring")
    found = below(tmp_path / "in")
    assert [str(path) for _, path in found.files] == ["real/a.jpg"]  # under its own name
    assert found.passed == {"links to folders that are searched anyway": 2}
    assert [reason for *_, reason in found.troubles] == ["a link to nothing"]


def test_results_in_a_linked_folder_are_no_inputs(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(JPEG)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(JPEG)
    (tmp_path / "in" / "results").symlink_to(tmp_path / "out")
    assert len(files_below([tmp_path / "in"], tmp_path / "out", "photographs").files) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may read everything meets no closed door")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "a.jpg").write_bytes(JPEG)
    [(path, _, reason)] = below(tmp_path).troubles
    assert (path.name, "cannot be listed" in reason) == ("closed", True)


def test_pictures_directly_in_a_folder_are_told_by_their_bytes_too(tmp_path):
    for name, data in {"b": JPEG, "a.jpg": b"", "c.txt": b"words", ".d.jpg": JPEG}.items():
        (tmp_path / name).write_bytes(data)
    assert [path.name for path in images_in(tmp_path)] == ["a.jpg", "b"]


def test_planning_takes_a_time_that_grows_with_the_number_of_files(tmp_path):
    def seconds(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.jpg").touch()
        times = []
        for _ in range(5):  # the least: other programs and the collector of garbage only add
            begun = time.process_time()
            assert len(plan([folder], tmp_path / "out")) == count
            times.append(time.process_time() - begun)
        return min(times)

    assert seconds(8000) < 12 * seconds(1000)
