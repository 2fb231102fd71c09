"""Training of the defences that learn: batches by the law, losses by hand, a run that goes on as if it had not stopped."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from facesieve.defences.ddsa import Ddsa
from facesieve.defences.faceguard import FaceGuard
from facesieve.errors import InputError, SettingError
from facesieve.train.batches import ViewBatches
from facesieve.train.ddsa import DdsaLesson, train_ddsa
from facesieve.train.faceguard import FaceGuardLesson, train_faceguard
from facesieve.train.lessons import ViewTask
from facesieve.train.loop import Run, finish
from facesieve.train.settings import DdsaTraining, FaceGuardTraining, parse_settings
from facesieve.train.views import sharpened

SMALL = {"size": 32, "batch": 2, "held_out": 2, "warmup_steps": 1}
DDSA = DdsaTraining(**SMALL, steps=4, patch=16)
GUARD = FaceGuardTraining(**SMALL, steps=4, width=8)


class Linear:
    """An embedder whose gradient is known: a fixed random projection of all pixels."""

    name, dimensions = "linear", 4

    def embed(self, crops):
        generator = torch.Generator().manual_seed(9)
        weights = torch.randn(crops[0].numel(), 4, generator=generator)
        return functional.normalize((crops - 0.5).flatten(1) @ weights)


@pytest.fixture(scope="module")
def crops():
    """Twelve soft random pictures of 160 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = functional.interpolate(torch.rand(12, 3, 6, 6, generator=generator), (160, 160), mode="bilinear")
    return (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def lesson_of(settings):
    return DdsaLesson(settings) if isinstance(settings, DdsaTraining) else FaceGuardLesson(settings, Linear())


def batch():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def draws():
    return torch.Generator().manual_seed(5)


def test_the_views_of_a_step_depend_on_seed_and_step_alone(crops):
    one, other = ViewBatches(crops, DDSA), ViewBatches(crops, DDSA)
    other(0)
    assert torch.equal(one(1), other(1))
    assert not torch.equal(one(0), one(1))
    assert not torch.equal(one(1), ViewBatches(crops, DDSA.model_copy(update={"seed": 1}))(1))


def test_held_out_faces_are_never_trained_on():
    grey = np.broadcast_to(np.array([40, 200], np.uint8).repeat(6)[:, None, None, None], (12, 160, 160, 3))
    views = ViewBatches(grey, DDSA)
    assert sorted([*views.train, *views.held_out]) == list(range(12))
    assert len(views.held_out) == 2
    assert_close(views.held_out_images()[:, 0, 0, 0], torch.from_numpy(grey[views.held_out, 0, 0, 0] / 255).float())


def test_sharpening_adds_what_a_mean_of_three_by_three_leaves():
    images = torch.full((2, 3, 5, 5), 0.2)
    images[..., 2, 2] = 0.29
    sharp = sharpened(images, torch.tensor([0.0, 2.0]))
    assert torch.equal(sharp[0], images[0])
    assert_close(sharp[1, :, 2, 2], torch.full((3,), 0.29 + 2 * 0.08))
    assert_close(sharp[1, :, 1, 1], torch.full((3,), 0.2 - 2 * 0.01))


@pytest.mark.parametrize("settings", [DDSA, GUARD], ids=["ddsa", "faceguard"])
def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(settings, crops, tmp_path):
    def run(folder):
        folder.mkdir(exist_ok=True)
        return Run(ViewTask(lesson_of(settings), ViewBatches(crops, settings), settings), folder)

    whole = run(tmp_path / "whole")
    measured = finish(whole)
    first = run(tmp_path / "parts")
    first.advance()
    first.advance()
    first.save()
    torch.manual_seed(123)  # whatever else draws in between
    second = run(tmp_path / "parts")
    assert second.step == 2
    assert finish(second) == measured
    assert_close(*(dict(run.task.lesson.networks.state_dict()) for run in (second, whole)), rtol=0, atol=0)
    views = first.task.views
    longer = Run(ViewTask(lesson_of(settings), views, settings.model_copy(update={"steps": 9})), tmp_path / "parts")
    assert longer.step == 4
    with pytest.raises(SettingError, match="batch 2, not 3"):
        Run(ViewTask(lesson_of(settings), views, settings.model_copy(update={"batch": 3})), tmp_path / "parts")


def test_the_autoencoder_learns(crops, tmp_path):
    settings = DdsaTraining(**{**SMALL, "batch": 8}, steps=60, patch=32, learning_rate=3e-3, sparsity_weight=0)
    run = Run(ViewTask(DdsaLesson(settings), ViewBatches(crops, settings), settings), tmp_path)
    before = run.task.measure(0)
    while run.step < settings.steps:
        run.advance()
    after = run.task.measure(run.step)
    assert after["restored_error"] < 0.9 * before["restored_error"]
    assert after["noised_error"] == before["noised_error"]  # the same noise every time


def test_the_guard_learns(crops, tmp_path):
    settings = FaceGuardTraining(**{**SMALL, "batch": 8}, steps=60, width=8, learning_rate=3e-3)
    run = Run(ViewTask(FaceGuardLesson(settings, Linear()), ViewBatches(crops, settings), settings), tmp_path)
    before = run.task.measure(0)
    seen = [run.advance() for _ in range(60)]
    after = run.task.measure(run.step)
    first, then = ({name: np.mean([losses[name] for losses in part]) for name in seen[0]} for part in (seen[:8], seen[-8:]))
    assert first["detection"] == pytest.approx(math.log(2), abs=0.1)
    assert then["detection"] < 0.8 * first["detection"]
    assert then["cosine_generated"] < first["cosine_generated"]
    assert before["purified_cosine"] <= before["generated_cosine"]
    assert after["purified_cosine"] > after["generated_cosine"] + 0.005
    assert after["detector_accuracy"] > before["detector_accuracy"]


def test_noise_that_is_measured_is_half_of_the_strongest():
    grey = torch.full((4, 3, 32, 32), 0.5)
    measured = DdsaLesson(DDSA.model_copy(update={"noise": 0.1})).measure(grey)
    assert measured["noised_error"] == pytest.approx(0.05**2, rel=0.05)


def test_perturbations_stay_in_their_ball_differ_and_do_not_go_flat():
    lesson = FaceGuardLesson(GUARD, Linear())
    with torch.no_grad():
        for parameter in lesson.generator.parameters():
            parameter.mul_(100)  # as large as training might make it
        first, second = lesson.patterns(batch(), draws())
    assert float(torch.maximum(first.abs(), second.abs()).max()) <= 1
    assert float((first.abs() < 0.9).float().mean()) > 0.05
    assert not torch.equal(first, second)


def test_each_network_learns_from_its_own_losses_alone():
    """The generator not from what the defence misses, the detector not from what the purifier is judged by."""
    plain, other = (
        FaceGuardLesson(GUARD.model_copy(update={"identity_weight": weight, "bonafide_weight": weight}), Linear())
        for weight in (0.0, 3.0)
    )
    for lesson in (plain, other):
        lesson.backward(batch(), draws())
    assert_close(gradients(other.generator), gradients(plain.generator), rtol=0, atol=0)
    assert_close(gradients(other.guard.detector), gradients(plain.guard.detector), rtol=1e-5, atol=1e-7)
    assert not torch.equal(
        *(torch.cat([g.flatten() for g in gradients(lesson.guard.purifier).values()]) for lesson in (plain, other))
    )


def test_the_losses_of_the_guard_by_hand():
    """With no share of the gradient's sign and an untrained purifier whose mask is 0."""
    settings = GUARD.model_copy(update={"gradient_share": 0.0})
    lesson = FaceGuardLesson(settings, Linear())
    with torch.no_grad():
        lesson.guard.purifier.out[-2].weight.zero_()
        lesson.guard.purifier.out[-2].bias.zero_()
        lesson.guard.detector.score.weight.zero_()
        lesson.guard.detector.score.bias.fill_(1.0)
    losses = lesson.backward(batch(), draws())
    assert losses["detection"] == pytest.approx((math.log1p(math.e) + math.log1p(1 / math.e)) / 2, rel=1e-5)
    assert losses["bonafide"] == pytest.approx(math.log1p(math.e), rel=1e-5)
    assert 1 - losses["identity"] == pytest.approx(losses["cosine_generated"], abs=2e-4)  # nothing was taken off; 8 bits
    assert 0 < losses["missed"] < 1  # a mean of |perturbation| / eps


def test_finished_runs_give_weights_that_load(sample_paths, tmp_path):
    lines = []
    weights = train_ddsa(sample_paths[0].parent, tmp_path, DDSA, report=lines.append)
    card = json.loads((tmp_path / "ddsa.card.json").read_text())
    assert Ddsa(weights=str(weights)).sha256 == card["sha256"]
    assert card["training"]["steps"] == 4
    assert card["data"].startswith("5 faces to train on, 1 held out")
    assert lines[0].what == "passed over: 1 of other kinds (README.md)"  # the samples' README
    assert (lines[2].done, lines[2].total) == (4, 4)
    assert int(list(csv.DictReader((tmp_path / "curve.csv").open()))[-1]["step"]) == 4
    held_out = list(csv.DictReader((tmp_path / "held-out.csv").open()))[-1]
    assert float(held_out["restored_error"]) == pytest.approx(card["held_out"]["restored_error"], abs=1e-6)
    again = train_ddsa(sample_paths[0].parent, tmp_path, DDSA, report=lines.append)  # finished already: nothing is trained anew
    assert again == weights
    assert json.loads((tmp_path / "ddsa.card.json").read_text()) == card


def test_the_guard_trains_with_sface(sample_paths, tmp_path):
    weights = train_faceguard(sample_paths[0].parent, tmp_path, GUARD.model_copy(update={"steps": 2}))
    guard = FaceGuard(weights=str(weights))
    assert guard.detect(batch()).shape == (2,)
    assert json.loads((tmp_path / "faceguard.card.json").read_text())["recogniser"] == "sface-2021dec"


def test_mistakes_are_one_line(crops, sample_paths, tmp_path):
    with pytest.raises(InputError, match="12 faces are too few for batches of 16; use more, or a smaller batch"):
        ViewBatches(crops, DdsaTraining())
    with pytest.raises(SettingError, match="patch 30 must be a multiple of 4"):
        parse_settings(DdsaTraining, ["patch=30"])
    with pytest.raises(SettingError, match="eps=0: "):
        parse_settings(FaceGuardTraining, ["eps=0"])
    with pytest.raises(InputError, match="no photographs found"):
        train_ddsa(tmp_path, tmp_path / "out", DDSA)


def test_the_command_tells_how_far_it_is_and_names_the_option_of_a_mistake(facesieve, sample_paths, tmp_path):
    settings = ("steps=2", "batch=2", "size=32", "patch=8", "held_out=1")
    options = [part for setting in settings for part in ("--set", setting)]
    command = ["train", "ddsa", "--data", sample_paths[0].parent, "-o", tmp_path / "run", *options]
    done = facesieve(*command)
    assert done.code == 0, done.err
    passed, first, last, held_out, finished = done.out.splitlines()
    assert passed == "passed over: 1 of other kinds (README.md)"  # the samples' README
    assert first.startswith("5 faces to train on, 1 held out")
    assert last.startswith("step 2/2  squared_error ")
    assert last.endswith(" steps/min  0 min left")
    assert held_out.startswith("held out  noised_error ")
    assert finished == f"finished weights in {tmp_path / 'run' / 'ddsa.safetensors'}"
    for mistake, said in (
        ("batch=0", "--set batch=0: "),
        ("speed=1", "--set speed=1: expected name=value"),
        ("patch=30", "patch 30"),
    ):
        wrong = facesieve(*command, "--set", mistake)
        assert wrong.code == 2
        assert said in wrong.err
        assert len(wrong.err.splitlines()) == 1
