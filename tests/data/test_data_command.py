"""`facesieve data select` as a user meets it: what is written, what is said."""

import shutil

import pytest

from facesieve.data.manifest import load_manifest, save_manifest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--people", 9), "9 people with 3 + 1 usable images"),
        (("--minimum", 99), "0 have at least 99 images"),
        (("--people", 0), "people = 0"),
        (("--config", "{here}/bad.toml"), "unknown table or key 'dat'"),
        (("--config", "{here}/key.toml"), "key.toml: peple"),
        (("--config", "{here}/none.toml"), "none.toml: cannot be read"),
        (("--config", "{here}/text.toml"), "not a TOML file"),
        (("--config", "{here}/number.toml"), "data is no table"),
        (("--config", "{here}/kind.toml"), "kind.toml: seed = '7'"),
        (("--train", 0, "--test", 0), "error: train and test are both 0"),
        (("-o", "{here}/nowhere/m.json"), "nowhere/m.json: cannot be written"),
        (("-o", "{here}"), "cannot be written; name a file"),
        (("--beyond", "{here}/m0.json"), "takes its settings from the manifest"),
    ],
)
def test_mistakes_are_one_line(facesieve, folder, tmp_path, arguments, said):
    (tmp_path / "bad.toml").write_text("[dat]\npeople = 1\n")
    (tmp_path / "key.toml").write_text("[data]\npeple = 1\n")
    (tmp_path / "text.toml").write_text("people: 1\n")
    (tmp_path / "number.toml").write_text("data = 1\n")
    (tmp_path / "kind.toml").write_text('[data]\nseed = "7"\n')
    given = [str(a).format(here=tmp_path) for a in arguments]
    wanted = ["--minimum", 5, "--people", 3, "--train", 3, "--test", 1, *given]
    done = facesieve("data", "select", folder, "-o", tmp_path / "m.json", *wanted)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "m.json").exists()


def test_photographs_to_choose_settings_on(facesieve, chosen, tmp_path):
    root, manifest = chosen
    save_manifest(tmp_path / "tested.json", manifest)
    done = facesieve("data", "select", root, "-o", tmp_path / "m.json", "--beyond", tmp_path / "tested.json")
    assert done.code == 0, done.err
    assert not set(load_manifest(tmp_path / "m.json").of("test")) & set(manifest.of("test"))


def test_one_readable_image_is_one_line_and_an_older_manifest_stays(facesieve, people, tmp_path):
    (tmp_path / "people" / "ada").mkdir(parents=True)
    (tmp_path / "people" / "ada" / "0.jpg").write_bytes(next(iter(people.values()))[0])
    (tmp_path / "people" / "ada" / "1.jpg").write_bytes(b"no image")
    (tmp_path / "m.json").write_text("older")
    few = ("--minimum", 1, "--people", 1, "--train", 1, "--test", 1)
    for settings, said in (
        ((), "1000 people with 40 + 4 usable images are asked for; of 1, 0 have at least 44 images"),
        (few, "of 1, 1 have at least 1 images and 0 of them enough usable ones (first: ada/1.jpg: ada/1.jpg: not a JPEG"),
    ):
        done = facesieve("data", "select", tmp_path / "people", "-o", tmp_path / "m.json", *settings)
        assert done.code == 2
        (line,) = done.err.strip().splitlines()
        assert said in line
    assert (tmp_path / "m.json").read_text() == "older"


def test_a_manifest_whose_files_changed_is_one_line_and_trains_nothing(facesieve, chosen, tmp_path):
    original, manifest = chosen
    root = shutil.copytree(original, tmp_path / "copy")
    save_manifest(tmp_path / "m.json", manifest)
    (root / manifest.images[2].ref).write_bytes(b"other")
    done = facesieve("train", "recogniser", "--manifest", tmp_path / "m.json", "--source", root, "-o", tmp_path / "run")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert f"{manifest.images[2].ref} has changed; get it again, or select anew" in line
    assert list((tmp_path / "run").rglob("*.npy")) == []


def test_the_command_writes_what_the_library_chooses(facesieve, chosen, tmp_path):
    root, manifest = chosen
    (tmp_path / "few.toml").write_text("[data]\nminimum = 5\npeople = 2\ntrain = 3\ntest = 1\n[recogniser]\n")
    done = facesieve("data", "select", root, "-o", tmp_path / "m.json", "--config", tmp_path / "few.toml", "--people", 3)
    assert done.code == 0, done.err
    assert "3 people, 9 images to train, 3 to test" in done.out
    assert load_manifest(tmp_path / "m.json") == manifest
