"""Every warning fires on a planted cause, and on that alone; the numbers are those of hand-counted trials."""

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from facesieve.errors import InputError
from facesieve.metrics.intervals import Estimate
from facesieve.report import pages, plots, published
from facesieve.report.checks import checks
from facesieve.report.pages import PAGES, draw
from facesieve.report.pages.html import html
from facesieve.report.pages.markdown import markdown
from facesieve.report.record import NONE, AttackRecord, Cell, DefenceRecord, Record, load_record, save_record
from facesieve.report.tables import tables_of

PEOPLE, EACH = 30, 4
LABELS = tuple(np.tile(np.arange(PEOPLE), EACH).tolist())
N = len(LABELS)


def attack(name, **changed):
    plain = {
        "name": name, "method": "pgd", "eps": 8.0, "norm": "linf", "iterations": 40, "sees": "net", "black_box": False,
        "left_ball": 0.0, "still": 0.0, "seconds": 1.0,
    }  # fmt: skip
    return AttackRecord(**(plain | changed))


def cell(right, *, attack=NONE, defence=NONE, quantisation="float", point="", n=N, probability=None):
    """The first ``right`` of ``n`` images get their name, the others their neighbour's."""
    labels = np.array(LABELS[:n])
    predicted = np.where(np.arange(n) < right, labels, (labels + 1) % PEOPLE)
    hit = predicted == labels
    return Cell(
        attack=attack, quantisation=quantisation, defence=defence, point=point, predicted=tuple(predicted.tolist()),
        genuine=tuple(np.where(hit, 0.8, 0.05).tolist()),
        impostor=tuple(np.where(hit, 0.1 + 0.0005 * np.arange(n), 0.6).tolist()),
        probability=probability, seconds=None if defence == NONE else 0.25,
    )  # fmt: skip


def record(cells, attacks=(), *, threat="oblivious", random=(), closed_set=False, complete=True):
    run = {"threat": threat, "far": 0.01}
    noisy = tuple(
        DefenceRecord(name=name, family=name, preset=name, baseline=None, swept={}, draws_noise=True) for name in random
    )
    return Record(
        experiment={"run": run, "defences": []}, environment={"recogniser": "net <b>"}, people=tuple("p" * PEOPLE),
        labels=LABELS, pictures={}, closed_set=closed_set, defences=noisy, attacks=attacks, cells=tuple(cells),
        complete=complete,
    )  # fmt: skip


def doubts(made):
    return checks(tables_of(made))


def rows(made):
    return tables_of(made).rows


CLEAN = cell(N, quantisation="uint8")


def test_nothing_to_doubt():
    one = attack("pgd")
    assert doubts(record([CLEAN, cell(12, attack="pgd")], [one])) == []


def only(found, *, said):
    assert len(found) == 1, found
    assert said in found[0]


def test_the_attacks_saw_no_defence():
    cells = [CLEAN, cell(0, attack="pgd"), cell(60, attack="pgd", defence="fast")]
    only(doubts(record(cells, [attack("pgd")])), said="upper bound")


def test_a_random_defence_attacked_without_averaging():
    cells = [CLEAN, cell(0, attack="pgd"), cell(60, attack="pgd", defence="fast")]
    only(doubts(record(cells, [attack("pgd")], threat="white-box", random=("fast",))), said="did not average")
    assert doubts(record(cells, [attack("pgd")], threat="white-box")) == []


def test_a_masked_gradient():
    only(doubts(record([CLEAN, cell(60, attack="pgd")], [attack("pgd", still=0.5)])), said="50 % of the images")


def test_a_black_box_attack_wins():
    both = [attack("pgd"), attack("square", method="square", black_box=True)]
    only(doubts(record([CLEAN, cell(60, attack="pgd"), cell(30, attack="square")], both)), said="gradients are masked")
    assert doubts(record([CLEAN, cell(30, attack="pgd"), cell(60, attack="square")], both)) == []


def test_one_step_beats_many():
    both = [attack("pgd"), attack("fgsm", method="fgsm", iterations=1)]
    only(doubts(record([CLEAN, cell(60, attack="pgd"), cell(30, attack="fgsm")], both)), said="One step")


def test_more_iterations_still_help():
    both = [attack("pgd"), attack("pgd, longer", iterations=80)]
    only(doubts(record([CLEAN, cell(60, attack="pgd"), cell(30, attack="pgd, longer")], both)), said="has not converged")
    other_ball = [both[0], attack("pgd, longer", iterations=80, eps=4.0)]
    assert doubts(record([CLEAN, cell(60, attack="pgd"), cell(30, attack="pgd, longer")], other_ball)) == []


def test_saving_left_the_ball():
    cells = [CLEAN, cell(0, attack="pgd"), cell(0, attack="pgd", quantisation="uint8")]
    only(doubts(record(cells, [attack("pgd", left_ball=0.9)])), said="90 % of the images lie further than eps")


def test_few_images_and_an_unfinished_run():
    found = doubts(record([CLEAN, cell(5, attack="pgd", n=30)], [attack("pgd")], complete=False))
    assert "not finished" in found[0]
    assert "30 images only" in found[-1]


# --- numbers --------------------------------------------------------------------------------------


def test_accuracy_recovery_and_loss_are_the_counted_ones():
    cells = [
        CLEAN,
        cell(114, defence="fast", quantisation="uint8"),
        cell(24, attack="pgd"),
        cell(72, attack="pgd", defence="fast"),
        cell(30, attack="pgd", defence="paper", n=60),
    ]
    found = {(row.attack, row.defence): row for row in rows(record(cells, [attack("pgd")]))}
    assert found[NONE, "fast"].lost.value == pytest.approx(6 / 120)
    assert found["pgd", "fast"].accuracy.value == pytest.approx(0.6)
    assert found["pgd", "fast"].recovery.value == pytest.approx((0.6 - 0.2) / (1 - 0.2))
    # on fewer images, recovery is against the same images: of the first 60, 24 are right without a defence
    assert found["pgd", "paper"].recovery.value == pytest.approx((30 - 24) / (60 - 24))
    assert found["pgd", "paper"].undefended.value == pytest.approx(24 / 60)
    low, value, high = (getattr(found["pgd", "fast"].recovery, end) for end in ("low", "value", "high"))
    assert low < value < high


def test_false_accepts_and_rejects_are_at_the_threshold_of_clean_strangers():
    found = {(row.attack, row.defence): row for row in rows(record([CLEAN, cell(24, attack="pgd")], [attack("pgd")]))}
    # the best 1 % of the clean strangers' scores, 0.1 to 0.1595, is one image; a miss has 0.05 for its own, 0.6 for another
    assert found[NONE, NONE].frr.value == 0
    assert found[NONE, NONE].far.value == pytest.approx(1 / 120)
    assert found["pgd", NONE].frr.value == pytest.approx(96 / 120)
    assert found["pgd", NONE].far.value == pytest.approx(96 / 120)


def test_recovery_of_nothing_taken_is_not_a_number_but_absent():
    cells = [CLEAN, cell(N, attack="pgd"), cell(N, attack="pgd", defence="fast")]
    assert rows(record(cells, [attack("pgd")]))[-1].recovery is None


def test_published_recovery():
    assert published.recovery("paper") == pytest.approx(0.58, abs=0.001)  # as published: 32.87 of 56.63 points


# --- pages ----------------------------------------------------------------------------------------


def test_the_pages_begin_with_the_warnings_and_hold_the_numbers(tmp_path):
    cells = [CLEAN, cell(24, attack="pgd"), cell(72, attack="pgd", defence="fast|x")]
    made = record(cells, [attack("pgd")])
    save_record(tmp_path, made)
    again = load_record(tmp_path)
    assert again == made
    text, page = markdown(tables_of(again)), html(tables_of(again))
    assert text.index("upper bound") < text.index("## ")
    assert page.index("upper bound") < page.index("<h2>")
    assert "60.0 [" in text
    assert "fast\\|x" in text  # a bar within a cell would end it
    assert "net &lt;b&gt;" in page
    assert "<b>," not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")  # self-contained


def test_a_closed_set_at_the_published_setting_has_the_published_figures_beside_it():
    p = tuple([0.5] * N)
    cells = [
        cell(110, quantisation="uint8", probability=p),
        cell(100, quantisation="uint8", defence="paper", probability=p),
        cell(24, attack="pgd", probability=p),
        cell(72, attack="pgd", defence="paper", probability=p),
    ]
    text = markdown(tables_of(record(cells, [attack("pgd", eps=0.5)], closed_set=True)))
    for figure in ("93.03", "36.40", "90.78", "69.27", "58.0"):
        assert figure in text
    assert "93.03" not in markdown(tables_of(record(cells, [attack("pgd", eps=0.5)], closed_set=False)))


def test_a_record_of_before_its_fields_were_renamed(tmp_path):
    """And of before it listed its defences: what a sweep chose is read from the experiment."""
    made = record([CLEAN, cell(60, defence="jpeg, quality 75", quantisation="uint8")])
    old = made.model_dump(mode="json", exclude={"defences", "measures"}) | {"random_defences": ["fast"]}
    for one in old["cells"]:
        one["own"], one["other"] = one.pop("genuine"), one.pop("impostor")
    plain = {"name": "", "preset": None, "baseline": None, "sweep": {}, "steps_too": False}
    swept = plain | {"baseline": "jpeg", "sweep": {"quality": [75, 50]}}
    old["experiment"]["defences"] = [plain | {"preset": "fast"}, swept]
    old["experiment"]["run"]["averaged"] = 2
    (tmp_path / "report.json").write_text(json.dumps(old))
    again = load_record(tmp_path)
    assert again.cells == made.cells
    assert again.experiment["run"]["eot_samples"] == 2
    assert again.experiment["defences"][0]["score_steps"] is False
    assert [(d.name, d.family, d.swept, d.draws_noise) for d in again.defences] == [
        ("fast", "fast", {}, True),
        ("jpeg, quality 75", "jpeg", {"quality": 75}, False),
        ("jpeg, quality 50", "jpeg", {"quality": 50}, False),
    ]


def test_each_page_is_a_file_and_the_numbers_are_computed_once(tmp_path, monkeypatch):
    computed = []
    monkeypatch.setattr(pages, "tables_of", lambda made: computed.append(made) or tables_of(made))
    monkeypatch.setitem(PAGES._things, "people.txt", lambda tables: f"{len(tables.record.people)} people\n")
    paths = draw(record([CLEAN, cell(24, attack="pgd")], [attack("pgd")]), tmp_path)
    assert [path.name for path in paths] == ["people.txt", "report.html", "report.md", "tables.json"]
    assert (tmp_path / "people.txt").read_text() == f"{PEOPLE} people\n"
    assert json.loads((tmp_path / "tables.json").read_text())["rows"][1]["attack"] == "pgd"
    assert len(computed) == 1


def test_a_heat_map_has_the_best_of_a_sweep_at_each_pair_of_its_settings():
    """Read from the settings that the record lists, not out of names."""
    settings = [{"sigma_y": y, "steps": n, "samples": k} for y in (0.1, 0.2) for n in (2, 4) for k in (1, 2)]
    swept = tuple(
        DefenceRecord(name=f"number {i}", family="fast", preset="fast", baseline=None, swept=one, draws_noise=True)
        for i, one in enumerate(settings)
    )
    cells = [CLEAN, *(cell(10 * i, defence=d.name, quantisation="uint8") for i, d in enumerate(swept) if i != 3)]
    tables = tables_of(record(cells).model_copy(update={"defences": swept}))
    assert [title for title, _ in plots._heat_maps(tables)] == [
        "fast: sigma_y and steps, clean images",
        "fast: sigma_y and samples, clean images",
        "fast: steps and samples, clean images",
    ]
    grid = plots._grid(list(swept), "sigma_y", "steps", {row.defence: row for row in tables.rows})
    np.testing.assert_allclose(grid, 100 * np.array([[10, 20], [50, 70]]) / N)


def test_other_measures_have_a_table_and_may_have_no_interval(tmp_path):
    values = {"speed": {"paper over fast": Estimate(24.0, math.nan, math.nan, 2, 1)}}
    made = record([CLEAN]).model_copy(update={"measures": values})
    save_record(tmp_path, made)
    assert "| paper over fast | 24 | 2 |" in markdown(tables_of(load_record(tmp_path)))


def test_a_folder_without_a_report(tmp_path):
    with pytest.raises(InputError, match=r"report\.json: cannot be read"):
        load_record(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputError, match="not a report"):
        load_record(tmp_path)


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError):
        CLEAN.attack = "other"
    assert not math.isnan(CLEAN.genuine[0])
