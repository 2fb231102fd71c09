"""The README's table is that of the published records: nothing is shown that was not measured with the weights of today."""

import runpy
from pathlib import Path

import pytest
from preset_tables import PresetTables

from facesieve.errors import RecordError
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import prior_hash
from facesieve.purify import PRESETS
from facesieve.report.record import NONE, AttackRecord, Cell, DefenceRecord, Record

ROOT = Path(__file__).parents[2]
N = 120
LABELS = tuple(range(N))
ASKED = [
    {"name": "EOT", "eps": [2.0, 8.0], "through": "gradient"},
    {"name": "range", "eps": 2.0, "through": "range"},
    {"name": "BPDA", "eps": 2.0, "through": "identity"},
]


@pytest.fixture
def publish(tmp_path):
    return PresetTables(tmp_path)


def cell(attack, defence, right, n=N, seconds=None):
    predicted = tuple(i if i < right else (i + 1) % N for i in range(n))
    genuine = tuple(0.8 if i < right else 0.1 for i in range(n))
    return Cell(
        attack=attack, quantisation="uint8", defence=defence, point="", predicted=predicted, genuine=genuine,
        impostor=tuple(0.2 + 0.001 * i for i in range(n)), probability=None, seconds=seconds,
    )  # fmt: skip


def record(cells, *, hashes=None, asked=()):
    shipped = prior_hash(embedded_prior_folder(PRESETS["robust"].prior)) if hashes is None else hashes
    made = [
        AttackRecord(
            name=name if name.startswith("oblivious") else f"{name}, through robust",
            method="pgd", eps=float(name.split("eps ")[1].split("/")[0]), norm="linf", iterations=40, sees="net", black_box=False,
            left_ball=0.0, still=0.0, seconds=1.0, view="" if name.startswith("oblivious") else "gradient",
        )
        for name in dict.fromkeys(c.attack for c in cells if c.attack != NONE)
    ]  # fmt: skip
    robust = DefenceRecord(name="robust", family="robust", preset="robust", baseline=None, swept={}, draws_noise=True)
    return Record(
        experiment={
            "run": {"far": 0.01}, "recogniser": {"enrolled": "purified"},
            "defences": [{"name": "", "preset": "robust", "baseline": None}], "attacks": list(asked),
        },
        environment={"recogniser": "net", "prior_sha256": f"0000, {shipped}"}, people=tuple("p" * N), labels=LABELS,
        closed_set=False, defences=(robust,), attacks=tuple(made), cells=tuple(cells), pictures={}, complete=False,
    )  # fmt: skip


def keep(folder, name, made):
    (folder / f"evaluation-{name}.json").write_text(made.model_dump_json())


CLEAN = [cell(NONE, NONE, N), cell(NONE, "robust", 117, seconds=0.0541)]


def lines(publish):
    return {cells[0]: cells[1:] for cells in publish.presets_in_short()}


def test_nothing_was_measured(publish):
    found = lines(publish)
    assert set(found) == {"", "---", "no shield", *(f"`{name}`" for name in PRESETS)}
    assert found["`robust`"] == ["?"] * 7
    assert found["no shield"] == ["–", *["?"] * 5, "–"]
    assert publish.presets_at_length() == []
    assert {"clean-sface", "clean-dlib", "congress-sface", "transfer-facenet"} <= set(publish.unmeasured())


def test_a_figure_is_shown_where_it_was_measured(publish, tmp_path):
    keep(tmp_path, "clean-sface", record(CLEAN))
    found = lines(publish)
    assert found["`robust`"][:2] == ["2.5 / ?", "2.5 / ?"]
    assert found["`robust`"][-1] == "54"
    assert found["no shield"][1] == "0.0 / ?"
    assert set(found["`gentle`"]) == {"?"}
    assert ["SFace, `clean`", "robust", "clean: points lost", "2.5 [0.0, 5.8]", "120"] in publish.presets_at_length()
    assert "clean-sface" not in publish.unmeasured()


def test_what_older_weights_did_is_not_measured(publish, tmp_path):
    keep(tmp_path, "clean-sface", record(CLEAN, hashes="1111"))
    assert lines(publish)["`robust`"] == ["?"] * 7
    assert "clean-sface" in publish.unmeasured()


def test_the_worst_case_is_a_bound_until_every_attacker_was_tried(publish, tmp_path):
    eot, wide = cell("EOT, eps 2/255", "robust", 60), cell("EOT, eps 8/255", "robust", 12)
    keep(tmp_path, "worst-case-sface", record([*CLEAN, eot], asked=ASKED))
    others = [cell("range, eps 2/255", "robust", 90), cell("BPDA, eps 2/255", "robust", 48)]
    keep(tmp_path, "worst-case-dlib", record([*CLEAN, eot, wide, *others], asked=ASKED))
    assert lines(publish)["`robust`"][4:6] == ["≤ 50.0 / 40.0", "? / ≤ 10.0"]  # at 8/255 one alone was asked for


def test_no_worst_case_is_shown_where_nobody_knew_the_defence(publish, tmp_path):
    cells = [*CLEAN, cell("EOT, eps 2/255", "robust", 60), cell("oblivious, eps 8/255", "robust", 50)]
    keep(tmp_path, "worst-case-sface", record(cells, asked=ASKED))
    (found,) = (cells[2:] for cells in publish.worst_cases() if cells[:2] == ["SFace", "robust"])
    assert found[0] == found[2] == "not run"
    assert found[1].startswith("50.0 ")
    assert lines(publish)["`robust`"][3] == "41.7 / ?"  # of those who do not know it


def test_few_images_are_said_to_be_few(publish, tmp_path):
    few = [cell("EOT, eps 2/255", "robust", 6, n=15), cell("range, eps 2/255", "robust", 3, n=15)]
    few.append(cell("BPDA, eps 2/255", "robust", 9, n=15))
    keep(tmp_path, "worst-case-sface", record([*CLEAN, *few], asked=ASKED))
    assert lines(publish)["`robust`"][4] == "20.0 (n = 15) / ?"


def test_the_readme_has_the_table_of_today():
    made = runpy.run_path(str(ROOT / "experiments" / "publish.py"))
    assert made["readme"]() == (ROOT / "README.md").read_text()
    assert "<!-- presets: end -->" in made["readme"]()


def test_runs_of_several_defences_become_one_record():
    together = runpy.run_path(str(ROOT / "experiments" / "publish.py"))["together"]
    eot = cell("EOT, eps 2/255", "robust", 60)
    one = record([*CLEAN, eot], asked=ASKED)
    named = {"manifest_sha256": "ab"}
    one = one.model_copy(update={"environment": one.environment | named})
    other = record([CLEAN[0], cell(NONE, "gentle", 118), cell("EOT, eps 2/255", "gentle", 3)], hashes="2222", asked=ASKED)
    gentle = other.defences[0].model_copy(update={"name": "gentle", "family": "gentle", "preset": "gentle"})
    attack = other.attacks[0].model_copy(update={"name": "EOT, eps 2/255, through gentle"})
    other = other.model_copy(
        update={
            "environment": other.environment | named, "defences": (gentle,), "attacks": (attack,),
            "experiment": other.experiment | {"defences": [{"preset": "gentle"}]},
        }
    )  # fmt: skip
    made = together([one, other])
    assert made.environment["prior_sha256"].split(", ")[:2] == ["0000", "2222"]
    assert [defence.name for defence in made.defences] == ["robust", "gentle"]
    assert [each["preset"] for each in made.experiment["defences"]] == ["robust", "gentle"]
    assert [attack.name for attack in made.attacks] == [f"EOT, eps 2/255, through {name}" for name in ("robust", "gentle")]
    assert made.cells == (*CLEAN, eot, *other.cells[1:])  # what nothing stands before is there once
    with pytest.raises(RecordError, match="several experiments"):
        together([one, other.model_copy(update={"labels": tuple(reversed(LABELS))})])
