"""A record's curves, heat maps and fronts, as SVG."""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import numpy as np

from facesieve.errors import MissingExtraError
from facesieve.report.record import NONE, DefenceRecord
from facesieve.report.tables import Row, Tables
from facesieve.report.text import step_name

Titled = tuple[str, Any]  # and a figure
Point = tuple[float, float, str]  # accuracy on clean and on attacked images, in percent, and a name
NEAR = 6.0  # percent of accuracy within which two labels would cover each other


def plots(tables: Tables) -> list[tuple[str, str]]:
    """Titles and SVG texts. Raises ``MissingExtraError`` without Matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("drawing a report", "evaluate") from error
    mpl.use("Agg")
    made = [*_curves(tables), *_fronts(tables.rows), *_heat_maps(tables), *_distributions(tables)]
    return [(title, as_svg(figure)) for title, figure in made]


def new_figure(width: float = 5.6, height: float = 4.0) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def as_svg(figure: Any) -> str:
    """The same text each time."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "facesieve", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curves(tables: Tables) -> list[Titled]:
    """Accuracy over eps, one line per defence, for every method that was run at several eps."""
    made = []
    attacks = {attack.attack: attack for attack in reversed(tables.record.attacks)}  # the first of each name
    eps = {name: attack.eps for name, attack in attacks.items()}
    for method, sees, view in sorted({(a.method, a.sees, a.view) for a in attacks.values()}):
        names = [name for name, a in attacks.items() if (a.method, a.sees, a.view) == (method, sees, view)]
        for quantisation in ("float", "uint8"):
            chosen = [r for r in tables.rows if r.attack in names and r.quantisation == quantisation]
            if len({eps[r.attack] for r in chosen}) > 1:
                made.append((f"Accuracy over eps: {method}{f', {view}' if view else ''}, {quantisation}", _curve(chosen, eps)))
    return made


def _curve(rows: list[Row], eps: dict[str, float]) -> Any:
    from matplotlib import colormaps

    defences = list(dict.fromkeys(row.defence for row in rows))
    figure, axes = new_figure(height=3.6 + 0.2 * len(defences))  # the names stand below, one a line
    axes.set_prop_cycle(color=colormaps["tab20"].colors)  # type: ignore[attr-defined]
    for defence in defences:
        line = sorted(((eps[r.attack], r.accuracy) for r in rows if r.defence == defence), key=lambda point: point[0])
        x, found = [e for e, _ in line], [a for _, a in line]
        y, spread = [100 * a.value for a in found], np.array([(a.value - a.low, a.high - a.value) for a in found]).T
        label = "no defence" if defence == NONE else defence
        axes.errorbar(x, y, yerr=100 * np.abs(np.nan_to_num(spread)), marker="o", capsize=2, label=label, clip_on=False)
    axes.set(xlabel="eps, levels of 255", ylabel="accuracy, %", xscale="log", ylim=(0, 100))
    axes.set_xticks(sorted(set(eps.values())), [f"{e:g}" for e in sorted(set(eps.values()))])
    axes.minorticks_off()
    figure.legend(loc="outside lower left", fontsize=8)
    return figure


def _fronts(rows: tuple[Row, ...]) -> list[Titled]:
    """Clean against attacked accuracy, one point per defence; those that no other beats in both are joined."""
    clean = {row.defence: 100 * row.accuracy.value for row in rows if row.attack == NONE}
    made = []
    for attack, quantisation in dict.fromkeys((r.attack, r.quantisation) for r in rows if r.attack != NONE):
        points = [(clean[r.defence], 100 * r.accuracy.value, r.defence) for r in rows
                  if (r.attack, r.quantisation) == (attack, quantisation) and r.defence in clean]  # fmt: skip
        if len(points) < 4:
            continue
        front = sorted(p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points))
        named = sorted(front if len(points) > 14 else points, key=lambda p: (-p[1], -p[0]))
        figure, axes = new_figure(height=3.4 + 0.17 * len(named))
        axes.scatter([p[0] for p in points], [p[1] for p in points], color="0.6", clip_on=False)
        axes.plot([p[0] for p in front], [p[1] for p in front], "o-", color="tab:red", clip_on=False)
        low = max(0.0, min(p[0] for p in points) - 5)
        axes.set(xlabel="accuracy on clean images, %", ylabel="accuracy on attacked images, %", xlim=(low, 100), ylim=(0, 100))
        for x, y, label in _labels(named, 100 - low):
            axes.annotate(label, (x, y), fontsize=8, xytext=(4, 4), textcoords="offset points")
        names = "\n".join(f"{number}  {name}" for number, (_, _, name) in enumerate(named, 1))
        figure.supxlabel(f"{names}\n(red: none is better in both)", x=0.02, ha="left", fontsize=8)
        made.append((f"Accuracy and robustness: {attack}, {quantisation}", figure))
    return made


def _labels(named: list[Point], width: float) -> list[tuple[float, float, str]]:
    """The points' numbers, where they stand; points that lie so near that these would cover each other share one."""
    groups: list[tuple[float, float, list[int]]] = []
    for number, (x, y, _) in enumerate(named, 1):
        near = next((g for g in groups if abs(g[0] - x) < 0.08 * width and abs(g[1] - y) < NEAR), None)
        if near is None:
            groups.append((x, y, [number]))
        else:
            near[2].append(number)
    return [(x, y, ", ".join(map(str, numbers))) for x, y, numbers in groups]


def _heat_maps(tables: Tables) -> list[Titled]:
    """Accuracy over two swept settings, for every sweep of two or more."""
    made = []
    families: dict[str, list[DefenceRecord]] = {}
    for defence in tables.record.defences:
        families.setdefault(defence.family, []).append(defence)
    for family, members in families.items():
        for one, two in combinations(members[0].swept, 2):
            for attack, quantisation in dict.fromkeys((r.attack, r.quantisation) for r in tables.rows):
                rows = {r.defence: r for r in tables.rows if (r.attack, r.quantisation) == (attack, quantisation)}
                grid = _grid(members, one, two, rows)
                if np.isnan(grid).all():
                    continue
                what = "clean images" if attack == NONE else f"{attack}, {quantisation}"
                made.append((f"{family}: {one} and {two}, {what}", _heat_map(members, one, two, grid)))
    return made


def _values(members: list[DefenceRecord], setting: str) -> list[Any]:
    return list(dict.fromkeys(member.swept[setting] for member in members))


def _grid(members: list[DefenceRecord], one: str, two: str, rows: dict[str, Row]) -> np.ndarray:
    """Best accuracy, in percent, over the sweep's other settings: (values of the first, values of the second)."""
    first, second = _values(members, one), _values(members, two)
    grid = np.full((len(first), len(second)), np.nan)
    for member in members:
        if member.name in rows:
            place = first.index(member.swept[one]), second.index(member.swept[two])
            grid[place] = np.nanmax([grid[place], 100 * rows[member.name].accuracy.value])
    return grid


def _heat_map(members: list[DefenceRecord], one: str, two: str, grid: np.ndarray) -> Any:
    figure, axes = new_figure(4.5, 3.5)
    shown = axes.imshow(grid, aspect="auto", vmin=0, vmax=100, cmap="viridis")
    axes.set_xticks(range(grid.shape[1]), [str(value) for value in _values(members, two)])
    axes.set_yticks(range(grid.shape[0]), [str(value) for value in _values(members, one)])
    axes.set(xlabel=two, ylabel=one)
    for (i, j), value in np.ndenumerate(grid):
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 60 else "black", fontsize=8)
    figure.colorbar(shown, label="accuracy, %")
    return figure


def _distributions(tables: Tables) -> list[Titled]:
    """The correct person's probability (or score) over all images, at each step of a defence."""
    made = []
    for along in tables.steps:
        figure, axes = new_figure()
        axes.violinplot([step.values for step in along.steps], showmedians=True)
        axes.set_xticks(range(1, len(along.steps) + 1), [step_name(step.point) for step in along.steps], fontsize=8)
        axes.tick_params("x", rotation=20)
        if tables.record.closed_set:
            axes.set_ylim(0, 1)
        axes.set_ylabel("probability of the correct person" if tables.record.closed_set else "score of the correct person")
        made.append((f"Step by step: {along.defence}, {along.attack} ({along.quantisation})", figure))
    return made
