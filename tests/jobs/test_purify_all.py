"""What the command line does with shards: the summary, the list of failures, the exit code."""

import json
import re
from types import SimpleNamespace

import pytest
import typer

from facesieve.cli.purify import purify_all
from facesieve.jobs.plan import plan
from facesieve.jobs.run import Options
from facesieve.purify import preset
from shard_making import BAD, noise, quick_shield, write_tar

RECIPE = SimpleNamespace(load=quick_shield, preset=preset("robust"))
OPTIONS = Options(aligned=True, seed=1)


def test_a_shard_without_failures_is_reported_and_nothing_is_listed(tmp_path, capfd):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("2.jpg", noise(2))])
    purify_all(plan([source], tmp_path / "out"), tmp_path / "out", RECIPE, OPTIONS)
    assert re.search("1 shard, 2 photographs, 2 faces purified, [0-9]+ ms a face; robust on cpu", capfd.readouterr().out)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tar", "a.tar.json"]
    purify_all(plan([source], tmp_path / "out"), tmp_path / "out", RECIPE, OPTIONS)
    assert "0 shards, 0 photographs, 0 faces purified, 1 shard there already" in capfd.readouterr().out


def test_failures_are_listed_and_the_exit_code_is_1_also_of_a_run_that_skips(tmp_path, capfd):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("2.jpg", BAD)])
    for _ in range(2):
        with pytest.raises(typer.Exit) as stop:
            purify_all(plan([source], tmp_path / "out"), tmp_path / "out", RECIPE, OPTIONS)
        assert stop.value.exit_code == 1
        (line,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
        assert json.loads(line)["key"] == "2"
    assert "a.tar: 2: not a JPEG" in capfd.readouterr().err


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, facesieve):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1))])
    for options, message in [
        (["--workers", 2], "--workers goes with --cluster"),
        (["--no-paste"], "--no-paste makes several pictures"),
        (["--grid"], "--grid goes with photographs on this machine"),
        (["--shard-format", "tar"], "give a format as .suffix=package.module:object"),
        (["--shard-format", ".zip=nowhere:ZIP"], "format 'nowhere:ZIP' cannot be imported"),
        (["--on-failure", "pass"], "must be drop or keep"),
    ]:
        done = facesieve("purify", source, "-o", tmp_path / "out", *options)
        assert (done.code, message in done.err) == (2, True), done.err
    assert not (tmp_path / "out").exists()
