"""The worst case per image, counted by hand; an attack that was tried behind defences alone; a run that was stopped."""

import numpy as np
import pytest

from facesieve.report.checks import checks
from facesieve.report.pages.html import html
from facesieve.report.pages.markdown import markdown
from facesieve.report.record import NONE, AttackRecord, Cell, DefenceRecord, Record
from facesieve.report.tables import figures, tables_of
from facesieve.report.targets import measured
from facesieve.report.worst import worst_cells

LABELS = tuple(range(10))


def attack(name, eps=2.0, defence=None, view=""):
    full = name if defence is None else f"{name}, through {defence}"
    return AttackRecord(
        name=full, method="pgd", eps=eps, norm="linf", iterations=40, sees="net", black_box=False, left_ball=0.0, still=0.0,
        seconds=1.0, view=view, draws=2 if view else 1,
    )  # fmt: skip


def cell(attack, wrong, defence="robust", n=10, impostor=0.5):
    """The first ``n`` images, of which those in ``wrong`` are given their neighbour's name."""
    predicted = tuple((i + 1) % 10 if i in wrong else i for i in range(n))
    genuine = tuple(0.4 if i in wrong else 0.6 + 0.01 * i for i in range(n))
    others = tuple(impostor + 0.001 * i for i in range(n))
    return Cell(
        attack=attack, quantisation="uint8", defence=defence, point="", predicted=predicted, genuine=genuine, impostor=others,
        probability=None, seconds=None,
    )  # fmt: skip


CLEAN = [cell(NONE, (), NONE), cell(NONE, (0,))]
SEEN = [
    attack("EOT, eps 2/255", defence="robust", view="gradient"),
    attack("range, eps 2/255", defence="robust", view="range"),
    attack("BPDA, eps 2/255", defence="robust", view="identity"),
    attack("EOT, eps 8/255", 8.0, "robust", "gradient"),
]
TRIED = [
    cell("EOT, eps 2/255", (1, 2, 3)),
    cell("range, eps 2/255", (3, 4)),
    cell("BPDA, eps 2/255", (0,), n=4),
    cell("EOT, eps 8/255", tuple(range(9))),
]
RECOGNISER = {"enrolled": "raw"}


def record(cells, attacks, *, complete=True, targets=(), recogniser=RECOGNISER):
    return Record(
        experiment={"run": {"far": 0.2}, "defences": [], "attacks": [], "targets": targets, "recogniser": recogniser},
        environment={"recogniser": "net", "command": "facesieve evaluate e.toml"}, people=tuple("p" * 10), labels=LABELS,
        closed_set=False, attacks=attacks, cells=tuple(cells), pictures={}, complete=complete,
        defences=(DefenceRecord(name="robust", family="robust", preset="robust", baseline=None, swept={}, draws_noise=True),),
    )  # fmt: skip


def test_an_image_counts_as_kept_only_where_all_attacks_of_a_ball_fail():
    found = {cell.attack: cell for cell in worst_cells(record([*CLEAN, *TRIED], SEEN))}
    assert set(found) == {"worst case of 2 attacks, eps 2/255", "worst case of 3 attacks, eps 2/255"}  # one alone at 8/255
    two, three = found["worst case of 2 attacks, eps 2/255"], found["worst case of 3 attacks, eps 2/255"]
    assert [i for i in range(10) if two.predicted[i] != i] == [1, 2, 3, 4]
    assert [i for i in range(4) if three.predicted[i] != i] == [0, 1, 2, 3]  # of the four images that all of them had
    assert len(three.predicted) == 4
    margins = np.array([np.subtract(c.genuine, c.impostor) for c in TRIED[:2]])
    np.testing.assert_allclose(np.subtract(two.genuine, two.impostor), margins.min(0))


def test_the_worst_case_is_a_row_a_table_and_a_figure():
    tables = tables_of(record([*CLEAN, *TRIED], SEEN))
    values = figures(tables)
    assert values["accuracy, robust, worst case of 2 attacks, eps 2/255, uint8"].value == pytest.approx(0.6)
    assert values["accuracy, robust, worst case of 3 attacks, eps 2/255, uint8"].value == 0
    assert values["margin, robust, EOT, eps 8/255, uint8"].value < values["margin, robust, EOT, eps 2/255, uint8"].value
    text = markdown(tables)
    assert "## worst case of 2 attacks, eps 2/255, saved as 8 bit (uint8)" in text
    assert "each of these attacks fails" in text
    assert "2 draws a step" in text
    assert "none saw a defence" not in text
    assert html(tables)


def test_attacks_of_other_balls_and_forms_are_no_part_of_it():
    other = [attack("a", 2.0), attack("b", 4.0)]
    assert worst_cells(record([*CLEAN, cell("a", (1,)), cell("b", (2,))], other)) == []


def test_an_attack_that_was_tried_behind_defences_alone_has_no_recovery():
    [row] = [row for row in tables_of(record([*CLEAN, TRIED[0]], SEEN[:1])).rows if row.attack != NONE]
    assert (row.undefended, row.recovery) == (None, None)
    assert row.kept.value == pytest.approx(0.7)


def test_each_defence_has_a_threshold_of_its_own_where_people_are_enrolled_behind_it():
    """At FAR 20 % of ten strangers two are accepted: the threshold lies above the third best of 0.500 to 0.509."""
    cells = [cell(NONE, (), NONE, impostor=0.7), cell(NONE, (0,))]
    raw, own = (
        {row.defence: row for row in tables_of(record(cells, [], recogniser={"enrolled": kind})).rows}
        for kind in ("raw", "purified")
    )
    assert raw["robust"].frr.value == 1  # all genuine scores of 0.4 and 0.6 to 0.69 lie under 0.707
    assert own["robust"].frr.value == pytest.approx(0.1)
    assert own["robust"].far.value == pytest.approx(0.2)
    assert own[NONE].frr.value == raw[NONE].frr.value


TARGETS = tuple(
    {"measure": "accuracy", "figure": f"accuracy, robust, {what}, uint8", "wanted": ">= 70", "target": what, "area": "worst case",
     "percent": True}
    for what in ("EOT, eps 2/255", "worst case of 3 attacks, eps 2/255")
)  # fmt: skip


def test_a_run_that_was_stopped_is_said_to_be_and_records_the_targets_that_it_came_to():
    made = record([*CLEAN, TRIED[0]], SEEN[:1], complete=False, targets=TARGETS)
    assert "not finished" in markdown(tables_of(made))
    [target] = measured(made)
    assert (target.target, target.value, target.reached, target.area) == ("EOT, eps 2/255", 70, True, "worst case")
    assert target.command == "facesieve evaluate e.toml"


def test_an_attack_that_sees_less_and_leaves_less_is_said_to_mislead_the_one_that_sees_all():
    def said(*tried):
        return [line for line in checks(tables_of(record([*CLEAN, *tried], SEEN))) if "misleads" in line]

    ranged = cell("range, eps 2/255", tuple(range(5)))
    [line] = said(TRIED[0], ranged)
    assert line.startswith(
        "range, eps 2/255 has less of robust than EOT, eps 2/255 and leaves less accuracy (50.0 % against 70.0 %)"
    )
    assert said(*TRIED) == []  # the range attack leaves more; BPDA was tried on fewer images, EOT at 8/255 is of another ball
