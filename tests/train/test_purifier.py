"""A purifier trained through itself: losses by hand, attacks that see it, a run that resumes, a prior that loads."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from facesieve import load_shield
from facesieve.data.crops import WIDE
from facesieve.errors import EmbedderError, InputError, SettingError
from facesieve.operators import MeanPool
from facesieve.priors.folder import load_prior
from facesieve.recognition import TorchEmbedder
from facesieve.train.batches import WideBatches
from facesieve.train.loop import Run, finish
from facesieve.train.prior import train_prior
from facesieve.train.purifier import SHARPNESS, SHARPNESS_CENTRED, PurifierTask, Witness, train_purifier
from facesieve.train.settings import PriorTraining, PurifierTraining, parse_settings
from facesieve.train.views import by_camera, wide_view

TINY = PriorTraining(size=32, channels=(16, 32), attention_levels=0, images=8, batch=4, warmup_steps=1, held_out=1)
SMALL = PurifierTraining(size=32, batch=4, attacked=2, held_out=6, measured=2, warmup_steps=1, steps=4, precision="fp32")


class Linear(TorchEmbedder):
    """An embedder whose gradient is known: a fixed random projection of all pixels, with ``shift`` added to every row."""

    dimensions = 64

    def __init__(self, seed=9, shift=0.0):
        self.name, self.seed, self.shift = f"linear-{seed}", seed, shift

    def embed(self, crops):
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(crops[0].numel(), 64, generator=generator)
        rows = functional.normalize((crops - 0.5).flatten(1) @ weights)
        return functional.normalize(rows + self.shift * functional.one_hot(torch.tensor(0), 64))


@pytest.fixture(scope="module")
def start(sample_paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("prior")
    return train_prior(sample_paths[0].parent, out, TINY, checkpoint_minutes=1e9)


@pytest.fixture(scope="module")
def crops():
    """24 smooth pictures in the place of wide crops of faces."""
    generator = torch.Generator().manual_seed(0)
    images = functional.interpolate(torch.rand(24, 3, 6, 6, generator=generator), (256, 256), mode="bilinear")
    return (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def task(start, crops, settings=SMALL, embedders=(Linear(),)):
    return PurifierTask(load_prior(start), embedders, WideBatches(crops, settings), settings)


def faces(count, seed=1):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def draws():
    return torch.Generator().manual_seed(5)


# --- the purifier and its loss -----------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "asked"), [(0.3, 0.3), (0.0, 0.02)])
def test_the_purifier_is_one_evaluation_from_the_noised_block_mean(start, crops, sigma, asked):
    made = task(start, crops, SMALL.model_copy(update={"sigma": sigma})).purify(faces(2), draws())
    pool = MeanPool(2)
    noised = pool.Ap(pool(2 * faces(2) - 1)) + sigma * torch.randn(2, 3, 32, 32, generator=draws())
    assert_close(made, (load_prior(start)(noised, asked) / 2 + 0.5).clamp(0, 1))


def test_the_preset_does_what_was_trained(start, crops):
    """The same arithmetic as the restoration of one step that starts from the noised observation and does not trust it."""
    shield = load_shield("robust", prior=start, precision="fp32")
    (restoration,) = shield.runtime.preset.restorations
    trained = task(start, crops, SMALL.model_copy(update={"sigma": restoration.start_sigma, "scale": 2}))
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = shield.purifier.stages[0](faces(2), lambda: noise)
        assert_close(made, trained.purify(faces(2), torch.Generator().manual_seed(1)), atol=1e-5, rtol=0)


def test_the_loss_by_hand(start, crops):
    """A step without attacked faces: restoration, distances and the cross-entropy written out; its gradient too."""
    settings = SMALL.model_copy(update={"attacked": 0, "margin": 0.9})
    run = task(start, crops, settings)
    losses = run.backward(3)
    images, embedder = run.batches(3), Linear()
    generator = torch.Generator().manual_seed(derived(settings.seed, 3))
    prior = load_prior(start).requires_grad_(True)
    pool = MeanPool(2)
    noised = pool.Ap(pool(2 * images - 1)) + settings.sigma * torch.randn(images.shape, generator=generator)
    made = (prior(noised, settings.sigma) / 2 + 0.5).clamp(0, 1)
    rows, own, crowd = embedder.embed(made), embedder.embed(images), embedder.embed(run.others)
    cosine = (rows * own).sum(1)
    scores = [[SHARPNESS * (c - 0.9), *(SHARPNESS * r @ crowd.T)] for c, r in zip(cosine, rows, strict=True)]
    named = torch.stack([torch.stack(line).logsumexp(0) - line[0] for line in scores])
    pixels = (made - images).abs().mean((1, 2, 3))
    loss = (2 * (1 - cosine) + 0.3 * named + pixels).mean()
    loss.backward()
    assert losses["cosine, clean"] == pytest.approx(cosine.mean().item(), abs=1e-5)
    assert losses["taken for another"] == pytest.approx(named.mean().item(), rel=1e-3)
    assert losses["pixels"] == pytest.approx(pixels.mean().item(), rel=1e-4)
    for mine, by_hand in zip(run.prior.network.parameters(), prior.network.parameters(), strict=True):
        assert_close(mine.grad, by_hand.grad, rtol=1e-3, atol=1e-5)


def derived(*labels):
    from facesieve.noise import derive_seed

    return derive_seed(*labels)


def test_rows_that_all_lie_close_together_are_freed_of_their_mean():
    others = faces(40, 2)
    apart, close = Witness.of(Linear(), others), Witness.of(Linear(shift=3.0), others)
    assert (apart.sharpness, close.sharpness) == (SHARPNESS, SHARPNESS_CENTRED)
    assert_close(apart.embed(faces(3)), Linear().embed(faces(3)))
    rows = Linear(shift=3.0).embed(others)
    assert float((rows @ rows.T).mean()) > 0.5
    assert float((close.crowd @ close.crowd.T).mean()) < 0.1
    assert_close(close.embed(others), close.crowd)


def test_the_attackers_margin_is_a_soft_maximum(start):
    witness = Witness.of(Linear(), faces(6, 2))
    rows, own = Linear().embed(faces(3)), Linear().embed(faces(3, 4))
    wanted = [
        math.log(sum(math.exp(16 * float(row @ other)) for other in witness.crowd)) / 16 - float(row @ mine)
        for row, mine in zip(rows, own, strict=True)
    ]
    assert_close(witness.margin(rows, own), torch.tensor(wanted), atol=1e-4, rtol=0)


# --- the attack inside -------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_each_face_is_attacked_within_its_own_ball(start, crops, inner_steps):
    settings = SMALL.model_copy(update={"eps_low": 1.0, "eps_high": 10.0, "inner_steps": inner_steps})
    run = task(start, crops, settings)
    images, own = 0.2 + 0.6 * faces(8), Linear().embed(0.2 + 0.6 * faces(8))
    attacked = run.attacked(images, own, run.witnesses[0], np.random.default_rng(0), draws())
    spans = np.random.default_rng(0).uniform(0, math.log(10), (8, 1, 1, 1))
    wanted = torch.from_numpy(np.exp(spans)).float().flatten() / 255
    reached = (attacked - images).abs().amax((1, 2, 3))
    assert (reached <= wanted + 1e-6).all()
    assert_close(reached, wanted, rtol=0.02, atol=0)  # of 3,072 pixels one is at the border
    assert (attacked >= 0).all()
    assert (attacked <= 1).all()


def test_the_attack_sees_the_purifier(start, crops):
    """At one eps it raises the margin behind the purifier more than the same attack on the recogniser alone."""
    settings = SMALL.model_copy(update={"eps_low": 8.0, "eps_high": 8.0, "sigma": 0.0})
    run = task(start, crops, settings)
    images, witness = 0.2 + 0.6 * faces(8), run.witnesses[0]
    own = witness.embed(images)

    def margins(shown):
        with torch.no_grad():
            return witness.margin(witness.embed(run.purify(shown, draws())), own)

    through = run.attacked(images, own, witness, np.random.default_rng(0), draws())
    seen = run.purify
    run.purify = lambda x, _: x
    blind = run.attacked(images, own, witness, np.random.default_rng(0), draws())
    run.purify = seen
    assert (margins(through) > margins(images)).all()
    assert margins(through).mean() > margins(blind).mean()


# --- views -------------------------------------------------------------------------------------------


def test_a_plain_view_is_the_templates_square_of_a_wide_crop():
    y, x = np.mgrid[:256, :256]
    crop = np.stack([0.9 * x, 0.9 * y, 0.4 * x + 0.4 * y], 2).astype(np.uint8)
    view = wide_view(crop, 128).astype(float)
    at = (np.arange(128) - 63.5) * 256 / (WIDE * 128) + 127.5
    assert np.abs(view[:, :, 0] - 0.9 * at[None, :]).max() < 1.6
    assert np.abs(view[:, :, 1] - 0.9 * at[:, None]).max() < 1.6


def test_views_differ_and_stay_photographs(crops):
    rng = np.random.default_rng(0)
    views = [by_camera(wide_view(crops[0], 64, rng), rng) for _ in range(12)]
    assert all(view.shape == (64, 64, 3) and view.dtype == np.uint8 for view in views)
    assert len({view.tobytes() for view in views}) == 12


def test_batches_depend_on_seed_and_step_alone_and_other_views_show_the_same_faces(crops):
    one, two = WideBatches(crops, SMALL), WideBatches(crops, SMALL)
    assert_close(one(5), two(5), rtol=0, atol=0)
    assert not torch.equal(one(5), one(6))
    first, again = one(5), one(5, again=True)
    assert not torch.equal(first, again)
    distance = (first[:, None] - again[None]).abs().mean((2, 3, 4))
    assert (distance.argmin(1) == torch.arange(4)).float().mean() >= 0.75
    assert not set(one.train) & set(one.held_out)


# --- runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_views", [False, True])
def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(start, crops, tmp_path, other_views):
    settings = SMALL.model_copy(update={"other_views": other_views})

    def run(folder):
        return Run(task(start, crops, settings, [Linear(), Linear(10)]), folder)

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
    assert_close(*(dict(run.task.prior.network.state_dict()) for run in (second, whole)), rtol=0, atol=0)


def test_it_learns(start, crops, tmp_path):
    """The same batch again and again: attacked faces come nearer to themselves and are taken for others less."""
    settings = SMALL.model_copy(update={"steps": 40, "attacked": 3, "learning_rate": 3e-3})
    run = Run(task(start, crops, settings), tmp_path)
    batch = run.task.batches(0)
    run.task.upcoming = lambda _: batch
    seen = [run.advance() for _ in range(40)]
    first, last = ({name: sum(losses[name] for losses in part) / 5 for name in seen[0]} for part in (seen[:5], seen[-5:]))
    assert last["taken for another"] < 0.8 * first["taken for another"]
    assert last["cosine, attacked"] > first["cosine, attacked"]


def test_held_out_figures_say_how_faces_fare_clean_and_under_both_attacks(start, crops):
    run = task(start, crops, SMALL.model_copy(update={"measured": 3}))
    figures = run.measure(1)
    assert figures == run.measure(1)
    assert set(figures) == {
        f"linear-9, {kind}{figure}" for kind in ("clean", "oblivious", "adaptive") for figure in ("", ", named")
    }
    assert figures["linear-9, adaptive"] < figures["linear-9, clean"]
    assert all(0 <= value <= 1 for name, value in figures.items() if name.endswith("named"))


def test_measuring_takes_a_small_part_of_the_time_and_is_told_in_few_words(start, crops, monkeypatch):
    run = task(start, crops, SMALL.model_copy(update={"measured": 1, "steps": 100}))
    now = [0.0]
    monkeypatch.setattr("facesieve.train.purifier.time.monotonic", lambda: now[0])
    margins = run._margins

    def slowly(*given):
        now[0] += 5
        return margins(*given)

    run._margins = slowly
    assert not run.is_measured(1, saves=False)
    assert run.is_measured(1, saves=True)
    figures = run.measure(1)
    assert (now[0], run.is_measured(2, saves=True), run.is_measured(100, saves=True)) == (5, False, True)
    now[0] = 5 + 9 * 5
    assert run.is_measured(2, saves=True)
    told = run.in_words(figures)
    assert set(told) == {"linear-9, clean", "linear-9, oblivious", "linear-9, adaptive"}
    assert told["linear-9, clean"] in {f"{figures['linear-9, clean']:.3f} ({share} % named)" for share in (0, 100)}


@pytest.fixture(scope="module")
def photos(sample_paths, tmp_path_factory):
    """The six samples, twice."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sample_paths:
        for number in (1, 2):
            shutil.copy(path, folder / f"{number}-{path.name}")
    return folder


def test_the_finished_purifier_loads_and_the_preset_takes_it(start, photos, tmp_path):
    lines = []
    settings = SMALL.model_copy(update={"held_out": 2, "measured": 1})
    folder = train_purifier(photos, tmp_path, settings, start=start, report=lines.append)
    card = json.loads((folder / "card.json").read_text())
    assert card["recognisers"] == ["sface-2021dec", "dlib-face-resnet-v1"]
    assert card["start"]["sha256"] == json.loads((start / "card.json").read_text())["sha256"]
    assert (card["training"]["steps"], card["attacked"]) == (4, 8)
    assert (lines[1].done, lines[1].total) == (4, 4)
    assert int(list(csv.DictReader((tmp_path / "curve.csv").open()))[-1]["step"]) == 4
    shield = load_shield("robust", prior=folder)
    assert shield.card.prior_sha256 == card["sha256"] != card["start"]["sha256"]
    assert shield.purifier(faces(1), seeds=[0]).shape == (1, 3, 32, 32)
    assert train_purifier(photos, tmp_path, settings, start=start, report=lines.append) == folder


def test_mistakes_are_one_line(start, photos, sample_paths, tmp_path):
    with pytest.raises(SettingError, match="eps_low must not be above eps_high"):
        parse_settings(PurifierTraining, ["eps_low=12"])
    with pytest.raises(SettingError, match="attacked 13 must be at most batch 12"):
        parse_settings(PurifierTraining, ["attacked=13"])
    with pytest.raises(SettingError, match="restores 32 pixels, not 128; set size=32"):
        train_purifier(sample_paths[0].parent, tmp_path, PurifierTraining(), start=start)
    with pytest.raises(SettingError, match="at least one recogniser"):
        train_purifier(photos, tmp_path, SMALL, start=start, recognisers=[])
    with pytest.raises(EmbedderError):
        train_purifier(photos, tmp_path, SMALL, start=start, recognisers=["nobody"])
    with pytest.raises(InputError, match="too few"):
        train_purifier(sample_paths[0].parent, tmp_path / "few", SMALL.model_copy(update={"batch": 12}), start=start)
