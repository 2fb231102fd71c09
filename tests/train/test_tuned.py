"""Tuning a prior for recognition: losses by hand, attacks that hit, a run that goes on, a prior that loads."""

import csv
import json
import math
import shutil

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from facesieve import load_shield
from facesieve.errors import EmbedderError, InputError, SettingError
from facesieve.operators import MeanPool
from facesieve.priors.folder import load_prior
from facesieve.train.batches import ViewBatches
from facesieve.train.lessons import ViewTask
from facesieve.train.loop import Run, finish
from facesieve.train.prior import train_prior
from facesieve.train.purifier import SHARPNESS, TunedLesson, train_tuned
from facesieve.train.settings import PriorTraining, TunedTraining, parse_settings

TINY = PriorTraining(size=32, channels=(16, 32), attention_levels=0, images=8, batch=4, warmup_steps=1, held_out=1)
SMALL = TunedTraining(size=32, batch=4, held_out=4, measured=2, warmup_steps=1, steps=4, attacked=2, iterations=2)


class Linear:
    """An embedder whose gradient is known: a fixed random projection of all pixels."""

    dimensions = 4

    def __init__(self, seed=9):
        self.name, self.seed = f"linear-{seed}", seed

    def embed(self, crops):
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(crops[0].numel(), 4, generator=generator)
        return functional.normalize((crops - 0.5).flatten(1) @ weights)


@pytest.fixture(scope="module")
def start(sample_paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("prior")
    return train_prior(sample_paths[0].parent, out, TINY, checkpoint_minutes=1e9)


@pytest.fixture(scope="module")
def crops():
    generator = torch.Generator().manual_seed(0)
    images = functional.interpolate(torch.rand(24, 3, 6, 6, generator=generator), (160, 160), mode="bilinear")
    return (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def faces(count, seed=1):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def draws():
    return torch.Generator().manual_seed(5)


def test_the_losses_by_hand(start):
    """One image, not attacked, one noise level: the restoration, its distances and the cross-entropy written out."""
    settings = SMALL.model_copy(update={"attacked": 0, "sigma_low": 0.2, "sigma_high": 0.2})
    embedder, image, others = Linear(), (255 * faces(1)).round() / 255, faces(4, 2)
    task = TunedLesson(settings, load_prior(start), [embedder], others)
    losses = task.backward(image, draws())
    generator = draws()
    torch.rand(1, 1, 1, 1, generator=generator)  # which images are saved as 8 bits: this one is already
    torch.rand(1, 1, 1, 1, generator=generator)  # the noise level
    pool = MeanPool(2)
    noised = pool.Ap(pool(2 * image - 1)) + 0.2 * torch.randn(image.shape, generator=generator)
    with torch.no_grad():
        restored = load_prior(start)(noised, 0.2) / 2 + 0.5
    assert losses["pixel"] == pytest.approx(float((restored - image).abs().mean()), rel=1e-4)
    row, own, rest = embedder.embed(restored.clamp(0, 1))[0], embedder.embed(image)[0], embedder.embed(others)
    assert losses["linear-9, distance"] == pytest.approx(float(1 - row @ own), abs=1e-5)
    scores = [SHARPNESS * float(row @ own - settings.margin), *(SHARPNESS * float(row @ other) for other in rest)]
    expected = math.log(sum(math.exp(score) for score in scores)) - scores[0]
    assert losses["linear-9, taken for another"] == pytest.approx(expected, rel=1e-3)


def test_each_recogniser_is_attacked_on_images_of_its_own_within_the_ball(start):
    embedders = [Linear(9), Linear(10)]
    settings = SMALL.model_copy(update={"eps_low": 8.0, "eps_high": 8.0, "batch": 5})
    task = TunedLesson(settings, load_prior(start), embedders, faces(6, 2))
    images = (255 * faces(5)).round() / 255
    rows = [embedder.embed(images) for embedder in embedders]
    attacked = task.attacked(images, rows, draws())
    assert 0 < float((attacked - images).abs().max()) <= 8 / 255 + 0.5 / 255 + 1e-6  # some are saved as 8 bits
    assert torch.equal(attacked[4], images[4])
    for number, embedder in enumerate(embedders):
        moved = (embedder.embed(attacked) * rows[number]).sum(1)
        own = slice(2 * number, 2 * number + 2)
        assert moved[own].max() < moved[torch.arange(5).ne(2 * number) & torch.arange(5).ne(2 * number + 1)].min()


def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(start, crops, tmp_path):
    def run(folder):
        folder.mkdir(exist_ok=True)
        views = ViewBatches(crops, SMALL)
        lesson = TunedLesson(SMALL, load_prior(start), [Linear()], views.held_out_images())
        return Run(ViewTask(lesson, views, SMALL), folder)

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


def test_it_learns(start, crops, tmp_path):
    """The same batch again and again: faces come nearer to themselves and are taken for others less; pixels start near."""
    settings = SMALL.model_copy(update={"steps": 40, "attacked": 4, "learning_rate": 3e-3, "sigma_high": 0.05})
    views = ViewBatches(crops, settings)
    lesson = TunedLesson(settings, load_prior(start), [Linear()], views.held_out_images())
    run = Run(ViewTask(lesson, views, settings), tmp_path)
    batch = views(0)
    run.task.views = lambda _: batch
    seen = [run.advance() for _ in range(40)]
    for name in ("linear-9, distance", "linear-9, taken for another"):
        first, last = (sum(losses[name] for losses in part) / 5 for part in (seen[:5], seen[-5:]))
        assert last < 0.8 * first, name


@pytest.fixture(scope="module")
def photos(sample_paths, tmp_path_factory):
    """The six samples, twice."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sample_paths:
        for number in (1, 2):
            shutil.copy(path, folder / f"{number}-{path.name}")
    return folder


def test_the_finished_prior_loads_and_the_preset_takes_it(start, photos, tmp_path):
    lines = []
    settings = SMALL.model_copy(update={"held_out": 2, "measured": 1, "attacked": 1})
    folder = train_tuned(photos, tmp_path, settings, start=start, report=lines.append)
    card = json.loads((folder / "card.json").read_text())
    assert card["recognisers"] == ["sface-2021dec"]
    assert card["start"]["sha256"] == json.loads((start / "card.json").read_text())["sha256"]
    assert card["training"]["steps"] == 4
    assert (lines[1].done, lines[1].total) == (4, 4)
    assert int(list(csv.DictReader((tmp_path / "curve.csv").open()))[-1]["step"]) == 4
    shield = load_shield("tuned", prior=folder)
    assert shield.card.prior_sha256 == card["sha256"] != card["start"]["sha256"]
    assert shield.purifier(faces(1), seeds=[0]).shape == (1, 3, 32, 32)
    assert train_tuned(photos, tmp_path, settings, start=start, report=lines.append) == folder


def test_mistakes_are_one_line(start, sample_paths, tmp_path):
    with pytest.raises(SettingError, match="sigma_low and eps_low must not be above"):
        parse_settings(TunedTraining, ["sigma_low=0.9"])
    with pytest.raises(SettingError, match="has no room for 4 images of each recogniser"):
        TunedLesson(SMALL.model_copy(update={"attacked": 4}), load_prior(start), [Linear(), Linear(10)], faces(4))
    with pytest.raises(SettingError, match="restores 32 pixels, not 128; set size=32"):
        train_tuned(sample_paths[0].parent, tmp_path, TunedTraining(), start=start)
    with pytest.raises(InputError, match="6 faces are too few to hold two of them out"):
        train_tuned(sample_paths[0].parent, tmp_path / "few", SMALL, start=start)
    with pytest.raises(EmbedderError, match="no embedder 'nobody'"):
        train_tuned(sample_paths[0].parent, tmp_path, SMALL, start=start, recognisers=["nobody"])
