"""What the experiments share: people of the development photographs, SFace over mean templates, PGD, results kept on disk."""

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
from facesieve.files import write_atomic
from facesieve.hardware import choose_hardware
from facesieve.images import read_photo
from facesieve.noise import derive_seed
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior, prior_hash
from facesieve.recognition.sface import load_sface

SIZE, GALLERY, SEED = 128, 10, 0
RESULTS = Path(__file__).parent.parent / "docs" / "results"

Record = dict[str, object]


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
        path = choose_hardware("cpu", args.precision)
        self.path = path
        folder = args.prior or embedded_prior_folder()
        self.prior, self.prior_hash = load_prior(folder, dtype=path.dtype), prior_hash(folder)
        self.rows: dict[str, Record] = {}
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

    def purified(self, preset: purify.Preset, images: Tensor, name: str, *, seed: int = SEED) -> Tensor:
        """Images purified batch by batch, from the disk where they are there already; ``name`` says which images."""
        purifier, parts = preset.with_prior(self.prior), []
        for number, part in enumerate(images.split(15)):
            restorations = [dict(r) for r in preset.as_dict()["restorations"]]
            for restoration in restorations:
                if restoration["samples"] == 1:
                    del restoration["samples"]  # what was kept before there was this setting still counts
            key = json.dumps([restorations, self.prior_hash, str(self.path.dtype), name, len(images), seed, number])
            seeds = [derive_seed(seed, name, number, i) for i in range(len(part))]

            def make(part: Tensor = part, seeds: list[int] = seeds) -> Tensor:
                with torch.inference_mode():
                    return purifier(part, seeds=seeds)

            parts.append(self.cached(key, make))
        return torch.cat(parts)

    def accuracy(self, label: str, preset: purify.Preset | None, name: str, size: Size) -> Record:
        images, labels = self.set_of(name, size)
        begun = time.perf_counter()
        result = self.purified(preset, images, f"{name} {size}") if preset else images
        right = self.identifier.right(result, labels)
        low, high = interval(right, size[0])
        row = {"value": round(100 * float(right.mean()), 2), "low": low, "high": high, "n": len(right)}
        print(
            f"{label:34s} {name:12s} {row['value']:6.2f} % [{low}, {high}]  n {len(right)}  {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        self.rows[f"{label}, {name}"] = row
        return row


# --- results ----------------------------------------------------------------------------------


def how(work: Path) -> Record:
    """The command and the commit that a figure is from."""
    words = ["WORK" if Path(word) == work else word for word in sys.argv[1:]]
    command = f"python experiments/{Path(sys.argv[0]).name} " + " ".join(words)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {"command": command, "commit": commit}


def keep_marks(issue: str, new: list[Record], made: Record) -> None:
    """Put marks into ``marks.json``, in place of those of the same issue and name."""
    path = RESULTS / "marks.json"
    old = json.loads(path.read_text()) if path.exists() else []
    entries = [{"issue": issue, **entry, **made} for entry in new]
    names = {(entry["issue"], entry["mark"]) for entry in entries}
    write(path, [entry for entry in old if (entry["issue"], entry["mark"]) not in names] + entries)


def write(path: Path, data: object) -> None:
    """JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
