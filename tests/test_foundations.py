"""Errors, files, registries: what every room stands on."""

import os
import pickle
import sys
import types
from contextlib import suppress

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facesieve import errors
from facesieve.errors import ExistsError, FacesieveError, InputError, MissingExtraError, ProfileError, SettingError, one_line
from facesieve.files import draft, first_problem, read_toml, remove_drafts, sha256_of, sha256_of_file, write_atomic
from facesieve.registry import Registry

# --- errors ------------------------------------------------------------------------------------------


def test_an_error_is_one_line_of_where_what_and_advice():
    assert str(InputError("is empty")) == "is empty"
    assert str(InputError("is empty", "a.png")) == "a.png: is empty"
    assert str(InputError("is empty", "a.png", "copy it again")) == "a.png: is empty; copy it again"
    assert str(InputError("is empty").at("a.png").advised("copy it again")) == "a.png: is empty; copy it again"


def test_the_first_place_and_the_first_advice_stay():
    error = InputError("is empty", "inner", "first").at("outer").advised("second")
    assert (error.where, error.advice) == ("inner", "first")


def test_a_hostile_name_cannot_break_the_line():
    assert str(InputError("is empty", "a\n\x1b[2Jb")) == "a??[2Jb: is empty"


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FacesieveError)]
)
def test_errors_survive_another_process(kind):
    error = kind("a feature", "serve") if kind is MissingExtraError else kind("what", "where", "advice")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_somebody_elses_error_in_a_line():
    assert one_line(ValueError("\n  first\nsecond")) == "first"
    assert one_line(OSError(28, "No space left on device", "/a/b")) == "No space left on device"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert one_line("x" * 500, limit=10) == "x" * 10


# --- files -------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_and_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_where_nothing_can_be_written_the_old_file_stays(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=r"cannot be written \(it is not a regular file\); choose another place"):
        write_atomic(folder, b"new")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "missing" / "file", b"new")


@pytest.mark.parametrize("name", ["plain", "ä" * 120, "x" * 250, "a[1]*?"])
def test_drafts_of_any_name_are_found_again_and_only_those(tmp_path, name):
    target, other = tmp_path / name, tmp_path / "other"
    for path in (target, other):
        with suppress(KeyboardInterrupt), draft(path) as (file, part):
            file.write(b"half")
            os.link(part, part.with_name(part.name.replace(".part", "0.part")))  # what a killed run leaves
            raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) == 2
    remove_drafts(target)
    (left,) = tmp_path.iterdir()
    assert "other" in left.name
    with draft(target) as (file, _):
        file.write(b"whole")
    assert target.read_bytes() == b"whole"


def test_a_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == sha256_of(b"abc")
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_toml_that_cannot_be_read_says_where_and_is_an_error_of_its_kind(tmp_path):
    with pytest.raises(ProfileError, match=r"none.toml: cannot be read: No such file or directory$"):
        read_toml(tmp_path / "none.toml", ProfileError)
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(InputError, match=r"bad.toml: not a TOML file"):
        read_toml(tmp_path / "bad.toml")


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    eps: float | tuple[float, ...] = Field(0.5)


class _Outer(BaseModel):
    attacks: tuple[_Inner, ...]


@pytest.mark.parametrize(
    ("given", "place", "what"),
    [
        ({"attacks": [{}, {"eps": "much"}]}, "attacks.2.eps", "Input should be a valid number"),
        ({"attacks": [{"size": 3}]}, "attacks.1.size", "unknown key"),
        ({}, "attacks", "Field required"),
    ],
)
def test_pydantics_findings_are_a_place_and_a_line(given, place, what):
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate(given)
    found = first_problem(caught.value)
    assert found[0] == place
    assert what in found[1]


# --- registries --------------------------------------------------------------------------------------


def test_what_is_registered_is_found_and_a_name_is_taken_once():
    colours = Registry("colour")
    assert colours.register("red", 1) == 1
    colours.register("red", 1)
    with pytest.raises(ValueError, match="registered twice"):
        colours.register("red", 2)
    assert (list(colours), len(colours), "red" in colours, colours["red"]) == (["red"], 1, True, 1)
    with pytest.raises(SettingError, match=r"unknown colour 'blue'; there are red"):
        colours["blue"]


def test_a_dotted_name_is_imported_where_the_caller_may_choose_code_and_nowhere_else(monkeypatch):
    module = types.ModuleType("outside")
    module.thing = object()
    monkeypatch.setitem(sys.modules, "outside", module)
    colours = Registry("colour")
    assert colours.load("outside:thing") is module.thing
    with pytest.raises(SettingError, match="unknown colour"):
        colours["outside:thing"]
    for wrong in ("outside:other", "nowhere_at_all:thing"):
        with pytest.raises(SettingError, match="cannot be imported"):
            colours.load(wrong)
    with pytest.raises(SettingError, match="unknown colour"):
        colours.load("a b:c")


def test_a_room_is_imported_when_it_is_first_asked(tmp_path, monkeypatch):
    room = tmp_path / "room_of_colours"
    room.mkdir()
    (room / "__init__.py").write_text("from facesieve.registry import Registry\nCOLOURS = Registry('colour', __name__)\n")
    (room / "green.py").write_text("from room_of_colours import COLOURS\nCOLOURS.register('green', 'leaf')\n")
    monkeypatch.syspath_prepend(tmp_path)
    from room_of_colours import COLOURS

    assert "room_of_colours.green" not in sys.modules
    assert COLOURS["green"] == "leaf"
    for name in ("room_of_colours", "room_of_colours.green"):
        sys.modules.pop(name)


def test_a_result_in_the_way_is_a_mistake_of_the_input():
    assert issubclass(ExistsError, InputError)
