"""Shards: what is purified and what is kept, in the same format; failures; resuming; refusals."""

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from datasets import Image, load_dataset
from pyarrow import parquet

from facesieve.cli.terminal import advised_line
from facesieve.errors import InputError, SettingError
from facesieve.images import encode_photo, read_photo
from facesieve.jobs.formats import FORMATS
from facesieve.jobs.plan import plan
from facesieve.jobs.record import write_failures
from facesieve.jobs.run import Failure, Options, purify_units
from facesieve.noise import derive_seed
from shard_making import BAD, noise, quick_shield, read_tar, shard, small, write_parquet, write_tar


@pytest.fixture(scope="module")
def shield():
    return quick_shield()


@pytest.fixture(scope="module")
def photos(sample_paths):
    return [small(path) for path in sample_paths[:3]]


def expected(shield, image, seed):
    """What the library makes of one photograph with one face."""
    photo, faces = shield.purify(read_photo(image), seeds=[derive_seed(seed, hashlib.sha256(image).hexdigest(), 0)])
    assert len(faces) == 1
    return encode_photo(photo, "png")


def run(source, out, shield, *, aligned=False, overwrite=False, seed=7, **options):
    chosen = Options(aligned=aligned, overwrite=overwrite, seed=seed, batch_size=2, **options)
    return purify_units([shard(source, out)], shield, chosen)


def line(failure):
    return advised_line(failure.reason, failure.kind)


# --- tar ---------------------------------------------------------------------------------------


def test_a_tar_keeps_keys_order_and_all_other_members(tmp_path, shield, photos):
    source = write_tar(
        tmp_path / "a.tar",
        [("README", b"hello"), ("p/1.cls", b"3"), ("p/1.jpg", photos[0]), ("p/2.JPG", photos[1]), ("p/2.txt", b"words")],
    )
    result = run(source, tmp_path / "out", shield)
    assert (result.units, result.photographs, result.faces, result.failures) == (1, 2, 2, [])
    made = read_tar(tmp_path / "out" / "a.tar")
    assert [name for name, _ in made] == [
        "README", "p/1.cls", "p/1.png", "p/1.facesieve.json", "p/2.png", "p/2.txt", "p/2.facesieve.json",
    ]  # fmt: skip
    members = dict(made)
    assert (members["README"], members["p/1.cls"], members["p/2.txt"]) == (b"hello", b"3", b"words")
    assert members["p/1.png"] == expected(shield, photos[0], 7)
    assert members["p/2.png"] == expected(shield, photos[1], 7)
    record = json.loads(members["p/1.facesieve.json"])
    assert record["source_sha256"] == hashlib.sha256(photos[0]).hexdigest()
    assert record["output_sha256"] == hashlib.sha256(members["p/1.png"]).hexdigest()
    assert (record["preset"], len(record["faces"]), len(record["faces"][0]["landmarks"])) == ("robust", 1, 5)


def test_webdataset_reads_the_result(tmp_path, shield, photos):
    source = write_tar(tmp_path / "a.tar", [("x/1.jpg", photos[0]), ("x/1.cls", b"3"), ("x/2.jpg", photos[1]), ("x/2.cls", b"4")])
    run(source, tmp_path / "out", shield)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "a.tar"), shardshuffle=False).decode("rgb8"))
    assert [(sample["__key__"], sample["cls"]) for sample in samples] == [("x/1", 3), ("x/2", 4)]
    np.testing.assert_array_equal(samples[1]["png"], read_photo(expected(shield, photos[1], 7)))
    assert samples[0]["facesieve.json"]["preset"] == "robust"


def test_names_times_and_modes_of_a_tar_are_kept_even_the_longest(tmp_path, shield):
    import tarfile

    long = "ä" * 60 + "/" + "b" * 120
    source = write_tar(tmp_path / "a.tar", [(f"{long}.jpg", noise(1)), (f"{long}.txt", b"x")])
    run(source, tmp_path / "out", shield, aligned=True)
    with tarfile.open(tmp_path / "out" / "a.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [f"{long}.png", f"{long}.txt", f"{long}.facesieve.json"]
    assert [(m.mtime, m.mode) for m in members] == [(1_500_000_000, 0o640), (1_500_000_001, 0o640), (1_500_000_000, 0o640)]


def test_which_member_is_the_image_can_be_said_and_must_be_where_there_are_two(tmp_path, shield):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("1.mask.png", noise(2))])
    (failure,) = run(source, tmp_path / "x", shield).failures
    assert "1 has several images, jpg and mask.png; say by --image-column" in line(failure)
    assert not list((tmp_path / "x").iterdir())
    assert run(source, tmp_path / "y", shield, aligned=True, image_column="jpg").photographs == 1
    assert [name for name, _ in read_tar(tmp_path / "y" / "a.tar")] == ["1.png", "1.mask.png", "1.facesieve.json"]


@pytest.mark.parametrize("cut", [1, 700, 3000], ids=["in a header", "in the data", "at the end"])
def test_a_tar_that_is_cut_off_is_a_failure_and_not_a_shorter_shard(tmp_path, shield, cut):
    source = write_tar(tmp_path / "a.tar", [(f"{n}.jpg", noise(n)) for n in range(3)])
    whole = source.read_bytes().rstrip(b"\0")
    source.write_bytes(whole[: len(whole) // 3 * 2 + cut] if cut < 3000 else whole)
    (failure,) = run(source, tmp_path / "out", shield, aligned=True).failures
    assert failure.key is None
    assert failure.reason.startswith(str(source))
    assert not list((tmp_path / "out").iterdir())


def test_tar_files_that_were_joined_are_not_taken_for_the_first_of_them(tmp_path, shield):
    first, second = (write_tar(tmp_path / f"{n}.tar", [(f"{n}.jpg", noise(n))]) for n in (1, 2))
    joined = tmp_path / "joined.tar"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    (failure,) = run(joined, tmp_path / "out", shield, aligned=True).failures
    assert "cut off or damaged after" in failure.reason


# --- Parquet -----------------------------------------------------------------------------------


@pytest.mark.parametrize("structured", [True, False], ids=["bytes and path", "bytes"])
def test_parquet_keeps_its_columns_its_rows_and_what_it_says_of_itself(tmp_path, shield, photos, structured):
    source = write_parquet(tmp_path / "a.parquet", [*photos, noise(1), photos[0]], structured=structured)
    result = run(source, tmp_path / "out", shield)
    assert [failure.key for failure in result.failures] == ["3"]  # noise has no face
    table = parquet.read_table(tmp_path / "out" / "a.parquet")
    before = parquet.read_table(source)
    assert table.schema.remove(2) == before.schema
    assert table.schema.metadata == {b"kept": b"yes"}
    assert table.column("label").to_pylist() == [0, 1, 2, 4]
    images = table.column("image").to_pylist()
    if structured:
        assert [image["path"] for image in images] == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
        images = [image["bytes"] for image in images]
    assert images == [expected(shield, image, 7) for image in (*photos, photos[0])]
    records = [json.loads(record) for record in table.column("facesieve").to_pylist()]
    assert [record["output_sha256"] for record in records] == [hashlib.sha256(image).hexdigest() for image in images]


def test_hugging_face_reads_the_result(tmp_path, shield):
    from datasets import Dataset

    source = tmp_path / "a.parquet"
    rows = {"image": [{"bytes": noise(n), "path": None} for n in range(2)], "name": ["a", "b"]}
    Dataset.from_dict(rows).cast_column("image", Image()).to_parquet(str(source))
    assert run(source, tmp_path / "out", shield, aligned=True).photographs == 2
    made = load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "a.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert made[0]["image"].size == (128, 128)
    assert made["name"][:] == ["a", "b"]


def test_which_column_holds_the_images_must_be_clear(tmp_path, shield):
    import pyarrow as pa

    thumbs = pa.array([noise(2)], pa.binary())
    two = write_parquet(tmp_path / "two.parquet", [noise(1)], thumb=thumbs)
    assert "there are image, thumb; say by --image-column" in line(run(two, tmp_path / "x", shield).failures[0])
    assert run(two, tmp_path / "x", shield, aligned=True, image_column="image").photographs == 1
    assert "no column 'face' of bytes" in run(two, tmp_path / "y", shield, image_column="face").failures[0].reason


def test_a_damaged_parquet_file_is_a_failure(tmp_path, shield):
    source = write_parquet(tmp_path / "a.parquet", [noise(1)])
    source.write_bytes(source.read_bytes()[:-100])
    assert "not a Parquet file, or a damaged one" in run(source, tmp_path / "out", shield).failures[0].reason
    assert not list((tmp_path / "out").iterdir())


def test_a_parquet_file_without_its_extra_is_a_failure(tmp_path, shield, monkeypatch):
    source = write_parquet(tmp_path / "a.parquet", [noise(1)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    [failure] = run(source, tmp_path / "out", shield).failures
    assert "pip install 'facesieve[parquet]'" in failure.reason
    assert not list((tmp_path / "out").iterdir())


def test_without_parquet_files_pyarrow_is_not_imported():
    code = "import sys; from facesieve.jobs.formats import FORMATS; assert '.parquet' in FORMATS; print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# --- failures ----------------------------------------------------------------------------------


def test_what_cannot_be_purified_is_dropped_and_listed(tmp_path, shield, photos):
    source = write_tar(
        tmp_path / "a.tar", [("1.jpg", photos[0]), ("2.jpg", BAD), ("2.txt", b"x"), ("3.txt", b"y"), ("4.jpg", noise(1))]
    )
    result = run(source, tmp_path / "out", shield)
    assert [name for name, _ in read_tar(tmp_path / "out" / "a.tar")] == ["1.png", "1.facesieve.json"]
    assert [(f.source, f.key, f.kept) for f in result.failures] == [("a.tar", key, False) for key in ("2", "3", "4")]
    write_failures(tmp_path / "out", result.failures)
    lines = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"].split(";")[0]) for line in lines] == [
        ("2", "2: not a JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC, AVIF or JPEG 2000 image"),
        ("3", "3: there is no image in this sample"),
        ("4", "4: no face found"),
    ]


def test_it_is_kept_as_it_was_only_where_that_is_asked_for(tmp_path, shield, photos):
    members = [("1.jpg", BAD), ("1.txt", b"x"), ("2.jpg", photos[0])]
    result = run(write_tar(tmp_path / "a.tar", members), tmp_path / "out", shield, on_failure="keep")
    made = dict(read_tar(tmp_path / "out" / "a.tar"))
    assert list(made) == ["1.jpg", "1.txt", "1.facesieve.json", "2.png", "2.facesieve.json"]
    assert made["1.jpg"] == BAD
    assert "not a JPEG" in json.loads(made["1.facesieve.json"])["failure"]
    assert [failure.kept for failure in result.failures] == [True]
    run(write_parquet(tmp_path / "a.parquet", [BAD, None, photos[0]]), tmp_path / "out", shield, on_failure="keep")
    images = parquet.read_table(tmp_path / "out" / "a.parquet").column("image").to_pylist()
    assert [image and image["bytes"] for image in images] == [BAD, None, expected(shield, photos[0], 7)]


def test_a_defect_that_one_photograph_finds_stops_nothing(tmp_path, shield, photos):
    class Detector:
        def detect(self, photo):
            if photo.shape[0] == 64:
                raise ZeroDivisionError("far away")
            return shield.detector.detect(photo)

    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("2.jpg", photos[0])])
    result = run(source, tmp_path / "out", replace(shield, detector=Detector()))
    assert [failure.reason for failure in result.failures] == ["1: unforeseen ZeroDivisionError: far away"]
    assert result.photographs == 1


def test_failures_behind_a_photograph_that_waits_for_its_batch_do_not_pile_up(tmp_path, shield, photos, monkeypatch):
    """The photograph is written long before the last of them is read."""
    seen = []
    real = FORMATS[".tar"]

    def read(source, column):
        for sample in real.read(source, column):
            seen.append(len(list((tmp_path / "out").glob(".*.part"))) and next((tmp_path / "out").glob(".*.part")).stat().st_size)
            yield sample

    monkeypatch.setitem(FORMATS._things, ".tar", replace(real, read=read))
    members = [("0.jpg", photos[0]), *((f"{n}.jpg", BAD) for n in range(1, 30))]
    run(write_tar(tmp_path / "a.tar", members), tmp_path / "out", shield)
    assert seen[-1] > 10_000


# --- resuming ----------------------------------------------------------------------------------


def test_a_finished_shard_is_not_made_again(tmp_path, shield):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1)), ("2.jpg", BAD)])
    assert run(source, tmp_path / "out", shield, aligned=True).units == 1
    before = (tmp_path / "out" / "a.tar").stat().st_mtime_ns
    again = run(source, tmp_path / "out", shield, aligned=True)
    assert (again.units, again.skipped, [failure.key for failure in again.failures]) == (0, 1, ["2"])
    assert (tmp_path / "out" / "a.tar").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["source", "seed", "settings", "no record"])
def test_a_result_of_something_else_is_not_passed_off_as_this(tmp_path, shield, change):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1))])
    run(source, tmp_path / "out", shield, aligned=True)
    made = (tmp_path / "out" / "a.tar").read_bytes()
    if change == "source":
        write_tar(source, [("1.jpg", noise(2))])
    if change == "no record":
        (tmp_path / "out" / "a.tar.json").unlink()
    other = shield.with_preset(shield.runtime.preset.changed(eta=0.5)) if change == "settings" else shield
    seed = 8 if change == "seed" else 7
    (failure,) = run(source, tmp_path / "out", other, aligned=True, seed=seed).failures
    assert "use another folder or --overwrite" in line(failure)
    assert (tmp_path / "out" / "a.tar").read_bytes() == made
    assert run(source, tmp_path / "out", other, aligned=True, seed=seed, overwrite=True).units == 1
    assert run(source, tmp_path / "out", other, aligned=True, seed=seed).skipped == 1


def test_a_damaged_result_is_made_again(tmp_path, shield):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1))])
    run(source, tmp_path / "out", shield, aligned=True)
    whole = (tmp_path / "out" / "a.tar").read_bytes()
    (tmp_path / "out" / "a.tar").write_bytes(whole[:1000])
    assert run(source, tmp_path / "out", shield, aligned=True).units == 1
    assert (tmp_path / "out" / "a.tar").read_bytes() == whole


def test_a_result_is_no_source(tmp_path, shield):
    run(write_tar(tmp_path / "a.tar", [("1.jpg", noise(1))]), tmp_path / "out", shield, aligned=True)
    (failure,) = run(tmp_path / "out" / "a.tar", tmp_path / "again", shield, aligned=True).failures
    assert "is a result of facesieve" in failure.reason


def test_without_a_seed_two_runs_differ(tmp_path, shield):
    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1))])
    for name in ("x", "y"):
        run(source, tmp_path / name, shield, aligned=True, seed=None)
    assert (tmp_path / "x" / "a.tar").read_bytes() != (tmp_path / "y" / "a.tar").read_bytes()


# --- batches -----------------------------------------------------------------------------------


class CountingRuntime:
    """A runtime that counts the faces of each batch."""

    def __init__(self, runtime):
        self.card, self._runtime, self.batches = runtime.card, runtime, []

    def purify(self, crops, seeds):
        self.batches.append(len(crops))
        return self._runtime.purify(crops, seeds)


@pytest.mark.parametrize(("seed", "batches"), [(None, [4, 4, 1]), (7, [3, 3, 3])])
def test_batches_run_across_shards_unless_their_bytes_are_to_be_repeatable(tmp_path, shield, seed, batches):
    """Results differ by rounding with their batch: with a seed, a shard must not depend on those before it."""
    sources = [write_tar(tmp_path / f"{n}.tar", [(f"{k}.jpg", noise(k)) for k in range(3)]) for n in range(3)]
    sources.insert(1, write_tar(tmp_path / "none.tar", []))
    counting, told = replace(shield, runtime=CountingRuntime(shield.runtime)), []
    units = [shard(source, tmp_path / "out") for source in sources]
    summary = purify_units(units, counting, Options(aligned=True, seed=seed, batch_size=4), report=told.append)
    assert (summary.units, summary.photographs, summary.faces) == (4, 9, 9)
    assert counting.runtime.batches == batches
    assert told[-1].facts["purified"] == "9 faces"
    assert [(progress.done, progress.what) for progress in told] == [(n + 1, unit.name) for n, unit in enumerate(units)]


def test_a_shard_that_is_damaged_at_its_end_harms_none_of_those_beside_it(tmp_path, shield):
    sources = [write_tar(tmp_path / f"{n}.tar", [(f"{n}{k}.jpg", noise(k)) for k in range(3)]) for n in range(3)]
    sources[1].write_bytes(sources[1].read_bytes().rstrip(b"\0"))
    units = [shard(source, tmp_path / "out") for source in sources]
    summary = purify_units(units, shield, Options(aligned=True, batch_size=8))
    assert [failure.source for failure in summary.failures] == ["1.tar"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.tar", "0.tar.json", "2.tar", "2.tar.json"]
    assert [name for name, _ in read_tar(tmp_path / "out" / "2.tar")][::2] == ["20.png", "21.png", "22.png"]


def test_stopped_in_between_no_draft_is_left(tmp_path, shield):
    class Stops(CountingRuntime):
        def purify(self, crops, seeds):
            raise KeyboardInterrupt

    source = write_tar(tmp_path / "a.tar", [("1.jpg", noise(1))])
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", replace(shield, runtime=Stops(shield.runtime)), aligned=True)
    assert not list((tmp_path / "out").iterdir())


# --- planning ----------------------------------------------------------------------------------


def test_targets_mirror_the_folders(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_tar(tmp_path / "in" / "deep" / "a.tar", [])
    write_parquet(tmp_path / "in" / "b.parquet", [])
    units = plan([tmp_path / "in"], tmp_path / "out")
    assert [(unit.name, unit.is_shard) for unit in units] == [("b.parquet", True), ("deep/a.tar", True)]


def test_what_cannot_be_planned_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "a.tar", [])
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(InputError, match="would both be written to"):
        plan([tmp_path / "a.tar", tmp_path / "in"], tmp_path / "out")
    with pytest.raises(InputError, match="would take its place"):
        plan([tmp_path / "a.tar"], tmp_path)
    with pytest.raises(InputError, match="no such file"):
        plan([tmp_path / "b.tar"], tmp_path / "out")
    (tmp_path / "in" / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="shards and photographs among the inputs"):
        plan([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(SettingError, match="several pictures"):
        purify_units([shard(tmp_path / "a.tar", tmp_path / "out")], quick_shield(), Options(paste=False))
    with pytest.raises(SettingError, match="must be drop or keep"):
        Options(on_failure="pass")


def test_no_failures_no_list(tmp_path):
    write_failures(tmp_path, [Failure("a.tar", None, "why")])
    write_failures(tmp_path, [])
    assert not list(tmp_path.iterdir())


# --- memory ------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
from shard_making import quick_shield, shard
from facesieve.jobs.run import Options, purify_units
few, many = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for source in (few, many):
    options = Options(aligned=True)
    result = purify_units([shard(Path(source), Path(source).parent / "out")], quick_shield(), options)
    assert not result.failures, result.failures
    print(result.photographs, peak())
"""


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_memory_does_not_grow_with_the_shard(tmp_path, kind):
    """100 photographs of 0.4 MB as files and 0.8 MB as pixels, after 20: 100 MB more if they were held."""
    images = [noise(n, 512) for n in range(4)]

    def make(name, count):
        if kind == "tar":
            return write_tar(tmp_path / f"{name}.tar", [(f"{n}.jpg", images[n % 4]) for n in range(count)])
        return write_parquet(tmp_path / f"{name}.parquet", [images[n % 4] for n in range(count)])

    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(make("few", 20)), str(make("many", 100))],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": f"{here}:{here.parent}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    (few, before), (many, after) = (map(float, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (20, 100)
    assert after - before < 40


def tar_of_hidden_pictures(path, photo):
    return write_tar(path, [(name, photo) for name in ("._b.jpg", ".hidden.jpg", "noext", "a.jpg", "a.jfif", "a.txt")])


@pytest.mark.parametrize("keep", [False, True], ids=["drop", "keep"])
def test_no_picture_passes_a_tar_under_another_name(tmp_path, shield, photos, keep):
    source = tar_of_hidden_pictures(tmp_path / "a.tar", photos[0])
    summary = run(source, tmp_path / "out", shield, on_failure="keep" if keep else "drop")
    assert summary.photographs == 1
    assert [failure.key for failure in summary.failures] == ["._b.jpg", ".hidden.jpg", "noext", "a", "a"]
    assert all(failure.kept == keep for failure in summary.failures)
    record = json.loads((tmp_path / "out" / "a.tar.json").read_text())
    assert len(record["failures"]) == 5
    made = read_tar(tmp_path / "out" / "a.tar")
    came = [name for name, data in made if data == photos[0]]
    assert came == (["._b.jpg", ".hidden.jpg", "noext", "a.jfif", "a.txt"] if keep else [])
    assert ("a.png" in dict(made), "a.facesieve.json" in dict(made)) == (True, True)


def test_pictures_that_are_left_on_purpose_are_said(tmp_path, shield):
    source = write_tar(tmp_path / "a.tar", [(f"{n}.{what}", noise(n)) for n in range(3) for what in ("jpg", "mask.png")])
    summary = run(source, tmp_path / "out", shield, aligned=True, image_column="jpg")
    [failure] = summary.failures
    assert (failure.key, failure.kept) == ("mask.png", True)
    assert "3 pictures of this name copied unpurified" in failure.reason


def test_no_picture_passes_in_another_column(tmp_path, shield, photos):
    text = [base64.b64encode(photos[0]).decode(), f"data:image/jpeg;base64,{base64.b64encode(photos[1]).decode()}", "/work/1.jpg"]
    nested = pa.array([[{"x": photos[0]}], [], None], pa.list_(pa.struct({"x": pa.binary()})))
    source = write_parquet(tmp_path / "a.parquet", [photos[0], photos[1], photos[0]], text=text, nested=nested)
    summary = run(source, tmp_path / "out", shield)
    assert [failure.key for failure in summary.failures] == ["0", "0", "1"]
    rows = parquet.read_table(tmp_path / "out" / "a.parquet")
    assert rows["text"].to_pylist() == ["", "", "/work/1.jpg"]
    assert rows["nested"].to_pylist() == [[{"x": b""}], [], None]
    assert summary.photographs == 3
    kept = run(source, tmp_path / "kept", shield, on_failure="keep")
    assert parquet.read_table(tmp_path / "kept" / "a.parquet")["text"].to_pylist() == text
    assert len(kept.failures) == 3
