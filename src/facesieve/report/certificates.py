"""Certificates as a page: tables in Markdown, and the curves as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facesieve.files import write_with_folder
from facesieve.report.plots import as_svg, new_figure
from facesieve.report.targets import Target, commit
from facesieve.report.templates import markdown_row

SIZE = 128  # pixels of the crops that are certified
MARKED, WANTED = "0.25", {"sface": ">= 50"}  # the L2 radius and, in percent, what is wanted there
PIXELS = math.sqrt(3 * SIZE**2)


def as_levels(radius: float) -> float:
    """The largest L-infinity change, levels of 255, of all pixels at once that lies within an L2 radius."""
    return 255 * radius / PIXELS


def targets(figures: Mapping[str, Any]) -> list[Target]:
    """Of each recogniser what is certified at L2 0.25, in percent, by the strength of noise that certifies most."""
    best: dict[str, dict[str, Any]] = {}
    for row in figures["rows"]:
        if "sigma" in row:
            best[row["recogniser"]] = max(best.get(row["recogniser"], row), row, key=lambda each: each["certified"][MARKED][0])
    found = []
    for recogniser, row in best.items():
        value, low, high = (float(f"{100 * each:.4g}") for each in row["certified"][MARKED])
        found.append(
            Target(
                area="worst case", target=f"certified accuracy at L2 {MARKED}, {recogniser}",
                wanted=WANTED.get(recogniser, "none set"), value=value, low=low, high=high, n=row["n"],
                command=figures["command"], commit=commit(), defence=f"noise of {row['sigma']:g}, one step of the prior",
            )
        )  # fmt: skip
    return found


def draw(figures: Mapping[str, Any], out: Path) -> list[Path]:
    """``certificates.md`` and, of smoothing, ``certificates.svg``. Raises ``MissingExtraError`` without Matplotlib."""
    smoothed = [row for row in figures["rows"] if "sigma" in row]
    masked = [row for row in figures["rows"] if "patch" in row]
    parts = ["# Certificates", *(_smoothed(figures, smoothed) if smoothed else ()), *(_masked(masked) if masked else ())]
    parts.append(f"Made by `{figures['command']}`.")
    made = [out / "certificates.md"]
    write_with_folder(made[0], ("\n\n".join(parts) + "\n").encode())
    if smoothed:
        made.append(out / "certificates.svg")
        write_with_folder(made[1], _curves(smoothed).encode())
    return made


def _smoothed(figures: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    radii = list(rows[0]["certified"])
    head = ["recogniser", "noise", *(f"L2 {at} ({as_levels(float(at)):.2g}/255)" for at in radii), "abstained", "n"]
    lines = [
        [row["recogniser"], f"{row['sigma']:g}", *(_percent(row["certified"][at]) for at in radii), row["abstained"], row["n"]]
        for row in rows
    ]
    told = (
        "Share of photographs, %, whose name is right and proved to stay so under any change of the aligned crop within an "
        "L2 radius (pixels in [0, 1]; in brackets the L-infinity change of all pixels that lies within it). "
        f"{figures['first']} draws of noise choose the name, {figures['draws']} others are counted; each certificate is wrong "
        f"with a probability of at most {figures['alpha']:g} (Clopper-Pearson, one-sided). Who abstains is counted as wrong. In "
        "brackets behind each share: its 95 % interval over people. That the detector finds the same landmarks is assumed."
    )
    return [told, _table(head, lines), "![Certified accuracy by radius](certificates.svg)"]


def _masked(rows: list[dict[str, Any]]) -> list[str]:
    head = [
        "recogniser",
        "patch",
        "right without masks",
        "right with masks",
        "certified",
        "calls a face",
        "calls to certify",
        "n",
    ]
    lines = [
        [
            row["recogniser"], f"{100 * row['patch']:g} % ({row['side']} px)",
            *(_percent(row[what]) for what in ("bare", "name", "certified")),
            f"{row['calls']:.1f}", f"{row['all_calls']:.1f}", row["n"],
        ]
        for row in rows
    ]  # fmt: skip
    told = (
        "Share of photographs, %, whose name is right, and proved not to change whatever a square patch of that part of the crop "
        "shows, wherever it is: double masking (PatchCleanser), no purifier. A call is one face shown to the recogniser."
    )
    return [told, _table(head, lines)]


def _table(head: list[str], lines: list[list[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(map(markdown_row, rows))


def _percent(share: list[float]) -> str:
    value, low, high = (100 * each for each in share)
    return f"{value:.1f} ({low:.0f} to {high:.0f})"


def curve(row: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Every radius at which something ends, from 0, and the share in percent that is certified up to it, and beyond the last."""
    radii = row["radii"]
    shares = [100 * (len(radii) - place) / row["n"] for place in range(len(radii) + 1)]
    last = radii[-1:] or [0.0]
    return [0.0, *radii, *last], [shares[0], *shares]


def _curves(rows: list[dict[str, Any]]) -> str:
    drawn, axes = new_figure()
    for row in rows:
        axes.step(*curve(row), where="pre", label=f"{row['recogniser']}, {row['sigma']:g}")
    axes.set(xlabel="L2 radius, pixels in [0, 1]", ylabel="certified, %", ylim=(0, 101), xlim=(0, None))
    axes.secondary_xaxis("top", functions=(as_levels, lambda levels: levels * PIXELS / 255)).set_xlabel(
        "L-infinity, levels of 255"
    )
    axes.legend(title="recogniser, noise")
    return as_svg(drawn)
