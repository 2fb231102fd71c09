"""A preset that went is named at no door without its successor, in one line, and nothing that was made behind it is lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from facesieve import load_shield
from facesieve.errors import GalleryError, SettingError
from facesieve.galleries import open_gallery
from facesieve.integrations.scikit_learn import FacePurifier
from facesieve.page.actions import Actions, Settings
from facesieve.purify import PRESETS, chosen_preset, preset
from facesieve.recognition.sface import load_sface
from facesieve.service.settings import load_settings
from facesieve.specs import DEFAULT_PRESET, RETIRED_PRESETS
from shard_making import write_tar

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "pins" / "kept"


def line(name):
    successor, weights = RETIRED_PRESETS[name]
    return (
        f"preset {name!r} is retired; take {successor!r} and enrol anew, or keep it with experiments/profiles/{name}.toml "
        f"as the preset and {weights} as the prior, both in the source repository"
    )


def purified(name):
    return FacePurifier(preset=name).fit_transform(np.zeros((1, 128, 128, 3), np.uint8))


def test_the_default_and_every_successor_can_be_had():
    assert {DEFAULT_PRESET, *(successor for successor, _ in RETIRED_PRESETS.values())} <= PRESETS.keys()
    assert not PRESETS.keys() & RETIRED_PRESETS.keys()


@pytest.mark.parametrize("name", RETIRED_PRESETS)
def test_the_library_names_the_successor(name):
    for ask in (preset, chosen_preset, load_shield, purified):
        with pytest.raises(SettingError) as caught:
            ask(name)
        assert str(caught.value) == line(name)


@pytest.mark.parametrize(
    "command",
    [
        "purify PHOTO -o OUT --preset fast",
        "purify SHARD -o OUT --preset fast",
        "enrol Ada PHOTO --gallery OUT --shield fast",
        "identify PHOTO --gallery GALLERY --shield fast",
        "verify PHOTO --person Obama --gallery GALLERY --shield fast",
        "gallery calibrate FOLDER --gallery GALLERY --shield fast",
        "choose-scale --clean FOLDER -o OUT --preset fast",
        "ui --preset fast",
        "serve --preset fast",
    ],
)
def test_the_command_line_names_the_successor(facesieve, tmp_path, command):
    write_tar(tmp_path / "shard.tar", [])
    folder = KEPT / "photographs"
    shutil.copytree(folder, tmp_path / "people" / "obama")
    places = {"PHOTO": folder / "obama-3.jpg", "SHARD": tmp_path / "shard.tar", "OUT": tmp_path / "out"}
    places |= {"GALLERY": KEPT / "gallery", "FOLDER": tmp_path / "people"}
    done = facesieve(*(places.get(word, word) for word in command.split()))
    assert (done.code, done.out, done.err) == (2, "", f"error: {line('fast')}\n")
    assert not (tmp_path / "out").exists()


def test_settings_of_the_service_name_the_successor(facesieve, tmp_path, monkeypatch):
    file = tmp_path / "service.toml"
    file.write_text('preset = "tuned"\n')
    for told in ({"file": file, "given": {}}, {"file": None, "given": {"preset": "tuned"}}):
        with pytest.raises(SettingError) as caught:
            load_settings(**told)
        assert str(caught.value) == line("tuned")
    assert facesieve("serve", "--config", file).err == f"error: {line('tuned')}\n"
    monkeypatch.setenv("FACESIEVE_PRESET", "fast-fused")
    assert facesieve("serve").err == f"error: {line('fast-fused')}\n"


def test_a_profile_of_before_names_the_successor_and_itself(tmp_path):
    profile = tmp_path / "profile.toml"
    profile.write_text('preset = "fast"\n\n[settings]\nscale = 4\n')
    with pytest.raises(SettingError) as caught:
        chosen_preset(str(profile))
    assert str(caught.value) == f"{profile}: {line('fast')}"


def test_the_page_names_the_successor(sample_paths):
    actions = Actions(load_sface(), load_shield(), None)
    assert actions.presets == list(PRESETS)
    with pytest.raises(SettingError) as caught:
        actions.purify(sample_paths[0], Settings("fast"), lambda _: None)
    assert str(caught.value) == line("fast")


@pytest.fixture
def gallery(tmp_path):
    """One that was enrolled and calibrated behind `fast`, raw templates beside."""
    return shutil.copytree(KEPT / "gallery", tmp_path / "gallery")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_gallery_of_before_still_answers_and_names_the_successor(facesieve, gallery):
    before = contents(gallery)
    photo = KEPT / "photographs" / "obama-3.jpg"
    for command in (("identify", photo), ("verify", photo, "--person", "Obama", "--threshold", 0.3)):
        done = facesieve(*command, "--gallery", gallery, "--json")
        assert done.code == 0, done.err
        (said,) = done.err.splitlines()
        assert said.startswith(f"{gallery}: nobody has templates behind this shield ({DEFAULT_PRESET}-")
        assert f"there are some behind the {line('fast').replace(' is retired; ', ', which is retired: ')}; " in said
    ((found,),) = json.loads(facesieve("identify", photo, "--gallery", gallery, "--json").out).values()
    assert (found["matches"][0]["person"], found["templates"]) == ("Obama", "raw")
    assert contents(gallery) == before


def test_a_person_with_templates_of_a_retired_preset_alone_is_an_error_that_names_the_successor(gallery):
    opened = open_gallery(str(gallery))
    try:
        row = opened.templates_of("Obama")[:1]
        opened.enrol("Ada", {"fast-fused-0123456789ab": row})
        with pytest.raises(GalleryError) as caught:
            opened.search(row, count=1)
        assert str(caught.value).endswith(
            f"there are some behind the {line('fast-fused').replace(' is retired; ', ', which is retired: ')}"
        )
    finally:
        opened.close()
