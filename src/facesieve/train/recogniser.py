"""Train FaceNet: distil a teacher over unlabelled faces, classify labelled ones, or one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.data.crops import LabelledCrops, unlabelled_crops
from facesieve.errors import EmbedderError
from facesieve.hardware import choose_hardware
from facesieve.metrics.intervals import Estimate, bootstrap, of_share
from facesieve.metrics.rates import correct_probability, mean
from facesieve.noise import derive_seed
from facesieve.progress import Progress, Report, silent
from facesieve.recognition.crops import resized
from facesieve.recognition.embedder import in_parts
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.facenet import SIDE, FaceNet
from facesieve.recognition.facenet_file import read_card, read_state, save_facenet
from facesieve.rows import Rows
from facesieve.train.batches import Batch, Batches, ClassifyingBatches, DistillingBatches, Indices
from facesieve.train.cards import DataCard, card
from facesieve.train.checkpoints import append_row, cut_rows
from facesieve.train.loop import CHECKPOINT_MINUTES, Run, Task, in_words, thinned, warm_up
from facesieve.train.settings import Classifying, Distilling, RecogniserTraining
from facesieve.train.teacher import labelled_crops, teacher_rows
from facesieve.train.views import to_batch
from facesieve.weights import check_fit

FINISHED = "facenet"
TOP1 = "held_out_top1"


def new_network(classes: int | None, settings: RecogniserTraining, start: Path | None = None) -> FaceNet:
    """FaceNet with random weights, or with those at ``start`` except the classifier.

    Raises ``EmbedderError`` for a start with other weights, or without some.
    """
    torch.manual_seed(settings.seed)
    network = FaceNet(classes, dropout=settings.dropout)
    if start is not None:
        given = {name: value for name, value in read_state(start).items() if not name.startswith("logits.")}
        wanted = {name: value for name, value in network.state_dict().items() if not name.startswith("logits.")}
        check_fit(wanted, given, start, EmbedderError, "an Inception-ResNet-v1")
        network.load_state_dict(given, strict=False)
    return network


def losses(network: FaceNet, projection: nn.Module | None, batch: Batch, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a batch, and the mean of 1 - cosine with the teacher; zero where there is nothing to compare."""
    features = network.trunk(batch.images).float()  # (B, 512)
    cross_entropy = cosine = features.new_zeros(())
    if batch.labels is not None and network.logits is not None:
        cross_entropy = functional.cross_entropy(network.logits(features), batch.labels, label_smoothing=label_smoothing)
    if batch.rows is not None and projection is not None:
        cosine = 1 - functional.cosine_similarity(projection(features), batch.rows).mean()
    return cross_entropy, cosine


@torch.inference_mode()
def logits(network: FaceNet, crops: LabelledCrops, indices: Indices | None = None, *, size: int = SIDE) -> Tensor:
    """The classifier's logits (N, classes) of crops, at ``size`` pixels."""
    assert network.logits is not None
    features = _features(network, crops, np.arange(len(crops)) if indices is None else indices, size)
    return network.logits(features.to(network.logits.weight.device)).cpu()  # type: ignore[no-any-return]


def _features(network: FaceNet, crops: LabelledCrops, indices: Indices, size: int) -> Tensor:
    """What the classifier sees of the crops ``indices``, at ``size`` pixels: (N, 512), on the CPU."""
    network.eval()

    def trunk(chosen: Indices) -> Rows:
        images = resized(to_batch(crops.images[chosen]), size).to(network.last_linear.weight.device)
        return network.trunk(images).float().cpu().numpy()

    return torch.from_numpy(in_parts(trunk, indices, FaceNet.dimensions))


@torch.inference_mode()
def begin_at_class_means(network: FaceNet, crops: LabelledCrops, indices: Indices, *, size: int = SIDE) -> None:
    """Set the classifier to the nearest class mean of the features as they are, of the crops ``indices``.

    ``logit_c = s (x . m_c - |m_c|^2 / 2)``, with the s (a power of 2) under which these crops are likeliest:
    a warm start need not relearn, from a random classifier, what its features know already.
    """
    assert network.logits is not None
    features, labels = _features(network, crops, indices, size), torch.from_numpy(crops.labels[indices])
    members = functional.one_hot(labels, len(crops.people)).float()  # (N, classes)
    means = members.T @ features / members.sum(0)[:, None]  # (classes, 512)
    likeness = features @ means.T - means.square().sum(1) / 2
    scales = [2.0**power for power in range(-16, 9)]
    scale = min(scales, key=lambda scale: functional.cross_entropy(scale * likeness, labels).item())
    network.logits.weight.copy_(scale * means)
    network.logits.bias.copy_(-scale * means.square().sum(1) / 2)


class RecogniserTask(Task):
    """FaceNet with AdamW; for a classifier, the weights that were best on held-out images are kept."""

    settings: RecogniserTraining
    largest_gradient = 5.0

    def __init__(self, network: FaceNet, batches: Batches, settings: RecogniserTraining, teacher_width: int | None) -> None:
        self.network, self.batches, self.settings, self.total = network, batches, settings, batches.total
        self.hardware = choose_hardware()
        network.to(self.hardware.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks: dict[str, nn.Module] = {"network": network}
        self.projection = None if teacher_width is None else nn.Linear(FaceNet.dimensions, teacher_width)
        if self.projection is not None:
            self.networks["projection"] = self.projection.to(self.hardware.device)
        self.optimiser = torch.optim.AdamW(self._groups(), settings.learning_rate, betas=(0.9, 0.99), fused=True)
        self.best, self.best_state = -1.0, dict[str, Tensor]()

    def _groups(self) -> list[dict[str, Any]]:
        parameters = [parameter for network in self.networks.values() for parameter in network.parameters()]
        decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.settings.weight_decay}
        return [decayed, {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]

    def rate(self, step: int) -> float:
        """A linear warm-up, times what the batches say."""
        return self.settings.learning_rate * warm_up(step, self.settings.warmup_steps) * self.batches.rate(step)

    def backward(self, step: int) -> dict[str, float]:
        """Cross-entropy, and one minus the cosine with the teacher."""
        torch.manual_seed(derive_seed(self.settings.seed, step))  # for dropout: a resumed run must draw the same
        self.network.train()
        batch = self.batches(step)
        batch = Batch(*(None if part is None else part.to(self.hardware.device) for part in vars(batch).values()))  # type: ignore[arg-type]
        with self.reduced():
            cross_entropy, cosine = losses(self.network, self.projection, batch, self.settings.label_smoothing)
            loss = cross_entropy + self.settings.teacher_weight * cosine
        loss.backward()  # type: ignore[no-untyped-call]
        return {"cross_entropy": cross_entropy.item(), "one_minus_cosine": cosine.item()}

    def is_measured(self, step: int, saves: bool) -> bool:
        """After each epoch: the choice of weights must not depend on how long steps took."""
        return step % self.batches.per_epoch == 0

    def measure(self, step: int) -> dict[str, float]:
        """Top-1 on the held-out training images, if any; the best weights at full size are kept."""
        if self.batches.validation is None:
            return {}
        size, crops, held_out = self.batches.size(max(step - 1, 0)), self.batches.crops, self.batches.validation
        found = logits(self.network, crops, held_out, size=size).argmax(1).numpy()
        accuracy = float((found == crops.labels[held_out]).mean())
        if size == SIDE and accuracy >= self.best:
            self.best = accuracy
            self.best_state = {name: value.clone() for name, value in self.network.state_dict().items()}
        return {TOP1: accuracy}

    def state(self) -> dict[str, Any]:
        """Also the best weights so far."""
        return {"projection": None, **super().state(), "best": self.best, "best_state": self.best_state}

    def load(self, state: Mapping[str, Any]) -> None:
        """Also the best weights so far."""
        super().load(state)
        self.best, self.best_state = state["best"], state["best_state"]


def train(run: Run[RecogniserTask], *, report: Report = silent, checkpoint_minutes: float = CHECKPOINT_MINUTES) -> FaceNet:
    """Train, or resume, to the end; returns the network, with the weights that were best on held-out images if any."""
    task = run.task
    cut_rows(run.out / "curve.csv", run.step)
    for record in thinned(run.records(checkpoint_minutes=checkpoint_minutes)):
        size, top1 = task.batches.size(record.step - 1), (record.held_out or {}).get(TOP1)
        with run.noting():
            append_row(run.out / "curve.csv", {"step": record.step, "size": size, **record.losses, TOP1: top1})
        facts = {"size": f"{size} px", **in_words(record.losses)}
        if top1 is not None:
            facts["held-out top-1"] = f"{100 * top1:.1f} %"
        report(Progress(record.step, record.total, facts=facts))
    if task.best_state:
        task.network.load_state_dict(task.best_state)
    return task.network.eval()


# --- from data to a finished recogniser --------------------------------------------------------------


def distil(
    unlabelled: Path,
    out: Path,
    teacher: str,
    settings: Distilling,
    *,
    also: tuple[Path, Path] | None = None,
    start: Path | None = None,
    data_card: Path | None = None,
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
) -> Path:
    """FaceNet that learned a teacher's embedding on a folder of faces; returns its folder.

    ``also`` is a manifest and its source, whose training images are added, without their labels.
    ``data_card`` is a TOML file with the terms of the photographs; without one, ``DATA.toml`` beside them is read.
    Raises ``InputError`` for a folder without faces, ``EmbedderError`` for an unknown teacher.
    """
    stated = DataCard.of(data_card, unlabelled, *([] if also is None else [also[1]]))
    master = load_embedder(teacher)
    crops = unlabelled_crops(unlabelled, out, SIDE, report)
    if also is not None:
        crops = np.concatenate([crops, labelled_crops(*also, out)[0].images])
    report(Progress(0, 1, f"{len(crops)} faces; embedding them with {master.name} ..."))
    rows = teacher_rows(master, crops, out / f"rows-{master.name}.npy")
    task = RecogniserTask(
        new_network(None, settings, start), DistillingBatches(crops, rows, settings), settings, master.dimensions
    )
    run = Run(task, out)
    report(Progress(run.step, task.total, f"on {task.hardware}; {stated}"))
    network = train(run, report=report, checkpoint_minutes=checkpoint_minutes)
    data = {"teacher": master.name, "faces": len(crops), "start": _named(start)}
    return _finished(network, run, f"facenet-distilled-{master.name}", data, stated, start)


def classify(
    manifest: Path,
    source: Path,
    out: Path,
    settings: Classifying,
    *,
    start: Path | None = None,
    teacher: str | None = None,
    data_card: Path | None = None,
    report: Report = silent,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
) -> tuple[Path, Estimate]:
    """FaceNet as a closed-set classifier of a manifest's people: its folder, and top-1 on the test images.

    ``data_card`` as of ``distil``. Raises ``InputError`` for data that does not fit the manifest, ``EmbedderError`` for a
    start or teacher that cannot be used, ``SettingError`` where the run in ``out`` began with other settings.
    """
    stated = DataCard.of(data_card, source)
    trained, test = labelled_crops(manifest, source, out)
    master = None if teacher is None else load_embedder(teacher)
    rows = None if master is None else teacher_rows(master, trained.images, out / f"rows-{master.name}.npy")
    batches = ClassifyingBatches(trained, rows, settings)
    network = new_network(len(trained.people), settings, start)
    task = RecogniserTask(network, batches, settings, None if master is None else master.dimensions)
    run = Run(task, out)
    counts = (
        f"{len(batches.train)} images of {len(trained.people)} people, {len(batches.validation)} held out, {len(test)} to test"
    )
    report(Progress(run.step, task.total, f"{counts}, on {task.hardware}; {stated}"))
    if start is not None and run.step == 0:
        begin_at_class_means(network, trained, batches.train, size=batches.size(0))
        top1 = task.measure(0)[TOP1]  # kept as the best so far, where it is at full size: training need not improve it
        said = f"the warm start's features, by the nearest class mean: held-out top-1 {100 * top1:.1f} %"
        report(Progress(0, task.total, said))
    network = train(run, report=report, checkpoint_minutes=checkpoint_minutes)
    network.people = trained.people
    estimate, figures = _tested(network, test)
    teacher = None if master is None else master.name
    data = {"manifest": manifest.name, "images": len(trained), "start": _named(start), "teacher": teacher}
    data |= {"held_out_top1": round(task.best, 4), **figures}
    return _finished(network, run, f"facenet-{len(trained.people)}", data, stated, start), estimate


def _tested(network: FaceNet, test: LabelledCrops) -> tuple[Estimate, dict[str, Any]]:
    scores = logits(network, test).numpy()
    correct = (scores.argmax(1) == test.labels).astype(np.float64)
    top1 = of_share(bootstrap(lambda weights: mean(correct, weights), test.labels))
    return top1, {
        "test_top1": {"value": round(top1.value, 4), "low": round(top1.low, 4), "high": round(top1.high, 4), "n": top1.n},
        "test_correct_probability": round(float(correct_probability(scores, test.labels).mean()), 4),
    }


def _named(start: Path | None) -> str | None:
    return None if start is None else str(read_card(start)["name"]) if start.is_dir() else start.name


def _finished(
    network: FaceNet, run: Run[RecogniserTask], name: str, data: Mapping[str, Any], stated: DataCard, start: Path | None
) -> Path:
    if start is not None:  # a published file has no card: its terms are not stated
        stated = stated.begun_from(read_card(start) if start.is_dir() else {})
    what = "FaceNet, Inception-ResNet-v1, for faces aligned to the template of facesieve.faces; RGB in [0, 1]"
    about = {"name": name, "what": what, **data, "data": f"{stated.what}, aligned"}
    limits = "it was not checked that it treats groups of people alike"
    save_facenet(network, run.out / FINISHED, card(about, stated, run.task.settings, run.seconds, {}, limits))
    return run.out / FINISHED


__all__ = ["RecogniserTask", "classify", "distil", "logits", "losses", "new_network", "train"]
