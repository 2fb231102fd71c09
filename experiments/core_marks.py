"""Measure the core: identity kept, perturbation removed, consistency, super-resolution, speed.

    python experiments/core_marks.py --data DIR --work DIR [--only NAME ...]

``--data`` holds a folder of photographs a person. From each person 10 photographs make a mean
template and others are probes; the probes that settings were tuned on (``--only tune``) are not
the ones that are measured. Every purification is kept in ``--work`` and made once, so that a run
that was stopped goes on. The figures go to ``docs/results/core.json`` and, where a mark is set for
them, to ``docs/results/marks.json``.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import RESULTS, Bench, Record, Size, how, keep_marks, pgd, write
from torch import Tensor
from torch.nn import functional

from facesieve import purify
from facesieve.identification import tamper_score
from facesieve.noise import seeded_noise
from facesieve.operators import MeanPool, grey_mean_pool
from facesieve.sampling import last


def identity(bench: Bench) -> list[Record]:
    """Accuracy on clean and attacked probes, for every preset; paper at three scales."""
    many: Size = (len(bench.people.probes), bench.args.probes)
    few: Size = (bench.args.paper_people, 1)
    raw = {}
    for size in (many, few):
        for name in ("clean", "adversarial"):
            row = bench.accuracy(f"none, {size[0]} people x {size[1]}", None, name, size)
            raw[size, name] = float(str(row["value"]))
    raw_many, raw_few = raw[many, "clean"], raw[few, "clean"]
    kept = {name: bench.accuracy("fast", purify.preset("fast"), name, many) for name in ("clean", "adversarial")}
    for name in ("clean", "adversarial"):
        bench.accuracy("fast-fused", purify.preset("fast-fused"), name, many)
    for name in ("adversarial", "clean"):
        for label in ("paper", "fused"):
            kept[f"{label} {name}"] = bench.accuracy(label, purify.preset(label), name, few)
    for scale in (4, 8):
        bench.accuracy(f"paper, scale {scale}", purify.preset("paper").changed(scale=scale), "adversarial", few)
    lost = {
        key: round(raw - float(str(row["value"])), 2)
        for key, raw, row in (
            ("fast", raw_many, kept["clean"]),
            ("paper", raw_few, kept["paper clean"]),
            ("fused", raw_few, kept["fused clean"]),
        )
    }
    robust, clean = float(str(kept["adversarial"]["value"])), raw_many
    low, high = (round(100 * float(str(kept["adversarial"][end])) / clean, 2) for end in ("low", "high"))
    return [
        mark("clean accuracy lost, SFace, paper scale 2", "<= 2.25", lost["paper"], kept["paper clean"], raw_few),
        mark("clean accuracy lost, SFace, fused", f"<= {lost['paper']} (paper)", lost["fused"], kept["fused clean"], raw_few),
        mark("clean accuracy lost, SFace, fast", "<= 1", lost["fast"], kept["clean"], raw_many),
        {"mark": "share of the clean accuracy kept under PGD-40, SFace, eps 8/255, uint8, fast", "wanted": ">= 60",
         "value": round(100 * robust / clean, 2), "low": low, "high": high, "n": kept["adversarial"]["n"]},
    ]  # fmt: skip


def mark(name: str, wanted: str, lost: float, row: Record, raw: float) -> Record:
    """Points lost against the unpurified accuracy, with the interval of the purified one turned round."""
    low, high = round(raw - float(str(row["high"])), 2), round(raw - float(str(row["low"])), 2)
    return {"mark": name, "wanted": wanted, "value": lost, "low": low, "high": high, "n": row["n"]}


def tamper(bench: Bench) -> list[Record]:
    """What the tamper score behind ``fast`` tells apart: probes as they are, and attacked."""
    from sklearn.metrics import roc_auc_score

    size: Size = (len(bench.people.probes), bench.args.probes)
    scores = {}
    for name in ("clean", "adversarial"):
        images, _ = bench.set_of(name, size)
        made = bench.purified(purify.preset("fast"), images, f"{name} {size}")
        parts = zip(images.split(30), made.split(30), strict=True)
        scores[name] = torch.cat([tamper_score(bench.identifier.sface, *part) for part in parts]).numpy()
    clean, attacked = scores["clean"], scores["adversarial"]
    threshold = float(np.quantile(clean, 0.95))
    row = {
        "clean_median": round(float(np.median(clean)), 3),
        "attacked_median": round(float(np.median(attacked)), 3),
        "area_under_roc": round(float(roc_auc_score([0] * len(clean) + [1] * len(attacked), [*clean, *attacked])), 4),
        "threshold_at_5_percent_false_alarms": round(threshold, 3),
        "attacked_above_it_percent": round(100 * float((attacked > threshold).mean()), 1),
        "n": len(clean),
    }
    print(row, flush=True)
    write(RESULTS / "tamper.json", {"prior": bench.prior_hash, "attack": "pgd-40, eps 8/255", **row, **how(bench.args.work)})
    return []


def consistency(bench: Bench) -> list[Record]:
    """The largest |A x - y| over faces and restorations, before clipping, in [-1, 1] units."""
    images, worst = bench.people.probes[:4, 0], 0.0
    restorations = {r: None for p in purify.PRESETS.values() for r in p.restorations if r.sigma_y == 0}
    for restoration in restorations:
        noise = seeded_noise([1, 2, 3, 4], tuple(images.shape[1:]))
        with torch.inference_mode():
            y = restoration.observe(images)
            x = last(restoration.steps_from(bench.prior, y, noise))
            worst = max(worst, float((restoration.operator(x) - y).abs().max()))
    bound = "1e-4" if bench.path.dtype == torch.float32 else "1e-2"
    return [
        {
            "mark": f"consistency |A x - y|, {str(bench.path.dtype).removeprefix('torch.')}",
            "wanted": f"<= {bound}",
            "value": worst,
            "n": 4,
        }
    ]


def tune(bench: Bench) -> list[Record]:
    """Candidates for the fast preset, on a tuning probe of each person that no other figure is made from."""
    clean, labels = bench.people.tuning[:, 0], torch.arange(len(bench.people.tuning))
    parts = [
        bench.cached(f"tuning, pgd-40, eps 8/255, {number}", partial(pgd, bench.identifier, x, y, 8 / 255))
        for number, (x, y) in enumerate(zip(clean.split(15), labels.split(15), strict=True))
    ]
    attacked, rows = torch.cat(parts), []
    for name, operator, steps, samples, start, sigma_y, end in CANDIDATES:
        candidate = purify.Restoration(
            name, operator, steps=steps, eta=0.0, sigma_y=sigma_y, start_sigma=start, end_sigma=end, samples=samples
        )
        preset = purify.Preset("", "", (candidate,))
        right = [100 * float(bench.identifier.right(bench.purified(preset, x, probes), labels).mean())
                 for probes, x in (("tuning clean", clean), ("tuning attacked", attacked))]  # fmt: skip
        row = {
            "operator": purify.operator.name,
            "steps": steps,
            "samples": samples,
            "start_sigma": start,
            "sigma_y": sigma_y,
            "end_sigma": end,
        }
        rows.append({**row, "clean": round(right[0], 1), "attacked": round(right[1], 1)})
        print(rows[-1], flush=True)
    write(RESULTS / "tuning.json", {"prior": bench.prior_hash, "path": str(bench.path), "n": len(labels), "rows": rows})
    return []


def super_resolution(bench: Bench) -> list[Record]:
    """PSNR and perceptual distance of the posterior mean (eta 0, mean over seeds), the latter of one restoration too."""
    images = bench.people.probes[: bench.args.sr_faces, 1]
    marks: list[Record] = []
    for scale in (2, 4):
        preset = purify.preset("stage1").changed(scale=scale, eta=0.0, steps=25)
        runs = [bench.purified(preset, images, "super-resolution", seed=seed) for seed in range(bench.args.sr_seeds)]
        small = functional.avg_pool2d(images, scale)
        bicubic = functional.interpolate(small, size=images.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
        mean = torch.stack(runs).mean(0)
        for name, ours, theirs, better in (
            ("PSNR of the posterior mean, dB", psnr(mean, images), psnr(bicubic, images), ">="),
            (
                "perceptual distance (SFace features)",
                perceptual(bench, runs[0], images),
                perceptual(bench, bicubic, images),
                "<=",
            ),
            (
                "perceptual distance of the posterior mean (SFace features)",
                perceptual(bench, mean, images),
                perceptual(bench, bicubic, images),
                "<=",
            ),
        ):
            print(f"x{scale} {name}: ours {ours:.4f}, bicubic {theirs:.4f}", flush=True)
            wanted = f"{better} {theirs:.4f} (bicubic)" if scale == 4 else f"none set; bicubic {theirs:.4f}"
            marks.append(
                {"mark": f"super-resolution x{scale}, {name}", "wanted": wanted, "value": round(ours, 4), "n": len(images)}
            )
    return marks


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio, dB."""
    return float((-10 * ((a - b) ** 2).flatten(1).mean(1).log10()).mean())


@torch.inference_mode()
def perceptual(bench: Bench, a: Tensor, b: Tensor) -> float:
    """After LPIPS (Zhang et al. 2018), unweighted: squared distance of channel-normalised features, mean over layers.

    The features are SFace's after each of its strided convolutions, since no LPIPS weights ship with this project.
    """
    layers = [m for m in bench.identifier.sface.modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)]
    kept: list[list[Tensor]] = []
    for images in (a, b):
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(functional.normalize(out, dim=1)))
            for layer in layers
        ]
        bench.identifier.sface.embed(images)
        for hook in hooks:
            hook.remove()
        kept.append(seen)
    return float(sum(((p - q) ** 2).sum(1).mean() for p, q in zip(*kept, strict=True)) / len(layers))


def speed(bench: Bench) -> list[Record]:
    """Time a face of ``paper`` over that of ``fast``, alternating in one run, same precision."""
    images = bench.people.probes[:4, 0]
    seconds: dict[str, list[float]] = {"fast": [], "paper": []}
    for _ in range(2):
        for name, times in seconds.items():
            begun = time.perf_counter()
            with torch.inference_mode():
                purify.preset(name).with_prior(bench.prior)(images, seeds=range(len(images)))
            times.append((time.perf_counter() - begun) / len(images))
    fast, paper = (float(np.median(seconds[name])) for name in ("fast", "paper"))
    print(f"fast {1000 * fast:.0f} ms a face, paper {1000 * paper:.0f} ms a face, ratio {paper / fast:.1f}", flush=True)
    return [{"mark": f"time a face, paper over fast ({bench.path})", "wanted": ">= 20", "value": round(paper / fast, 1), "n": 2}]


# name, operator, steps, samples, start sigma, sigma_y, end sigma; eta is 0, and evaluations (steps x samples) at most 8
FUSED, COLOURED = ("fused", grey_mean_pool(2)), ("restoration", MeanPool(2))
CANDIDATES = (
    (*COLOURED, 2, 4, 10.0, 0.3, 0.3),
    (*COLOURED, 2, 4, 10.0, 0.36, 0.36),
    (*COLOURED, 2, 4, 10.0, 0.42, 0.42),
    (*COLOURED, 2, 4, 10.0, 0.5, 0.5),
    ("restoration", MeanPool(1), 1, 4, 0.36, 0.36, 0.36),
    ("restoration", MeanPool(1), 1, 4, 0.7, 0.7, 0.7),
    (*FUSED, 2, 4, 10.0, 0.3, 0.3),
    (*FUSED, 2, 4, 10.0, 0.36, 0.36),
    (*FUSED, 2, 4, 10.0, 0.42, 0.42),
    (*FUSED, 2, 4, 10.0, 0.5, 0.5),
    (*FUSED, 4, 2, 10.0, 0.36, 0.36),
    (*FUSED, 5, 1, 10.0, 0.36, 0.36),
    (*FUSED, 5, 1, 10.0, 0.0, 0.05),
    ("fused", grey_mean_pool(4), 2, 4, 10.0, 0.2, 0.2),
)

MEASUREMENTS = {
    "tune": tune,
    "identity": identity,
    "tamper": tamper,
    "consistency": consistency,
    "super_resolution": super_resolution,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--prior", type=Path, help="a prior's folder; the embedded prior if not given")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--probes", type=int, default=2, help="probes a person for the fast preset")
    parser.add_argument("--paper-people", type=int, default=105, help="people, one probe each, for presets of 100 steps and more")
    parser.add_argument("--sr-faces", type=int, default=32)
    parser.add_argument("--sr-seeds", type=int, default=8)
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    args = parser.parse_args()
    bench = Bench(args)
    marks: list[Record] = []
    for name in args.only:
        marks += MEASUREMENTS[name](bench)
    keep_marks("A", marks, how(args.work))
    rows = {"prior": bench.prior_hash, "path": str(bench.path), "rows": bench.rows}
    if bench.rows:
        write(RESULTS / "core.json", rows)
    for entry in marks:
        print(f"{entry['mark']}: {entry['value']} (wanted {entry['wanted']})")


if __name__ == "__main__":
    main()
