"""Through every door each input ends as purified, or is named with its reason, and then the exit code or the status says so.

Each test counts what one door leaves out without a word; ``record_property`` hands the figures to benchmarks/doors.py.
"""

import json
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pyarrow as pa
import pytest
import typer
from pyarrow import parquet

from facesieve.cli.options import everyone_in
from facesieve.cli.purify import purify_all
from facesieve.data.sources import FolderSource
from facesieve.errors import FacesieveError
from facesieve.folders import begins_as_image
from facesieve.images import read_photo
from facesieve.jobs.formats import Unit
from facesieve.jobs.plan import plan
from facesieve.jobs.run import Options, purify_alone, purify_units
from facesieve.purify import preset
from facesieve.service.proxy import create_proxy
from laws.kinds import kinds, lay_out
from service.serving import StandIn, handlers_of, running, service
from shard_making import quick_shield, read_tar, small, write_tar

RECIPE = SimpleNamespace(load=quick_shield, preset=preset("robust"))


@pytest.fixture(scope="module")
def photo(sample_paths):
    return read_photo(small(next(path for path in sample_paths if path.name == "collins-1.jpg")))


@pytest.fixture(scope="module")
def listed(photo):
    return kinds(photo)


@pytest.fixture(scope="module")
def shield():
    return quick_shield()


@pytest.fixture
def count(record_property):
    """Checks what a door left out, and counts it."""

    def counted(door, inputs, left_out):
        record_property("door", [door, inputs, len(left_out)])
        assert left_out == []

    return counted


def test_there_are_sixty_kinds(listed):
    assert len({kind.name for kind in listed}) == len(listed) >= 60


def test_a_folder(listed, tmp_path, capfd, count):
    fates = lay_out(tmp_path / "in", listed, listed[0].data)
    units = plan([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(typer.Exit) as stop:
        purify_all(units, tmp_path / "out", RECIPE, Options(seed=1))
    said = capfd.readouterr()
    assert stop.value.exit_code == 1
    assert "passed over: " in said.err
    made = {unit.source for unit in units if unit.picture(None).exists()}
    left_out = []
    for name, fate in fates.items():
        purified, named = tmp_path / "in" / name in made, str(tmp_path / "in" / name).replace("\n", "?") in said.err
        if fate != "passed" and not (purified or named):
            left_out.append(name)
        assert purified == (fate == "purified") or fate == "either", name
    assert sum(units.passed.values()) == sum(fate == "passed" for fate in fates.values())
    count("command line, folders", len(fates), left_out)


def test_files_that_are_named(listed, tmp_path, capfd, shield, count):
    left_out = []
    for number, kind in enumerate(listed):
        path = tmp_path / str(number) / kind.name
        path.parent.mkdir()
        path.write_bytes(kind.data)
        if path.suffix in {".mp4", ".tar"}:
            continue  # a clip and a shard have ways of their own
        summary = purify_units(plan([path], tmp_path / "out" / str(number)), shield, Options(seed=1))
        if summary.photographs + len(summary.failures) != 1:
            left_out.append(kind.name)
    count("command line, files", len(listed), left_out)


def test_a_tar_shard(listed, tmp_path, shield, count):
    members = [(f"{number:03d}/{kind.name}", kind.data) for number, kind in enumerate(listed)]
    (unit,) = plan([write_tar(tmp_path / "a.tar", members)], tmp_path / "out")
    summary = purify_units([unit], shield, Options(seed=1))
    assert summary.photographs > 40
    result = {name for name, data in read_tar(unit.target)}
    passed = {data for _, data in read_tar(unit.target)}
    record = json.loads((tmp_path / "out" / "a.tar.json").read_text())
    named = " ".join(str(failure["key"]) for failure in record["failures"]) + " "
    left_out = []
    for number, kind in enumerate(listed):
        key = f"{number:03d}/"
        done = any(name.startswith(key) and name.endswith("facesieve.json") for name in result)
        if (begins_as_image(kind.data) and kind.data in passed) or (kind.is_picture and not done and key not in named):
            left_out.append(kind.name)
    count("tar shards", len(listed), left_out)


def test_a_parquet_shard(listed, tmp_path, shield, count):
    column = [kind.data for kind in listed]
    parquet.write_table(pa.table({"image": column, "thumb": [[data] for data in column]}), tmp_path / "a.parquet")
    (unit,) = plan([tmp_path / "a.parquet"], tmp_path / "out")
    summary = purify_units([unit], shield, Options(seed=1))
    rows = parquet.read_table(unit.target)
    assert not any(begins_as_image(data) for thumbs in rows["thumb"].to_pylist() for data in thumbs)
    named = {failure.key for failure in summary.failures}
    purified = [json.loads(record)["source_sha256"] for record in rows["facesieve"].to_pylist()]
    assert len(purified) == summary.photographs > 40
    hidden = {str(number) for number, kind in enumerate(listed) if begins_as_image(kind.data)}
    assert hidden <= named
    left_out = [kind.name for number, kind in enumerate(listed) if not begins_as_image(kind.data) and str(number) not in named]
    count("Parquet shards", len(listed), left_out)


def test_the_library(listed, shield, count):
    left_out, errors = [], []
    for kind in listed:
        try:
            photo = read_photo(kind.data)
            restored, faces = shield.purify(photo)
        except FacesieveError as error:
            errors.append(str(error))
            continue
        if not faces or (restored == photo).all():
            left_out.append(kind.name)
    assert all(errors)
    count("library", len(listed), left_out)


def test_a_stream(listed, shield, tmp_path, count):
    left_out, errors = [], []
    for kind in listed:
        try:
            (made,) = purify_alone(Unit(tmp_path / "standard input", tmp_path, "-", data=kind.data), shield, Options())
        except FacesieveError as error:
            errors.append(str(error))
            continue
        if made == kind.data:
            left_out.append(kind.name)
    assert all(errors)
    count("standard input", len(listed), left_out)


def test_the_service(listed, count):
    left_out = []
    with service(handlers_of()) as url, httpx.Client(timeout=60) as client:
        for kind in listed:
            answer = client.post(f"{url}/v1/purify", content=kind.data, headers={"content-type": "application/octet-stream"})
            if answer.status_code == 200:
                if answer.content == kind.data:
                    left_out.append(kind.name)
            elif not 400 <= answer.status_code < 500 or not answer.json()["detail"]:
                left_out.append(kind.name)
    count("service", len(listed), left_out)


def test_the_gate(listed, count):
    behind, left_out = StandIn(), []
    with running(behind) as address, running(create_proxy(handlers_of(upstream=address))) as url:
        for kind in listed:
            behind.calls.clear()
            form = {"file": ("a.jpg", kind.data)}
            answer = httpx.post(f"{url}/api/v1/recognition/recognize", files=form, timeout=60)
            arrived = [body for *_, body in behind.calls]
            refused = not arrived and 400 <= answer.status_code < 500
            if kind.data and not refused and (not arrived or kind.data in arrived[0]):
                left_out.append(kind.name)
    count("gate", len(listed), left_out)


def test_folders_of_people(listed, tmp_path, count):
    (tmp_path / "people").mkdir()
    fates = lay_out(tmp_path / "people" / "ada", listed, listed[0].data)
    refs = set(FolderSource(tmp_path / "people").identities()["ada"])
    enrolled = {str(path) for path in everyone_in(str(tmp_path / "people"), [], folders=True)["ada"]}
    wanted = [name for name, fate in fates.items() if fate != "passed"]
    left_out = [name for name in wanted if f"ada/{name}" not in refs or str(tmp_path / "people" / "ada" / name) not in enrolled]
    assert len(refs) == len(enrolled) == len(wanted)
    count("folders of people", len(fates), left_out)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_a_console_does_not_have(tmp_path, encoding):
    (tmp_path / "李雷.jpg").write_bytes(b"not an image")
    command = [
        sys.executable,
        "-m",
        "facesieve.cli",
        "data",
        "select",
        str(tmp_path / "李雷.jpg"),
        "-o",
        str(tmp_path / "m.json"),
    ]
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 2
    assert b"\\u674e\\u96f7.jpg" in done.stderr
    assert b"Traceback" not in done.stderr
