"""The small install against PyTorch, in one run: one photograph as a whole process, the runtimes' speed, what differs.

    python benchmarks/light.py [--python PATH] [--requests N] [--paper-faces N] [--targets]

``--python`` is that of an environment with the small install of this commit and the extra ``serve``; its size is not measured.
Without it one is made in a temporary folder: the wheel alone, measured, then the extra. ``--targets`` records the figures in
docs/results/targets.json; the machine has to be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from purify import peak_rate
from results import origin
from torch.utils.flop_counter import FlopCounterMode

from facesieve.faces import Crops
from facesieve.hardware import choose_hardware, summary
from facesieve.images import read_photo
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior
from facesieve.purify import preset
from facesieve.report.targets import Target, keep_targets
from facesieve.runtime import RUNTIMES, Runtime
from facesieve.shield import load_shield
from facesieve.specs import DEFAULT_PRESET

ROOT = Path(__file__).parent.parent
TARGETS = ROOT / "docs" / "results" / "targets.json"
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")  # no part of what is installed
PHOTO, SIDE = ROOT / "samples" / "obama-1.jpg", 400
BATCH, RESTED = 8, 0.2  # seconds between two runtimes, whose threads wait busily for a while


def make_environment(folder: Path) -> tuple[Path, float]:
    """The Python of a new environment with this commit's wheel and its service, and the bytes of the wheel's install alone."""
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT])
    (wheel,) = folder.glob("*.whl")
    run([sys.executable, "-m", "venv", folder / "light"])
    python = folder / "light" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    run([*install, wheel])
    size = installed_bytes(python)
    run([*install, f"{wheel}[serve]"])
    return python, size


def run(words: list[str | Path]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def installed_bytes(python: Path) -> float:
    """What lies in the environment's site-packages, its tools left out."""
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    parts = [part for part in site.iterdir() if not part.name.startswith(TOOLS)]
    return sum(file.stat().st_size for part in parts for file in (part, *part.rglob("*")) if file.is_file())


# --- whole processes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """Medians of a command's runs: seconds of the processor and of the clock, and the peak of its memory in MiB."""

    processor: float
    wall: float
    memory: float


def environment(python: Path) -> dict[str, str]:
    """This process's; the small install runs what was installed, not what ``PYTHONPATH`` names."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or str(python) == sys.executable}


# A process begins with the peak memory of the one that started it; this process, with PyTorch, is too large for that.
WATCH = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
begun = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet), 0)
print(used.ru_utime + used.ru_stime, time.perf_counter() - begun, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def whole_process(python: Path, photo: Path, runs: int, *options: str) -> Process:
    """`facesieve purify` of one photograph, ``runs`` times, after one that is not counted."""
    found = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            words = [python, "-m", "facesieve.cli", "purify", photo, "-o", folder, *options]
            watched = [sys.executable, "-S", "-c", WATCH, *words]
            done = subprocess.run(watched, cwd=folder, env=environment(python), stdout=subprocess.PIPE, check=True)
            found.append(tuple(map(float, done.stdout.split())))
    return Process(*(statistics.median(column) for column in zip(*found[1:], strict=True)))


def service_memory(python: Path, photo: Path, requests: int) -> tuple[float, float]:
    """The service's resident memory, MiB: its peak after ``requests`` requests, and its growth over the last nine tenths."""
    words = [python, "-m", "facesieve.cli", "serve", "--port", "0", "--log-level", "info"]
    log = photo.with_name("log")
    with log.open("w") as written, subprocess.Popen(words, cwd=photo.parent, env=environment(python), stderr=written) as process:
        try:
            while "\n" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"facesieve serve failed with exit code {process.returncode}")
                time.sleep(0.1)
            port = json.loads(log.read_text().splitlines()[0])["port"]
            return _after_requests(process.pid, f"http://127.0.0.1:{port}", photo.read_bytes(), requests)
        finally:
            process.terminate()


def _after_requests(pid: int, url: str, photo: bytes, requests: int) -> tuple[float, float]:
    early = 0.0
    _wait_for(f"{url}/readyz")
    for number in range(requests):
        request = urllib.request.Request(f"{url}/v1/purify", photo, {"Content-Type": "image/jpeg"})
        urllib.request.urlopen(request, timeout=120).read()
        if number == requests // 10:
            early = _status(pid, "VmRSS")
    return _status(pid, "VmHWM"), _status(pid, "VmRSS") - early


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:  # it does not listen yet, or says that it is not ready
            time.sleep(0.2)
    raise SystemExit("facesieve serve was not ready within a minute")


def _status(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


# --- runtimes ---------------------------------------------------------------------------------------


def runtimes() -> dict[str, Runtime]:
    """The default preset on every runtime, in every number format; OpenVINO where it is installed."""
    bf16 = choose_hardware("cpu", "auto").dtype == torch.bfloat16
    formats = ["fp32", "bf16"] if bf16 else ["fp32"]
    wanted = [("torch", name) for name in formats] + [("onnx", "fp32")] + [("openvino", name) for name in formats]
    chosen = preset(DEFAULT_PRESET)
    return {f"{name} {p}": RUNTIMES[name](chosen, prior=None, device="cpu", precision=p) for name, p in wanted}


def milliseconds(by_name: Mapping[str, Runtime], crops: Crops, rounds: int) -> dict[str, float]:
    """Ms a face of a batch: the median over rounds, in each of which every runtime has its turn."""
    times: dict[str, list[float]] = {name: [] for name in by_name}
    for number in range(rounds + 1):
        for name, runtime in by_name.items():
            runtime.purify(crops, range(len(crops)))
            begun = time.perf_counter()
            runtime.purify(crops, range(len(crops)))
            if number:  # the first is for warming up
                times[name].append(1000 * (time.perf_counter() - begun) / len(crops))
            time.sleep(RESTED)
    return {name: statistics.median(each) for name, each in times.items()}


def paper_milliseconds(crops: Crops) -> float:
    """Ms a face of ``paper`` on PyTorch, in the number format that it takes on this machine."""
    runtime = RUNTIMES["torch"](preset("paper"), prior=None, device="cpu", precision="auto")
    begun = time.perf_counter()
    runtime.purify(crops, range(len(crops)))
    return 1000 * (time.perf_counter() - begun) / len(crops)


def network_gflop() -> float:
    """What one face costs the network of the default preset, GFLOP."""
    chosen = preset(DEFAULT_PRESET)
    purifier = chosen.with_prior(load_prior(embedded_prior_folder(chosen.prior)))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        purifier(torch.zeros(1, 3, 128, 128), seeds=[0])
    return counter.get_total_flops() / 1e9


def sample_crops() -> Crops:
    """The faces of the sample photographs."""
    shield = load_shield(DEFAULT_PRESET)
    return np.concatenate([shield.cut(read_photo(path)).crops for path in sorted((ROOT / "samples").glob("*.jpg"))])


Figures = dict[str, tuple[str, float, int]]  # by name: what is wanted, the value, observations


def of_processes(python: Path, size: float | None, args: argparse.Namespace, folder: Path) -> Figures:
    """The figures of the install, of one photograph, and of the service."""
    photo = small_photo(folder)
    light = whole_process(python, photo, args.runs)
    heavy = whole_process(Path(sys.executable), photo, 3, "--runtime", "torch")
    found: Figures = {} if size is None else {"size of the small install, MB": ("<= 350", size / 1e6, 1)}
    found |= {
        "facesieve purify, one photograph of 400 px: processor time, s": ("<= 1.0", light.processor, args.runs),
        "facesieve purify, one photograph of 400 px: wall time, s": ("<= 1.2", light.wall, args.runs),
        "facesieve purify, one photograph of 400 px: peak memory, MiB": ("<= 250", light.memory, args.runs),
        "facesieve purify, one photograph of 400 px, on PyTorch: processor time, s": ("none set", heavy.processor, 3),
        "facesieve purify, one photograph of 400 px, on PyTorch: peak memory, MiB": ("none set", heavy.memory, 3),
    }
    if args.requests:
        peak, growth = service_memory(python, photo, args.requests)
        found[f"service, {args.requests:,} requests: peak memory, MiB"] = ("<= 350", peak, args.requests)
        found[f"service, {args.requests:,} requests: growth over the last nine tenths, MiB"] = ("none set", growth, args.requests)
    return found


def small_photo(folder: Path) -> Path:
    """A sample with a longer side of 400 pixels, in the folder."""
    image = Image.open(PHOTO)
    image.thumbnail((SIDE, SIDE))
    image.save(folder / "photo.jpg", quality=92)
    return folder / "photo.jpg"


def of_runtimes(args: argparse.Namespace) -> Figures:
    """The figures of the runtimes. What is over something else is a time over its time, so more is faster."""
    samples, loaded = sample_crops(), runtimes()
    batch = np.resize(samples, (BATCH, *samples.shape[1:]))
    times = milliseconds(loaded, batch, args.rounds)
    for name, each in times.items():
        print(f"{name}, batch {BATCH}: {each:.1f} ms a face")
    base, best = times["torch fp32"], min(times, key=lambda name: times[name])
    paper = paper_milliseconds(batch[: args.paper_faces])
    with torch.inference_mode():
        peak = max(peak_rate(dtype, 10) for dtype in {torch.float32, choose_hardware("cpu", "auto").dtype})
    print(f"paper on PyTorch: {paper:.0f} ms a face; best runtime: {best}; peak of a convolution: {peak:.0f} GFLOP/s")
    seeds = range(len(samples))
    exact = loaded["torch fp32"].purify(samples, seeds).crops
    found: Figures = {
        "ms a face, batch 8, torch fp32 over ONNX Runtime": (">= 1.3", base / times["onnx fp32"], args.rounds),
        f"ms a face, batch 8, torch fp32 over the best runtime ({best})": (">= 2", base / times[best], args.rounds),
        "ms a face, paper over the default preset on the best runtime": (">= 250", paper / times[best], args.paper_faces),
        "share of the convolution's peak in the best runtime, %": (
            ">= 65",
            1e5 * network_gflop() / times[best] / peak,
            args.rounds,
        ),
    }
    for name in loaded:
        if name != "torch fp32":
            difference = 255 * float(np.abs(loaded[name].purify(samples, seeds).crops - exact).max())
            wanted = "none set" if name.startswith("torch") else "<= 1"
            found[f"largest difference to torch fp32 of {name}, levels of 255"] = (wanted, difference, len(samples))
    return found


def told(figures: Figures) -> Figures:
    """The same, printed."""
    for name, (wanted, value, _) in figures.items():
        print(f"{name}: {value:.4g} (wanted {wanted})", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of an environment with the small install and the extra serve")
    parser.add_argument("--runs", type=int, default=10, help="of the whole process")
    parser.add_argument("--rounds", type=int, default=7, help="of the runtimes")
    parser.add_argument("--requests", type=int, default=1000, help="to the service; 0 leaves it out")
    parser.add_argument("--paper-faces", type=int, default=2)
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    print("; ".join(f"{name}: {value}" for name, value in summary().items()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = make_environment(folder) if args.python is None else (args.python, None)
        found = {**told(of_processes(*made, args, folder)), **told(of_runtimes(args))}
    if args.targets:
        about = {"area": "light", **origin("light.py", {str(args.python): "PYTHON"})}
        rounded = {name: (wanted, float(f"{value:.4g}"), n) for name, (wanted, value, n) in found.items()}
        keep_targets(TARGETS, [Target(target=t, wanted=w, value=value, n=n, **about) for t, (w, value, n) in rounded.items()])


if __name__ == "__main__":
    main()
