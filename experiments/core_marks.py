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
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facesieve import purify
from facesieve.faces import Detector, align
from facesieve.hardware import choose_path
from facesieve.images import read_photo
from facesieve.noise import derive_seed, seeded_noise
from facesieve.operators import grey_mean_pool
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior, prior_hash
from facesieve.recognition.sface import load_sface

SIZE, GALLERY, SEED = 128, 10, 0
RESULTS = Path(__file__).parent.parent / "docs" / "results"


# --- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class People:
    """Aligned crops in [0, 1]: ``templates`` are made from ``gallery``; the two probe sets are disjoint from it."""

    gallery: Tensor  # (people, 10, 3, 128, 128)
    tuning: Tensor  # (people, 2, 3, 128, 128)
    probes: Tensor  # (people, 4, 3, 128, 128)


def load_people(data: Path, work: Path) -> People:
    """From each folder 16 photographs at random; one without a face is replaced by the next."""
    cache = work / "people.npz"
    if not cache.exists():
        detector, people = Detector(), []
        for folder in sorted(p for p in data.iterdir() if p.is_dir()):
            files = sorted(folder.iterdir())
            order = np.random.default_rng(derive_seed(SEED, folder.name)).permutation(len(files))
            crops: list[Tensor] = []
            for index in order:
                photo = read_photo(files[index])
                faces = detector.detect(photo)
                if faces:
                    crops.append((align(photo, faces[0], SIZE) * 255).round().byte())
                if len(crops) == GALLERY + 6:
                    break
            people.append(torch.stack(crops))
        work.mkdir(parents=True, exist_ok=True)
        np.savez(cache, crops=torch.stack(people).numpy())
    crops_all = torch.from_numpy(np.load(cache)["crops"]).float() / 255
    return People(crops_all[:, :10], crops_all[:, 10:12], crops_all[:, 12:16])


# --- identification ---------------------------------------------------------------------------


class Identifier:
    """SFace, nearest of the mean templates."""

    def __init__(self, people: People) -> None:
        self.sface = load_sface()
        with torch.inference_mode():
            rows = self.embed(people.gallery.flatten(0, 1)).view(len(people.gallery), GALLERY, -1)
        self.templates = functional.normalize(rows.mean(1), dim=1).clone()

    def embed(self, images: Tensor) -> Tensor:
        return torch.cat([self.sface.embed(part) for part in images.split(32)])

    @torch.inference_mode()
    def right(self, images: Tensor, labels: Tensor) -> np.ndarray:
        """For each image whether the nearest template is its person's: (N,) bool."""
        return ((self.embed(images) @ self.templates.T).argmax(1) == labels).numpy()


def pgd(
    identifier: Identifier, images: Tensor, labels: Tensor, eps: float, *, step: float = 2 / 255, iterations: int = 40
) -> Tensor:
    """L-inf PGD that raises the best wrong cosine above the right one; saved as 8 bit, inside the ball."""
    generator = torch.Generator().manual_seed(SEED)
    out = []
    for clean, wanted in zip(images.split(32), labels.split(32), strict=True):
        x = (clean + eps * (2 * torch.rand(clean.shape, generator=generator) - 1)).clamp(0, 1)
        own = functional.one_hot(wanted, len(identifier.templates)).bool()
        for _ in range(iterations):
            x.requires_grad_(True)
            cosine = identifier.sface.embed(x) @ identifier.templates.T
            loss = cosine.masked_fill(own, -2).amax(1) - cosine[own]
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            x = torch.min(torch.max(x.detach() + step * gradient.sign(), clean - eps), clean + eps).clamp(0, 1)
        out.append(torch.round(x * 255) / 255)
    return torch.cat(out)


def interval(right: np.ndarray, people: int) -> tuple[float, float]:
    """95 % bootstrap interval over identities of a percentage; ``right`` is ordered by person."""
    means = right.reshape(people, -1).mean(1)
    draws = np.random.default_rng(SEED).integers(people, size=(2000, people))
    low, high = np.percentile(100 * means[draws].mean(1), [2.5, 97.5])
    return round(float(low), 2), round(float(high), 2)


Size = tuple[int, int]  # people, and probes of each


# --- purification, kept on disk ---------------------------------------------------------------


class Bench:
    """Everything that the measurements share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.work: Path = args.work
        self.people = load_people(args.data, args.work)
        self.identifier = Identifier(self.people)
        path = choose_path("cpu", args.precision)
        self.path = path
        folder = args.prior or embedded_prior_folder()
        self.prior, self.prior_hash = load_prior(folder, dtype=path.dtype), prior_hash(folder)
        self.rows: dict[str, dict[str, object]] = {}
        self.args = args
        self.attacked = self.attack()

    def set_of(self, name: str, size: Size) -> tuple[Tensor, Tensor]:
        """Probes with their labels, person by person; ``name`` is ``clean`` or ``adversarial``."""
        people, each = size
        source = self.people.probes if name == "clean" else self.attacked
        return source[:people, :each].flatten(0, 1), torch.arange(people).repeat_interleave(each)

    def attack(self) -> Tensor:
        """All probes under PGD-40 at eps 8/255, person by person: the attack sees the recogniser alone."""
        probes = self.people.probes[:, : self.args.probes]
        parts = []
        for number, part in enumerate(probes):
            labels = torch.full((len(part),), number)
            make = partial(pgd, self.identifier, part, labels, 8 / 255)
            parts.append(self.cached(f"pgd-40, eps 8/255, {self.args.probes} probes, person {number}", make))
        return torch.stack(parts)

    def cached(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        path = self.work / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.npy"
        if not path.exists():
            np.save(path, (make() * 255).round().byte().numpy())
        return torch.from_numpy(np.load(path)).float() / 255

    def purified(self, preset: purify.Preset, name: str, size: Size) -> Tensor:
        """The purified set, batch by batch from the disk where it is there already."""
        images, _ = self.set_of(name, size)
        purifier, parts = preset.with_prior(self.prior), []
        for number, part in enumerate(images.split(15)):
            key = json.dumps([preset.as_dict(), self.prior_hash, str(self.path.dtype), name, size, number])
            seeds = [derive_seed(SEED, name, number, i) for i in range(len(part))]

            def make(part: Tensor = part, seeds: list[int] = seeds) -> Tensor:
                with torch.inference_mode():
                    return purifier(part, seeds=seeds)

            parts.append(self.cached(key, make))
        return torch.cat(parts)

    def restored(self, stage: purify.RestorationStage, images: Tensor, seed: int, name: str = "") -> Tensor:
        """One restoration of the images, from the disk where it is there already."""
        parts = []
        for number, part in enumerate(images.split(8)):
            data = purify.Preset("", "", (stage.restoration,)).as_dict()
            key = json.dumps(["restored", data, self.prior_hash, str(self.path.dtype), seed, number, name])

            def make(part: Tensor = part, number: int = number) -> Tensor:
                seeds = [derive_seed(seed, number, i) for i in range(len(part))]
                with torch.inference_mode():
                    return stage(part, seeded_noise(seeds, tuple(part.shape[1:])))

            parts.append(self.cached(key, make))
        return torch.cat(parts)

    def accuracy(self, label: str, preset: purify.Preset | None, name: str, size: Size) -> dict[str, object]:
        images, labels = self.set_of(name, size)
        begun = time.perf_counter()
        result = self.purified(preset, name, size) if preset else images
        right = self.identifier.right(result, labels)
        low, high = interval(right, size[0])
        row = {"value": round(100 * float(right.mean()), 2), "low": low, "high": high, "n": len(right)}
        print(
            f"{label:34s} {name:12s} {row['value']:6.2f} % [{low}, {high}]  n {len(right)}  {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        self.rows[f"{label}, {name}"] = row
        return row


# --- the measurements -------------------------------------------------------------------------


def identity(bench: Bench) -> list[dict[str, object]]:
    """Accuracy on clean and attacked probes, for every preset; paper at three scales."""
    many: Size = (len(bench.people.probes), bench.args.probes)
    few: Size = (bench.args.paper_people, 1)
    raw = {}
    for size in (many, few):
        for name in ("clean", "adversarial"):
            row = bench.accuracy(f"none, {size[0]} people", None, name, size)
            raw[size, name] = float(str(row["value"]))
    raw_many, raw_few = raw[many, "clean"], raw[few, "clean"]
    kept = {name: bench.accuracy("fast", purify.preset("fast"), name, many) for name in ("clean", "adversarial")}
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


def mark(name: str, wanted: str, lost: float, row: dict[str, object], raw: float) -> dict[str, object]:
    """Points lost against the unpurified accuracy, with the interval of the purified one turned round."""
    low, high = round(raw - float(str(row["high"])), 2), round(raw - float(str(row["low"])), 2)
    return {"mark": name, "wanted": wanted, "value": lost, "low": low, "high": high, "n": row["n"]}


def consistency(bench: Bench) -> list[dict[str, object]]:
    """The largest |A x - y| over faces and restorations, before clipping, in [-1, 1] units."""
    images, worst = bench.people.probes[:4, 0], 0.0
    restorations = {r: None for p in purify.PRESETS.values() for r in p.restorations if r.sigma_y == 0}
    for restoration in restorations:
        noise = seeded_noise([1, 2, 3, 4], tuple(images.shape[1:]))
        with torch.inference_mode():
            y = restoration.observe(images)
            x = purify.last(restoration.steps_from(bench.prior, y, noise))
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


def tune(bench: Bench) -> list[dict[str, object]]:
    """Candidates for the fast preset, on tuning probes of 60 people that no other figure is made from."""
    clean, labels = bench.people.tuning[:60, 0], torch.arange(60)
    parts = [
        bench.cached(f"tuning, pgd-40, eps 8/255, {number}", partial(pgd, bench.identifier, x, y, 8 / 255))
        for number, (x, y) in enumerate(zip(clean.split(15), labels.split(15), strict=True))
    ]
    attacked, rows = torch.cat(parts), []
    for scale, steps, start, sigma_y, end in CANDIDATES:
        operator = grey_mean_pool(scale)
        candidate = purify.Restoration("fused", operator, steps=steps, eta=0.0, sigma_y=sigma_y, start_sigma=start, end_sigma=end)
        stage = purify.RestorationStage(bench.prior, candidate)
        right = [100 * float(bench.identifier.right(bench.restored(stage, x, 0, name), labels).mean())
                 for name, x in (("tuning clean", clean), ("tuning attacked", attacked))]  # fmt: skip
        row = {"scale": scale, "steps": steps, "start_sigma": start, "sigma_y": sigma_y, "end_sigma": end}
        rows.append({**row, "clean": round(right[0], 1), "attacked": round(right[1], 1)})
        print(rows[-1], flush=True)
    write(RESULTS / "tuning.json", {"prior": bench.prior_hash, "path": str(bench.path), "n": 60, "rows": rows})
    return []


def super_resolution(bench: Bench) -> list[dict[str, object]]:
    """PSNR of the posterior mean (eta 0, mean over seeds) and perceptual distance of one restoration, against bicubic."""
    images = bench.people.probes[: bench.args.sr_faces, 1]
    marks: list[dict[str, object]] = []
    for scale in (2, 4):
        restoration = purify.preset("stage1").changed(scale=scale, eta=0.0, steps=25).restorations[0]
        stage = purify.RestorationStage(bench.prior, restoration)
        runs = [bench.restored(stage, images, seed) for seed in range(4)]
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


def speed(bench: Bench) -> list[dict[str, object]]:
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


# scale, steps, start sigma, sigma_y, end sigma; eta is 0
CANDIDATES = (
    (2, 5, 10.0, 0.42, 0.42),
    (2, 5, 10.0, 0.4, 0.4),
    (2, 5, 30.0, 0.4, 0.4),
    (2, 2, 1.0, 0.4, 0.4),
    (2, 5, 1.0, 0.5, 0.5),
    (2, 5, 1.0, 0.3, 0.3),
    (2, 5, 0.7, 0.2, 0.1),
    (2, 5, 1.0, 0.0, 0.02),
    (2, 1, 0.4, 0.4, 0.4),
    (4, 8, 10.0, 0.0, 0.05),
    (4, 8, 30.0, 0.1, 0.1),
    (4, 5, 1.0, 0.0, 0.02),
    (4, 5, 1.0, 0.0, 0.1),
    (4, 5, 2.0, 0.0, 0.3),
    (8, 5, 2.0, 0.0, 0.05),
)

MEASUREMENTS = {
    "tune": tune,
    "identity": identity,
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
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    args = parser.parse_args()
    bench = Bench(args)
    marks: list[dict[str, object]] = []
    for name in args.only:
        marks += MEASUREMENTS[name](bench)
    words = ["WORK" if Path(word) == args.work else word for word in sys.argv[1:]]
    command = "python experiments/core_marks.py " + " ".join(words)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    marks = [{"issue": "A", **entry, "command": command, "commit": commit} for entry in marks]
    write(RESULTS / "marks.json", merge(RESULTS / "marks.json", marks))
    rows = {"prior": bench.prior_hash, "path": str(bench.path), "rows": bench.rows}
    if bench.rows:
        write(RESULTS / "core.json", rows)
    for entry in marks:
        print(f"{entry['mark']}: {entry['value']} (wanted {entry['wanted']})")


def merge(path: Path, new: list[dict[str, object]]) -> list[dict[str, object]]:
    """The list on disk with the entries of the same issue and mark replaced."""
    old = json.loads(path.read_text()) if path.exists() else []
    names = {(entry["issue"], entry["mark"]) for entry in new}
    return [entry for entry in old if (entry["issue"], entry["mark"]) not in names] + new


def write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
