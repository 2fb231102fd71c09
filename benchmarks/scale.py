"""Shards on one machine and on Ray: faces a second for 1 and 2 workers, what Ray costs, and a plan for 100 million faces.

    python benchmarks/scale.py [--shards N] [--faces N] [--rounds N] [--core-hour PRICE]

Every worker has one thread. The plain loop is ``purify_units`` in this process, its model loaded.
"Ray" is the same shards by Ray Data, on a cluster of two processors that is started here. Its time runs
from the moment when all workers have loaded and warmed their model, for which they wait, until the
last shard is written; what comes before is reported as the start. The overhead is what one worker's
rate lacks of the plain loop's.
Plain loop and Ray take turns, ``--rounds`` times; rates are medians. Shards hold aligned crops of
the photographs in ``samples/``; the photographs themselves, with their faces found and put back, are
a row of their own. The plan multiplies what was measured; prices are assumptions, and said to be.

Rows go to ``docs/results/scale.json``, tables and plan to ``docs/results/scale.md``, the target to
``docs/results/targets.json``.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import origin, write

from facesieve.faces import Detector, align
from facesieve.images import encode_photo, read_photo, to_photo
from facesieve.jobs.cluster import Recipe, purify_units_on
from facesieve.jobs.formats import Unit
from facesieve.jobs.run import Options, purify_units
from facesieve.purify import preset
from facesieve.recognition.sface import load_sface
from facesieve.report.targets import Target, keep_targets
from facesieve.shield import Shield
from facesieve.specs import DEFAULT_PRESET

HERE = Path(__file__).parent.parent
FACES = 100_000_000
PHOTOGRAPHS_A_SHARD = 10_000
DAYS = 7

Row = dict[str, Any]


def pack(path: Path, images: list[bytes], suffix: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(images):
            info = tarfile.TarInfo(f"{number:06}.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make(folder: Path, shards: int, faces: int) -> tuple[list[Path], Path]:
    """Shards of aligned crops, and one of the photographs that they are from."""
    paths = sorted((HERE / "samples").glob("*.jpg"))
    photos = [read_photo(path) for path in paths]
    crops = [encode_photo(to_photo(align(p, Detector().detect(p)[0], 128)), "jpeg") for p in photos]
    packed = [pack(folder / f"{s}.tar", [crops[(s + n) % len(crops)] for n in range(faces)], "jpg") for s in range(shards)]
    return packed, pack(folder / "photographs.tar", [path.read_bytes() for path in paths], "jpg")


def to(sources: list[Path], out: Path) -> list[Unit]:
    return [Unit(source, out / source.name, source.name, source.suffix) for source in sources]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".tar")


def plain(name: str, sources: list[Path], out: Path, shield: Shield, options: Options) -> Row:
    begun = time.perf_counter()
    result = purify_units(to(sources, out), shield, options)
    seconds = time.perf_counter() - begun
    assert not result.failures, result.failures
    read = sum(source.stat().st_size for source in sources)
    return {
        "part": name,
        "workers": 0,
        "photographs": result.photographs,
        "faces": result.faces,
        "faces_per_s": result.faces / seconds,
        "outside_purifier": 1 - result.seconds / seconds,
        "bytes_in": read / result.photographs,
        "bytes_out": bytes_in(out) / result.photographs,
        "start_s": 0.0,
    }


@dataclass(frozen=True)
class TogetherRecipe(Recipe):
    """A recipe whose workers begin together: each notes in ``notes`` that it is ready, and waits for the others."""

    notes: Path = Path()
    workers: int = 1

    def load(self) -> Shield:
        shield = warmed(super().load())
        (self.notes / str(os.getpid())).touch()
        while len(list(self.notes.iterdir())) < self.workers:
            time.sleep(0.005)
        return shield


def warmed(shield: Shield) -> Shield:
    shield.runtime.purify(np.full((8, 3, shield.card.size, shield.card.size), 0.5, np.float32), range(8))
    return shield


def on_ray(sources: list[Path], out: Path, recipe: Recipe, options: Options, workers: int) -> Row:
    notes = out.with_name(out.name + "-notes")
    notes.mkdir()
    together = TogetherRecipe(recipe.preset, device="cpu", notes=notes, workers=workers)
    begun = time.time()
    result = purify_units_on("auto", out, to(sources, out), together, options, workers=workers)
    assert not result.failures, result.failures
    ready = max(path.stat().st_mtime for path in notes.iterdir())
    seconds = max(path.stat().st_mtime for path in out.glob("*.tar.json")) - ready
    return {
        "part": "Ray",
        "workers": workers,
        "photographs": result.photographs,
        "faces": result.faces,
        "faces_per_s": result.faces / seconds,
        "outside_purifier": 1 - result.seconds / workers / seconds,
        "start_s": ready - begun,
    }


def median(rows: list[Row]) -> Row:
    rates = [row["faces_per_s"] for row in rows]
    middle = sorted(rows, key=lambda row: row["faces_per_s"])[len(rows) // 2]
    return {**middle, "faces_per_s": statistics.median(rates), "low": min(rates), "high": max(rates), "rounds": len(rows)}


def measure(args: argparse.Namespace, folder: Path) -> list[Row]:
    import ray

    recipe, options = Recipe(preset(args.preset), device="cpu"), Options(aligned=True, seed=0)
    sources, photographs = make(folder, args.shards, args.faces)
    shield = warmed(recipe.load())
    found: dict[str, list[Row]] = {}
    ray.init(num_cpus=2, object_store_memory=200 * 2**20, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for number in range(args.rounds):
            rows = [plain("plain loop", sources, folder / f"plain{number}", shield, options)]
            rows += [on_ray(sources, folder / f"ray{number}{w}", recipe, options, w) for w in (1, 2)]
            for row in rows:
                found.setdefault(f"{row['part']}{row['workers']}", []).append(row)
                print(f"{row['part']}, {row['workers']} workers: {row['faces_per_s']:.2f} faces/s", flush=True)
    finally:
        ray.shutdown()
    whole = plain("plain loop, photographs", [photographs], folder / "photographs", shield, Options(seed=0))
    return [median(rows) for rows in [*found.values(), [whole]]]


def overhead(rows: list[Row]) -> float:
    rates = {(row["part"], row["workers"]): row["faces_per_s"] for row in rows}
    return 1 - float(rates["Ray", 1] / rates["plain loop", 0])


def table(rows: list[Row]) -> str:
    lines = ["| what | workers | photographs | faces / s | lowest, highest | outside the purifier | start, s |", "|" + "---|" * 7]
    for row in rows:
        lines.append(
            f"| {row['part']} | {row['workers'] or 'this process'} | {row['photographs']} | {row['faces_per_s']:.2f} "
            f"| {row['low']:.2f}, {row['high']:.2f} | {row['outside_purifier']:.0%} | {row['start_s']:.1f} |"
        )
    return "\n".join(lines)


def plan(rows: list[Row], dimensions: int, price: float) -> str:
    whole, one = rows[-1], next(row for row in rows if row["workers"] == 1)
    aligned = next(row for row in rows if row["part"] == "plain loop")
    rate = whole["faces_per_s"] * one["faces_per_s"] / aligned["faces_per_s"]  # of a photograph, with Ray's overhead
    hours = FACES / rate / 3600
    cores = hours / (24 * DAYS)
    shards = FACES // PHOTOGRAPHS_A_SHARD
    read, written = whole["bytes_in"], whole["bytes_out"]
    traffic = FACES * (read + written) / (DAYS * 86400)
    lines = [
        ("one worker, one core", f"{rate:.2f} photographs of one face a second: measured, less Ray's overhead"),
        ("work", f"{hours:,.0f} core-hours"),
        ("machines", f"{cores:,.0f} cores for {DAYS} days, or {cores / 32:,.0f} machines of 32"),
        ("cost", f"{hours * price:,.0f} USD at an assumed {price} USD a core-hour"),
        ("shards", f"{shards:,} of {PHOTOGRAPHS_A_SHARD:,} photographs, {PHOTOGRAPHS_A_SHARD * read / 1e9:.1f} GB each to read"),
        ("a shard", f"{PHOTOGRAPHS_A_SHARD / rate / 60:.0f} minutes of one core: what a death costs at most"),
        ("to read", f"{FACES * read / 1e12:.1f} TB, {read / 1e3:.0f} kB a photograph: measured"),
        ("to write", f"{FACES * written / 1e12:.1f} TB, {written / 1e3:.0f} kB a photograph, as PNG: measured"),
        ("network", f"{8 * traffic / 1e9:.2f} Gbit/s for all together, {8e3 * traffic / 1e9 / cores:.1f} Mbit/s a core"),
        (
            "gallery",
            f"{FACES * dimensions * 4 / 1e9:.1f} GB of templates, {dimensions} numbers of 4 bytes a face, without an index",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in lines)])


def page(rows: list[Row], made: dict[str, str], dimensions: int, price: float) -> str:
    return f"""# Scale: measured, and a plan

`{made["command"]}`, commit {made["commit"]}, {os.cpu_count()} processors. [What is measured](../scale.md).

{table(rows)}

Ray's overhead for one worker is {overhead(rows):.1%}; the target is under 10 %. Two workers make
{rows[2]["faces_per_s"] / rows[1]["faces_per_s"]:.2f} times as many faces as one.

## 100 million faces

{plan(rows, dimensions, price)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--faces", type=int, default=16, help="in each shard")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    parser.add_argument("--core-hour", type=float, default=0.04, help="assumed price, USD")
    parser.add_argument("--results", type=Path, default=HERE / "docs" / "results")
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = measure(args, Path(name))
    made = origin("scale.py", {str(args.results): "FOLDER"})
    write(args.results / "scale.json", [{**row, **made} for row in rows], ("part", "workers"))
    text = page(rows, made, load_sface().dimensions, args.core_hour)
    (args.results / "scale.md").write_text(text)
    lack = {"value": round(overhead(rows), 4), "n": args.rounds * args.shards * args.faces}
    name = "overhead of Ray against the plain loop, one worker"
    keep_targets(args.results / "targets.json", [Target(area="service", target=name, wanted="< 0.10", **lack, **made)])
    print(text)


if __name__ == "__main__":
    main()
