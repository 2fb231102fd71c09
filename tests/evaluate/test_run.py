"""A whole experiment, small: real photographs, the real recogniser, a real attack; resumed, shared, killed."""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from facesieve.errors import EmbedderError, InputError, PriorError, SettingError
from facesieve.evaluate import claim
from facesieve.evaluate.experiment import Experiment, TargetSettings, read_experiment
from facesieve.evaluate.run import evaluate
from facesieve.images import read_photo
from facesieve.report.record import NONE, load_record
from facesieve.report.tables import tables_of
from make_people import write_folders

TEXT = """
[data]
minimum = 5
people = 4
train = 3
test = 2

[recogniser]
templates = 3

[[attacks]]
name = "pgd"
eps = 8
iterations = 5
objective = "margin"

[[defences]]
preset = "robust"
settings = { steps = 1, samples = 1 }

[[defences]]
preset = "stage2"
settings = { steps = 2 }
score_steps = true
probes = 4

[[defences]]
baseline = "jpeg"
settings = { quality = 60 }

[run]
batch = 3
samples = "SAMPLES"
"""
ATTACK = "pgd, eps 8/255"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, sample_paths):
    path = tmp_path_factory.mktemp("experiment") / "e.toml"
    path.write_text(TEXT.replace("SAMPLES", str(sample_paths[0].parent)))
    return path


@pytest.fixture(scope="module")
def done(source, experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "fresh"
    lines = []
    report = evaluate(read_experiment(experiment), source, out, report=lambda progress: lines.append(progress.what))
    return out, report, lines


def timeless(report):
    plain = report.model_dump()
    for entry in [*plain["cells"], *plain["attacks"]]:
        entry["seconds"] = None
    return plain


def test_every_combination_is_there_and_the_attack_and_the_defences_did_something(done):
    out, report, lines = done
    names = {(c.attack, c.quantisation, c.defence, c.point) for c in report.cells}
    for attack, quantisation in ((NONE, "uint8"), (ATTACK, "float"), (ATTACK, "uint8")):
        for defence, point in ((NONE, ""), ("robust", ""), ("stage2", "grey"), ("stage2", ""), ("jpeg", "")):
            assert (attack, quantisation, defence, point) in names
    assert len(names) == len(report.cells) == 15
    by_name = {(row.attack, row.quantisation, row.defence): row for row in tables_of(report).rows}
    assert by_name[NONE, "uint8", NONE].accuracy.value == 1
    assert by_name[ATTACK, "float", NONE].accuracy.value < 0.5
    assert by_name[ATTACK, "float", "robust"].accuracy.n == 8
    assert by_name[ATTACK, "float", "stage2"].accuracy.n == 4
    assert load_record(out) == report
    assert report.complete
    assert len(lines) == 15 - 3 + 1 + 1  # a line a combination and attack, and that people are chosen


def test_the_sets_lie_in_the_ball_and_the_files_are_what_was_scored(done, source):
    out, report, _ = done
    folder = out / "adversarial" / "pgd--eps-8-255"
    made = np.load(folder / "float.npy")
    files = sorted((folder / "uint8").glob("*.png"))
    assert len(files) == len(made) == 8
    clean = np.stack([read_photo(path).transpose(2, 0, 1) for path in files])
    assert np.abs(clean / 255 - made).max() <= 0.5 / 255 + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1
    assert json.loads((folder / "set.json").read_text())["attack"]["eps"] == 8
    assert report.attacks[0].norm == "linf"
    assert report.attacks[0].still == 0


def test_a_run_that_was_stopped_at_any_line_ends_like_one_that_was_not(done, source, experiment, tmp_path):
    class StopError(Exception):
        pass

    settings = read_experiment(experiment)
    for after in (1, 4, 9):
        left = [after]

        def report(_, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise StopError

        with pytest.raises(StopError):
            evaluate(settings, source, tmp_path, report=report)
    assert timeless(evaluate(settings, source, tmp_path)) == timeless(done[1])


@pytest.mark.kills
def test_a_run_that_is_killed_loses_and_doubles_nothing(done, source, experiment, tmp_path):
    command = [sys.executable, "-m", "facesieve.cli", "evaluate", experiment, "--source", source, "-o", tmp_path / "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for pause in random.Random(0).sample([0.2, 0.6, 1.0, 1.6, 2.4], 3):
        process = subprocess.Popen([*map(str, command)], env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        process.stderr.readline()  # it has begun
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    again = load_record(tmp_path / "run")
    assert [len(cell.predicted) for cell in again.cells] == [len(cell.predicted) for cell in done[1].cells]
    for one, other in zip(again.cells, done[1].cells, strict=True):  # another process: equal but for the last bits
        assert (one.attack, one.defence, one.point, one.predicted) == (other.attack, other.defence, other.point, other.predicted)
        assert one.genuine == pytest.approx(other.genuine, abs=1e-3)


def test_what_one_run_purified_another_takes_from_the_shared_folder(source, experiment, tmp_path):
    text = experiment.read_text()
    cache = tmp_path / "cache"
    first = Experiment.model_validate(read_experiment(experiment).model_dump() | {"attacks": ()})
    evaluate(first, source, tmp_path / "a", cache=cache)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert before
    path = tmp_path / "other.toml"
    path.write_text(text.replace('name = "pgd"', 'name = "other"').replace("eps = 8", "eps = 2"))
    evaluate(read_experiment(path), source, tmp_path / "b", cache=cache)
    after = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert {path: after[path] for path in before} == before  # the clean images were not purified again
    assert len(after) > len(before)


def test_the_images_come_person_by_person_round_and_round(done):
    assert done[1].labels == (0, 1, 2, 3, 0, 1, 2, 3)
    accuracy = tables_of(done[1]).rows[0].accuracy
    assert accuracy.value * accuracy.n == 8


# --- mistakes -------------------------------------------------------------------------------------


def test_another_experiment_in_the_same_folder_is_refused(done, experiment, source):
    changed = read_experiment(experiment).model_copy(update={"attacks": ()})
    before = (done[0] / "report.json").read_bytes()
    with pytest.raises(SettingError, match="another experiment: attacks has 1 entry there, 0 here;"):
        evaluate(changed, source, done[0])
    assert (done[0] / "report.json").read_bytes() == before


def test_what_is_wanted_of_figures_and_what_is_shown_make_no_other_experiment(done, experiment):
    settings = read_experiment(experiment)
    wanted = TargetSettings(measure="accuracy", figure="clean accuracy lost, robust", wanted="<= 1")
    claim.check(done[0], settings.model_copy(update={"targets": (wanted,)}))
    claim.check(done[0], settings.model_copy(update={"run": settings.run.model_copy(update={"samples": None})}))
    with pytest.raises(SettingError, match="another experiment: run.seed is 0 there, 1 here"):
        claim.check(done[0], settings.model_copy(update={"run": settings.run.model_copy(update={"seed": 1})}))


def test_what_differs_from_the_run_that_is_there_is_named_key_by_key(done, experiment, source):
    settings = read_experiment(experiment)
    run = settings.run.model_copy(update={"batch": 7, "far": 0.5})
    [attack] = settings.attacks
    changed = settings.model_copy(update={"run": run, "attacks": (attack.model_copy(update={"iterations": 99}),)})
    with pytest.raises(SettingError) as refused:
        evaluate(changed, source, done[0])
    assert f"attacks.1.iterations is {attack.iterations} there, 99 here; run.batch is 3 there, 7 here; run.far is" in str(
        refused.value
    )


def test_the_key_that_differs_in_a_manifest_is_named(done, experiment, source, tmp_path):
    manifest = json.loads((done[0] / "manifest.json").read_text())
    manifest["images"][0]["sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(manifest))
    with pytest.raises(SettingError, match=r"on other data: images\.1\.sha256 is [0-9a-f]{64} there, 0000"):
        evaluate(read_experiment(experiment), source, done[0], manifest=tmp_path / "other.json")
    manifest["selection"]["seed"] = 77
    (tmp_path / "other.json").write_text(json.dumps(manifest))
    with pytest.raises(SettingError, match=r"\[data\]: data\.seed is 77 there, 0 here"):
        evaluate(read_experiment(experiment), source, tmp_path / "run", manifest=tmp_path / "other.json")


def test_data_that_changed_since_the_manifest_is_named(done, experiment, people, tmp_path):
    write_folders(tmp_path / "source", people)
    used = json.loads((done[0] / "manifest.json").read_text())["images"][0]["ref"]
    (tmp_path / "source" / used).write_bytes(b"other")
    with pytest.raises(InputError, match=f"{used} has changed"):
        evaluate(read_experiment(experiment), tmp_path / "source", tmp_path / "run", manifest=done[0] / "manifest.json")


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ("templates = 3", "templates = 9", SettingError, "3 training images"),
        ("templates = 3", 'embedder = "none.onnx"', EmbedderError, "no embedder"),
        ("templates = 3", 'scores = "closed-set"', EmbedderError, "no closed-set head"),
        ('baseline = "jpeg"', 'baseline = "jpg"', SettingError, "unknown defence 'jpg'"),
        ("quality = 60", "qualty = 60", SettingError, "qualty"),
        ('preset = "stage2"', 'preset = "stage3"', SettingError, "unknown preset"),
        ('preset = "stage2"', 'preset = "fast"', SettingError, "preset 'fast' is retired; take 'robust'"),
        ("batch = 3", 'prior = "nowhere"', PriorError, "nowhere"),
        ("batch = 3", "size = 64", SettingError, "run.size is 64"),
        ("batch = 3", 'samples = "nowhere"', InputError, "nowhere: no photographs"),
    ],
)
def test_a_wrong_setting_is_said_before_anything_is_computed(source, tmp_path, done, old, new, error, said):
    path = tmp_path / "e.toml"
    path.write_text(TEXT.replace('samples = "SAMPLES"\n', "").replace(old, new))
    with pytest.raises(error, match=said):
        evaluate(read_experiment(path), source, tmp_path / "run", manifest=done[0] / "manifest.json")
    for claimed in ("trials", "experiment.json", "manifest.json"):  # so that the mended experiment can have the folder
        assert not (tmp_path / "run" / claimed).exists()


def test_a_full_disk_ends_the_run_and_keeps_what_was_computed(source, experiment, done, tmp_path, monkeypatch):
    import errno

    from facesieve import files

    real, left = files._settle, [12]

    def settle(*draft):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*draft)

    monkeypatch.setattr(files, "_settle", settle)
    with pytest.raises(InputError, match="No space left"):
        evaluate(read_experiment(experiment), source, tmp_path)
    kept = list((tmp_path / "trials").glob("*.json"))
    assert kept
    monkeypatch.undo()
    assert timeless(evaluate(read_experiment(experiment), source, tmp_path)) == timeless(done[1])


def test_a_damaged_batch_is_named(done, tmp_path):
    from facesieve.evaluate.cache import BatchCache

    cache = BatchCache(tmp_path)
    cache.batch({"a": 1}, lambda: torch.zeros(1))
    cache.path({"a": 1}).write_bytes(b"no zip")
    with pytest.raises(InputError, match="delete it"):
        cache.batch({"a": 1}, lambda: torch.zeros(1))


def test_the_commands(done, source, experiment, facesieve):
    out = done[0]
    ran = facesieve("evaluate", experiment, "--source", source, "-o", out)
    assert ran.code == 0, ran.err
    assert "report.json" in ran.out
    ran = facesieve("report", out)
    assert ran.code == 0, ran.err
    page = (out / "report.html").read_text()
    assert "Read this first" in page
    assert "<svg" in page
    pictures = [read_photo(base64.b64decode(part.split('"')[0])) for part in page.split("data:image/jpeg;base64,")[1:]]
    assert "Sample faces: behind robust, stage2, jpeg" in page  # each defence's name, as the run has it
    assert "Sample faces: stage2, step by step" in page  # the one defence with score_steps
    assert [picture.shape[1] // 112 for picture in pictures] == [4, 4]  # as they are and three; input, two steps, the difference
    assert all(picture.shape[0] > 6 * 112 for picture in pictures)  # six sample faces, one below the other
    ran = facesieve("evaluate", out / "none.toml", "--source", source, "-o", out)
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_samples_may_be_named_by_option_and_change_no_figure(done, source, experiment, sample_paths, tmp_path, facesieve):
    plain, folder = experiment.read_text().replace(f'samples = "{sample_paths[0].parent}"\n', ""), tmp_path / "one"
    (tmp_path / "e.toml").write_text(plain)
    folder.mkdir()
    (folder / "a.jpg").write_bytes(sample_paths[0].read_bytes())
    given = ("evaluate", tmp_path / "e.toml", "--source", source, "--cache", done[0] / "cache", "-o", tmp_path / "run")
    assert facesieve(*given).code == 0
    without = load_record(tmp_path / "run")
    assert without.pictures == {}
    ran = facesieve(*given, "--samples", folder)
    assert ran.code == 0, ran.err
    record = load_record(tmp_path / "run")
    assert len(record.pictures) == 2
    assert [cell.predicted for cell in record.cells] == [cell.predicted for cell in without.cells]
    ran = facesieve(*given, "--samples", tmp_path / "nothing")
    assert ran.code == 2
    assert "no photographs; name a folder of photographs that may be shown" in " ".join(ran.err.split())


def test_an_attack_can_be_crafted_on_another_recogniser(source, experiment, done, tmp_path):
    plain = read_experiment(experiment).model_dump() | {"defences": ()}
    plain["attacks"] = [{**plain["attacks"][0], "name": "", "surrogate": {"templates": 1}}]
    report = evaluate(Experiment.model_validate(plain), source, tmp_path, manifest=done[0] / "manifest.json")
    assert report.attacks[0].name == "pgd on sface, eps 8/255"
    assert report.attacks[0].sees.endswith("mean templates of 1")
    assert report.environment["recogniser"].endswith("mean templates of 3")
    assert {cell.defence for cell in report.cells} == {NONE}
