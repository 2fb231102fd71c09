"""Which part of a perturbation survives a defence: by frequency band, by channel, by stage.

    python experiments/survival.py RUN --experiment experiments/paper-sface.toml --source DIR --cache DIR --name sface

For every image, with the same noise, the difference between the purified adversarial and the purified
clean image is what is left of the perturbation. Its energy, over that of the perturbation itself, in bands
of spatial frequency (cycles a pixel), for the luminance (mean of the channels) and the chroma (the rest).
Above 1 a defence adds what was not there: detail that it invents differently for the two images. The
batches come from the run's cache, so a finished run is read and not made again.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from bench import RESULTS, how, write
from torch import Tensor

from facesieve.evaluate.defend import defend
from facesieve.evaluate.experiment import read_experiment
from facesieve.evaluate.run import Run

EDGES = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 0.75)  # cycles a pixel; a 2 x 2 block mean passes up to 1/4


def energy(change: Tensor) -> Tensor:
    """Mean squared amplitude of images (N, 3, S, S), by channel kind and band: (2, bands)."""
    luminance = change.mean(1, keepdim=True).expand_as(change)
    grid = torch.fft.fftfreq(change.shape[-1])
    radius = (grid[:, None] ** 2 + grid[None] ** 2).sqrt()
    rows = []
    for part in (luminance, change - luminance):
        power = torch.fft.fft2(part, norm="ortho").abs().square().mean((0, 1))
        rows.append(torch.stack([power[(radius >= a) & (radius < b)].sum() for a, b in pairwise(EDGES)]))
    return torch.stack(rows)


def survival(run: Run, name: str) -> list[dict[str, object]]:
    """A row for each defence's step and channel kind."""
    rows = []
    attack = next(a for a in run.attacks if a.name == name)
    attacked = run.adversarial(attack, run.count(attack)).images["uint8"]
    for defence, n in run.faced_by(attack):
        pair = [defend(defence, images[:n], run.context) for images in (run.images, attacked)]
        before = energy(attacked[:n] - run.images[:n])
        for (point, clean), (_, adversarial) in zip(pair[0].points, pair[1].points, strict=True):
            left = energy(adversarial - clean) / before
            for kind, values in zip(("luminance", "chroma"), left.tolist(), strict=True):
                rows.append(
                    {
                        "defence": defence.name,
                        "after": point or "the end",
                        "channel": kind,
                        "n": n,
                        "left": [round(v, 3) for v in values],
                    }
                )
            print(rows[-2]["defence"], rows[-2]["after"], rows[-2]["left"], rows[-1]["left"], flush=True)
    return rows


def figure(rows: list[dict[str, object]], path: Path, title: str) -> None:
    """Bars by band: the end of each preset, luminance above chroma."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    bands = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(EDGES)]
    names = [
        n
        for n in dict.fromkeys(r["defence"] for r in rows)
        if not str(n).startswith(("jpeg", "bit", "wave", "total", "non-", "feat"))
    ]
    for place, kind in enumerate(("luminance", "chroma")):
        axes = figure.add_subplot(2, 1, place + 1)
        axes.set_prop_cycle(color=colormaps["tab20"].colors)
        chosen = [next(r for r in rows if (r["defence"], r["after"], r["channel"]) == (n, "the end", kind)) for n in names]
        for number, row in enumerate(chosen):
            left = [i + 0.8 * number / len(chosen) for i in range(len(bands))]
            axes.bar(left, row["left"], 0.8 / len(chosen), label=row["defence"])
        axes.set_xticks([i + 0.4 for i in range(len(bands))], bands)
        axes.axhline(1, color="0.7", linewidth=0.8)
        axes.set(title=f"{title}: {kind}", ylabel="energy left", yscale="log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=7, ncols=3)
    axes.set_xlabel("spatial frequency, cycles a pixel")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--experiment", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--attack", help="its name; the first if not given")
    parser.add_argument("--name", required=True, help="of the recogniser, in file names")
    args = parser.parse_args()
    run = Run(read_experiment(args.experiment), args.source, args.run, manifest=args.run / "manifest.json", cache=args.cache)
    name = args.attack or run.attacks[0].name
    rows = survival(run, name)
    write(RESULTS / f"survival-{args.name}.json", {"attack": name, "edges": EDGES, "rows": rows, **how(args.run)})
    figure(rows, RESULTS.parent / "pictures" / f"survival-{args.name}.png", f"{args.name}, {name}")


if __name__ == "__main__":
    main()
