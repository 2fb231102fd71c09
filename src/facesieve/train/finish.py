"""From data to a finished recogniser: what `train distil` and `train recogniser` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from facesieve.data.crops import LabelledCrops, aligned_crops, of_role, unlabelled_crops
from facesieve.data.manifest import load_manifest
from facesieve.data.sources import open_source
from facesieve.metrics.intervals import Estimate, bootstrap
from facesieve.metrics.rates import mean, right_probability
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.facenet import SIDE, FaceNet
from facesieve.recognition.facenet_file import read_card, save_facenet
from facesieve.train.batches import Classifying, ClassifyingBatches, Distilling, DistillingBatches, Optimising
from facesieve.train.recogniser import Report, Run, begin_at_class_means, logits, new_network, train
from facesieve.train.views import teacher_rows

FINISHED = "facenet"
TERMS = "the weights carry whatever limits the photographs carry"


def distil(
    unlabelled: Path,
    out: Path,
    teacher: str,
    settings: Distilling,
    *,
    also: tuple[Path, Path] | None = None,
    start: Path | None = None,
    report: Report = print,
    checkpoint_minutes: float = 5.0,
) -> Path:
    """FaceNet that learned a teacher's embedding over a folder of faces; returns its folder.

    ``also`` is a manifest and its source, whose training images are added, without their labels.
    Raises ``InputError`` for a folder without faces, ``EmbedderError`` for an unknown teacher.
    """
    out.mkdir(parents=True, exist_ok=True)
    master = load_embedder(teacher)
    crops = unlabelled_crops(unlabelled, out, SIDE)
    if also is not None:
        crops = np.concatenate([crops, labelled_crops(*also, out)[0].images])
    report(f"{len(crops)} faces; embedding them with {master.name} ...")
    rows = teacher_rows(master, crops, out / f"rows-{master.name}.npy")
    run = Run(new_network(None, settings, start), DistillingBatches(crops, rows, settings), settings, out, master.dimensions)
    report(f"on {run.path}")
    network = train(run, report=report, checkpoint_minutes=checkpoint_minutes)
    card = _card(
        f"facenet-distilled-{master.name}", run, settings, {"teacher": master.name, "faces": len(crops), "start": _named(start)}
    )
    return _finished(network, out, card)


def classify(
    manifest: Path,
    source: Path,
    out: Path,
    settings: Classifying,
    *,
    start: Path | None = None,
    teacher: str | None = None,
    report: Report = print,
    checkpoint_minutes: float = 5.0,
) -> tuple[Path, Estimate]:
    """FaceNet as a closed-set classifier of a manifest's people: its folder, and top-1 on the test images."""
    out.mkdir(parents=True, exist_ok=True)
    trained, test = labelled_crops(manifest, source, out)
    master = None if teacher is None else load_embedder(teacher)
    rows = None if master is None else teacher_rows(master, trained.images, out / f"rows-{master.name}.npy")
    batches = ClassifyingBatches(trained, rows, settings)
    network = new_network(len(trained.people), settings, start)
    run = Run(network, batches, settings, out, None if master is None else master.dimensions)
    counts = (
        f"{len(batches.train)} images of {len(trained.people)} people, {len(batches.validation)} held out, {len(test)} to test"
    )
    report(f"{counts}, on {run.path}")
    if start is not None and run.step == 0:
        begin_at_class_means(network, trained, batches.train, size=batches.size(0))
        before = run.validate()  # kept as the best so far, where it is at full size: training need not improve it
        report(f"the warm start's features, by the nearest class mean: held-out top-1 {100 * (before or 0):.1f} %")
    network = train(run, report=report, checkpoint_minutes=checkpoint_minutes)
    network.people = trained.people
    scores = logits(network, test).numpy()
    right = (scores.argmax(1) == test.labels).astype(np.float64)
    top1 = bootstrap(lambda weights: mean(right, weights), test.labels)
    data = {
        "manifest": manifest.name,
        "images": len(trained),
        "start": _named(start),
        "teacher": None if master is None else master.name,
        "held_out_top1": round(run.best, 4),
        "test_top1": {"value": round(top1.value, 4), "low": round(top1.low, 4), "high": round(top1.high, 4), "n": top1.n},
        "test_right_probability": round(float(right_probability(scores, test.labels).mean()), 4),
    }
    return _finished(network, out, _card(f"facenet-{len(trained.people)}", run, settings, data)), top1


def labelled_crops(manifest: Path, source: Path, cache: Path) -> tuple[LabelledCrops, LabelledCrops]:
    """The training and the test crops of a manifest, aligned, at the network's size."""
    listed = load_manifest(manifest)
    images = aligned_crops(listed, open_source(source), cache, SIDE)
    return of_role(listed, images, "train"), of_role(listed, images, "test")


def _named(start: Path | None) -> str | None:
    return None if start is None else str(read_card(start)["name"]) if start.is_dir() else start.name


def _card(name: str, run: Run, settings: Optimising, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "what": "FaceNet, Inception-ResNet-v1, for faces aligned to the template of facesieve.faces; RGB in [0, 1]",
        **data,
        "terms": TERMS,
        "training": settings.model_dump(mode="json"),
        "training_hours": round(run.seconds / 3600, 2),
        "limits": "it was not checked that it treats groups of people alike",
    }


def _finished(network: FaceNet, out: Path, card: dict[str, Any]) -> Path:
    save_facenet(network, out / FINISHED, card)
    return out / FINISHED
