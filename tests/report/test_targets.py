"""Figures join the list of targets in place of older ones; the published pages are made from what is committed."""

import json
import runpy
from pathlib import Path

import pytest

from facesieve.errors import InputError
from facesieve.report.targets import Target, keep_targets, read_targets

ROOT = Path(__file__).parents[2]


def target(name, value, *, area="house", wanted=">= 3", **more):
    return Target(area=area, target=name, wanted=wanted, value=value, n=5, command="facesieve report", commit="abc", **more)


def test_a_figure_replaces_the_older_one_of_its_area_and_name_in_its_place(tmp_path):
    path = tmp_path / "targets.json"
    keep_targets(path, [target("speed", 2), target("lines", 16000, wanted="<= 16000")])
    keep_targets(path, [target("speed", 40, low=30, high=50), target("speed", 1, area="light")])
    assert [(t.area, t.target, t.value, t.low) for t in read_targets(path)] == [
        ("house", "speed", 40, 30),
        ("house", "lines", 16000, None),
        ("light", "speed", 1, None),
    ]
    assert set(json.loads(path.read_text())[0]) == {
        "area", "target", "wanted", "value", "low", "high", "n", "command", "commit",
    }  # fmt: skip


@pytest.mark.parametrize(("wanted", "value", "reached"), [
    (">= 3", 3, True), (">= 3", 2.9, False), ("<= 0.96 (paper)", 0.95, True), ("< 0.10", 0.1, False),
    ("none set; bicubic 35.7", 36, None), ("flat", 0.1, None),
])  # fmt: skip
def test_whether_a_target_was_reached(wanted, value, reached):
    assert target("speed", value, wanted=wanted).reached is reached


def test_a_list_that_is_none(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text('[{"area": "kitchen"}]')
    with pytest.raises(InputError, match=r"targets\.json: not a list of targets: 1\.area"):
        keep_targets(path, [target("speed", 2)])
    assert path.read_text() == '[{"area": "kitchen"}]'


def test_the_results_page_is_made_from_the_committed_files():
    publish = runpy.run_path(str(ROOT / "experiments" / "publish.py"))
    assert publish["page"]() == (ROOT / "docs" / "results.md").read_text()


def test_the_figures_of_the_presets_are_those_of_the_committed_records():
    publish = runpy.run_path(str(ROOT / "experiments" / "publish.py"))
    assert publish["figures"]() == publish["FIGURES"].read_bytes()


def test_the_page_of_each_record_is_made_from_it():
    publish = runpy.run_path(str(ROOT / "experiments" / "publish.py"))
    for path in publish["records"]():
        assert publish["evaluation"](path) == path.with_suffix(".md").read_text(), path.name
