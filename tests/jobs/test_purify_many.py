"""What the command line does with shards: the report, the list of failures, the exit code."""

import json
from types import SimpleNamespace

import pytest
import typer

from facesieve.cli.purify_many import purify_many
from facesieve.errors import InputError
from facesieve.jobs.shards import ShardOptions
from facesieve.jobs.work import Options
from facesieve.purify import preset
from shard_making import BAD, noise, quick_shield, write_tar

RECIPE = SimpleNamespace(load=quick_shield, preset=preset("fast"))
OPTIONS = ShardOptions(Options(aligned=True, seed=1))


def test_a_shard_without_failures_is_reported_and_nothing_is_listed(tmp_path, capfd):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("2.jpg", noise(2))])
    purify_many([source], tmp_path / "out", RECIPE, OPTIONS, shards=True)
    assert "1 shards, 2 photographs, 2 faces purified; fast" in capfd.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tar", "a.tar.json"]
    purify_many([source], tmp_path / "out", RECIPE, OPTIONS, shards=True)
    assert "0 shards, 0 photographs, 0 faces purified, 1 shards there already" in capfd.readouterr().out


def test_failures_are_listed_and_the_exit_code_is_1_also_of_a_run_that_skips(tmp_path, capfd):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("2.jpg", BAD)])
    for _ in range(2):
        with pytest.raises(typer.Exit) as stop:
            purify_many([source], tmp_path / "out", RECIPE, OPTIONS, shards=True)
        assert stop.value.exit_code == 1
        (line,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
        assert json.loads(line)["key"] == "2"
    assert "a.tar: 2: not a JPEG" in capfd.readouterr().err


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    source = write_tar(tmp_path / "a.tar", [])
    with pytest.raises(InputError, match="--workers goes with --cluster"):
        purify_many([source], tmp_path / "out", RECIPE, OPTIONS, shards=True, workers=2)
    with pytest.raises(InputError, match="no shards among the inputs"):
        purify_many([tmp_path / "photo.jpg"], tmp_path / "out", RECIPE, OPTIONS, shards=False)
    assert not (tmp_path / "out").exists()
