"""Speed and memory of purification: one table, against the peak rate of a large convolution in the same run.

    python benchmarks/purify.py [--repeats N] [--precisions fp32 bf16] [--presets robust paper ...] [--results FOLDER]

Each row: ms for one evaluation of the prior on one face, share of the convolution's rate that the
evaluation reaches, ms a face and faces a second for the whole purification, share of that time
outside of the network, peak resident memory of the process so far. Below the table: the time a face of `paper` over
that of `robust`, of one run, number format and batch; with --results the first of these joins the targets there.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import origin
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from facesieve.hardware import choose_hardware, summary
from facesieve.priors.embedded import EMBEDDED, PRIOR, embedded_prior_folder
from facesieve.priors.folder import load_prior
from facesieve.priors.network import NetworkPrior
from facesieve.purify import PRESETS, preset
from facesieve.report.targets import Target, keep_targets

COLUMNS = (
    "precision", "peak GFLOP/s", "batch", "preset", "ms / evaluation", "share of peak", "ms / face", "faces / s",
    "outside network", "peak memory MiB",
)  # fmt: skip


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def peak_rate(dtype: torch.dtype, repeats: int) -> float:
    """GFLOP/s of a 3 x 3 convolution, 256 to 256 channels, on 8 images of 64 x 64, channels last."""
    layer = nn.Conv2d(256, 256, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    x = torch.randn(8, 256, 64, 64).to(dtype, memory_format=torch.channels_last)
    return 2 * 256 * 256 * 9 * 64 * 64 * 8 / seconds(lambda: layer(x), repeats) / 1e9


class Timed:
    """A prior that adds up the time spent in it."""

    def __init__(self, prior: NetworkPrior) -> None:
        self.prior, self.shape, self.sha256, self.seconds = prior, prior.shape, prior.sha256, 0.0

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        begun = time.perf_counter()
        result = self.prior(u, sigma)
        self.seconds += time.perf_counter() - begun
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--presets", nargs="*", default=list(PRESETS))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    for name, value in summary().items():
        print(f"{name}: {value}")
    print()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    with torch.inference_mode():
        faces = {key: face for precision in args.precisions for key, face in table(precision, args).items()}
    print()
    ratios = {
        (precision, batch): face / faces[precision, batch, "robust"]
        for (precision, batch, name), face in faces.items()
        if name == "paper" and (precision, batch, "robust") in faces
    }
    for (precision, batch), ratio in ratios.items():
        print(f"time a face, paper over robust, {precision}, batch {batch}: {ratio:.0f}")
    if args.results is not None and ratios:
        made = origin("purify.py", {str(args.results): "FOLDER"})
        figure = {"value": round(next(iter(ratios.values())), 1), "n": rounds("paper", args.repeats)}
        target = "time a face, paper over robust, one run, same format"
        keep_targets(args.results / "targets.json", [Target(area="purifier", target=target, wanted=">= 150", **figure, **made)])


def rounds(name: str, repeats: int) -> int:
    """How often a preset is timed: ``repeats`` times as often as ten evaluations allow, at least once."""
    return max(1, 10 * repeats // preset(name).evaluations)


def table(precision: str, args: argparse.Namespace) -> dict[tuple[str, int, str], float]:
    """Print the rows of a number format; seconds a face by format, batch and preset."""
    faces = {}
    dtype = choose_hardware("cpu", precision).dtype
    peak = peak_rate(dtype, 5 * args.repeats)
    priors = {name: load_prior(embedded_prior_folder(name), dtype=dtype) for name in EMBEDDED}
    prior = priors[PRIOR]  # the others have the same network
    with FlopCounterMode(display=False) as counter:
        prior(torch.zeros(1, *prior.shape), 1.0)
    for batch in args.batches:
        images = torch.rand(batch, *prior.shape)
        evaluation = seconds(lambda images=images: prior(images, 1.0), 3 * args.repeats) / batch
        share = counter.get_total_flops() / evaluation / 1e9 / peak
        for name in args.presets:
            timed = Timed(priors[preset(name).prior])
            purifier = preset(name).with_prior(timed)
            times = []
            for _ in range(rounds(name, args.repeats)):
                begun = time.perf_counter()
                purifier(images, seeds=range(batch))
                times.append(time.perf_counter() - begun)
            face = faces[precision, batch, name] = statistics.median(times) / batch
            outside = 1 - timed.seconds / sum(times)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"| {precision} | {peak:.0f} | {batch} | {name} | {1000 * evaluation:.1f} | {share:.0%} | {1000 * face:.0f} "
                f"| {1 / face:.2f} | {outside:.1%} | {memory:.0f} |",
                flush=True,
            )
    return faces


if __name__ == "__main__":
    main()
