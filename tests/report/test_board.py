"""A board has a row for each result that was attacked as it should be, and a reason for each that was not."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from facesieve.errors import InputError, RecordError
from facesieve.metrics.intervals import Estimate
from facesieve.report.board import Entry, board, html, markdown
from facesieve.report.record import NONE, AttackRecord, Cell, DefenceRecord, Record, load_record
from facesieve.report.result import Result, read_results, results_of, write_results

ROOT = Path(__file__).parents[2]
N = 40
LABELS = tuple(range(N))
NET = "net, nearest of mean templates of 10"


def cell(attack, right, defence="mine", n=N):
    """The first ``right`` of ``n`` images get their name."""
    hit = np.arange(n) < right
    return Cell(
        attack=attack, quantisation="uint8", defence=defence, point="",
        predicted=tuple(np.where(hit, np.arange(n), (np.arange(n) + 1) % N).tolist()),
        genuine=tuple(np.where(hit, 0.8, 0.1).tolist()), impostor=tuple((0.2 + 0.001 * np.arange(n)).tolist()),
        probability=None, seconds=None,
    )  # fmt: skip


def attack(name, view="", eps=2.0, **changed):
    plain = {
        "name": f"{name}, eps {eps:g}/255" + (", through mine" if view else ""), "method": "pgd", "eps": eps, "norm": "linf",
        "iterations": 40, "sees": f"{NET}, behind mine" if view else NET, "black_box": False, "left_ball": 0.0, "still": 0.0,
        "seconds": 1.0, "view": view,
    }  # fmt: skip
    return AttackRecord(**(plain | changed))


EOT, BLIND = "EOT, eps 2/255", "oblivious, eps 2/255"


def record(attacks=(), cells=(), *, measures=None, complete=True):
    mine = DefenceRecord(name="mine", family="mine", preset=None, baseline="own:make", swept={}, draws_noise=False)
    asked = {"name": "mine", "preset": None, "baseline": "own:make", "settings": {"a": 1}}
    return Record(
        experiment={"run": {"far": 0.1}, "defences": [asked], "recogniser": {"enrolled": "purified"}, "data": {"people": N}},
        environment={"recogniser": NET, "manifest_sha256": "ab" * 32, "prior_sha256": "cd", "numpy": "2", "command": "run it"},
        people=tuple(map(str, LABELS)), labels=LABELS, closed_set=False, defences=(mine,), attacks=tuple(attacks),
        cells=(cell(NONE, N, NONE), cell(NONE, 38), *cells), pictures={}, complete=complete, measures=measures or {},
    )  # fmt: skip


def entry(*given, **more):
    [result] = results_of(record(*given, **more))
    return Entry(result)


def sound(eot=20, blind=30, **more):
    attacks = more.pop("attacks", [attack("EOT", "gradient"), attack("oblivious")])
    return entry(attacks, [cell(EOT, eot), cell(BLIND, blind)], **more)


def test_a_sound_result_has_a_row_with_the_worst_case_and_its_interval():
    table, refused, notes = board([sound().result])
    assert refused.rows == ()
    assert table.header == ("defence", "recogniser", "people, images", "clean, %", "FRR, %", "2/255, %")
    [row] = table.rows
    assert row[:3] == ("mine", "net", "40, 40")
    assert row[3].startswith("95.0 [")
    assert row[5].startswith("50.0 [")  # what the worse of both leaves
    assert any("no attack of the kinds substitute gradient, range, transfer, scores alone" in note for note in notes)
    assert any("not tried whether more iterations help EOT" in note for note in notes)


def test_checks_on_few_images_stand_below_a_row_that_is_of_many():
    scores = "Square, eps 2/255"
    attacks = [attack("EOT", "gradient"), attack("oblivious"), attack("Square", "gradient", black_box=True)]
    made = entry(attacks, [cell(EOT, 20), cell(BLIND, 30), cell(scores, 10, n=10)])
    table, _, notes = board([made.result])
    assert table.rows[0][5].startswith("50.0 [")  # of the 40 images that both were tried on
    assert any(note.startswith("mine, net: on 10 images all 3 attackers of 2/255 leave 100.0 [") for note in notes)


def test_of_none_that_are_left_the_interval_is_that_of_clopper_and_pearson():
    [row] = board([sound(eot=0).result])[0].rows
    assert row[5] == f"0.0 [0.0, {100 * binomtest(0, N).proportion_ci(method='exact').high:.1f}]"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (entry, "no attack"),
        (lambda: entry([attack("oblivious")], [cell(BLIND, 30)]), "no adaptive attack at 2/255"),
        (lambda: entry([attack("EOT", "range")], [cell(EOT, 30)]), "no adaptive attack at 2/255"),
        (
            lambda: sound(attacks=[attack("EOT", "gradient", sees="other, behind mine"), attack("oblivious")]),
            "no adaptive attack at 2/255",  # who has another recogniser alone
        ),
        (lambda: sound(attacks=[attack("EOT", "gradient", still=0.25), attack("oblivious")]), "vanishes at 25 % of the images"),
        (lambda: sound(eot=30, blind=10), "oblivious, eps 2/255 knows less than the adaptive attacks and takes 50.0 ["),
        (
            lambda: sound(measures={"health": {f"mine, {EOT}": Estimate(0.19, 0.05, 0.33, 21, 21)}}),
            "EOT, eps 2/255: more iterations still help, twice as many take 19.0 [5.0, 33.0] points more",
        ),
    ],
)  # fmt: skip
def test_a_result_is_refused_and_the_reason_stands_beside_it(made, why):
    found = made()
    [reason] = found.refusals
    assert why in reason
    table, refused, _ = board([found.result])
    assert table.rows == ()
    assert refused.rows == (("mine", "net", "40, 40", reason),)
    for page in (markdown, html):
        assert "There is no row: every result was refused." in page([found.result], "facesieve board HERE")


def test_what_chance_explains_is_no_reason():
    """One image more of 40 by the blind attack; 5 points, beyond which they may be none, by twice the iterations."""
    health = {"health": {f"mine, {EOT}": Estimate(0.05, 0.0, 0.14, 21, 21)}}
    assert sound(eot=20, blind=19, measures=health).refusals == []
    assert sound(measures=health).unchecked == []


def test_every_size_needs_an_attack_that_knows_the_defence():
    attacks = [attack("EOT", "gradient"), attack("oblivious", eps=8.0)]
    cells = [cell(EOT, 20), cell("oblivious, eps 8/255", 10)]
    assert entry(attacks, cells).refusals == ["no adaptive attack at 8/255: nobody had a gradient through the defence"]


def test_no_defence_is_attacked_by_those_who_know_all_there_is():
    cells = [cell(BLIND, 1, NONE)]
    [bare, mine] = map(Entry, results_of(record([attack("oblivious")], cells)))
    assert (bare.refusals, mine.refusals) == ([], ["no attack"])
    assert board([bare.result])[0].rows[0][0] == NONE


def test_a_result_is_one_file_that_its_schema_describes(tmp_path):
    [path] = write_results(record([attack("EOT", "gradient")], [cell(EOT, 20)]), tmp_path / "results")
    assert path.name == "mine-net-abababab.json"
    plain = json.loads(path.read_text())
    assert plain["settings"] == {"name": "mine", "preset": None, "baseline": "own:make", "settings": {"a": 1}}
    assert (plain["command"], plain["hashes"]["prior_sha256"], plain["versions"]) == ("run it", "cd", {"numpy": "2"})
    assert [trial["attack"] for trial in plain["trials"]] == [NONE, NONE, EOT]
    [again] = read_results([tmp_path / "results"])
    assert again == read_results([path])[0] == Result.model_validate_json(path.read_text())
    stored = json.loads((ROOT / "src" / "facesieve" / "report" / "result.schema.json").read_text())
    assert stored == Result.model_json_schema()
    assert set(plain) == set(stored["properties"])


def test_a_record_is_read_as_the_results_of_its_defences(tmp_path):
    path = ROOT / "docs" / "results" / "evaluation-sface-adaptive.json"
    names = [result.defence.name for result in read_results([path])]
    assert names[0] == NONE
    assert names[1:] == [defence.name for defence in load_record(path).defences]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "neither a result nor a run's record"),
        ('{"kind": "facesieve-result-1"}', "neither a result nor a run's record: defence"),
        (None, "has not one entry for each image|have not one entry"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, text, said):
    if text is None:
        [path] = write_results(record([attack("EOT", "gradient")], [cell(EOT, 20)]), tmp_path)
        plain = json.loads(path.read_text())
        plain["trials"][0]["predicted"].append(0)
        text = json.dumps(plain)
        path.unlink()
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(RecordError, match=said) as refused:
        read_results([tmp_path])
    assert "wrong.json" in str(refused.value)


def test_the_command(tmp_path, facesieve, monkeypatch):
    (tmp_path / "report.json").write_text(record([attack("EOT", "gradient")], [cell(EOT, 20)]).model_dump_json())
    done = facesieve("report", tmp_path / "report.json", "-o", tmp_path / "pages", "--results", tmp_path / "results")
    assert done.code == 0, done.err
    done = facesieve("board", tmp_path / "results")
    assert done.code == 0, done.err
    assert "| mine | net | 40, 40 |" in (tmp_path / "results" / "board.md").read_text()
    page = (tmp_path / "results" / "board.html").read_text()
    assert "<td>mine</td>" in page
    assert "http" not in page.replace("<!doctype html>", "")
    assert facesieve("board", tmp_path / "pages").code == 2
    monkeypatch.chdir(ROOT)
    ours = (ROOT / "docs" / "board.md").read_text()
    [command] = [line for line in ours.splitlines() if line.startswith("Made by ")]
    arguments = command.split("`")[1].split()[2:-2]
    made = markdown(read_results([Path(argument) for argument in arguments]), command.split("`")[1])
    assert made == ours


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no results in it; `facesieve report RUN --results FOLDER`"):
        read_results([tmp_path])
