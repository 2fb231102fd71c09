"""What invalidates or weakens a number: computed from the record, said at the top of every report.

After Carlini et al., "On Evaluating Adversarial Robustness", 2019; Athalye, Carlini, Wagner,
"Obfuscated Gradients Give a False Sense of Security", ICML 2018; Croce and Hein, "Reliable
evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

from facesieve.report.record import NONE, THROUGH, AttackRecord, Record
from facesieve.report.tables import Tables

MORE = 0.01  # accuracy that an attack must take beyond another's to count as stronger
STILL = 0.01  # share of images without a gradient that is worth a warning
FEW = 100  # images under which an interval is wider than most differences


def checks(tables: Tables) -> list[str]:
    """One line for each reason not to take a number at face value; the worst first."""
    record = tables.record
    found = [*_unfinished(record), *_oblivious(record)]
    for attack in record.attacks:
        found += _alone(record, attack)
    whole = [attack for attack in record.attacks if attack.made_for is None]  # of a cascade nobody knows what it does alone
    for one, other in permutations(whole, 2):
        found += _compared(tables, one, other)
    return [*found, *_misled(tables), *_few(record)]


def _unfinished(record: Record) -> list[str]:
    return [] if record.complete else ["The run is not finished: some combinations are missing."]


def _oblivious(record: Record) -> list[str]:
    if not record.attacks or not any(cell.defence != NONE for cell in record.cells):
        return []
    if record.oblivious:
        return [
            "Every attack saw the recogniser alone, none saw a defence. An attacker who knows the defence does better; "
            "what these numbers say of robustness is an upper bound."
        ]
    noisy = [defence.name for defence in record.defences if defence.draws_noise]
    if not noisy or any(_averages(record, attack) for attack in record.experiment.get("attacks", ()) or [{}]):
        return []
    verb = "draws" if len(noisy) == 1 else "draw"
    return [f"{', '.join(noisy)} {verb} noise, and the attack did not average over it: its gradients were those of one draw."]


def _averages(record: Record, attack: dict[str, Any]) -> bool:
    """Whether an attack of the experiment averages over draws of noise."""
    return int(attack.get("eot_samples") or record.experiment["run"].get("eot_samples", 1)) > 1


def _alone(record: Record, attack: AttackRecord) -> list[str]:
    found = []
    if attack.still > STILL:
        found.append(
            f"{attack.name}: the gradient vanishes or is not finite at {100 * attack.still:.0f} % of the images: masked?"
        )
    if attack.left_ball > 0 and record.cell(attack.name, "uint8", NONE) is not None:
        found.append(
            f"{attack.name}: saved as 8 bit, {100 * attack.left_ball:.0f} % of the images lie further than eps "
            "from the clean ones; the uint8 figures are of another, rounded perturbation."
        )
    return found


def _compared(tables: Tables, one: AttackRecord, other: AttackRecord) -> list[str]:
    """What a comparison of two attacks with the same ball says against ``one``."""
    if (one.eps, one.norm, one.sees) != (other.eps, other.norm, other.sees):
        return []
    mine, theirs = _accuracy(tables, one.name), _accuracy(tables, other.name)
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


def _misled(tables: Tables) -> list[str]:
    """Defences behind which an attack that sees less of them, on as many images, beats the one with the exact gradient."""
    made = {
        (attack.attack, attack.name.partition(THROUGH)[2]): attack
        for attack in tables.record.attacks
        if attack.view and attack.made_for is None
    }
    rows = [(row, made[row.attack, row.defence]) for row in tables.rows if (row.attack, row.defence) in made]
    found = []
    for (row, attack), (other, less) in permutations(rows, 2):
        ball = (row.defence, row.quantisation, row.accuracy.n, attack.eps, attack.norm, attack.sees)
        same = ball == (other.defence, other.quantisation, other.accuracy.n, less.eps, less.norm, less.sees)
        if same and attack.view == "gradient" != less.view and row.accuracy.value - other.accuracy.value >= MORE:
            gap = f"{100 * other.accuracy.value:.1f} % against {100 * row.accuracy.value:.1f} %"
            found.append(
                f"{other.attack} has less of {row.defence} than {row.attack} and leaves less accuracy ({gap}): "
                "the exact gradient misleads there. The worst case stands."
            )
    return found


def _accuracy(tables: Tables, attack: str) -> float | None:
    """Without a defence; of the images as they are, where those were scored."""
    rows = [row for row in tables.rows if row.attack == attack and row.defence == NONE]
    row = next((r for r in rows if r.quantisation == "float"), rows[0] if rows else None)
    return None if row is None else row.accuracy.value


def _few(record: Record) -> list[str]:
    sizes = [len(cell.predicted) for cell in record.cells]
    if not sizes or min(sizes) >= FEW:
        return []
    least = [cell.defence for cell in record.cells if len(cell.predicted) == min(sizes)]
    return [f"Some figures are of {min(sizes)} images only ({least[0]}, for one): look at the intervals."]
