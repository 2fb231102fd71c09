"""Measure identification: closed and open set, verification, and what templates the shield should be given.

    python experiments/identification_marks.py --manifest JSON --data DIR --work DIR --facenet DIR [--only NAME ...]

``metrics``: on the 105-person protocol, probes are the test images, the gallery is the first ten
training images of each person, each a template; a person's score is their best template's. An
unknown probe is one whose own person is left out of the gallery. ``templates``: SFace behind the
``fast`` preset, with raw, purified or both kinds of templates, on clean probes and on those of
``core_marks.py`` under PGD-40 at eps 8/255 (its people are chosen anew there). The figures go to
``docs/results/identification.json`` and, where a mark is set, to ``marks.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from bench import RESULTS, Bench, Record, how, interval, keep_marks, write

from facesieve import purify
from facesieve.data.crops import LabelledCrops
from facesieve.metrics.intervals import Estimate, bootstrap
from facesieve.metrics.open_set import best_scores, calibrate_threshold
from facesieve.metrics.rates import correct_probability, eer, mean, ranks, tar_at_far
from facesieve.recognition import Embedder
from facesieve.recognition.facenet import FaceNet
from facesieve.recognition.facenet_file import load_facenet, read_card
from facesieve.recognition.sface import load_sface
from facesieve.train.recogniser import labelled_crops, logits
from facesieve.train.views import to_batch

GALLERY, FAR_OPEN, FAR_PAIRS = 10, 0.01, 0.001


def record(estimate: Estimate) -> Record:
    """In percent, for the tables."""
    value, low, high = (round(100 * number, 2) for number in (estimate.value, estimate.low, estimate.high))
    return {"value": value, "low": low, "high": high, "n": estimate.n}


@torch.inference_mode()
def embed(embedder: Embedder, crops: LabelledCrops) -> np.ndarray:
    """Unit rows (N, D)."""
    parts = np.array_split(np.arange(len(crops)), max(len(crops) // 32, 1))
    return np.concatenate([embedder.embed(to_batch(crops.images[part])).numpy() for part in parts])


def open_set(embedder: Embedder, trained: LabelledCrops, test: LabelledCrops) -> dict[str, Record]:
    """Top-1, top-5, DIR and FRR at FAR, TAR at FAR, EER."""
    first = np.concatenate([np.flatnonzero(trained.labels == person)[:GALLERY] for person in range(len(trained.people))])
    gallery = LabelledCrops(trained.images[first], trained.labels[first], trained.people)
    rows, probes = embed(embedder, gallery), embed(embedder, test)
    # (N, people): the best of each person's templates
    scores = (probes @ rows.T).reshape(len(probes), len(gallery.people), GALLERY).max(2)
    places = ranks(scores, test.labels)
    names = [[crops.people[label] for label in crops.labels] for crops in (gallery, test)]
    found = calibrate_threshold(probes, names[1], rows, names[0], FAR_OPEN)
    pairs, owners = (
        scores.ravel(),
        np.stack([np.repeat(test.labels, scores.shape[1]), np.tile(np.arange(scores.shape[1]), len(test))], 1),
    )
    order = np.argsort(-pairs)
    pairs, owners = pairs[order], owners[order]
    genuine = owners[:, 0] == owners[:, 1]
    assert found.dir is not None
    assert found.frr is not None
    return {
        "top-1": record(bootstrap(lambda w: mean(places <= 1, w), test.labels)),
        "top-5": record(bootstrap(lambda w: mean(places <= 5, w), test.labels)),
        f"DIR at FAR {FAR_OPEN:.0%}": record(found.dir),
        f"FRR at FAR {FAR_OPEN:.0%}": record(found.frr),
        f"1:1, TAR at FAR {FAR_PAIRS:.1%}": record(
            bootstrap(lambda w: tar_at_far(pairs, genuine, FAR_PAIRS, w), owners, draws=300)
        ),
        "1:1, EER": record(bootstrap(lambda w: eer(pairs, genuine, w), owners, draws=300)),
    }


def metrics(args: argparse.Namespace) -> tuple[Record, list[Record]]:
    """Both recognisers on the protocol's test images."""
    trained, test = labelled_crops(args.manifest, args.data, args.work)
    rows: dict[str, dict[str, Record]] = {"SFace": open_set(load_sface(), trained, test)}
    network = load_facenet(args.facenet)
    rows["FaceNet"] = open_set(network, trained, test)
    rows["FaceNet"] |= closed_set(network, test)
    for name, values in rows.items():
        for what, value in values.items():
            print(f"{name:8s} {what:46s} {value['value']:6.2f} [{value['low']}, {value['high']}]", flush=True)
    name = read_card(args.facenet)["name"]
    marks: list[Record] = [
        {
            "mark": f"top-1 of the closed-set head on clean test images, {name}",
            "wanted": ">= 93",
            **rows["FaceNet"]["closed set, top-1"],
        }
    ]
    return {"metrics": rows, "facenet": name}, marks


def closed_set(network: FaceNet, test: LabelledCrops) -> dict[str, Record]:
    """What the classifier's head says of the test images."""
    scores = logits(network, test).numpy()
    right = (scores.argmax(1) == test.labels).astype(float)
    probability = correct_probability(scores, test.labels)
    return {
        "closed set, top-1": record(bootstrap(lambda w: mean(right, w), test.labels)),
        "closed set, probability of the right person": record(bootstrap(lambda w: mean(probability, w), test.labels)),
    }


def scratch(args: argparse.Namespace) -> tuple[Record, list[Record]]:
    """A FaceNet that was trained on the protocol's images alone, from random weights: the figure beside the warm start."""
    card = read_card(args.facenet)
    if card["start"] is not None or card["teacher"] is not None:
        raise SystemExit(f"{args.facenet}: began at {card['start']} with teacher {card['teacher']}, not from scratch")
    _, test = labelled_crops(args.manifest, args.data, args.work)
    rows = closed_set(load_facenet(args.facenet), test)
    print(rows, flush=True)
    title = "top-1 of the closed-set head on clean test images, facenet from scratch, 30 epochs"
    mark: Record = {"mark": title, "wanted": "none set; warm start 93.1", **rows["closed set, top-1"]}
    return {"closed_set": rows, "training": card["training"], "hours": card["training_hours"]}, [mark]


def templates(args: argparse.Namespace) -> tuple[Record, list[Record]]:
    """SFace behind a preset: raw, purified or both kinds of templates."""
    args.precision, args.prior = "auto", None
    bench = Bench(args)
    preset, people = purify.preset(args.preset), len(bench.people.gallery)
    gallery = bench.people.gallery.flatten(0, 1)
    made = bench.purified(preset, gallery, "gallery")
    with torch.inference_mode():
        raw, purified = (bench.identifier.embed(images).numpy() for images in (gallery, made))
    owners = np.repeat(np.arange(people), GALLERY).astype(str)
    kinds = {"raw": (raw, owners), "purified": (purified, owners)}
    kinds["both"] = (np.concatenate([raw, purified]), np.concatenate([owners, owners]))
    rows: dict[str, Record] = {}
    for name in ("clean", "adversarial"):
        images, labels = bench.set_of(name, (people, args.probes))
        treated = {"none": images, args.preset: bench.purified(preset, images, f"{name} {(people, args.probes)}")}
        for shield, probes in treated.items():
            with torch.inference_mode():
                found = bench.identifier.embed(probes).numpy()
            for kind, (rows_of, names) in kinds.items():
                if shield == "none" and kind != "raw":
                    continue
                own, other = best_scores(found, labels.numpy().astype(str), rows_of, names)
                low, high = interval(own > other, people)
                value = round(100 * float((own > other).mean()), 2)
                rows[f"shield {shield}, {kind} templates, {name}"] = {"value": value, "low": low, "high": high, "n": len(own)}
                print(f"shield {shield}, {kind} templates, {name}: {value} [{low}, {high}]", flush=True)
    return {"templates": rows, "prior": bench.prior_hash, "path": str(bench.path)}, []


MEASUREMENTS = {"metrics": metrics, "templates": templates, "scratch": scratch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--facenet", type=Path, required=True)
    parser.add_argument("--preset", default="fast", help="for the templates")
    parser.add_argument("--probes", type=int, default=2, help="probes a person for the templates")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=["metrics", "templates"])
    args = parser.parse_args()
    made = how(args.work)
    for name in args.only:
        result, marks = MEASUREMENTS[name](args)
        write(RESULTS / f"identification-{name}.json", {**result, **made})
        keep_marks("B", marks, made)


if __name__ == "__main__":
    main()
