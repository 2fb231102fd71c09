"""Training of a prior, on the samples and very small: it learns, it can be stopped, it can be loaded."""

import csv
import json
import math
import shutil

import pytest
import torch
from torch.testing import assert_close

from facesieve.data.crops import FaceFolder, wide_crops
from facesieve.errors import InputError, SettingError
from facesieve.priors.folder import load_prior
from facesieve.priors.schedule import Schedule
from facesieve.train.batches import Ahead, NoisedBatches
from facesieve.train.prior import learning_rate_factor, train_prior, v_loss
from facesieve.train.settings import PriorTraining, PurifierTraining, parse_settings
from facesieve.train.views import to_batch, wide_view

TINY = PriorTraining(
    size=32, channels=(16, 32), attention_levels=0, images=24, batch=4, warmup_steps=1, learning_rate=2e-3, held_out=1
)


@pytest.fixture(scope="module")
def samples(sample_paths):
    return sample_paths[0].parent


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    lines = []
    folder = train_prior(samples, out, TINY, report=lines.append, checkpoint_minutes=1e9)
    return out, folder, lines


def test_a_trained_prior_is_a_folder_that_loads(trained):
    _, folder, _ = trained
    prior = load_prior(folder)
    assert prior.shape == (3, 32, 32)
    assert torch.isfinite(prior(torch.zeros(1, 3, 32, 32), 1.0)).all()
    card = json.loads((folder / "card.json").read_text())
    assert card["training"]["images"] == 24
    assert {float(s) for s in card["held_out_v_loss_by_sigma"]} == {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20}


def test_it_reports_progress_and_leaves_curves_and_sheets(trained):
    out, _, lines = trained
    assert lines[0].what == "passed over: 1 of other kinds (README.md)"  # the samples' README
    assert "M parameters" in lines[1].what
    assert any((line.done, line.total) == (6, 6) and "loss" in line.facts for line in lines)
    rows = list(csv.DictReader((out / "loss.csv").open()))
    assert int(rows[-1]["step"]) == 6
    assert math.isfinite(float(rows[-1]["loss"]))
    assert {p.name for p in (out / "sheets").iterdir()} == {"denoised-000006.png", "sampled-000006.png"}


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(trained, samples, tmp_path):
    out, _, _ = trained

    class StopError(Exception):
        pass

    def stop_after_three(line):
        if line.what == "held out" and saves.append(line) is None and len(saves) == 3:
            raise StopError

    saves = []
    with pytest.raises(StopError):
        train_prior(samples, tmp_path, TINY, report=stop_after_three, checkpoint_minutes=0)
    stopped_at = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]
    assert stopped_at == 3
    train_prior(samples, tmp_path, TINY, checkpoint_minutes=1e9)
    whole, resumed = (torch.load(folder / "checkpoint.pt", weights_only=True)["network"] for folder in (out, tmp_path))
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_a_run_goes_on_with_more_images_but_with_no_other_setting(trained, samples, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    folder = train_prior(samples, tmp_path / "run", TINY.model_copy(update={"images": 28}))
    assert folder.name == "prior-000007"
    with pytest.raises(SettingError, match="this run has learning_rate 0.002, not 0.1; use another folder"):
        train_prior(samples, tmp_path / "run", TINY.model_copy(update={"learning_rate": 0.1}))


def test_views_of_the_prior_are_those_of_wide_crops_and_held_out_faces_are_as_they_are(samples, tmp_path):
    settings = TINY.model_copy(update={"held_out": 2})
    crops = wide_crops(samples, tmp_path)
    batches = NoisedBatches(crops, settings, Schedule.linear())
    again = NoisedBatches(crops, settings, Schedule.linear())
    assert all(torch.equal(one, other) for one, other in zip(batches(3), again(3), strict=True))
    assert not torch.equal(batches(3)[0], batches(4)[0])
    (plain,) = batches.held_out_images(1)
    assert_close(plain, to_batch([wide_view(crops[batches.held_out[0]], 32)])[0] * 2 - 1)


def test_a_run_of_before_there_were_views_resumes_without_them(samples, tmp_path):
    old = TINY.model_copy(update={"views": False})
    train_prior(samples, tmp_path, old)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("views", "precision", "minutes"):
        del state["settings"][name]
    torch.save(state, tmp_path / "checkpoint.pt")
    longer = {"images": 28}
    with pytest.raises(SettingError, match="this run has views False, not True"):
        train_prior(samples, tmp_path, TINY.model_copy(update=longer))
    assert train_prior(samples, tmp_path, old.model_copy(update=longer)).name == "prior-000007"


def test_batches_that_are_made_ahead_are_the_same():
    made = []

    def batch(step):
        made.append(step)
        return step * step

    upcoming = Ahead(batch, 3)
    assert [upcoming(step) for step in (0, 1, 2, 7)] == [0, 1, 4, 49]
    assert sorted(made) == sorted(set(made))


def test_a_prior_begins_from_another_and_keeps_its_terms(trained, samples, tmp_path):
    start = trained[1]
    settings = TINY.model_copy(update={"images": 4, "learning_rate": 1e-9})
    folder = train_prior(samples, tmp_path / "run", settings, start=start)
    made, before = (load_prior(place).network.state_dict() for place in (folder, start))
    for name, weights in before.items():
        assert_close(made[name], weights, rtol=1e-2, atol=1e-3)
    card = json.loads((folder / "card.json").read_text())
    assert card["start"]["sha256"] == json.loads((start / "card.json").read_text())["sha256"]
    for wrong, said in (
        ({"size": 64}, "not a prior of 64 pixels"),
        ({"channels": (16, 48)}, "not the network that the settings"),
    ):
        with pytest.raises(SettingError, match=said):
            train_prior(samples, tmp_path / "other", TINY.model_copy(update=wrong), start=start)


def test_a_purifiers_prior_has_not_seen_what_measures_the_purifier():
    assert (PriorTraining().held_out, PriorTraining().seed) == (PurifierTraining().held_out, PurifierTraining().seed)


def test_the_command_stops_in_time_says_so_and_resumes(facesieve, samples, tmp_path):
    chosen = ["size=32", "channels=16,32", "attention_levels=0", "batch=4", "images=12", "held_out=1", "precision=fp32"]
    options = [part for setting in chosen for part in ("--set", setting)]
    command = ["train", "prior", "--data", samples, "-o", tmp_path / "run", *options]
    stopped = facesieve(*command, "--stop-after-minutes", 0)
    assert stopped.code == 0, stopped.err
    first = tmp_path / "run" / "prior-000001"
    assert stopped.out.splitlines()[-1] == f"stopped at step 1 of 3, the same command resumes; prior in {first}"
    assert json.loads((first / "card.json").read_text())["steps_made"] == 1
    assert "held out  v-loss at 0.05 " in stopped.out
    ended = facesieve(*command)
    assert ended.out.splitlines()[-1] == f"finished prior in {tmp_path / 'run' / 'prior-000003'}"
    assert "steps_made" not in json.loads((tmp_path / "run" / "prior-000003" / "card.json").read_text())


def test_the_command_takes_a_time_in_place_of_images(facesieve, samples, tmp_path):
    chosen = ["size=32", "channels=16,32", "attention_levels=0", "batch=4", "held_out=1", "precision=fp32"]
    options = [part for setting in chosen for part in ("--set", setting)]
    done = facesieve("train", "prior", "--data", samples, "-o", tmp_path / "run", *options, "--minutes", 0.01)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "run").glob("prior-*")
    card = json.loads((folder / "card.json").read_text())
    assert card["training"]["minutes"] == 0.01
    assert 1 <= card["steps_made"] < 19_750


def test_the_loss_is_zero_for_a_prior_that_knows_the_answer():
    images, noise = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sigmas = torch.tensor([0.5, 3.0], dtype=torch.float64)
    abar = (1 / (1 + sigmas**2))[:, None, None, None]

    class Oracle:
        schedule = type("S", (), {"time": staticmethod(lambda sigma: sigma)})

        def output(self, x, time):
            torch.testing.assert_close(x, abar.sqrt() * images + (1 - abar).sqrt() * noise)
            return abar.sqrt() * noise - (1 - abar).sqrt() * images  # v, Salimans & Ho 2022

    torch.testing.assert_close(v_loss(Oracle(), images, noise, sigmas), torch.zeros(2, dtype=torch.float64))


def test_the_learning_rate_rises_stays_and_falls():
    settings = PriorTraining(images=1600, batch=16, warmup_steps=10, decay_fraction=0.5)
    rates = [learning_rate_factor(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert set(rates[10:51]) == {1.0}
    assert rates[50:] == pytest.approx([(100 - step) / 50 for step in range(50, 100)])


def test_a_face_folder_leaves_out_what_has_no_face(sample_paths, tmp_path):
    import numpy as np

    from facesieve.images import read_photo, write_photo

    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in" / "face.png", read_photo(sample_paths[0]))
    write_photo(tmp_path / "in" / "wall.png", np.full((200, 200, 3), 90, np.uint8))
    faces = FaceFolder(tmp_path / "in", tmp_path / "cache.npz")
    assert [p.name for p in faces.paths] == ["face.png"]
    assert faces.crop(0, 64).shape == (64, 64, 3)


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_to_train_on_needs_faces(tmp_path, empty):
    if not empty:
        import numpy as np

        from facesieve.images import write_photo

        write_photo(tmp_path / "wall.png", np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(InputError, match="no photographs found" if empty else "no face found in any of 1 photographs"):
        FaceFolder(tmp_path, tmp_path / "cache.npz")


def test_settings_as_text():
    settings = parse_settings(PriorTraining, ["images=100", "channels=16,32", "seed=7"])
    assert (settings.images, settings.channels, settings.seed) == (100, (16, 32), 7)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("depth=3", "expected name=value"),
        ("images", "expected name=value"),
        ("images=many", "integer"),
        ("batch=0", "greater than 0"),
    ],
)
def test_wrong_settings_as_text(pair, message):
    with pytest.raises(SettingError, match=message):
        parse_settings(PriorTraining, [pair])
