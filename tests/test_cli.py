"""The command line as a user meets it: what is printed, what is written, which exit code."""

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from facesieve.images import read_photo, write_photo
from facesieve.specs import DEFAULT_PRESET


@pytest.fixture
def photos(tmp_path, sample_paths):
    folder = tmp_path / "in"
    folder.mkdir()
    for source in sample_paths[:2]:
        shutil.copy(source, folder)
    return folder


def test_purify_a_folder(facesieve, photos, tmp_path, sample_paths):
    done = facesieve("purify", photos, "-o", tmp_path / "out", "--steps", 2, "--grid")
    assert done.code == 0, done.err
    assert "2 photographs, 2 faces purified" in done.out
    assert f"{DEFAULT_PRESET} on cpu" in done.out
    stems = [path.stem for path in sample_paths[:2]]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["grid.png", *(f"{s}.png" for s in stems), *(f"{s}.face1.json" for s in stems)]
    )
    record = json.loads((tmp_path / "out" / f"{stems[0]}.face1.json").read_text())
    assert record["made_from"]["preset"]["restorations"][0]["steps"] == 2
    width = read_photo(tmp_path / "out" / "grid.png").shape[1]
    assert width > 4 * 128  # input, what is left, result, difference

    again = facesieve("purify", photos, "-o", tmp_path / "out", "--steps", 2)
    assert (again.code, "2 there already" in again.out) == (0, True)

    other = facesieve("purify", photos, "-o", tmp_path / "out", "--steps", 3)
    assert other.code == 1
    assert "other settings" in other.err


def test_a_seed_repeats_a_result(facesieve, photos, tmp_path):
    for name in "ab":
        assert facesieve("purify", photos, "-o", tmp_path / name, "--steps", 1, "--seed", 5, "--no-paste").code == 0
    names = sorted(p.name for p in (tmp_path / "a").glob("*.png"))
    assert len(names) == 2
    for name in names:
        np.testing.assert_array_equal(read_photo(tmp_path / "a" / name), read_photo(tmp_path / "b" / name))


def test_one_bad_file_is_reported_last_and_stops_nothing(facesieve, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    done = facesieve("purify", photos, "-o", tmp_path / "out", "--steps", 1)
    assert done.code == 1
    assert "2 photographs, 2 faces purified" in done.out
    assert "1 failed" in done.err
    assert done.err.strip().splitlines()[-1].strip().startswith(str(photos / "broken.jpg"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (["PHOTO", "--preset", "best"], "unknown preset 'best'; there are gentle, balanced, robust, fused"),
        (["PHOTO", "--scale", "3"], "scale 3 must be 2, 4 or 8"),
        (["PHOTO", "--eta", "2"], "eta 2.0 must be between 0 and 1"),
        (["PHOTO", "--precision", "fp8"], "precision 'fp8' is not one of auto, fp32, bf16"),
        (["PHOTO", "--device", "toaster"], "device 'toaster' cannot be used here"),
        (["PHOTO", "--prior", "nowhere"], "nowhere: not a folder"),
        (["PHOTO", "--preset", "stage2", "--scale", "4"], "has no resolution scale to set"),
        (["-", "PHOTO"], "exactly one photograph"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(facesieve, sample_paths, tmp_path, arguments, message):
    arguments = [sample_paths[0] if a == "PHOTO" else a for a in arguments]
    done = facesieve("purify", *arguments, "-o", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("purify", "photo.jpg", "-o", "out", "--preset", "none.toml"), "`facesieve choose-scale` writes a profile"),
        (("data", "select", ".", "-o", "m.json", "--beyond", "none.json"), "`facesieve data select` writes a manifest"),
        (("report", "none"), "`facesieve evaluate` writes it"),
    ],
)
def test_a_missing_file_of_ours_says_which_command_writes_it(facesieve, tmp_path, monkeypatch, arguments, advice):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "person").mkdir()
    done = facesieve(*arguments)
    assert (done.code, done.err.strip()) == (
        2,
        f"error: {next(a for a in arguments if 'none' in a)}: cannot be read: No such file or directory; {advice}",
    )


def test_standard_input_to_standard_output(sample_paths):
    command = [sys.executable, "-m", "facesieve.cli", "purify", "-", "-o", "-", "--steps", "1"]
    done = subprocess.run(command, input=sample_paths[0].read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_photo(io.BytesIO(done.stdout)).shape == read_photo(sample_paths[0]).shape


def test_the_record_of_standard_input_names_no_folder_of_this_machine(sample_paths, tmp_path):
    command = [sys.executable, "-m", "facesieve.cli", "purify", "-", "-o", str(tmp_path), "--steps", "1"]
    done = subprocess.run(command, input=sample_paths[0].read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "stdin.face1.json").read_text())["source"] == "-"


@pytest.mark.parametrize("option", [("--on-failure", "keep"), ("--image-column", "image")])
def test_what_is_of_shards_alone_is_refused_where_there_are_none(photos, tmp_path, facesieve, option):
    for inputs in ([photos], [photos / "x.jpg"], ["-"]):
        done = facesieve("purify", *inputs, "-o", tmp_path / "out", *option)
        assert (done.code, done.out) == (2, "")
        assert "go with shards (.tar, .parquet); there are none among the inputs" in done.err
    assert not (tmp_path / "out").exists()


def test_a_photograph_named_grid_is_not_lost_to_the_grid(sample_paths, tmp_path, facesieve):
    shutil.copy(sample_paths[0], tmp_path / "grid.jpg")
    done = facesieve("purify", tmp_path / "grid.jpg", "-o", tmp_path / "out", "--grid")
    assert done.code == 2
    assert "rename the photograph" in done.err
    assert not (tmp_path / "out").exists()


def test_an_empty_standard_input_is_a_mistake():
    command = [sys.executable, "-m", "facesieve.cli", "purify", "-", "-o", "-"]
    done = subprocess.run(command, input=b"", capture_output=True, check=False, text=False)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().strip() == "error: standard input: empty; copy or upload the image again"


def test_aligned_crops(facesieve, tmp_path):
    write_photo(tmp_path / "crop.png", np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8))
    assert facesieve("purify", tmp_path / "crop.png", "-o", tmp_path / "out", "--aligned", "--steps", 1).code == 0
    assert read_photo(tmp_path / "out" / "crop.png").shape == (128, 128, 3)


@pytest.mark.parametrize("aligned", [True, False])
def test_what_to_do_is_said_by_option(facesieve, tmp_path, aligned):
    write_photo(tmp_path / "grey.png", np.full((100, 140, 3), 77, np.uint8))
    done = facesieve("purify", tmp_path / "grey.png", "-o", tmp_path / "out", "--steps", 1, *(["--aligned"] if aligned else []))
    assert done.code == 1
    assert ("leave --aligned out to find its face" if aligned else "is an aligned face crop already, use --aligned") in done.err


def test_the_old_name_of_choose_scale_still_works_and_says_the_new_one(facesieve, tmp_path):
    (tmp_path / "nobody").mkdir()
    old, new = (facesieve(name, "--clean", tmp_path / "nobody", "-o", tmp_path / "x") for name in ("calibrate", "choose-scale"))
    first, *rest = old.err.splitlines()
    assert "facesieve choose-scale" in first
    assert (old.code, rest) == (new.code, new.err.splitlines())
    assert "calibrate " not in facesieve("--help").out


def test_presets(facesieve):
    table = facesieve("presets")
    assert table.code == 0
    for name in ("gentle", "balanced", "robust", "fused", "paper", "stage1", "stage2"):
        assert name in table.out
    rows = {line.split()[0]: line for line in table.out.splitlines() if line.startswith("  ") and line.strip()}
    assert re.search(r"\d\.\d / \d\.\d", rows["gentle"])
    assert rows["paper"].split()[-1] == "?"
    data = json.loads(facesieve("presets", "--json").out)
    assert [sorted(preset["measured"]) for preset in data if preset["name"] == "paper"] == [[]]
    assert [preset["name"] for preset in data] == ["gentle", "balanced", "robust", "fused", "paper", "stage1", "stage2"]


def test_info(facesieve):
    done = facesieve("info")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == [
        "facesieve",
        "python",
        "torch",
        "processor",
        "cuda",
        "path",
        "runtime",
        "prior",
        "prior",
        "prior",
    ]


def test_prior_show_prints_the_card(facesieve):
    card = json.loads(facesieve("prior", "show").out)
    assert len(card["sha256"]) == 64


def test_prior_import_says_what_does_not_fit(facesieve, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    done = facesieve("prior", "import", tmp_path / "x.ckpt", tmp_path / "out")
    assert done.code == 2
    assert "x.ckpt" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command", [[], ["purify"], ["prior"], ["prior", "import"], ["train"], ["train", "prior"], ["presets"], ["info"]]
)
def test_every_command_explains_itself(facesieve, command):
    done = facesieve(*command, "--help")
    assert done.code == 0
    assert "Usage" in done.out


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import facesieve", {"torch", "cv2", "diffusers", "typer", "numpy"}),
        ("import facesieve.cli", {"torch", "cv2", "diffusers", "numpy", "pydantic", "facesieve.service"}),
        ("import facesieve.cli.app as a; list(a._Commands().values())", {"torch", "cv2", "diffusers", "numpy"}),
        ("import facesieve.purify, facesieve.shield", {"torch", "diffusers", "typer", "rich"}),
    ],
)
def test_slow_imports_wait_until_they_are_needed(code, forbidden):
    script = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not forbidden & set(loaded)


LIGHT = (  # not purify: its presets are data, but come with the stages that they make
    "cli.app cli.data cli.enrol cli.evaluate cli.export cli.gallery cli.identify cli.licences cli.prior cli.purify cli.serve "
    "cli.train cli.ui client data.crops data.select data.sources faces files galleries identification images jobs.cluster "
    "jobs.run noise pictures recognition.onnx_embedder recognition.templates runtime service.app service.ray_serve "
    "service.run shield"
)


def test_what_runs_without_a_network_is_imported_without_torch():
    rooms = ", ".join(f"facesieve.{room}" for room in LIGHT.split())
    script = f"import sys\nsys.modules['torch'] = None\nimport {rooms}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_possible_face_is_told_and_with_strict_a_failure(facesieve, tmp_path, sample_paths):
    (source,) = [path for path in sample_paths if path.name == "obama-2.jpg"]
    done = facesieve("purify", source, "-o", tmp_path / "out")
    assert (done.code, "1 photograph, 1 face purified" in done.out) == (0, True)
    assert done.err == f"{source}: 1 possible face at 356,291, not purified\n"
    for target in (tmp_path / "out", tmp_path / "one.png", "-"):
        strict = facesieve("purify", source, "-o", target, "--strict")
        assert (strict.code, strict.err) == (1, done.err)


def test_one_result_is_named_with_its_record(facesieve, sample_paths, tmp_path):
    done = facesieve("purify", sample_paths[0], "-o", tmp_path / "one.png")
    record = tmp_path / "one.face1.json"
    assert done.out.splitlines()[-1] == f"the result is {tmp_path / 'one.png'}, its record {record}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.face1.json", "one.png"]


def test_what_is_passed_over_is_named(facesieve, photos, tmp_path):
    for name in ("a.txt", "b.csv", "c.md", "d.py", ".hidden"):
        (photos / name).write_text("text")
    done = facesieve("purify", photos, "-o", tmp_path / "out")
    assert done.err == "passed over: 1 hidden or housekeeping, 4 of other kinds (a.txt, b.csv, c.md, ...)\n"


def test_preset_and_shield_are_one_option(facesieve, photos, sample_paths, tmp_path):
    assert "; robust on" in facesieve("purify", photos, "-o", tmp_path / "out", "--shield", "robust").out
    done = facesieve("verify", *sample_paths[:2], "--preset", "none", "--threshold", 0.4)
    assert (done.code, "not the same person" in done.out) == (1, True)
