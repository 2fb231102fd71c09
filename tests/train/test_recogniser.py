"""The recogniser's trainings: batches by the law, losses by hand, a run that goes on as if it had not stopped."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from facesieve.data.crops import LabelledCrops
from facesieve.data.manifest import Selection, save_manifest
from facesieve.data.select import select
from facesieve.data.sources import open_source
from facesieve.errors import EmbedderError, InputError, SettingError
from facesieve.images import write_photo
from facesieve.recognition.facenet_file import load_facenet
from facesieve.train.batches import Batch, ClassifyingBatches, DistillingBatches, split
from facesieve.train.loop import Run
from facesieve.train.recogniser import RecogniserTask, begin_at_class_means, logits, losses, new_network, train
from facesieve.train.settings import Classifying, Distilling, parse_settings
from facesieve.train.views import to_batch, vary

TINY = {"batch": 4, "epochs": 1, "sizes": (75, 160), "size_shares": (0.5, 0.5), "validation": 1, "warmup_steps": 1}


@pytest.fixture(scope="module")
def crops():
    """Three people, five images each; every image has its own grey value."""
    values = np.arange(15, dtype=np.uint8) * 16
    images = np.broadcast_to(values[:, None, None, None], (15, 160, 160, 3)).copy()
    return LabelledCrops(images, np.repeat(np.arange(3), 5), ("a", "b", "c"))


def test_a_warm_start_begins_as_the_nearest_class_mean(crops):
    from sklearn.neighbors import NearestCentroid

    network = new_network(3, Classifying(**TINY)).eval()
    chosen = np.array([0, 1, 2, 5, 6, 10, 11, 12, 13])
    begin_at_class_means(network, crops, chosen, size=75)
    with torch.inference_mode():
        features = network.trunk(nn.functional.interpolate(to_batch(crops.images), (75, 75), mode="bilinear", antialias=True))
        found = network.logits(features)
    reference = NearestCentroid().fit(features[chosen].numpy(), crops.labels[chosen])
    assert (found.argmax(1).numpy() == reference.predict(features.numpy())).all()
    # the differences of logits are those of the squared distances, up to the scale
    distances = torch.cdist(features, torch.from_numpy(reference.centroids_).float()).square()
    ratio = (found[:, 0] - found[:, 1]) / (distances[:, 1] - distances[:, 0])
    assert_close(ratio, ratio[:1].expand_as(ratio), rtol=0.05, atol=0)  # float32: small differences of large numbers


def test_the_learning_rate_starts_anew_with_every_size(crops):
    batches = ClassifyingBatches(crops, None, Classifying(**{**TINY, "epochs": 6}))  # 3 batches an epoch: 18 steps, 9 a size
    rates = [batches.rate(step) for step in range(18)]
    assert rates[:9] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)])
    assert rates[9:] == pytest.approx(rates[:9])
    assert [batches.size(step) for step in (8, 9)] == [75, 160]


def test_the_batch_of_a_step_depends_on_seed_and_step_alone(crops):
    one, other = (ClassifyingBatches(crops, None, Classifying(**TINY)) for _ in range(2))
    other(0)
    assert_close(one(1).images, other(1).images, rtol=0, atol=0)
    assert not torch.equal(one(0).images, one(1).images)
    elsewhere = ClassifyingBatches(crops, None, Classifying(**TINY, seed=1))
    assert not torch.equal(one(1).images, elsewhere(1).images)


def test_people_come_equally_often_and_held_out_images_never(crops):
    uneven = LabelledCrops(crops.images[:12], crops.labels[:12], crops.people)  # the third has two images
    rows = torch.eye(12)  # says which image was taken
    batches = ClassifyingBatches(uneven, rows, Classifying(**{**TINY, "batch": 6}))
    seen = [batches(step) for step in range(20)]
    assert torch.bincount(torch.cat([batch.labels for batch in seen])).tolist() == [40, 40, 40]
    taken = {int(index) for batch in seen for index in batch.rows.argmax(1)}
    assert taken == set(range(12)) - set(batches.validation.tolist())
    for batch in seen:
        assert (uneven.labels[batch.rows.argmax(1).numpy()] == batch.labels.numpy()).all()


def test_distilling_takes_every_face_once_an_epoch(crops):
    rows = torch.eye(15)
    batches = DistillingBatches(crops.images, rows, Distilling(batch=5, epochs=2))
    assert batches.total == 6
    for epoch in range(2):
        taken = torch.cat([batches(3 * epoch + step).rows.argmax(1) for step in range(3)])
        assert sorted(taken.tolist()) == list(range(15))


def test_sizes_grow_and_the_rate_falls(crops):
    batches = ClassifyingBatches(crops, None, Classifying(batch=4, epochs=30, validation=1))
    sizes = [batches.size(step) for step in range(batches.total)]
    assert sizes == sorted(sizes)
    assert [sizes.count(size) / batches.total for size in (96, 128, 160)] == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    assert batches(0).images.shape == (4, 3, 96, 96)
    assert [batches.rate(step) for step in (0, batches.total)] == pytest.approx([1, 0], abs=1e-9)


def test_split_holds_out_the_same_number_of_each():
    labels = np.repeat(np.arange(4), 6)
    kept, held_out = split(labels, 2, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [2, 2, 2, 2]
    assert sorted([*kept, *held_out]) == list(range(24))
    with pytest.raises(InputError, match="person 0: has 6 training images"):
        split(labels, 6, seed=0)


def test_a_view_keeps_place_and_brightness():
    """A dot on a plain crop: its place in the view follows the similarity that was drawn, on average its own place."""
    crop = np.full((160, 160, 3), 40, np.uint8)
    crop[76:84, 76:84] = 220
    places, backgrounds = [], []
    for seed in range(60):
        view = vary(crop, 96, np.random.default_rng(seed))[..., 0].astype(float)
        background = np.median(view)
        weight = np.clip(view - background - 30, 0, None)
        rows, columns = np.indices(view.shape)
        places.append([(weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()])
        backgrounds.append(background)
    assert np.abs(np.mean(places, 0) - (79.5 + 0.5) * 96 / 160 + 0.5).max() < 1  # pixels; shifts are up to 4 %
    assert np.abs(np.array(places) - 47.5).max() < 0.04 * 96 * 1.2 + 1
    assert 20 < np.mean(backgrounds) < 60


def test_losses_are_cross_entropy_and_one_minus_cosine(crops):
    settings = Classifying(**TINY)
    network = new_network(3, settings).eval()
    projection = nn.Linear(512, 2)
    images = to_batch(crops.images[:3])
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    with torch.no_grad():
        cross_entropy, cosine = losses(network, projection, Batch(images, torch.tensor([0, 1, 2]), rows), label_smoothing=0.0)
        features = network.trunk(images)
        probability = network.logits(features).softmax(1)[range(3), [0, 1, 2]]
        directions = nn.functional.normalize(projection(features))
        nothing = losses(network, None, Batch(images, None, None), label_smoothing=0.0)
    assert float(cross_entropy) == pytest.approx(float(-probability.log().mean()), abs=1e-5)
    assert float(cosine) == pytest.approx(1 - float((directions * rows).sum(1).mean()), abs=1e-5)
    assert [float(value) for value in nothing] == [0, 0]


def test_a_run_that_was_stopped_ends_where_one_that_was_not_does(crops, tmp_path):
    settings = Classifying(**TINY)
    rows = nn.functional.normalize(torch.randn(15, 4, generator=torch.Generator().manual_seed(0)))

    def run(folder):
        return Run(RecogniserTask(new_network(3, settings), ClassifyingBatches(crops, rows, settings), settings, 4), folder)

    whole = train(run(tmp_path / "whole"))
    first = run(tmp_path / "parts")
    first.advance()
    first.save()
    torch.manual_seed(123)  # whatever else draws in between
    second = run(tmp_path / "parts")
    assert second.step == 1
    parts = train(second)
    assert_close(dict(parts.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {"checkpoint.pt", "curve.csv"}
    other = RecogniserTask(first.task.network, first.task.batches, Classifying(**{**TINY, "batch": 5}), 4)
    with pytest.raises(SettingError, match="batch 4, not 5"):
        Run(other, tmp_path / "parts")


def test_training_lowers_the_loss_and_keeps_the_best(crops, tmp_path):
    settings = Classifying(**{**TINY, "epochs": 3, "learning_rate": 3e-4, "dropout": 0.0, "label_smoothing": 0.0})
    task = RecogniserTask(new_network(3, settings), ClassifyingBatches(crops, None, settings), settings, None)
    run, seen = Run(task, tmp_path), []
    while run.step < task.total:
        seen.append(run.advance()["cross_entropy"])
    assert seen[0] == pytest.approx(math.log(3), abs=0.6)
    assert np.mean(seen[-3:]) < seen[0]
    accuracy = task.measure(run.step)["held_out_top1"]
    assert task.best == accuracy
    scores = logits(task.network, crops, task.batches.validation)
    assert accuracy == pytest.approx(float((scores.argmax(1).numpy() == crops.labels[task.batches.validation]).mean()))


@pytest.fixture
def data(tmp_path):
    """Two people of aligned plain crops, and their manifest."""
    for number, person in enumerate(("x", "y")):
        (tmp_path / "data" / person).mkdir(parents=True)
        for image in range(5):
            write_photo(tmp_path / "data" / person / f"{image}.png", np.full((64, 64, 3), 60 + 100 * number + image, np.uint8))
    manifest = select(open_source(tmp_path / "data"), Selection(minimum=5, people=2, train=3, test=2, aligned=True))
    save_manifest(tmp_path / "m.json", manifest)
    return tmp_path


def test_the_command_trains_tests_and_writes_a_card(facesieve, data):
    settings = ["batch=2", "epochs=1", "sizes=160", "size_shares=1", "validation=1"]
    flags = [part for setting in settings for part in ("--set", setting)]
    command = ["train", "recogniser", "--manifest", data / "m.json", "--source", data / "data", "-o", data / "run", *flags]
    done = facesieve(*command)
    assert done.code == 0, done.err
    assert "top-1 on the test images" in done.out
    card = json.loads((data / "run" / "facenet" / "card.json").read_text())
    assert card["people"] == ["x", "y"]
    assert card["test_top1"]["n"] == 4
    assert load_facenet(data / "run" / "facenet").people == ("x", "y")
    again = facesieve(*command, "--start", data / "run" / "facenet")
    assert again.code == 0  # finished already: nothing is trained anew
    assert "step" not in again.out


def test_mistakes_are_one_line(facesieve, data):
    command = ["train", "recogniser", "--manifest", data / "m.json", "--source", data / "data", "-o", data / "run"]
    for extra, said in (
        (["--set", "sizes=160,96"], "size"),
        (["--set", "speed=1"], "expected name=value"),
        (["--start", data / "none.pt"], "none.pt"),
        (["--set", "validation=3"], "more than validation=3"),
    ):
        done = facesieve(*command, *extra)
        assert done.code == 2, extra
        assert said in done.err
        assert "Traceback" not in done.err
    (data / "data" / "x" / "0.png").unlink()
    assert "is missing" in facesieve(*command[:-1], data / "elsewhere").err


def test_settings_from_texts():
    settings = parse_settings(Classifying, ["sizes=96,160", "size_shares=0.5,0.5", "batch=8"])
    assert settings.sizes == (96, 160)
    assert settings.batch == 8
    with pytest.raises(SettingError, match="the last 160"):
        parse_settings(Classifying, ["sizes=96,128", "size_shares=0.5,0.5"])


def test_a_warm_start_that_training_spoils_is_kept(crops, tmp_path):
    settings = Classifying(**{**TINY, "sizes": (160,), "size_shares": (1,), "learning_rate": 1e4, "warmup_steps": 0})
    network = new_network(3, settings)
    task = RecogniserTask(network, ClassifyingBatches(crops, None, settings), settings, None)
    run = Run(task, tmp_path)
    begin_at_class_means(network, crops, task.batches.train)
    before = task.measure(0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network = train(run)
    assert task.measure(run.step) == {"held_out_top1": task.best} == before
    assert_close(network.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.clear(), "missing: "),
        (lambda state: state.pop("conv2d_1a.conv.weight"), "missing: conv2d_1a.conv.weight"),
        (lambda state: state["last_linear.weight"].fill_(torch.nan), "not finite numbers, in last_linear.weight"),
        (lambda state: state.update({"last_linear.weight": torch.zeros(3)}), "of another shape"),
    ],
    ids=["no weights", "one is missing", "not finite", "another shape"],
)
def test_a_start_without_all_its_weights_is_refused(tmp_path, change, said):
    state = new_network(3, Distilling()).state_dict()
    change(state)
    torch.save(state, tmp_path / "start.pt")
    with pytest.raises(EmbedderError, match=said):
        new_network(3, Distilling(), tmp_path / "start.pt")
