"""Whoever waits is told how far it is: on a terminal by a bar, in a log by a line after a silence."""

import io
import shutil

import pytest
from rich.console import Console

from facesieve.cli import terminal


@pytest.fixture
def folders(tmp_path, sample_paths):
    """A folder a person."""
    for path in sample_paths:
        name = path.stem.split("-")[0]
        (tmp_path / "people" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "people" / name)
    return tmp_path / "people"


def test_commands_that_look_at_photographs_say_how_far_they_are(facesieve, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    place, photo = ("--gallery", tmp_path / "gallery", "--shield", "none"), folders / "obama" / "obama-2.jpg"
    assert "enrolling: 3 of 4" in facesieve("enrol", folders, "--folders", *place).err
    assert "identifying: 1 of 2" in facesieve("identify", photo, photo, *place).err
    assert "verifying: 1 of 2" in facesieve("verify", photo, photo, "--shield", "none").err
    assert "calibrating: 5 of 6" in facesieve("gallery", "calibrate", folders, "--far", 0.25, *place).err


def test_on_a_terminal_there_is_a_bar_at_once_and_none_is_left(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(terminal, "errors", Console(file=written, force_terminal=True, width=80))
    with terminal.counted([1, 2], "counting") as each:
        for _ in each:
            pass
    assert "counting" in written.getvalue()
    assert "1/2" in written.getvalue()
    with terminal.progress_bar("waiting"):
        pass
    assert "waiting" in written.getvalue()


def test_a_short_command_says_nothing_in_a_log(capfd):
    with terminal.counted(range(3), "counting") as each:
        assert list(each) == [0, 1, 2]
    assert capfd.readouterr().err == ""


def test_too_few_photographs_are_said_at_once(facesieve, folders, tmp_path):
    """Before any is looked at: there is not even a gallery, nor such a recogniser."""
    command = ("gallery", "calibrate", folders, "--gallery", tmp_path / "none", "--embedder", "none.onnx")
    done = facesieve(*command)
    assert done.code == 2
    assert "6 photographs cannot resolve a false-accept rate of 0.01: it takes 100 or more" in done.err
    shutil.rmtree(folders / "biden")
    for name in ("collins", "hopper"):
        shutil.rmtree(folders / name)
    assert "at least two people are needed" in facesieve(*command, "--far", 0.5).err
