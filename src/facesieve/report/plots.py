"""A report's curves, heat maps and fronts, as SVG."""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import numpy as np

from facesieve.errors import MissingExtraError
from facesieve.report.record import NONE, Report
from facesieve.report.tables import Row, rows


def plots(report: Report) -> list[tuple[str, str]]:
    """Titles and SVG texts. Raises ``MissingExtraError`` without Matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("drawing a report", "evaluate") from error
    mpl.use("Agg")
    found = rows(report)
    made = [*_curves(report, found), *_fronts(found), *_heat_maps(report, found), *_distributions(report)]
    return [(title, _svg(figure)) for title, figure in made]


def _figure(width: float = 7.0, height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "facesieve", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curves(report: Report, found: list[Row]) -> list[tuple[str, Any]]:
    """Accuracy over eps, a line a defence, for every method that was run at several eps."""
    from matplotlib import colormaps

    eps = {attack.name: attack.eps for attack in report.attacks}
    made = []
    kinds = {(a.method, a.sees) for a in report.attacks}
    for method, sees in sorted(kinds):
        names = [a.name for a in report.attacks if (a.method, a.sees) == (method, sees)]
        for quantisation in ("float", "uint8"):
            chosen = [r for r in found if r.attack in names and r.quantisation == quantisation]
            if len({eps[r.attack] for r in chosen}) < 2:
                continue
            figure, axes = _figure(8.5, 4.5)
            axes.set_prop_cycle(color=colormaps["tab20"].colors)  # type: ignore[attr-defined]
            for defence in dict.fromkeys(r.defence for r in chosen):
                own = sorted((eps[r.attack], r) for r in chosen if r.defence == defence)
                x, y = [e for e, _ in own], [100 * r.accuracy.value for _, r in own]
                spread = np.abs(
                    np.array(
                        [[100 * (r.accuracy.value - r.accuracy.low), 100 * (r.accuracy.high - r.accuracy.value)] for _, r in own]
                    ).T
                )
                axes.errorbar(
                    x, y, yerr=np.nan_to_num(spread), marker="o", capsize=2, label="no defence" if defence == NONE else defence
                )
            axes.set(xlabel="eps, levels of 255", ylabel="accuracy, %", xscale="log", ylim=(-2, 102))
            axes.set_xticks(sorted(set(eps.values())), [f"{e:g}" for e in sorted(set(eps.values()))])
            axes.minorticks_off()
            figure.legend(loc="outside right upper", fontsize=7)
            made.append((f"Accuracy over eps: {method}, {quantisation}", figure))
    return made


def _fronts(found: list[Row]) -> list[tuple[str, Any]]:
    """Clean against attacked accuracy, a point a defence; the ones that no other beats in both are joined."""
    clean = {row.defence: 100 * row.accuracy.value for row in found if row.attack == NONE}
    made = []
    for attack, quantisation in dict.fromkeys((r.attack, r.quantisation) for r in found if r.attack != NONE):
        points = [(clean[r.defence], 100 * r.accuracy.value, r.defence) for r in found
                  if (r.attack, r.quantisation) == (attack, quantisation) and r.defence in clean]  # fmt: skip
        if len(points) < 4:
            continue
        front = sorted(p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points))
        figure, axes = _figure()
        axes.scatter([p[0] for p in points], [p[1] for p in points], color="0.6")
        axes.plot([p[0] for p in front], [p[1] for p in front], "o-", color="tab:red", label="front")
        for x, y, name in front if len(points) > 14 else points:
            axes.annotate(name, (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axes.set(xlabel="accuracy on clean images, %", ylabel="accuracy on attacked images, %")
        axes.legend(fontsize=7)
        made.append((f"Accuracy and robustness: {attack}, {quantisation}", figure))
    return made


def _heat_maps(report: Report, found: list[Row]) -> list[tuple[str, Any]]:
    """Accuracy over two swept settings, for every sweep of two or more."""
    made = []
    for defence in report.experiment["defences"]:
        for one, two in combinations(defence["sweep"], 2):
            stem = defence["name"] or defence["preset"] or defence["baseline"]
            for attack, quantisation in dict.fromkeys((r.attack, r.quantisation) for r in found):
                grid = _grid(
                    stem, defence["sweep"], (one, two), [r for r in found if (r.attack, r.quantisation) == (attack, quantisation)]
                )
                if np.isnan(grid).all():
                    continue
                figure, axes = _figure(4.5, 3.5)
                shown = axes.imshow(grid, aspect="auto", vmin=0, vmax=100, cmap="viridis")
                axes.set_xticks(range(grid.shape[1]), [str(v) for v in defence["sweep"][two]])
                axes.set_yticks(range(grid.shape[0]), [str(v) for v in defence["sweep"][one]])
                axes.set(xlabel=two, ylabel=one)
                for (i, j), value in np.ndenumerate(grid):
                    axes.text(
                        j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 60 else "black", fontsize=8
                    )
                figure.colorbar(shown, label="accuracy, %")
                what = "clean images" if attack == NONE else f"{attack}, {quantisation}"
                made.append((f"{stem}: {one} and {two}, {what}", figure))
    return made


def _grid(stem: str, sweep: dict[str, list[Any]], axes: tuple[str, str], found: list[Row]) -> np.ndarray:
    """Best accuracy, in percent, over the sweep's other settings: (values of the first, values of the second)."""
    one, two = axes
    grid = np.full((len(sweep[one]), len(sweep[two])), np.nan)
    for row in found:
        head, _, words = row.defence.partition(", ")
        values = dict(word.rsplit(" ", 1) for word in words.split(", ")) if words else {}
        if head != stem or values.keys() != sweep.keys():
            continue
        i = [str(v) for v in sweep[one]].index(values[one])
        j = [str(v) for v in sweep[two]].index(values[two])
        grid[i, j] = np.nanmax([grid[i, j], 100 * row.accuracy.value])
    return grid


def _distributions(report: Report) -> list[tuple[str, Any]]:
    """The right person's probability (or score) over all images, at each step of a defence."""
    made = []
    groups = dict.fromkeys((c.attack, c.quantisation, c.defence) for c in report.cells if c.point)
    for attack, quantisation, defence in groups:
        cells = [c for c in report.cells if (c.attack, c.quantisation, c.defence) == (attack, quantisation, defence)]
        start = report.cell(attack, quantisation, NONE)
        assert start is not None
        n = len(cells[0].own)
        values = [np.array(c.probability if c.probability is not None else c.own)[:n] for c in [start, *cells]]
        figure, axes = _figure()
        axes.violinplot(values, showmedians=True)
        axes.set_xticks(range(1, len(values) + 1), ["before", *(c.point or "at the end" for c in cells)], fontsize=7)
        axes.set_ylabel("probability of the right person" if report.closed_set else "score of the right person")
        made.append((f"Step by step: {defence}, {attack} ({quantisation})", figure))
    return made
