"""What voids or weakens a number: computed from the record, said at the top of every report.

After Carlini et al., "On Evaluating Adversarial Robustness", 2019; Athalye, Carlini, Wagner,
"Obfuscated Gradients Give a False Sense of Security", ICML 2018; Croce and Hein, "Reliable
evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.
"""

from __future__ import annotations

from itertools import permutations

from facesieve.report.record import NONE, AttackRecord, Report
from facesieve.report.tables import hits

MORE = 0.01  # accuracy that an attack must take beyond another's to be said to be stronger
STILL = 0.01  # share of images without a gradient that is worth a word
FEW = 100  # images under which an interval is wider than most differences


def doubts(report: Report) -> list[str]:
    """One line for each reason not to trust a number as it stands; the worst first."""
    found = [*_unfinished(report), *_oblivious(report)]
    for attack in report.attacks:
        found += _alone(report, attack)
    for one, other in permutations(report.attacks, 2):
        found += _compared(report, one, other)
    return [*found, *_few(report)]


def _unfinished(report: Report) -> list[str]:
    return [] if report.complete else ["The run is not finished: some combinations are missing."]


def _oblivious(report: Report) -> list[str]:
    if not report.attacks or not any(cell.defence != NONE for cell in report.cells):
        return []
    threat, names = report.experiment["run"]["threat"], ", ".join(report.random_defences)
    if threat == "oblivious":
        return [
            "Every attack saw the recogniser alone, none saw a defence. An attacker who knows the defence does better; "
            "what these numbers say of robustness is an upper bound."
        ]
    if names and not int(report.experiment["run"].get("averaged", 1)) > 1:
        return [f"{names} draw noise, and the attack did not average over it: its gradients were those of one draw."]
    return []


def _alone(report: Report, attack: AttackRecord) -> list[str]:
    found = []
    if attack.still > STILL:
        found.append(
            f"{attack.name}: the gradient vanishes or is not finite at {100 * attack.still:.0f} % of the images: masked?"
        )
    if attack.left_ball > 0 and report.cell(attack.name, "uint8", NONE) is not None:
        found.append(
            f"{attack.name}: saved as 8 bit, {100 * attack.left_ball:.0f} % of the images lie further than eps "
            "from the clean ones; the uint8 figures are of another, rounded perturbation."
        )
    return found


def _compared(report: Report, one: AttackRecord, other: AttackRecord) -> list[str]:
    """What a comparison of two attacks with the same ball shows against ``one``."""
    if (one.eps, one.norm, one.sees) != (other.eps, other.norm, other.sees):
        return []
    mine, theirs = _accuracy(report, one.name), _accuracy(report, other.name)
    if mine is None or theirs is None or mine - theirs < MORE:
        return []
    gap = f"{100 * mine:.1f} % against {100 * theirs:.1f} %"
    if other.black_box and not one.black_box:
        return [
            f"{other.name} sees scores alone and leaves less accuracy than {one.name} ({gap}): the latter's gradients are masked."
        ]
    if other.method == "fgsm" and one.method != "fgsm":
        return [
            f"One step ({other.name}) leaves less accuracy than many ({one.name}; {gap}): the gradients of the latter mislead."
        ]
    if one.method == other.method and one.iterations < other.iterations:
        return [f"More iterations still help the attack: {one.name} has not converged ({gap} of {other.name})."]
    return []


def _accuracy(report: Report, attack: str) -> float | None:
    cells = [cell for cell in report.cells if cell.attack == attack and cell.defence == NONE and cell.point == ""]
    cell = next((c for c in cells if c.quantisation == "float"), cells[0] if cells else None)
    return None if cell is None else float(hits(report, cell).mean())


def _few(report: Report) -> list[str]:
    sizes = [len(cell.predicted) for cell in report.cells]
    if not sizes or min(sizes) >= FEW:
        return []
    least = [cell.defence for cell in report.cells if len(cell.predicted) == min(sizes)]
    return [f"Some figures are of {min(sizes)} images only ({least[0]}, for one): look at the intervals."]
